import numpy as np
import pytest
from scipy.stats import binomtest

from fakeface_jax.decision import OperatingPoint, sigmoid
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.evaluation.calibration import (
    balanced_weights,
    choose_bands,
    choose_operating_points,
    clopper_pearson,
    fit_calibration,
    log_losses,
)


def synthetic(rng, count, scale, bias, spread=2.0):
    """Labels drawn with P(fake) = sigmoid(scale * logit + bias), so that this is the calibration to find."""
    logits = rng.normal(0.5, spread, count)
    labels = (rng.uniform(size=count) < sigmoid(scale * logits + bias)).astype(np.int64)
    return labels, logits


@pytest.mark.parametrize(("scale", "bias"), [(0.4, 1.2), (2.5, -1.0), (1.0, 0.5)])
def test_platt_finds_a_known_scale_and_bias(scale, bias):
    labels, logits = synthetic(np.random.default_rng(0), 6000, scale, bias)
    found = fit_calibration(labels, logits, split="held")
    assert (found.method, found.split, found.samples) == ("platt", "held", 6000)
    assert found.scale == pytest.approx(scale, rel=0.12)
    assert found.bias == pytest.approx(bias, abs=0.15)


def test_temperature_is_kept_where_no_shift_is_needed():
    labels, logits = synthetic(np.random.default_rng(1), 600, 0.4, 0.0)
    # With every face's mirror image, no shift can be better than none.
    mirror = np.arange(600)
    labels, logits = np.concatenate([labels, 1 - labels]), np.concatenate([logits, -logits])
    found = fit_calibration(labels, logits, groups=np.concatenate([mirror, mirror]))
    assert (found.method, found.bias) == ("temperature", 0.0)
    assert found.scale == pytest.approx(0.4, rel=0.15)


@pytest.mark.parametrize("shift", [0.0, 40.0, -3000.0])
def test_calibration_lowers_log_loss_on_other_faces(shift):
    rng = np.random.default_rng(2)
    labels, logits = synthetic(rng, 2000, 0.3, -0.7)
    others, their_logits = synthetic(rng, 2000, 0.3, -0.7)
    found = fit_calibration(labels, logits + shift)
    before = log_losses(others, their_logits + shift).mean()
    after = log_losses(others, found.logit(their_logits + shift)).mean()
    best = log_losses(others, 0.3 * their_logits - 0.7).mean()
    assert after < before - 0.05
    assert after == pytest.approx(best, abs=0.01)


def test_fit_does_not_depend_on_order_or_chance():
    rng = np.random.default_rng(3)
    labels, logits = synthetic(rng, 300, 0.5, 0.3)
    first = fit_calibration(labels, logits)
    assert fit_calibration(labels, logits) == first
    order = rng.permutation(300)
    shuffled = fit_calibration(labels[order], logits[order], groups=order.astype(np.str_))
    assert shuffled.scale == pytest.approx(first.scale, rel=0.05)


@pytest.mark.parametrize(("count", "gap"), [(10, 1.0), (1000, 1.0), (1000, 1e-6), (4, 1e6)])
def test_perfect_separation_keeps_the_scale_bounded(count, gap):
    labels = np.repeat([0, 1], count // 2)
    logits = np.where(labels == 1, gap, -gap) + np.linspace(0, gap / 10, count)
    found = fit_calibration(labels, logits)
    assert np.isfinite([found.scale, found.bias]).all()
    p_fake = found(logits)
    # Platt's targets: n faces of a class without an error prove no more than (n + 1) / (n + 2).
    limit = (count / 2 + 1) / (count / 2 + 2)
    assert p_fake[labels == 1].mean() == pytest.approx(limit, abs=0.02)
    assert p_fake[labels == 0].mean() == pytest.approx(1 - limit, abs=0.02)


def test_a_model_that_is_wrong_keeps_a_positive_scale():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 400)
    found = fit_calibration(labels, -3.0 * labels + rng.normal(0, 1, 400))
    assert 0 < found.scale < 0.01


def test_constant_logits_give_the_share_of_fakes():
    labels = np.array([0] * 75 + [1] * 25)
    found = fit_calibration(labels, np.full(100, 7.0))
    assert found.scale > 0
    assert float(found(np.array([7.0]))[0]) == pytest.approx(26 / 102, abs=0.02)


def test_weights_balance_sources():
    rng = np.random.default_rng(5)
    big, big_logits = synthetic(rng, 4000, 1.0, 2.0)
    small, small_logits = synthetic(rng, 1500, 1.0, -2.0)
    labels, logits = np.concatenate([big, small]), np.concatenate([big_logits, small_logits])
    weights = balanced_weights(labels, np.array(["big"] * 4000 + ["small"] * 1500))
    assert weights[:4000].sum() == pytest.approx(weights[4000:].sum())
    assert weights.mean() == pytest.approx(1.0)
    plain, balanced = fit_calibration(labels, logits), fit_calibration(labels, logits, weights=weights)
    assert plain.bias > 0.5
    assert abs(balanced.bias) < 0.5
    scaled = fit_calibration(labels, logits, weights=7.0 * weights)
    assert scaled.bias == pytest.approx(balanced.bias)


def test_a_source_of_fakes_alone_does_not_make_fakes_likelier():
    rng = np.random.default_rng(6)
    labels, logits = synthetic(rng, 4000, 1.0, 0.0)
    sources = np.array(["both"] * 4000 + ["fakes"] * 1000)
    labels, logits = np.append(labels, np.ones(1000, np.int64)), np.append(logits, rng.normal(1.5, 1.0, 1000))
    weights = balanced_weights(labels, sources)
    fake = labels == 1
    assert weights[fake].sum() == pytest.approx(weights[~fake].sum())
    assert weights[sources == "fakes"].sum() == pytest.approx(weights[fake].sum() / 2)
    assert weights.mean() == pytest.approx(1.0)
    calibration = fit_calibration(labels, logits, weights=weights)
    p_fake = calibration(logits)
    assert weights @ p_fake / weights.sum() == pytest.approx(0.5, abs=0.02)


def test_stray_faces_of_a_source_do_not_decide():
    labels = np.repeat([0, 1, 0, 1], [500, 500, 2, 800])
    sources = np.repeat(["a", "a", "b", "b"], [500, 500, 2, 800])
    weights = balanced_weights(labels, sources)
    strays = (labels == 0) & (sources == "b")
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 1].sum())
    assert weights[strays].sum() / weights[labels == 0].sum() < 0.1
    assert weights[strays].min() > 5 * weights[(labels == 0) & ~strays].max()
    assert balanced_weights(labels[:0], sources[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "logits", "message"),
    [
        ([1, 1, 1], [0.0, 1.0, 2.0], "0 reals and 3 fakes"),
        ([0, 0], [0.0, 1.0], "2 reals and 0 fakes"),
        ([], [], "both classes"),
        ([0, 1], [0.0, np.inf], "1 of 2 logits are not finite"),
        ([0, 3], [0.0, 1.0], "must be 0"),
    ],
)
def test_fit_refuses(labels, logits, message):
    with pytest.raises(DataError, match=message):
        fit_calibration(np.array(labels, np.int64), np.array(logits, np.float64))


def test_weights_are_checked():
    labels, scores = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.2, 0.8])
    for function in (fit_calibration, choose_operating_points):
        with pytest.raises(DataError, match="4 weights that are positive"):
            function(labels, scores, weights=np.array([1.0, 1.0, 0.0, 1.0]))


def test_clopper_pearson_agrees_with_scipy():
    for hits, samples in ((0, 30), (1, 30), (7, 50), (50, 50)):
        expected = binomtest(hits, samples).proportion_ci(method="exact")
        assert clopper_pearson(hits / samples, float(samples)) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("decimals", [None, 2, 1])
@pytest.mark.parametrize("seed", range(5))
def test_operating_points_keep_their_rate(seed, decimals):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, int(rng.integers(30, 700)))
    p_fake = sigmoid(rng.normal(0, 1, len(labels)) + 1.5 * labels - 0.7)
    if decimals is not None:
        p_fake = np.round(p_fake, decimals)
    points = choose_operating_points(labels, p_fake, split="cal")
    assert [(point.kind, point.rate) for point in points] == [
        ("fpr", 0.01),
        ("fpr", 0.05),
        ("fnr", 0.01),
        ("fnr", 0.05),
    ]
    for point in points:
        mine = p_fake[labels == (0 if point.kind == "fpr" else 1)]

        def errors(threshold, kind=point.kind, mine=mine):
            return int((mine >= threshold).sum() if kind == "fpr" else (mine < threshold).sum())

        rate = errors(point.threshold) / len(mine)
        assert rate <= point.rate
        # No other threshold would do that keeps the rate and catches more: the next score breaks it.
        reached = mine[mine < point.threshold].max() if point.kind == "fpr" else mine[mine >= point.threshold].min()
        step = reached if point.kind == "fpr" else np.nextafter(reached, 1.0)
        assert errors(step) / len(mine) > point.rate
        assert (point.samples, point.split) == (len(mine), "cal")
        expected = binomtest(errors(point.threshold), len(mine)).proportion_ci(method="exact")
        assert (point.rate_low, point.rate_high) == pytest.approx((expected.low, expected.high))


def test_operating_points_by_hand():
    labels = np.array([0] * 20 + [1] * 20)
    p_fake = np.concatenate([np.arange(20) / 50, 0.5 + np.arange(20) / 50])  # reals 0 ... .38, fakes .5 ... .88
    found = {(point.kind, point.rate): point.threshold for point in choose_operating_points(labels, p_fake)}
    assert found["fpr", 0.05] == pytest.approx((0.36 + 0.38) / 2)  # one of 20 reals may be at or above
    assert found["fpr", 0.01] == pytest.approx((0.38 + 0.50) / 2)  # none may: above the highest of them
    assert found["fnr", 0.05] == pytest.approx((0.50 + 0.52) / 2)
    assert found["fnr", 0.01] == pytest.approx((0.38 + 0.50) / 2)


def test_too_few_faces_say_so_through_the_interval():
    labels, p_fake = np.array([0] * 10 + [1] * 10), np.concatenate([np.linspace(0.3, 0.9, 10), np.full(10, 0.6)])
    points = {(point.kind, point.rate): point for point in choose_operating_points(labels, p_fake)}
    point = points["fpr", 0.01]
    assert point.threshold > p_fake.max()
    assert (point.rate_low, point.samples) == (0.0, 10)
    assert point.rate_high == pytest.approx(1 - 0.025**0.1)
    assert points["fnr", 0.01].threshold < 0.6


def test_groups_widen_the_interval_and_leave_the_threshold():
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 2, 200)
    p_fake = sigmoid(rng.normal(0, 1, 200) + labels)
    once = choose_operating_points(labels, p_fake)
    many = np.repeat(np.arange(200), 8)
    copies = choose_operating_points(labels[many], p_fake[many], groups=many)
    naive = choose_operating_points(labels[many], p_fake[many])
    for single, copied, claimed in zip(once, copies, naive, strict=True):
        assert copied.threshold == claimed.threshold == single.threshold
        assert (copied.rate_low, copied.rate_high) == pytest.approx((single.rate_low, single.rate_high))
        assert claimed.rate_high < copied.rate_high


def test_weighted_operating_points_keep_the_weighted_rate():
    rng = np.random.default_rng(7)
    sources = np.array(["big"] * 900 + ["small"] * 100)
    labels = rng.integers(0, 2, 1000)
    # The small source's reals look fake.
    p_fake = sigmoid(rng.normal(0, 1, 1000) + 2 * labels + np.where(sources == "small", 2.0, 0.0))
    weights = balanced_weights(labels, sources)
    plain, balanced = (choose_operating_points(labels, p_fake, weights=value)[1] for value in (None, weights))
    real = labels == 0
    wrong = weights[real & (p_fake >= balanced.threshold)].sum()
    assert wrong / weights[real].sum() <= 0.05
    assert balanced.threshold > plain.threshold
    assert balanced.rate_high - balanced.rate_low > plain.rate_high - plain.rate_low


def test_operating_points_refuse():
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(DataError, match=r"must be in \[0, 1\]"):
        choose_operating_points(labels, np.array([0.0, 0.1, 0.9, 1.5]))
    with pytest.raises(DataError, match="fit the calibration"):
        choose_operating_points(labels, np.array([0.0, 1.0, 1.0, 1.0]))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        choose_operating_points(labels, np.array([0.0, 0.1, 0.9, 1.0]), rates=(0.0,))
    # A fake at exactly 0 is no such problem: nothing is below it.
    points = choose_operating_points(labels, np.array([0.0, 0.1, 0.0, 0.9]), rates=(0.05,))
    assert points[1].threshold == 0.0
    # Neighbours in the last digit still leave a threshold that keeps the rate.
    top = np.nextafter(1.0, 0.0)
    points = choose_operating_points(labels, np.array([top, 0.2, 1.0, 1.0]), rates=(0.05,))
    assert points[0].threshold == 1.0


def point(kind, threshold, rate=0.05):
    return OperatingPoint(
        kind=kind, rate=rate, threshold=threshold, rate_low=0.0, rate_high=0.1, split="calibration", samples=100
    )


def test_fake_begins_at_one_percent_of_reals_and_real_ends_at_five_of_fakes():
    bands = choose_bands([point("fpr", 0.9, 0.01), point("fpr", 0.8), point("fnr", 0.1, 0.01), point("fnr", 0.3)])
    assert (bands.real_below, bands.fake_from) == (0.3, 0.9)
    assert "1% false positives" in bands.reason
    assert "calibration" in bands.reason


def test_crossing_bands_meet_in_the_middle():
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 2, 500)
    p_fake = sigmoid(rng.normal(0, 1, 500) + 8 * labels - 4)
    points = choose_operating_points(labels, p_fake)
    bands = choose_bands(points, fpr=0.05)
    assert points[3].threshold > points[1].threshold
    assert bands.real_below == bands.fake_from == pytest.approx((points[1].threshold + points[3].threshold) / 2)
    assert "cross" in bands.reason
    assert (p_fake[labels == 0] >= bands.fake_from).mean() <= 0.05
    assert (p_fake[labels == 1] < bands.real_below).mean() <= 0.05


def test_bands_at_other_rates_and_without_points():
    points = [point("fpr", 0.9, 0.01), point("fnr", 0.3)]
    assert choose_bands(points).fake_from == 0.9
    with pytest.raises(ConfigError, match=r"available: fpr 0.01, fnr 0.05"):
        choose_bands(points, fpr=0.05)

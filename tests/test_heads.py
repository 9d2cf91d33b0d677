"""Linear heads on cached features, and the protocol that leaves every source and method out in turn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize

from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.evaluation.leave_source_out import FALSE_ALARMS, GROUPS, PENALTY, leave_source_out, merged_sources
from fakeface_jax.features.fit_config import HeadConfig
from fakeface_jax.features.head import Design, within_source_weights
from fakeface_jax.features.table import FeatureTable

REALS = 49
"""Of a source, so that one of them is as near to the stated share of false alarms as it can be."""


def _table(parts, *, width: int = 5, seed: int = 0) -> FeatureTable:
    """A table of (source, label, method, how many) with the keys of a row that differ: `view`, `aligned`."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for source, label, method, count, *more in parts:
        row = {"source": source, "label": label, "method": method, "view": "web", "aligned": ""}
        rows += [row | {"number": number} | (more[0] if more else {}) for number in range(count)]
    labels = np.array([row["label"] == "fake" for row in rows], np.int8)
    features = rng.normal(size=(len(rows), 2, 3, width)) + 0.7 * labels[:, None, None, None]
    columns = {name: np.array([row[name] for row in rows]) for name in ("source", "method", "view", "aligned")}
    names = np.array([f"{row['source']}/{row['method']}/{row['number']}" for row in rows])
    return FeatureTable(
        features=(features * np.linspace(0.2, 3, width)).astype(np.float16),
        detail=np.zeros((len(rows), 4), np.float16),
        labels=labels,
        sources=columns["source"],
        methods=columns["method"],
        groups=names,
        views=columns["view"],
        aligned=columns["aligned"],
        pictures=names,
        ids=names,
    )


@pytest.fixture(scope="module")
def small() -> FeatureTable:
    return _table([("a", "real", "", 40), ("a", "fake", "swap", 30), ("b", "real", "", 25), ("b", "fake", "gan", 50)])


CONFIG = HeadConfig(taps=(0, 1), statistics=(0, 1), penalty=0.03, steps=3000)


def _all(table: FeatureTable) -> np.ndarray:
    return np.ones(len(table), bool)


def test_a_design_has_the_taps_and_statistics_that_were_asked_for(small):
    for taps, statistics in (((0, 1), (0, 1)), ((1,), (0, 1, 2)), ((0,), (2,))):
        design = Design.of(small, HeadConfig(taps=taps, statistics=statistics))
        assert design.components.shape == (len(small), len(taps) * len(statistics) * 5)
        assert design.components.dtype == np.float32
    # What was not asked for changes nothing.
    features = small.features.copy()
    features[:, 1] = 0
    features[:, :, 2] = 0
    other = dataclasses.replace(small, features=features)
    config = HeadConfig(taps=(0,), statistics=(0, 1))
    np.testing.assert_array_equal(Design.of(small, config).components, Design.of(other, config).components)


def test_the_components_are_uncorrelated_and_the_largest_are_kept(small):
    components = Design.of(small, CONFIG).components
    np.testing.assert_allclose(components.mean(axis=0), 0, atol=1e-4)
    spread = np.cov(components.T)
    np.testing.assert_allclose(spread - np.diag(np.diag(spread)), 0, atol=1e-3 * spread.max())
    # A row is of length 1 in the mean, however many features there are.
    assert (components**2).sum(axis=1).mean() == pytest.approx(1, abs=1e-2)
    kept = Design.of(small, dataclasses.replace(CONFIG, components=3)).components
    np.testing.assert_allclose(sorted(kept.var(axis=0)), sorted(components.var(axis=0))[-3:], rtol=1e-3)


def test_of_fewer_rows_than_features_as_many_components_as_rows_are_kept():
    table = _table([("a", "real", "", 7), ("a", "fake", "swap", 6)], width=40)
    design = Design.of(table, CONFIG)
    assert design.components.shape[1] <= 13
    assert np.isfinite(design.components).all()
    (head,) = design.fit(np.ones((1, 13)))
    assert ((design.scores(head) > 0) == table.fakes).all()


def _minimum(components, labels, shares, penalty) -> np.ndarray:
    """Of the same loss, by SciPy: weights and, last, the bias."""
    signs, x = np.where(labels == 1, 1.0, -1.0), components.astype(np.float64)

    def loss(parameters):
        kernel, margins = parameters[:-1], signs * (x @ parameters[:-1] + parameters[-1])
        pull = -shares * signs / (1 + np.exp(margins))
        value = shares @ np.logaddexp(0, -margins) + 0.5 * penalty * kernel @ kernel
        return value, np.append(pull @ x + penalty * kernel, pull.sum())

    return minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="BFGS", options={"gtol": 1e-8}).x


@pytest.mark.parametrize("weighted", [False, True])
def test_a_head_is_the_penalised_logistic_regression(small, weighted):
    design = Design.of(small, CONFIG)
    weights = np.random.default_rng(3).uniform(0, 2, len(small)) if weighted else np.ones(len(small))
    weights[::7] = 0
    (head,) = design.fit(weights[None])
    expected = _minimum(design.components, small.labels, weights / weights.sum(), CONFIG.penalty)
    np.testing.assert_allclose(head.weights, expected[:-1], atol=2e-3)
    assert head.bias == pytest.approx(expected[-1], abs=2e-3)
    np.testing.assert_allclose(design.scores(head), design.components @ expected[:-1] + expected[-1], atol=2e-3)


def test_the_default_number_of_steps_comes_close_to_the_minimum(small):
    config = HeadConfig(taps=(0, 1), statistics=(0, 1), penalty=0.03)
    design = Design.of(small, config)
    (head,) = design.fit(np.ones((1, len(small))))
    expected = _minimum(design.components, small.labels, np.full(len(small), 1 / len(small)), config.penalty)
    np.testing.assert_allclose(design.scores(head), design.components @ expected[:-1] + expected[-1], atol=2e-2)


def test_rows_of_weight_zero_are_not_seen(small):
    weights = np.ones(len(small))
    weights[small.sources == "b"] = 0
    wrong = small.labels.copy()
    wrong[small.sources == "b"] = 1 - wrong[small.sources == "b"]
    heads = [
        Design.of(table, CONFIG).fit(weights[None])[0] for table in (small, dataclasses.replace(small, labels=wrong))
    ]
    np.testing.assert_allclose(heads[0].weights, heads[1].weights, atol=1e-6)


def test_the_scale_of_weights_changes_nothing(small):
    design = Design.of(small, CONFIG)
    one, other = design.fit(np.stack([np.ones(len(small)), np.full(len(small), 7.0)]))
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-5)


def test_the_folded_kernel_gives_the_same_logits_on_plain_features(small):
    design = Design.of(small, CONFIG)
    (head,) = design.fit(np.ones((1, len(small))))
    kernel, bias = design.folded(head)
    assert kernel.shape == (20, 1)
    assert (kernel.dtype, bias.dtype, bias.shape) == (np.float32, np.float32, (1,))
    plain = small.features[:, :, :2].astype(np.float32).reshape(len(small), -1)
    np.testing.assert_allclose((plain @ kernel + bias)[:, 0], design.scores(head), atol=1e-3)


def test_heads_that_are_fitted_together_are_those_that_are_fitted_alone(small, monkeypatch):
    weights = np.random.default_rng(0).uniform(0, 1, (5, len(small)))
    # In two lots, of which the last is smaller.
    monkeypatch.setattr("fakeface_jax.features.head._TOGETHER", 3)
    design = Design.of(small, CONFIG)
    together = design.fit(weights)
    assert len(together) == 5
    for one, line in zip(together, weights, strict=True):
        (alone,) = design.fit(line[None])
        np.testing.assert_allclose(one.weights, alone.weights, atol=1e-3)
        assert one.bias == pytest.approx(alone.bias, abs=1e-3)


@pytest.mark.parametrize("only", [0, 1])
def test_a_head_of_one_class_is_refused(small, only):
    weights = np.stack([np.ones(len(small)), (small.labels == only).astype(float)])
    with pytest.raises(DataError, match="both classes"):
        Design.of(small, CONFIG).fit(weights)


def test_reals_and_fakes_of_a_source_weigh_the_same():
    table = _table(
        [
            ("a", "real", "", 10),
            ("a", "fake", "swap", 90),
            ("a", "fake", "swap", 5, {"aligned": "blend"}),
            ("b", "real", "", 300),
            ("b", "fake", "gan", 100),
            ("reals", "real", "", 50),
            ("aligned", "real", "", 20),
            ("aligned", "fake", "", 40, {"aligned": "blend"}),
            ("fakes", "fake", "gan", 64),
        ]
    )
    weights = within_source_weights(table, _all(table))
    assert weights.shape == (len(table),)
    assert (weights >= 0).all()

    def total(source, *, fakes, aligned=None):
        rows = (table.sources == source) & (table.fakes == fakes)
        return float(weights[rows if aligned is None else rows & (table.aligned == aligned)].sum())

    for source, size in (("a", 105), ("b", 400), ("aligned", 60)):
        assert total(source, fakes=False) == pytest.approx(size**0.5)
        assert total(source, fakes=True) == pytest.approx(size**0.5)
    # Every kind of fake of a source counts the same.
    assert total("a", fakes=True, aligned="") == pytest.approx(total("a", fakes=True, aligned="blend"))
    # A source of one class says nothing but its name.
    assert total("reals", fakes=False) == 0
    assert total("fakes", fakes=True) == 0


def test_a_view_of_one_class_weighs_nothing():
    """Else a head would learn the view: fakes that are only shown compressed, and reals that are only shown clean."""
    table = _table(
        [
            ("a", "real", "", 30),
            ("a", "fake", "swap", 20),
            ("a", "real", "", 10, {"view": "clean"}),
            ("a", "fake", "", 9, {"view": "drawn-0", "aligned": "blend"}),
            ("b", "real", "", 16, {"view": "clean"}),
            ("b", "fake", "", 20, {"view": "clean", "aligned": "blend"}),
        ]
    )
    weights = within_source_weights(table, _all(table))
    first = table.sources == "a"
    assert weights[first & (table.views != "web")].sum() == 0
    for fakes in (table.fakes, ~table.fakes):
        assert weights[first & fakes].sum() == pytest.approx(50**0.5)
        assert weights[~first & fakes].sum() == pytest.approx(6)


def test_rows_that_are_not_used_weigh_nothing_and_count_for_nothing(small):
    used = np.arange(len(small)) % 3 > 0
    weights = within_source_weights(small, used)
    assert (weights[~used] == 0).all()
    np.testing.assert_allclose(weights[used], within_source_weights(small.select(used), _all(small)[used]))
    # Without its reals, a source is one of fakes alone.
    left = ~((small.sources == "a") & ~small.fakes)
    assert not within_source_weights(small, left)[small.sources == "a"].any()
    assert not within_source_weights(small, np.zeros(len(small), bool)).any()


@pytest.mark.parametrize("change", [{"taps": ()}, {"statistics": ()}, {"components": 0}, {"steps": 0}, {"penalty": 0}])
def test_a_head_that_cannot_be_fitted_is_refused(change):
    with pytest.raises(ConfigError, match="a head needs"):
        HeadConfig(**change)


# ----------------------------------------------------------------------------------------------------------------------

REAL_SOURCES = tuple(f"real-{number}" for number in range(8))
FAKES = (
    ("mixed", "swap", 20),
    ("mixed", "gan", 20),
    ("generated", "gan", 30),
    ("generated", "diffusion", 15),
    ("unnamed", "", 14),
)


@pytest.fixture(scope="module")
def world() -> FeatureTable:
    """Eight sources of reals, one of both, two of fakes, small ones; other views and aligned fakes of some."""
    parts: list[tuple] = [(name, "real", "", REALS) for name in REAL_SOURCES]
    parts += [(source, "fake", method, count) for source, method, count in FAKES]
    parts += [("mixed", "real", "", 5), ("tiny-1", "real", "", 8), ("tiny-2", "fake", "swap", 9)]
    parts += [(name, "fake", "", 15, {"aligned": "blend"}) for name in REAL_SOURCES]
    parts += [(name, "real", "", 20, {"view": "drawn-0"}) for name in REAL_SOURCES]
    parts += [(source, "fake", method, 20, {"view": "drawn-0"}) for source, method, _ in FAKES]
    return _table(parts, width=1)


def _truth(table: FeatureTable) -> np.ndarray:
    """Logits that know the label: fakes above 0, reals of every source spread alike below."""
    numbers = np.array([int(name.rsplit("/", 1)[1]) for name in table.ids])
    return np.where(table.fakes, 1.0, -1.0 + numbers / 100)


def _left_out(table: FeatureTable) -> list[tuple[str, list[str]]]:
    """(source of fakes, sources of reals) of every fold."""
    parts = [list(REAL_SOURCES[start::GROUPS]) for start in range(GROUPS)]
    return [(source, part) for source in ("generated", "mixed", "unnamed") for part in parts]


def test_no_head_sees_a_source_or_a_method_that_it_is_judged_by(world):
    seen = []

    def spy(fitted):
        seen.append(fitted.copy())
        return np.tile(_truth(world), (len(fitted), 1))

    leave_source_out(world, spy, resamples=5)
    (fitted,) = seen
    expected = _left_out(world)
    assert fitted.shape == (len(expected), len(world))
    names = merged_sources(world)
    for rows, (source, reals) in zip(fitted, expected, strict=True):
        left = np.isin(names, [source, *reals])
        assert not rows[left].any()  # of any view, and aligned fakes of these reals neither
        methods = {method for name, method, _ in FAKES if name == source} - {""}
        same = world.fakes & np.isin(world.methods, sorted(methods))
        assert not rows[same].any()
        # All else is there to be fitted on.
        assert rows[~left & ~same].all()


def test_what_a_head_was_fitted_on_has_no_say(world):
    truth = _truth(world)

    def cheat(fitted):
        # Wrong wherever the head has seen the row, its source or its method.
        return np.where(fitted, -100 * np.sign(truth), truth)

    found = leave_source_out(world, cheat, resamples=5)
    assert found.mean_auc == 1
    scored = ~np.isnan(found.logits)
    np.testing.assert_allclose(found.logits[scored], truth[scored])


def test_one_who_knows_gets_everything_right(world):
    found = leave_source_out(world, lambda fitted: np.tile(_truth(world), (len(fitted), 1)), resamples=50)
    rows = {(row.names["source"], row.names["method"]): row for row in found.methods.rows}
    assert rows.keys() == {(source, method or "not stated") for source, method, _ in FAKES}
    for (source, method), row in rows.items():
        count = next(n for s, m, n in FAKES if (s, m or "not stated") == (source, method))
        assert row.counts == {"fakes": count, "groups": count}
        for name in ("auc", "found"):
            estimate = row.estimates[name]
            assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)
    assert found.mean_auc == 1
    # The threshold is a real's own logit: at least the stated share reaches it.
    assert FALSE_ALARMS < found.worst_false_alarms <= 1.1 / REALS
    assert found.objective == pytest.approx(1, abs=1e-3)
    assert [row.names["source"] for row in found.sources.rows] == list(REAL_SOURCES)
    assert {row.counts["reals"] for row in found.sources.rows} == {REALS}


def test_the_faces_that_are_scored_are_those_of_the_view(world):
    found = leave_source_out(world, lambda fitted: np.tile(_truth(world), (len(fitted), 1)), resamples=0)
    scored = ~np.isnan(found.logits)
    sources = np.isin(world.sources, [*REAL_SOURCES, *(source for source, *_ in FAKES)])
    expected = (world.views == "web") & (world.aligned == "") & sources & ~((world.sources == "mixed") & ~world.fakes)
    np.testing.assert_array_equal(scored, expected)
    other = leave_source_out(
        world, lambda fitted: np.tile(_truth(world), (len(fitted), 1)), view="drawn-0", resamples=0
    )
    np.testing.assert_array_equal(~np.isnan(other.logits), world.views == "drawn-0")


def test_one_who_knows_sources_alone_does_worse(world):
    heights = {name: float(place) for place, name in enumerate(np.unique(world.sources))}
    level = np.array([heights[name] for name in world.sources]) / 3
    truth = _truth(world)
    best = leave_source_out(world, lambda fitted: np.tile(truth, (len(fitted), 1)), resamples=5)
    apart = leave_source_out(world, lambda fitted: np.tile(truth + 30 * level, (len(fitted), 1)), resamples=5)
    blind = leave_source_out(world, lambda fitted: np.tile(30 * level, (len(fitted), 1)), resamples=5)
    for found in (apart, blind):
        # The source that it likes least is called fake as a whole.
        assert found.worst_false_alarms == 1
        assert found.objective == pytest.approx(found.mean_auc - PENALTY * (1 - FALSE_ALARMS))
        assert found.objective < best.objective - 0.4


def test_a_coin_gets_half(world):
    coin = np.random.default_rng(0).normal(size=len(world))
    found = leave_source_out(world, lambda fitted: np.tile(coin, (len(fitted), 1)), resamples=100)
    assert found.mean_auc == pytest.approx(0.5, abs=0.1)
    for row in found.methods.rows:
        auc = row.estimates["auc"]
        assert auc.low < auc.value < auc.high
        assert auc.high - auc.low > 0.1


def test_the_same_seed_gives_the_same_intervals(world):
    coin = np.random.default_rng(0).normal(size=len(world))
    one, again = (
        leave_source_out(world, lambda fitted: np.tile(coin, (len(fitted), 1)), resamples=20, seed=4) for _ in range(2)
    )
    assert one.methods.rows == again.methods.rows
    assert one.sources.rows == again.sources.rows


def test_sources_that_a_part_of_the_recipe_knows_are_fitted_on_and_not_scored(world):
    table = world.select(world.sources != "real-7")
    more = _table([("real-8", "real", "", REALS), ("real-9", "real", "", REALS)], width=1)
    parts = {
        field.name: np.concatenate([getattr(table, field.name), getattr(more, field.name)])
        for field in dataclasses.fields(table)
    }
    table = FeatureTable(**parts)
    masks = []

    def spy(fitted):
        masks.append(fitted)
        return np.tile(_truth(table), (len(fitted), 1))

    found = leave_source_out(table, spy, without=["real-9", "unnamed"], resamples=0)
    known = np.isin(table.sources, ["real-9", "unnamed"])
    assert np.isnan(found.logits[known]).all()
    assert masks[0][:, known].all()
    assert "real-9" not in {row.names["source"] for row in found.sources.rows}
    assert "unnamed" not in {row.names["source"] for row in found.methods.rows}


def test_small_sources_are_left_out_together():
    table = _table(
        [("large", "real", "", 30), *((f"s{number}", "real", "", 6) for number in range(4)), ("s0", "fake", "x", 11)]
    )
    names = merged_sources(table)
    assert (names[table.sources == "large"] == "large").all()
    assert len(set(names[table.sources != "large"])) == 1


@pytest.mark.parametrize("lacks", ["reals", "fakes"])
def test_too_few_sources_are_refused(world, lacks):
    kept = world.sources != "real-0" if lacks == "reals" else ~world.fakes

    def never(fitted):
        raise AssertionError("there is nothing to fit")

    with pytest.raises(DataError, match="sources of reals"):
        leave_source_out(world.select(kept), never)


def test_a_fitted_head_is_judged(world):
    """The two together: a head that finds what all fakes have in common, whatever made them."""
    table = _table(
        [
            *((name, "real", "", 30, {"view": view}) for name in REAL_SOURCES for view in ("web", "drawn-0")),
            *((name, "fake", "", 30, {"aligned": "blend", "view": "drawn-0"}) for name in REAL_SOURCES),
            *((f"fakes-{n}", "fake", f"m{n}", 30, {"view": view}) for n in range(3) for view in ("web", "drawn-0")),
        ]
    )
    design = Design.of(table, dataclasses.replace(CONFIG, steps=300))
    weights = within_source_weights(table, table.views == "drawn-0")
    found = leave_source_out(
        table, lambda fitted: np.stack([design.scores(head) for head in design.fit(weights * fitted)]), resamples=20
    )
    assert found.mean_auc > 0.9
    assert len(found.methods.rows) == 3

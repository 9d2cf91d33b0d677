import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as reference

from fakeface_jax.decision import Calibration, VerdictBands, sigmoid
from fakeface_jax.errors import ConfigError, DataError, OpenError
from fakeface_jax.evaluation.metrics import evaluate
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.weighted_metrics import (
    METRICS,
    ece_by_chance,
    point_metrics,
    verdict_masks,
    weighted_metrics,
)

BANDS = VerdictBands(real_below=0.3, fake_from=0.7)


def make_predictions(labels, logits, sources=None, groups=None):
    count = len(labels)
    return Predictions(
        ids=np.array([f"face-{index}" for index in range(count)], dtype=np.str_),
        sources=np.array(["a"] * count) if sources is None else np.asarray(sources),
        groups=np.arange(count).astype(np.str_) if groups is None else np.asarray(groups).astype(np.str_),
        labels=np.asarray(labels, np.int8),
        logits=np.asarray(logits, np.float32),
    )


def random_scores(rng, count, *, ties):
    labels = rng.integers(0, 2, count)
    p_fake = sigmoid(rng.normal(0, 1.5, count) + labels)
    return labels, np.round(p_fake, 1) if ties else p_fake


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighting", ["ones", "counts", "fractions"])
def test_metrics_agree_with_scikit_learn(ties, weighting):
    rng = np.random.default_rng(3)
    labels, p_fake = random_scores(rng, 300, ties=ties)
    weights = {
        "ones": np.ones((4, 300)),
        "counts": rng.integers(0, 4, (4, 300)) * 1.0,
        "fractions": rng.uniform(0, 2, (4, 300)),
    }[weighting]
    found = weighted_metrics(labels, p_fake, weights)
    called = p_fake >= 0.5
    assert list(found) == list(METRICS)
    for row, weight in enumerate(weights):
        expected = {
            "accuracy": reference.accuracy_score(labels, called, sample_weight=weight),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, called, sample_weight=weight),
            "precision": reference.precision_score(labels, called, sample_weight=weight),
            "recall": reference.recall_score(labels, called, sample_weight=weight),
            "f1": reference.f1_score(labels, called, sample_weight=weight),
            "auc": reference.roc_auc_score(labels, p_fake, sample_weight=weight),
            "ap": reference.average_precision_score(labels, p_fake, sample_weight=weight),
            "log_loss": reference.log_loss(labels, p_fake, sample_weight=weight),
            "brier": reference.brier_score_loss(labels, p_fake, sample_weight=weight),
        }
        fpr, tpr, _ = reference.roc_curve(labels, p_fake, sample_weight=weight, drop_intermediate=False)
        for percent in (1, 5):
            expected[f"tpr_at_fpr_{percent}"] = tpr[fpr <= percent / 100 + 1e-12].max()
        # EER by a fine grid along the interpolated curve.
        grid = np.linspace(0, len(fpr) - 1, 400_001)
        x, y = (np.interp(grid, np.arange(len(fpr)), values) for values in (fpr, tpr))
        expected["eer"] = x[np.argmin(np.abs(x - (1 - y)))]
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, abs=1e-4 if name == "eer" else 1e-9), name


def test_a_resample_is_a_weight_vector():
    rng = np.random.default_rng(5)
    labels, p_fake = random_scores(rng, 80, ties=True)
    drawn = rng.integers(0, 80, 80)
    weighted = weighted_metrics(labels, p_fake, np.bincount(drawn, minlength=80)[None] * 1.0)
    copied = point_metrics(labels[drawn], p_fake[drawn])
    for name, value in copied.items():
        assert weighted[name][0] == pytest.approx(value), name


def test_eer_by_hand():
    # Thresholds .8, .6: FPR 1/4, FNR 1/4 at .6.
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    p_fake = np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.6, 0.8, 0.9])
    assert point_metrics(labels, p_fake)["eer"] == pytest.approx(0.25)
    # One tie of everything: the ROC is the diagonal.
    assert point_metrics(labels, np.full(8, 0.4))["eer"] == pytest.approx(0.5)
    assert point_metrics(labels, labels * 0.8 + 0.1)["eer"] == pytest.approx(0.0)
    assert point_metrics(labels, 0.9 - labels * 0.8)["eer"] == pytest.approx(1.0)


def test_ece_by_hand():
    # Bins of 1/15: .02 and .05 share the first, mean .035, no fakes; .50 is alone with a fake; 1.0 is in the last.
    labels = np.array([0, 0, 1, 1])
    p_fake = np.array([0.02, 0.05, 0.5, 1.0])
    assert point_metrics(labels, p_fake)["ece"] == pytest.approx((2 * 0.035 + 0.5 + 0.0) / 4)
    # Within a bin over- and underconfidence cancel.
    assert point_metrics(np.array([0, 1]), np.array([0.49, 0.51]))["ece"] == pytest.approx(0.0)


def test_tpr_at_fpr_by_hand():
    labels = np.array([0] * 40 + [1] * 10)
    reals = np.linspace(0.0, 0.39, 40)
    reals[-3:] = 0.6, 0.7, 0.8
    p_fake = np.concatenate([reals, [0.1, 0.2, 0.3, 0.5, 0.65, 0.65, 0.75, 0.85, 0.9, 0.95]])
    found = point_metrics(labels, p_fake)
    # 1 % of 40 reals is none of them: only the three fakes above .8. 5 % is two: those above .6.
    assert found["tpr_at_fpr_1"] == pytest.approx(0.3)
    assert found["tpr_at_fpr_5"] == pytest.approx(0.6)


def test_extreme_scores_stay_finite_and_ranked():
    predictions = make_predictions([0, 0, 1, 1], [-900, 60, 50, 900])
    found = evaluate(predictions, resamples=20).overall.metrics
    assert found["auc"].value == pytest.approx(0.75)  # 50 and 60 are the same probability, and not the same score
    assert found["log_loss"].value == pytest.approx(15.0)


def test_confusion_and_verdicts_count_faces():
    predictions = make_predictions([0, 0, 0, 1, 1, 1], [-2, 0.1, 2, -2, -0.1, 2])
    overall = evaluate(predictions, bands=BANDS, resamples=20).overall
    assert dataclasses.astuple(overall.confusion) == (1, 2, 2, 1)
    assert (overall.reals, overall.fakes, overall.groups) == (3, 3, 6)
    counts = {label: {name: share.count for name, share in row.items()} for label, row in overall.verdicts.items()}
    assert counts == {
        "real": {"real": 1, "inconclusive": 1, "fake": 1},
        "fake": {"real": 1, "inconclusive": 1, "fake": 1},
    }
    assert overall.verdicts["real"]["fake"].share.value == pytest.approx(1 / 3)
    assert evaluate(predictions, resamples=2).overall.verdicts is None


def test_verdict_masks_agree_with_decide():
    p_fake = np.array([0.0, 0.29, 0.3, 0.5, 0.69, 0.7, 1.0])
    crossed = VerdictBands(real_below=0.5, fake_from=0.5)
    for bands in (BANDS, crossed):
        masks = verdict_masks(p_fake, bands)
        for index, score in enumerate(p_fake.tolist()):
            assert [verdict for verdict, mask in masks.items() if mask[index]] == [bands.decide(score)]


def test_calibration_is_applied():
    predictions = make_predictions([0, 1, 0, 1], [-1.0, 2.0, 0.5, 1.0])
    calibration = Calibration(scale=2.0, bias=-1.0, method="platt")
    found = evaluate(predictions, calibration, resamples=5).overall.metrics
    expected = reference.log_loss([0, 1, 0, 1], sigmoid(2.0 * predictions.logits.astype(np.float64) - 1.0))
    assert found["log_loss"].value == pytest.approx(expected)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_source_has_none_where_undefined(label):
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.integers(0, 2, 100), np.full(40, label)])
    predictions = make_predictions(labels, rng.normal(0, 1, 140), sources=["both"] * 100 + ["one"] * 40)
    evaluation = evaluate(predictions, bands=BANDS, resamples=50)
    found = {name: estimate.value for name, estimate in evaluation.sources["one"].metrics.items()}
    defined = {"accuracy", "log_loss", "brier", "ece"} | ({"recall"} if label else set())
    assert {name for name, value in found.items() if value is not None} == defined
    assert list(evaluation.sources["one"].verdicts) == [("real", "fake")[label]]
    assert all(estimate.low is not None for estimate in evaluation.sources["both"].metrics.values())


def test_json_has_no_nan_and_only_plain_types():
    rng = np.random.default_rng(1)
    predictions = make_predictions(
        [0, 1] * 20 + [1] * 5 + [0], rng.normal(0, 1, 46), sources=["both"] * 40 + ["fakes"] * 5 + ["single"]
    )
    for bands in (BANDS, None):
        document = evaluate(predictions, bands=bands, resamples=30).to_dict()
        text = json.dumps(document, allow_nan=False)
        assert json.loads(text) == document
    assert document["sources"]["single"]["metrics"]["auc"] == {"value": None, "low": None, "high": None}
    assert document["sources"]["single"]["metrics"]["accuracy"]["low"] is None  # one group cannot be resampled


def test_duplicated_groups_widen_the_interval():
    rng = np.random.default_rng(2)
    labels, logits = rng.integers(0, 2, 60), rng.normal(0, 1, 60)
    logits += labels
    many = np.repeat(np.arange(60), 10)
    naive = evaluate(make_predictions(labels[many], logits[many]), resamples=300).overall
    grouped = evaluate(make_predictions(labels[many], logits[many], groups=many), resamples=300).overall
    single = evaluate(make_predictions(labels, logits, groups=np.arange(60)), resamples=300).overall
    for name in ("accuracy", "auc", "brier"):
        width = {
            key: found.metrics[name].high - found.metrics[name].low
            for key, found in (("naive", naive), ("grouped", grouped), ("single", single))
        }
        assert width["grouped"] > 2.5 * width["naive"], name
        # Ten copies say no more than one.
        assert width["grouped"] == pytest.approx(width["single"], rel=0.05), name
    assert (naive.groups, grouped.groups) == (600, 60)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    truth = 0.7602499389065233  # Phi(1 / sqrt(2)): AUC of unit normals one apart
    covered = 0
    for _ in range(120):
        labels = np.repeat(np.arange(100) % 2, 2)
        # Two faces per group that share most of their noise.
        noise = np.repeat(rng.normal(0, 0.8**0.5, 100), 2) + rng.normal(0, 0.2**0.5, 200)
        predictions = make_predictions(labels, labels + noise, groups=np.repeat(np.arange(100), 2))
        auc = evaluate(predictions, resamples=200).overall.metrics["auc"]
        covered += auc.low <= truth <= auc.high
    assert 0.88 <= covered / 120 <= 0.995


def test_a_share_of_zero_keeps_an_honest_interval():
    labels = [0] * 40 + [1] * 40
    groups = np.concatenate([np.repeat(np.arange(20), 2), 20 + np.arange(40)])
    predictions = make_predictions(labels, np.where(labels, 5.0, -5.0), groups=groups)
    overall = evaluate(predictions, bands=BANDS, resamples=50).overall
    false_positives = overall.verdicts["real"]["fake"].share
    assert (false_positives.value, false_positives.low) == (0.0, 0.0)
    assert false_positives.high == pytest.approx(1 - 0.025 ** (1 / 20))  # 20 groups of reals
    assert overall.metrics["recall"].low == pytest.approx(0.025 ** (1 / 40))
    assert overall.metrics["accuracy"].low == pytest.approx(0.025 ** (1 / 60))


def test_ece_of_scores_that_are_right():
    generator = np.random.default_rng(0)
    p_fake = generator.beta(0.6, 0.6, 500)
    mean, high = ece_by_chance(p_fake)
    again = [point_metrics((generator.random(500) < p_fake).astype(int), p_fake)["ece"] for _ in range(300)]
    assert mean == pytest.approx(np.mean(again), rel=0.05)
    assert high == pytest.approx(np.quantile(again, 0.95), rel=0.08)
    assert mean < high
    assert ece_by_chance(np.full(7, 0.99))[0] < 0.1  # all in one bin
    assert ece_by_chance(np.zeros(5)) == (0.0, 0.0)
    # A face that counts twice is two that are right or wrong together: more chance than of two that are not.
    twice = ece_by_chance(np.repeat(p_fake, 2))[0]
    assert ece_by_chance(p_fake, weights=np.full(500, 7.0))[0] == pytest.approx(mean)
    uneven = np.where(np.arange(500) % 10 == 0, 10.0, 1.0)
    assert ece_by_chance(p_fake, weights=uneven)[0] > 1.3 * mean > 1.3 * twice
    assert ece_by_chance(np.repeat(p_fake, 16))[0] == pytest.approx(mean / 4, rel=0.1)


def test_ece_interval_holds_its_value():
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 2, 400)
    predictions = make_predictions(rng.uniform(size=400) < sigmoid(logits), logits)
    ece = evaluate(predictions, resamples=200).overall.metrics["ece"]
    assert 0 <= ece.low <= ece.value <= ece.high


def test_same_seed_same_numbers_and_sources_do_not_disturb_each_other():
    rng = np.random.default_rng(6)
    predictions = make_predictions(rng.integers(0, 2, 90), rng.normal(0, 1, 90), sources=["a", "b", "c"] * 30)
    first = evaluate(predictions, resamples=50)
    assert evaluate(predictions, resamples=50) == first
    assert evaluate(predictions, resamples=50, seed=1) != first
    assert evaluate(predictions.select("b"), resamples=50).sources["b"] == first.sources["b"]


def test_blocks_do_not_change_the_distribution(monkeypatch):
    rng = np.random.default_rng(8)
    predictions = make_predictions(rng.integers(0, 2, 200), rng.normal(0, 1, 200))
    # Rounded, as reports are: sums in another order may differ in the last bit.
    whole = evaluate(predictions, resamples=100).to_dict()
    monkeypatch.setattr("fakeface_jax.evaluation.metrics._BLOCK", 200 * 7)
    assert evaluate(predictions, resamples=100).to_dict() == whole


def test_nothing_to_evaluate():
    empty = make_predictions(np.zeros(0), np.zeros(0), sources=np.zeros(0, np.str_))
    with pytest.raises(DataError, match="empty"):
        evaluate(empty)
    with pytest.raises(ConfigError, match="resample"):
        evaluate(make_predictions([0, 1], [0, 1]), resamples=0)


def test_predictions_refuse_what_cannot_be_measured():
    good = make_predictions([0, 1], [0.0, 1.0])
    for change, message in (
        ({"labels": np.array([0, 2], np.int8)}, "face-1: label 2"),
        ({"logits": np.array([0.0, np.nan], np.float32)}, "face-1: logit is nan"),
        ({"logits": np.array([1e300, 0.0])}, "logit is inf"),
        ({"sizes": np.array([0.0, 80.0])}, "face-0: the face size 0 must be positive"),
    ):
        with pytest.raises(DataError, match=message):
            dataclasses.replace(good, **change)
    for change in ({"logits": np.zeros(3, np.float32)}, {"groups": np.array(["x"])}):
        # A TypeError where shapes are checked at run time.
        with pytest.raises((DataError, TypeError)):
            dataclasses.replace(good, **change)


def test_select_by_source_and_mask():
    predictions = make_predictions([0, 1, 1], [0.0, 1.0, 2.0], sources=["a", "b", "a"])
    assert predictions.select("a").ids.tolist() == ["face-0", "face-2"]
    assert len(predictions.select("nowhere")) == 0
    assert predictions.select(predictions.labels == 1).logits.tolist() == [1.0, 2.0]
    with pytest.raises(DataError, match="3 booleans"):
        predictions.select(np.array([True]))


def test_predictions_survive_a_file(tmp_path):
    predictions = make_predictions([0, 1], [0.25, -1e-7], sources=["140k", "Ähnlich"], groups=["g|1", "g 2"])
    path = tmp_path / "new" / "predictions.parquet"
    predictions.save(path)
    found = Predictions.load(path)
    for field in dataclasses.fields(Predictions):
        expected = getattr(predictions, field.name)
        np.testing.assert_array_equal(getattr(found, field.name), expected)
        assert getattr(found, field.name).dtype.kind == expected.dtype.kind
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    empty = predictions.select("nowhere")
    empty.save(path)
    assert len(Predictions.load(path)) == 0


def test_methods_and_sizes_are_kept_and_may_be_unknown(tmp_path):
    plain = make_predictions([0, 1, 1], [0.0, 1.0, 2.0])
    assert plain.methods.tolist() == ["", "", ""]
    assert np.isnan(plain.sizes).all()
    known = dataclasses.replace(plain, methods=np.array(["", "swap", "gan"]), sizes=np.array([80.5, np.nan, 200.0]))
    chosen = known.select(known.labels == 1)
    assert chosen.methods.tolist() == ["swap", "gan"]
    np.testing.assert_array_equal(chosen.sizes, np.array([np.nan, 200.0], np.float32))
    joined = Predictions.joined([plain, known])
    assert joined.methods.tolist() == ["", "", "", "", "swap", "gan"]
    assert joined.logits.tolist() == [0.0, 1.0, 2.0] * 2
    path = tmp_path / "predictions.parquet"
    known.save(path)
    found = Predictions.load(path)
    assert found.methods.tolist() == known.methods.tolist()
    np.testing.assert_array_equal(found.sizes, known.sizes)
    pq.write_table(pq.read_table(path).drop_columns(["method", "size"]), path)
    with pytest.raises(DataError, match="lack columns method, size"):
        Predictions.load(path)


def test_predictions_file_errors_name_the_file(tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 this is none PAR1")
    for path in (tmp_path / "missing.parquet", broken, tmp_path):
        with pytest.raises(DataError, match=path.name):
            Predictions.load(path)
    with pytest.raises(OpenError, match="directory cannot be created"):
        make_predictions([0, 1], [0, 1]).save(broken / "below-a-file.parquet")

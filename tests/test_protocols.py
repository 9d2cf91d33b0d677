"""Protocols on scores with known truth: what is compared with what, on which faces, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from fakeface_jax.decision import Calibration, VerdictBands
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.evaluation import protocols
from fakeface_jax.evaluation.batch_scoring import named
from fakeface_jax.evaluation.metrics import evaluate
from fakeface_jax.evaluation.paired_bootstrap import estimates, paired_draws
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.protocols import Scorer
from fakeface_jax.evaluation.robustness import Degradation

BANDS = VerdictBands(real_below=0.3, fake_from=0.7)
CALIBRATION = Calibration(scale=1.0, bias=0.0, method="platt", split="calibration", samples=30)


def faces(split, source, reals, fakes, *, methods=("swap",), sizes=None):
    """Faces in pairs that share a group; logits 0."""
    count = reals + fakes
    labels = np.repeat([0, 1], [reals, fakes])
    return Predictions(
        ids=np.array([f"{split}/{source}/{index}" for index in range(count)]),
        sources=np.full(count, source),
        groups=np.array([f"{split}/{source}/{index // 2}" for index in range(count)]),
        labels=labels.astype(np.int8),
        logits=np.zeros(count, np.float32),
        methods=np.array([methods[index % len(methods)] if label else "" for index, label in enumerate(labels)]),
        sizes=np.full(count, np.nan) if sizes is None else np.asarray(sizes, np.float64),
    )


LABELLED = {
    "train": Predictions.joined([faces("train", "a", 20, 20), faces("train", "gan", 0, 12, methods=("x", "y"))]),
    "calibration": Predictions.joined([faces("calibration", "a", 15, 15), faces("calibration", "b", 4, 4)]),
    "test": Predictions.joined([faces("test", "a", 24, 20), faces("test", "b", 10, 16)]),
}


def scorer(name="net", *, gap=1.5, left_out=(), seed=0, called=None, calibration=CALIBRATION):
    """Logits with a gap between the classes; of each face the same in every call, lower after a transform."""

    def predict(split, *, keep=None, transform=None):
        part = LABELLED[split]
        noise = np.random.default_rng([seed, len(part)]).normal(size=len(part))
        logits = gap * (part.labels - 0.5) + noise
        if transform is not None:
            # A picture stands for the face's strength of signal, so that a degradation can be heard.
            logits = logits * (transform(np.full((1, 32, 32, 3), 100, np.uint8)).std() < 1) + noise[::-1]
        part = dataclasses.replace(part, logits=logits.astype(np.float32))
        if called is not None:
            called.append((split, None if keep is None else int(keep.sum())))
        return part if keep is None else part.select(keep)

    return Scorer(name=name, predict=predict, calibration=calibration, bands=BANDS, left_out=tuple(left_out))


def cells(result, key):
    return [row.names[key] for row in result.rows]


def check_form(result):
    """The table and the JSON say the same of the same rows."""
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    lines = result.table().splitlines()
    assert len(lines) == 2 + len(document["rows"])
    assert len({line.count("|") for line in lines}) == 1
    for line, row in zip(lines[2:], document["rows"], strict=True):
        for key in result.columns:
            value = row[key]["value"]
            assert (
                (f"{value:.3f}" in line) if value is not None and abs(value) > 1e-3 else "–" in line or "0.000" in line
            )
    assert result.title
    assert result.caption.endswith(".")


def test_paired_figures_are_those_of_evaluate():
    scored = scorer().scored("test")
    found = estimates(scored, paired_draws([scored], "", resamples=60, seed=0)[0])
    expected = evaluate(scored.predictions, CALIBRATION, BANDS, resamples=60, seed=0).overall
    for name in ("auc", "balanced_accuracy", "tpr_at_fpr_5", "log_loss", "ece", "accuracy", "recall"):
        assert found[name] == expected.metrics[name], name
    assert found["real_fake"] == expected.verdicts["real"]["fake"].share
    assert found["fake_real"] == expected.verdicts["fake"]["real"].share
    by_hand = (1 - found["real_fake"].value + found["fake_fake"].value) / 2
    assert found["balanced_at_bands"].value == pytest.approx(by_hand)


def test_differences_are_paired():
    one, other = scorer().scored("test"), scorer(gap=1.4).scored("test")
    first, second = paired_draws([one, other], "", resamples=200, seed=0)
    change = estimates(other, second)["auc_change"]
    assert change.value == pytest.approx(second["auc"][0] - first["auc"][0])
    # Nearly the same scores: the difference is far more certain than either.
    single = estimates(other, second)["auc"]
    assert change.high - change.low < 0.3 * (single.high - single.low)
    same = estimates(one, paired_draws([one, one], "", resamples=50, seed=0)[1])["auc_change"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    with pytest.raises(DataError, match="scored different faces"):
        paired_draws([one, scorer().scored("train")], "", resamples=5, seed=0)
    with pytest.raises(ConfigError, match="at least one resample"):
        paired_draws([one], "", resamples=0, seed=0)


def test_within_compares_with_the_last():
    model, baseline = scorer().scored("test"), scorer("spectrum", gap=0.3, seed=1).scored("test")
    result = protocols.within([model, baseline], resamples=40)
    check_form(result)
    assert cells(result, "source") == ["all sources"] * 2 + ["a"] * 2 + ["b"] * 2
    assert cells(result, "model") == ["net", "spectrum"] * 3
    for ours, theirs in zip(result.rows[::2], result.rows[1::2], strict=True):
        gained = ours.estimates["auc"].value - theirs.estimates["auc"].value
        assert ours.estimates["auc_change"].value == pytest.approx(gained)
        assert "auc_change" not in theirs.estimates
    assert result.rows[2].counts == {"reals": 24, "fakes": 20, "groups": 22}


def test_robustness_measures_what_each_degradation_costs():
    grid = (
        Degradation(name="harmless", kind="jpeg", strength=100),
        Degradation(name="harmful", kind="noise", strength=0.2),
    )
    model = scorer(gap=3.0)
    result = protocols.robustness([model], [model.scored("test")], "test", grid=grid, resamples=40)
    check_form(result)
    assert cells(result, "degradation") == ["none", "harmless", "harmful"] * 3
    assert cells(result, "source") == ["all sources"] * 3 + ["a"] * 3 + ["b"] * 3
    overall = result.only(source="all sources")
    assert [row.names["source"] for row in overall.rows] == ["all sources"] * 3
    clean, harmless, harmful = (row.estimates for row in overall.rows)
    assert "auc_change" not in clean
    assert harmful["auc_change"].high < harmless["auc_change"].value < 0.05
    assert harmful["auc_change"].value == pytest.approx(harmful["auc"].value - clean["auc"].value)


def test_reals_only_counts_false_alarms():
    model = scorer()
    result = protocols.reals_only([model.scored("test")], resamples=40)
    check_form(result)
    assert [row.counts["fakes"] for row in result.rows] == [0, 0, 0]
    assert [row.counts["reals"] for row in result.rows] == [34, 24, 10]
    predictions = model.scored("test").predictions
    for row, source in zip(result.rows[1:], "ab", strict=True):
        reals = predictions.select((predictions.sources == source) & (predictions.labels == 0))
        expected = np.mean(1 / (1 + np.exp(-reals.logits.astype(np.float64))) >= BANDS.fake_from)
        assert row.estimates["real_fake"].value == pytest.approx(expected)
        assert row.estimates["real_fake"].low <= expected <= row.estimates["real_fake"].high


def test_face_size_bins():
    sizes = [10, 63.9, 64, 95, 96, 127, 128, 191, 192, 500]
    part = faces("test", "a", 5, 5, sizes=sizes)
    scored = scorer().read(part)
    result = protocols.face_size([scored], resamples=10)
    check_form(result)
    overall = result.only(source="all sources")
    assert cells(overall, "face size") == ["< 64 px", "64 to 96 px", "96 to 128 px", "128 to 192 px", ">= 192 px"]
    assert [row.counts["reals"] + row.counts["fakes"] for row in overall.rows] == [2, 2, 2, 2, 2]
    # What was not measured is shown as that, overall; sizes that nobody knows have a row of their own.
    few = scorer().read(faces("test", "a", 2, 2, sizes=[100, 100, np.nan, 100]))
    result = protocols.face_size([few], resamples=10)
    assert [row.counts["reals"] + row.counts["fakes"] for row in result.only(source="all sources").rows] == [
        1,
        0,
        0,
        3,
        0,
        0,
    ]
    assert cells(result.only(source="a"), "face size") == ["unknown", "96 to 128 px"]
    assert "–" in result.table()


def test_kinds_of_fakes_against_all_reals():
    model, other = scorer(), scorer("spectrum", gap=0.5)
    result = protocols.by_method([model.scored("test"), other.scored("test")], resamples=20)
    check_form(result)
    assert [(row.names["source"], row.names["method"], row.names["model"]) for row in result.rows] == [
        ("a", "swap", "net"),
        ("a", "swap", "spectrum"),
        ("b", "swap", "net"),
        ("b", "swap", "spectrum"),
    ]
    assert [(row.counts["reals"], row.counts["fakes"]) for row in result.rows] == [(34, 20)] * 2 + [(34, 16)] * 2
    # A source of fakes alone has no area of its own, but has one against others' reals.
    part = model.scored("train").select(LABELLED["train"].sources == "gan")
    (alone,) = paired_draws([part], "gan", resamples=20, seed=0)
    assert not np.isfinite(alone["auc"]).any()
    both = protocols.by_method([model.scored("train")], resamples=20).only(source="gan")
    assert [(row.names["method"], row.counts["fakes"]) for row in both.rows] == [("x", 6), ("y", 6)]
    assert all(row.estimates["auc"].value > 0.5 for row in both.rows)


def test_unseen_methods_use_faces_of_every_split_against_test_reals():
    called = []
    model = scorer(left_out=["gan"], called=called)
    result = protocols.unseen_method([model], [model.scored("test")], LABELLED, resamples=20)
    check_form(result)
    assert cells(result, "method") == ["x", "y"]
    assert cells(result, "against") == ["all test reals"] * 2
    assert [row.counts for row in result.rows] == [{"reals": 34, "fakes": 6, "groups": 17 + 6}] * 2
    # Nothing but the left-out faces was scored of the training split.
    assert called == [("test", None), ("train", 12)]


def test_an_unseen_source_is_also_measured_against_its_own_reals():
    model = scorer(left_out=["b"], calibration=dataclasses.replace(CALIBRATION, samples=30))
    result = protocols.unseen_method([model], [model.scored("test")], LABELLED, resamples=20)
    assert cells(result, "against") == ["all test reals", "b's own reals"]
    assert [row.counts["fakes"] for row in result.rows] == [20, 20]
    assert [row.counts["reals"] for row in result.rows] == [34, 14]
    # Of a source whose reals were trained on, only the test reals are new.
    one = scorer(left_out=["a/swap"])
    result = protocols.unseen_method([one], [one.scored("test")], LABELLED, resamples=20)
    assert [row.counts["fakes"] for row in result.rows] == [55, 55]
    assert [row.counts["reals"] for row in result.rows] == [34, 24]


def test_what_was_seen_is_no_unseen_method():
    model = scorer()
    clean = [model.scored("test")]
    with pytest.raises(ConfigError, match="was trained on all sources"):
        protocols.unseen_method([model], clean, LABELLED)
    with pytest.raises(ConfigError, match="spectrum was trained on gan"):
        protocols.unseen_method([scorer(left_out=["gan"]), scorer("spectrum")], clean * 2, LABELLED)
    with pytest.raises(DataError, match="no faces of nothing"):
        protocols.unseen_method([scorer(left_out=["nothing"])], clean, LABELLED)
    # Thresholds that were chosen on all calibration faces have seen those of b.
    careless = scorer(left_out=["b"], calibration=dataclasses.replace(CALIBRATION, samples=38))
    with pytest.raises(DataError, match="was calibrated on b too"):
        protocols.unseen_method([careless], clean, LABELLED)


def test_leave_one_source_out_and_its_mean():
    reference = scorer(gap=2.5)
    runs = {source: [scorer(f"runs/loso-{source}", gap=0.5, left_out=[source])] for source in ("b", "a", "gan")}
    result = protocols.leave_one_source_out(runs, [reference.scored("test")], LABELLED, "test", resamples=50)
    check_form(result)
    assert cells(result, "left out") == ["a", "b", "gan", "mean of 2"]
    assert cells(result, "faces") == ["test", "test", "all splits", "test"]
    a, b, gan, mean = (row.estimates for row in result.rows)
    assert result.rows[2].counts == {"reals": 0, "fakes": 12, "groups": 6}
    assert gan["auc"].value is None
    assert gan["fake_fake"].value is not None
    assert mean["auc"].value == pytest.approx((a["auc"].value + b["auc"].value) / 2)
    assert mean["auc"].low < mean["auc"].value < mean["auc"].high
    # A mean of two is more certain than either.
    assert mean["auc"].high - mean["auc"].low < max(one["auc"].high - one["auc"].low for one in (a, b))
    expected = evaluate(reference.scored("test").predictions, CALIBRATION, BANDS, resamples=50).sources["a"].metrics
    assert a["auc_change"].value == pytest.approx(a["auc"].value - expected["auc"].value)
    assert a["auc_change"].value < 0


def test_runs_that_saw_the_source_are_refused():
    clean = [scorer().scored("test")]
    with pytest.raises(DataError, match=r"runs/loso-a: was trained on a; train it with --leave-out a"):
        protocols.leave_one_source_out({"a": [scorer("runs/loso-a", left_out=["b"])]}, clean, LABELLED, "test")
    with pytest.raises(DataError, match="no runs"):
        protocols.leave_one_source_out({}, clean, LABELLED, "test")
    with pytest.raises(DataError, match="no faces of nowhere"):
        protocols.leave_one_source_out({"nowhere": [scorer(left_out=["nowhere"])]}, clean, LABELLED, "test")


def test_names_are_sources_or_methods_of_a_source():
    part = LABELLED["train"]
    assert named(part, ["gan"]).sum() == 12
    assert named(part, ["gan/x", "a/y"]).sum() == 6
    # A source's reals have no method, and `a/` is not a name for them.
    assert named(part, ["a/", "ga", "x"]).sum() == 0
    assert not named(part, []).any()

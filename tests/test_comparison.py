"""Two models on the same faces: values with known truth, faces that only one has, and what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from test_evaluation_report import FIGURES_AS_DOTS

from fakeface_jax.cli.compare import Compare
from fakeface_jax.decision import Calibration, VerdictBands
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.evaluation.comparison import FIGURES, OVERALL, compare, read_report
from fakeface_jax.evaluation.evaluation_report import write_report
from fakeface_jax.evaluation.metrics import evaluate
from fakeface_jax.evaluation.paired_bootstrap import Scored
from fakeface_jax.evaluation.predictions import Predictions

BANDS = VerdictBands(real_below=0.3, fake_from=0.7)


def scored(name="net", *, gap=2.0, weak=None, seed=0, count=80):
    """Faces of two sources with both classes and one of fakes; the logits of `weak` say nothing."""
    sources = np.repeat(["a", "b", "only fakes"], count)
    labels = np.tile([0, 1], len(sources) // 2)
    labels[sources == "only fakes"] = 1
    noise = np.random.default_rng(0).normal(size=len(sources)) + 0.1 * np.random.default_rng(seed).normal(
        size=len(sources)
    )
    predictions = Predictions(
        ids=np.array([f"{source}/{index}" for index, source in enumerate(sources)]),
        sources=sources,
        groups=(np.arange(len(sources)) // 4).astype(np.str_),
        labels=labels.astype(np.int8),
        logits=(gap * (labels - 0.5) * (sources != weak) + noise).astype(np.float32),
    )
    return Scored(name=name, predictions=predictions, calibration=Calibration(), bands=BANDS)


def test_values_are_those_of_each_model_and_the_change_is_their_difference():
    old, new = scored("old", gap=1.0), scored("new", gap=2.0, seed=1)
    comparison = compare(old, new, resamples=200)
    assert (comparison.only_old, comparison.only_new) == (0, 0)
    for source in ("a", "b", OVERALL):
        mask = np.ones(240, bool) if source == OVERALL else old.predictions.sources == source
        labels = old.predictions.labels[mask]
        expected = [roc_auc_score(labels, one.predictions.logits[mask]) for one in (old, new)]
        row = next(row for row in comparison.result.rows if row.names == {"source": source, "figure": "AUC"})
        assert row.estimates["old"].value == pytest.approx(expected[0])
        assert row.estimates["new"].value == pytest.approx(expected[1])
        change = comparison.change("auc", source)
        assert change.value == pytest.approx(expected[1] - expected[0])
        assert change.low < change.value < change.high
    # The interval beside a value is that of its report.
    report = evaluate(old.predictions, old.calibration, old.bands, resamples=200).sources["a"].metrics["auc"]
    row = next(row for row in comparison.result.rows if row.names == {"source": "a", "figure": "AUC"})
    assert row.estimates["old"] == report


def test_pairing_makes_the_interval_of_a_difference_narrow():
    comparison = compare(scored("old"), scored("new", seed=1), resamples=300)
    row = next(row for row in comparison.result.rows if row.names == {"source": "a", "figure": "AUC"})
    change, new = row.estimates["new_change"], row.estimates["new"]
    assert change.high - change.low < 0.5 * (new.high - new.low)


def test_a_model_beside_itself_changes_nothing():
    comparison = compare(scored(), scored(), resamples=50)
    for figure in FIGURES:
        change = comparison.change(figure, "a")
        assert (change.value, change.low, change.high) == (0.0, 0.0, 0.0), figure
    assert comparison.losses(0.0) == {}


def test_losses_name_the_source_that_lost():
    comparison = compare(scored("old"), scored("new", weak="b"), resamples=50)
    lost = comparison.losses(0.02)
    assert set(lost) == {"b", OVERALL}
    assert lost["b"] == comparison.change("auc", "b")
    assert lost["b"].high < -0.02
    assert comparison.losses(1.0) == {}
    # The way back is a gain.
    assert compare(scored("new", weak="b"), scored("old"), resamples=50).losses(0.02) == {}


@pytest.mark.parametrize(("label", "figure", "sign"), [(1, "fake_fake", 1), (0, "real_fake", -1)])
def test_losses_of_a_source_with_one_class_go_by_its_rate(label, figure, sign):
    old = scored("old")
    faces = old.predictions.select(old.predictions.labels == label)
    old = dataclasses.replace(old, predictions=faces)
    worse = faces.logits + (-2.0 if label else 2.0)
    new = dataclasses.replace(old, predictions=dataclasses.replace(faces, logits=worse.astype(np.float32)))
    comparison = compare(old, new, resamples=50)
    assert comparison.change("auc", "a").value is None
    lost, change = comparison.losses(0.05)["a"], comparison.change(figure, "a")
    assert lost.value == sign * change.value < -0.05
    assert lost.low <= lost.value <= lost.high


def test_faces_of_only_one_are_counted_and_left_out():
    old, new = scored("old"), scored("new", seed=1)
    some = np.arange(240)
    fewer = dataclasses.replace(old, predictions=old.predictions.select(some >= 10))
    # In another order, as another release may list them.
    turned = dataclasses.replace(
        new, predictions=Predictions.joined([new.predictions.select(some >= 40), new.predictions.select(some < 25)])
    )
    comparison = compare(fewer, turned, resamples=20)
    assert (comparison.only_old, comparison.only_new) == (15, 10)
    assert "215 faces that both scored" in comparison.result.caption
    assert "Not compared: 15 faces that only the old one scored, 10 that only the new one did." in (
        comparison.result.caption
    )
    both = (some >= 10) & ((some < 25) | (some >= 40))
    expected = [roc_auc_score(one.predictions.labels[both], one.predictions.logits[both]) for one in (old, new)]
    assert comparison.change("auc").value == pytest.approx(expected[1] - expected[0])


def test_what_cannot_be_compared():
    old, new = scored("old"), scored("new")
    faces = new.predictions

    def changed(**columns):
        return dataclasses.replace(new, predictions=dataclasses.replace(faces, **columns))

    with pytest.raises(DataError, match=r"a/0: labels of 240 faces differ between old and new; evaluate both"):
        compare(old, changed(labels=1 - faces.labels))
    with pytest.raises(DataError, match="sources of 80 faces differ"):
        compare(old, changed(sources=np.where(faces.sources == "a", "c", faces.sources)))
    with pytest.raises(DataError, match="old and new have no face in common"):
        compare(old, changed(ids=np.char.add("x", faces.ids)))
    with pytest.raises(DataError, match="new: x stands for several faces"):
        compare(old, changed(ids=np.full(240, "x")))
    comparison = compare(old, new, resamples=5)
    with pytest.raises(ConfigError, match="no figure 'auk' of 'a'"):
        comparison.change("auk", "a")
    with pytest.raises(ConfigError, match="between 0 and 1; got 2"):
        comparison.losses(2.0)


def written(directory: Path, one: Scored, *, bands=True):
    one.predictions.save(directory / "predictions.parquet")
    evaluation = evaluate(one.predictions, one.calibration, BANDS if bands else None, resamples=5)
    write_report(evaluation, directory, one.name, {"model": one.name, "bundle": "0123456789abcdef"})
    return directory


def test_command_reads_two_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fakeface_jax.evaluation.evaluation_report._FIGURES", FIGURES_AS_DOTS)  # drawing takes seconds
    first = written(tmp_path / "first", scored("first"))
    second = written(tmp_path / "second", scored("second", weak="a"), bands=False)
    output = tmp_path / "comparison.json"
    assert Compare(old=first, new=second, output=output, resamples=30).run() == 0
    out = capsys.readouterr().out
    assert "Old: first 0123456789ab, fake from P(fake) = 0.7000." in out
    assert "New: second 0123456789ab, fake from 0.5000." in out  # it has no bands
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert table[0] == "| source | figure | reals | fakes | groups | old | new | new less old |"
    assert len(table) == 2 + 4 * len(FIGURES)
    document = json.loads(output.read_text(encoding="utf-8"))
    assert document["only_old"] == document["only_new"] == 0
    row = next(row for row in document["rows"] if row["source"] == "a" and row["figure"] == "AUC")
    assert row["new_change"]["value"] == pytest.approx(row["new"]["value"] - row["old"]["value"], abs=2e-6)
    assert row["new_change"]["value"] < -0.1


def test_reports_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.json: cannot be read: No such file"):
        read_report(tmp_path)
    for text in ("{", "[]", '{"calibration": {}, "bands": null}', '{"calibration": {"scale": -1}, "bands": null}'):
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(DataError, match="is not a report of fakeface evaluate"):
            read_report(tmp_path)
    (tmp_path / "metrics.json").write_text('{"calibration": {}, "bands": null, "context": {}}')
    with pytest.raises(DataError, match=r"predictions\.parquet: cannot read predictions"):
        read_report(tmp_path)

"""Scores of prepared crops, and `fakeface evaluate --protocol` over them, on a small data set of two sources."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from fakeface_jax.bundle import load_bundle, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.cli.main import main
from fakeface_jax.data.dataset import open_dataset
from fakeface_jax.decision import Calibration
from fakeface_jax.errors import ConfigError
from fakeface_jax.evaluation.batch_scoring import labelled_faces, map_crops, named, predict
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.robustness import find_degradation


@pytest.fixture(scope="module")
def data(two_sources):
    return two_sources


@pytest.fixture(scope="module")
def whole_bundle(data, tiny_bundle, tmp_path_factory):
    """The tiny bundle, for crops as the data has them."""
    return bundle_at(tmp_path_factory.mktemp("whole") / "whole", tiny_bundle, data)


def bundle_at(path, tiny_bundle, data, *leave_out):
    """A bundle that says what was left out of its training."""
    bundle = load_bundle(tiny_bundle)
    provenance = {"config": {"loader": {"leave_out": list(leave_out)}}}
    calibration = Calibration(scale=2.0, bias=0.1, method="platt", split="calibration", samples=7)
    spec = dataclasses.replace(
        bundle.spec, name=path.name, crop=open_dataset(data).crop, provenance=provenance, calibration=calibration
    )
    save_bundle(path, spec, bundle.weights, card="A test bundle.\n")
    return path


def test_predictions_say_what_the_data_says(data, whole_bundle):
    dataset, classifier = open_dataset(data), FaceClassifier.load(whole_bundle)
    found = predict(classifier, dataset, "test")
    records = list(dataset.source("test"))
    assert len(found) == len(records) == 32
    assert found.labels.tolist() == [record["label"] for record in records]
    assert found.sizes.tolist() == [64.0] * 32
    assert set(found.sources) == {"light", "smooth"}
    expected = classifier.logits(np.stack([record["image"] for record in records]))
    np.testing.assert_allclose(found.logits, expected, rtol=1e-5, atol=1e-6)
    assert found.logits.std() > 0


def test_only_what_is_kept_is_scored_and_after_the_transform(data, whole_bundle):
    dataset, classifier = open_dataset(data), FaceClassifier.load(whole_bundle)
    every, faces = predict(classifier, dataset, "test"), labelled_faces(dataset, "test")
    keep, seen = named(faces, ["smooth"]), []
    some = predict(classifier, dataset, "test", keep=keep, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (16, 16)
    assert some.ids.tolist() == every.ids[keep].tolist()
    np.testing.assert_allclose(some.logits, every.logits[keep], rtol=1e-5, atol=1e-6)
    degradation = find_degradation("blur 2")
    blurred = predict(classifier, dataset, "test", keep=keep, transform=degradation.apply)
    pictures = np.stack([record["image"] for record in dataset.source("test")])[keep]
    np.testing.assert_allclose(blurred.logits, classifier.logits(degradation.apply(pictures)), rtol=1e-5, atol=1e-6)
    assert not np.allclose(blurred.logits, some.logits)
    means = map_crops(lambda crops: crops.mean(axis=(1, 2)), dataset, "test", keep=keep)
    np.testing.assert_allclose(means, pictures.mean(axis=(1, 2)))
    with pytest.raises(ConfigError, match="the mask selects 0 of 32 samples"):
        map_crops(classifier.logits, dataset, "test", keep=np.zeros(32, np.bool_))


def evaluate(data, output, *words):
    return main(["evaluate", "--data", str(data), "--output", str(output), "--resamples", "20", *map(str, words)])


def test_protocols_are_sections_of_the_report(data, whole_bundle, tmp_path, capsys):
    words = [
        "--bundle",
        whole_bundle,
        "--baseline",
        "--protocol",
        "within",
        "robustness",
        "reals-only",
        "face-size",
        "by-method",
    ]
    assert evaluate(data, tmp_path, *words) == 0
    out = capsys.readouterr().out
    report, metrics = (tmp_path / "report.md").read_text(), (tmp_path / "metrics.json").read_text()
    for title in ("Beside spectrum", "Robustness", "Real faces alone", "Face size", "Kinds of fakes"):
        assert title in out
        assert title in report
        assert title in metrics
    assert json.loads(metrics)["overall"]["reals"] == 16
    # Every degradation, model and source is in the report; the screen has the overall rows.
    assert report.count("| JPEG 40 |") == 6
    assert out.count("| JPEG 40 |") == 2
    assert len(Predictions.load(tmp_path / "predictions.parquet")) == 32


def test_unseen_methods_and_leave_one_source_out(data, whole_bundle, tiny_bundle, tmp_path, capsys):
    without = bundle_at(tmp_path / "without", tiny_bundle, data, "smooth")
    assert evaluate(data, tmp_path / "one", "--bundle", without, "--protocol", "unseen-method") == 0
    out = capsys.readouterr().out
    # The fakes of all splits, 12 + 16 + 8; its own reals too, and the 16 of the test split.
    assert "| smooth | (not stated) | all test reals | without | 16 | 36 |" in out
    assert "| smooth | (not stated) | smooth's own reals | without | 36 | 36 |" in out
    for source in ("light", "smooth"):
        bundle_at(tmp_path / "runs" / f"loso-{source}" / "bundle", tiny_bundle, data, source)
    words = ["--protocol", "leave-one-source-out", "--runs", tmp_path / "runs", "--bundle", whole_bundle, "--baseline"]
    assert evaluate(data, tmp_path / "two", *words) == 0
    out = capsys.readouterr().out
    rows = [
        line.split(" | ")[0].strip("| ") for line in out.split("Leave one source out")[1].splitlines() if "|" in line
    ]
    assert rows[2:] == ["light", "light", "smooth", "smooth", "mean of 2", "mean of 2"]


def test_what_cannot_be_asked_is_said_before_anything_is_scored(data, whole_bundle, tiny_bundle, tmp_path, capsys):
    shutil.copytree(whole_bundle, tmp_path / "runs" / "loso-light" / "bundle")
    without = bundle_at(tmp_path / "without", tiny_bundle, data, "light")
    loso = ["--protocol", "leave-one-source-out"]
    for words, message in (
        (["--protocol", "unseen-method"], "was trained on all sources, so it has seen every method"),
        (loso, "belong together; name both or neither"),
        (["--runs", tmp_path], "belong together; name both or neither"),
        ([*loso, "--runs", tmp_path / "without"], "contains no loso-SOURCE/bundle; train the runs first"),
        (
            [*loso, "--runs", tmp_path / "runs", "--bundle", without],
            "was trained without light, as loso-light was; to compare the runs with it, name a --bundle",
        ),
        ([*loso, "--runs", tmp_path / "runs"], "was trained on light; train it with --leave-out light"),
    ):
        bundle = [] if "--bundle" in words else ["--bundle", whole_bundle]
        assert evaluate(data, tmp_path / "out", *bundle, *words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

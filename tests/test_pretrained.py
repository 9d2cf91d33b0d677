"""The model that ships, and the samples that `make demo` scores: present, small, calibrated, documented, working."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import REPOSITORY

from fakeface_jax.backbones import BACKBONES, load_backbone
from fakeface_jax.bundle import load_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.cli.main import main
from fakeface_jax.detectors import create_detector
from fakeface_jax.images import read_image
from fakeface_jax.labels import Verdict
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.scoring import score_image, score_video

SAMPLES = REPOSITORY / "samples"


@pytest.fixture(scope="module")
def classifier():
    return FaceClassifier.load()


@pytest.fixture(scope="module")
def detector(classifier):
    return create_detector(classifier.spec.detector)


@pytest.mark.parametrize(
    ("name", "network", "parameters", "size"),
    [("lite0", "efficientnet_lite0", 3_372_289, 10e6), ("report-cnn", "report", 9_563_713, 20e6)],
)
def test_bundles_are_small_and_calibrated(name, network, parameters, size):
    bundle = load_bundle(name)
    assert sum(path.stat().st_size for path in bundle.path.iterdir()) <= size
    statistics = sum(array.size for key, array in bundle.weights.items() if key.endswith((".mean", ".var")))
    assert sum(array.size for array in bundle.weights.values()) - statistics == parameters
    assert bundle.spec.model["name"] == network
    assert bundle.spec.calibration.method in ("platt", "temperature")
    assert bundle.spec.calibration.split == "calibration"
    kinds = {(point.kind, point.rate) for point in bundle.spec.operating_points}
    assert kinds == {("fpr", 0.01), ("fpr", 0.05), ("fnr", 0.01), ("fnr", 0.05)}
    assert 0 < bundle.spec.bands.real_below <= bundle.spec.bands.fake_from < 1


def test_the_model_for_videos_is_small_calibrated_and_was_chosen_on_what_it_had_not_seen():
    bundle = load_bundle(medium="video")
    assert bundle.id == load_bundle("clip-lite0").id
    assert sum(path.stat().st_size for path in bundle.path.iterdir()) <= 10e6
    spec = bundle.spec
    backbone, small = spec.model["experts"]
    found = load_backbone(backbone["backbone"], backbone["backbone_sha256"])
    files = list((BACKBONES / found.name).iterdir())
    assert max(path.stat().st_size for path in files) <= 50e6
    assert sum(path.stat().st_size for path in files) <= 80e6
    assert small["name"] == "efficientnet_lite0"
    assert spec.provenance["chosen_by"] == "leaving sources and methods out"
    # The card and the README state what these say: on clips of sources and methods that were left out.
    clips = spec.metrics["sources_left_out"]["clips"]
    assert clips["reals"] + clips["fakes"] == 196
    assert clips["auc"] > 0.75
    assert clips["fakes_called_fake"] > 5 * clips["reals_called_fake"]
    assert spec.video.calibration.split == "sources left out"
    assert "left out" in (bundle.path / "README.md").read_text(encoding="utf-8")


def test_the_small_network_in_the_model_for_videos_is_lite0():
    bundle, alone = load_bundle("clip-lite0"), load_bundle("lite0")
    for name, value in alone.weights.items():
        if not name.startswith("classifier."):
            np.testing.assert_array_equal(bundle.weights[f"experts.1.{name}"], value)


def test_the_default_is_the_better_one():
    assert load_bundle().id == load_bundle("lite0").id
    default, report = (load_bundle(name).spec.metrics["sources"] for name in ("lite0", "report-cnn"))
    for source in ("140k", "ciplab", "dfdc"):
        assert default[source]["metrics"]["auc"]["value"] > report[source]["metrics"]["auc"]["value"]


@pytest.mark.parametrize("name", ["lite0", "report-cnn"])
def test_cards_state_results_per_source_and_limits(name):
    bundle = load_bundle(name)
    card = (bundle.path / "README.md").read_text(encoding="utf-8")
    metrics = bundle.spec.metrics
    assert metrics["split"] == "test"
    for source, measured in metrics["sources"].items():
        auc = measured["metrics"]["auc"]
        assert f"| {source} |" in card
        if auc["value"] is not None:  # a source of fakes alone has none
            assert f"{auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]" in card
    assert "non-commercial" in card
    assert "not proof" in card


def test_a_sample_without_a_face_is_no_face(classifier, detector):
    report = score_image(classifier, detector, SAMPLES / "no_face_coffee.jpg")
    assert (report.verdict, report.p_fake, report.faces) == (Verdict.NO_FACE, None, ())


@pytest.mark.parametrize("name", ["real_collins", "real_hopper", "fake_hopper_on_collins"])
def test_a_sample_with_a_face_has_one_scored_face(classifier, detector, name):
    report = score_image(classifier, detector, SAMPLES / f"{name}.jpg")
    assert len(report.faces) == 1
    assert 0 < report.p_fake < 1
    assert report.verdict == classifier.spec.bands.decide(report.p_fake)


def test_the_sample_clip_has_its_face_in_every_frame(classifier, detector):
    report = score_video(classifier, detector, SAMPLES / "real_collins_pan.mp4", Sampling(fps=2.0))
    assert report.evidence.frames_with_face == report.evidence.frames_sampled == 8
    assert report.evidence.frames_dropped == 0
    assert 0 < report.p_fake < 1


def test_the_demo_of_the_readme(capsys):
    pictures = sorted(str(path) for path in SAMPLES.glob("*.jpg"))
    assert main(["classify", *pictures, "--format", "json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["input"] for record in records] == pictures
    assert main(["score", str(SAMPLES / "real_collins_pan.mp4"), "--fps", "2", "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["evidence"]["frames_sampled"] == 8


def test_scores_of_files_match_scores_of_stored_crops(shared_data, classifier, detector, tmp_path):
    """`evaluate` measures what `classify` does: the crops in a data set differ by one JPEG encoding alone."""
    from fakeface_jax.data.dataset import build_dataset
    from fakeface_jax.data.manifest import merge
    from fakeface_jax.evaluation.batch_scoring import predict

    names = sorted((shared_data / "140k/real_vs_fake/real-vs-fake/test").glob("*/*.jpg"))[:8]
    lines = ["path,label,split", *(f"{name},{name.parent.name},train" for name in names)]
    (tmp_path / "few.csv").write_text("\n".join(lines))
    merge([f"csv:{tmp_path / 'few.csv'}"]).save(tmp_path / "few.parquet")
    dataset = build_dataset(tmp_path / "few.parquet", tmp_path / "data", classifier.spec.crop)
    predictions = predict(classifier, dataset, "train")
    stored = dict(zip((one.split("/", 1)[1] for one in predictions.ids), predictions.logits, strict=True))
    images = [read_image(name) for name in names]
    crops = np.stack([classifier.crop(image, detector.detect(image)[0]) for image in images])
    fresh, kept = classifier.logits(crops), np.array([stored[str(name)] for name in names])
    # The encoding moves a logit by some tenths, single ones by one; faces are further apart.
    apart, others = np.abs(fresh - kept).mean(), np.abs(fresh - np.roll(kept, 1)).mean()
    assert apart < 0.5
    assert apart < others / 3

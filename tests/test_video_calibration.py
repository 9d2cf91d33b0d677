"""Thresholds of videos from still faces, and the still faces as videos."""

import dataclasses
import shutil

import numpy as np
import pytest

from fakeface_jax.bundle import load_bundle, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.data.dataset import open_dataset
from fakeface_jax.errors import ConfigError
from fakeface_jax.evaluation.calibration import balanced_weights
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.training.card import model_card
from fakeface_jax.video.verdict.simulated_clip import moving_face
from fakeface_jax.video.verdict.video_calibration import (
    FRAMES,
    aggregated,
    calibrate_videos,
    fit_video_decision,
    moving_logits,
)


@pytest.fixture(scope="module")
def bundle(two_sources, tiny_bundle, tmp_path_factory):
    """The tiny bundle, for crops as the data has them."""
    old = load_bundle(tiny_bundle)
    spec = dataclasses.replace(old.spec, crop=open_dataset(two_sources).crop)
    return save_bundle(tmp_path_factory.mktemp("b") / "bundle", spec, old.weights, card=model_card(spec))


def test_a_moving_face_is_the_face_moved_a_little(face_picture):
    crop = face_picture[20:244, 110:334]
    clip = moving_face(crop, 8, np.random.default_rng(0))
    assert clip.shape == (8, 224, 224, 3)
    away = np.abs(clip.astype(float) - crop).mean(axis=(1, 2, 3))
    assert (away > 0.5).all()
    assert (away < 20).all()
    steps = np.abs(np.diff(clip.astype(float), axis=0)).mean(axis=(1, 2, 3))
    assert (steps > 0).all()
    again = moving_face(crop, 8, np.random.default_rng(0))
    assert np.array_equal(clip, again)
    assert not np.array_equal(clip, moving_face(crop, 8, np.random.default_rng(1)))


def test_a_moving_face_is_the_same_each_time(face_picture):
    """Whatever memory the encoder gets: by default, half of these differ on processors with AVX-512."""
    crops = [face_picture[20 + 2 * n : 244 + 2 * n, 110:334] for n in range(6)]
    clips = [[moving_face(crop, 8, np.random.default_rng(3)) for crop in crops] for _ in range(3)]
    assert all(np.array_equal(one, other) for again in clips for one, other in zip(clips[0], again, strict=True))


def test_odd_sides_keep_their_size(face_picture):
    assert moving_face(face_picture[:151, :151], 3, np.random.default_rng(0)).shape == (3, 151, 151, 3)


def test_scores_belong_to_their_faces_whatever_the_batches(two_sources, bundle):
    dataset = open_dataset(two_sources)
    faces, logits = moving_logits(FaceClassifier(bundle), dataset, "test")
    assert logits.shape == (len(faces), FRAMES)
    only, some = moving_logits(FaceClassifier(bundle), dataset, "test", leave_out=["light"])
    assert set(only.sources) == {"smooth"}
    assert np.allclose(some, logits[faces.sources == "smooth"], atol=1e-4)


def made(count=400, seed=0):
    """Faces of two sources whose frames scatter about a mean: fakes are higher, and one source is larger."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    sources = np.where(np.arange(count) % 8 < 2, "small", "large")
    means = 2.0 * labels - 1.0 + generator.normal(0, 1.0, count)
    names = np.array([f"f{n}" for n in range(count)])
    faces = Predictions(ids=names, sources=sources, groups=names, labels=labels, logits=np.zeros(count, np.float32))
    return faces, means[:, None] + generator.normal(0, 1.0, (count, FRAMES))


def test_operating_points_hold_on_the_split_and_sources_count_alike():
    faces, logits = made()
    decision = fit_video_decision(faces, logits, "worst_person")
    p_fake = decision.calibration(aggregated(logits, "worst_person"))
    weights = balanced_weights(faces.labels, faces.sources)
    reals = faces.labels == 0
    for point in decision.operating_points:
        if point.kind == "fpr":
            rate = weights[reals] @ (p_fake[reals] >= point.threshold) / weights[reals].sum()
            assert rate <= point.rate + 1e-9
            assert point.rate_low <= rate <= point.rate_high
    assert decision.rule == "worst_person"
    assert 0 < decision.bands.real_below < decision.bands.fake_from < 1
    # Averages of several frames say more than single ones: the fitted scale is larger than one frame's.
    single = fit_video_decision(faces, logits[:, :1], "worst_person")
    assert decision.calibration.scale > single.calibration.scale


def test_the_bundle_is_written_with_its_thresholds_and_its_weights_stay(two_sources, bundle, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(bundle.path, place)
    new = calibrate_videos(load_bundle(place), open_dataset(two_sources))
    assert load_bundle(place).spec.video == new.spec.video
    assert new.spec.video.fitted_on.startswith(str(open_dataset(two_sources).sizes["calibration"]))
    assert new.spec.bands == bundle.spec.bands
    assert all(np.array_equal(new.weights[name], value) for name, value in bundle.weights.items())
    assert new.id != bundle.id
    # The card says so, once.
    card = (calibrate_videos(new, open_dataset(two_sources)).path / "README.md").read_text(encoding="utf-8")
    assert card.count("## Videos") == 1
    assert card.count("real videos called fake") == 2


def test_an_unknown_rule_is_refused():
    faces, logits = made(40)
    with pytest.raises(ConfigError, match="unknown aggregation rule"):
        fit_video_decision(faces, logits, "best")

import dataclasses

import numpy as np
import pytest
from jaxtyping import TypeCheckError  # where the run checks shapes, it comes before our own check

from fakeface_jax.bundle import load_bundle, save_bundle
from fakeface_jax.classifier import BATCH_SIZES, FaceClassifier
from fakeface_jax.decision import Calibration
from fakeface_jax.errors import BundleError, ConfigError
from fakeface_jax.faces import Face, crop_face
from fakeface_jax.labels import Verdict


@pytest.fixture(scope="module")
def classifier(tiny_bundle):
    return FaceClassifier.load(tiny_bundle)


def random_crops(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def one_by_one(classifier):
    return np.concatenate([classifier.logits(crop[None]) for crop in random_crops(70)])


@pytest.mark.parametrize("count", [1, 5, 8, 9, 32, 33, 70])
def test_padding_and_splitting_do_not_change_scores(classifier, one_by_one, count):
    logits = classifier.logits(random_crops(count))
    assert logits.shape == (count,)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, one_by_one[:count], atol=1e-5, rtol=0)
    assert len(np.unique(one_by_one)) == 70


def test_at_most_one_program_is_compiled_per_batch_size(tiny_bundle):
    classifier = FaceClassifier(load_bundle(tiny_bundle), backend="jax")
    for count in (1, 2, 3, 7, 8, 20, 31, 32, 33, 65):
        classifier.logits(random_crops(count))
    assert classifier.backend.function._cache_size() <= len(BATCH_SIZES)


def test_logits_are_those_of_the_network_on_normalised_pixels(classifier):
    import jax.numpy as jnp
    from flax import nnx

    from fakeface_jax.models import create_model

    model = create_model(classifier.spec.model, nnx.Rngs(0))
    crops = random_crops(3)
    expected = model(jnp.asarray(crops, jnp.float32) / 255)
    # Half-precision weights move a logit by less than 1e-2.
    np.testing.assert_allclose(classifier.logits(crops), np.asarray(expected), atol=1e-2)


def test_no_faces_have_no_scores(classifier):
    assert classifier.logits(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0,)
    assert classifier.calibrated_logits(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0,)
    assert classifier.score_faces(np.zeros((90, 90, 3), np.uint8), []) == []


@pytest.mark.parametrize("shape", [(2, 150, 150, 3), (2, 64, 32, 3), (2, 64, 64, 1), (64, 64, 3), (2, 64, 64, 4)])
def test_crops_of_another_size_are_refused(classifier, shape):
    with pytest.raises((ConfigError, TypeCheckError), match=r"the model takes|Type-check error"):
        classifier.logits(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_crops_that_are_not_bytes_are_refused(classifier, dtype):
    with pytest.raises((ConfigError, TypeCheckError), match=r"uint8|Type-check error"):
        classifier.logits(np.zeros((2, 64, 64, 3), dtype))


def test_faces_are_scored_from_their_crops_in_order(classifier, face_picture):
    boxes = [(100, 100, 180, 200), (0, 0, 50, 50), (174, 66, 276, 200)]
    faces = [Face(box=box, confidence=0.9) for box in boxes]
    scores = classifier.score_faces(face_picture, faces)
    assert [score.face for score in scores] == faces
    crops = np.stack([crop_face(face_picture, box, classifier.spec.crop) for box in boxes])
    np.testing.assert_allclose([score.logit for score in scores], classifier.logits(crops), atol=1e-5)


def test_a_score_is_calibrated_and_judged_by_the_bundles_bands(tiny_bundle, tmp_path):
    plain = load_bundle(tiny_bundle)
    for bias, verdict in ((-6.0, Verdict.REAL), (6.0, Verdict.FAKE)):
        spec = dataclasses.replace(plain.spec, calibration=Calibration(scale=0.5, bias=bias, method="platt"))
        classifier = FaceClassifier(save_bundle(tmp_path / str(bias), spec, plain.weights, card=""))
        image = random_crops(1)[0]
        (score,) = classifier.score_faces(image, [Face(box=(0, 0, 64, 64), confidence=1.0)])
        logit = 0.5 * float(classifier.logits(image[None])[0]) + bias
        assert score.logit == pytest.approx(logit, abs=1e-5)
        assert score.p_fake == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
        assert score.verdict is verdict


def test_a_bundle_with_an_unknown_model_is_refused(tiny_bundle, tmp_path):
    plain = load_bundle(tiny_bundle)
    spec = dataclasses.replace(plain.spec, model={"name": "vision-oracle"})
    bundle = save_bundle(tmp_path / "oracle", spec, plain.weights, card="")
    with pytest.raises(BundleError, match="unknown model 'vision-oracle'") as caught:
        FaceClassifier(bundle)
    assert str(tmp_path / "oracle") in str(caught.value)


def test_a_bundle_with_unknown_settings_is_refused(tiny_bundle, tmp_path):
    plain = load_bundle(tiny_bundle)
    spec = dataclasses.replace(plain.spec, model={**plain.spec.model, "depth": 9})
    with pytest.raises(BundleError, match="depth"):
        FaceClassifier(save_bundle(tmp_path / "deep", spec, plain.weights, card=""))


def test_weights_of_another_model_are_refused(tiny_bundle, tmp_path):
    plain = load_bundle(tiny_bundle)
    renamed = {f"other.{key}": value for key, value in plain.weights.items()}
    with pytest.raises(BundleError, match=r"renamed: .*differ"):
        FaceClassifier(save_bundle(tmp_path / "renamed", plain.spec, renamed, card=""))
    spec = dataclasses.replace(plain.spec, model={**plain.spec.model, "size": 96})
    with pytest.raises(BundleError, match="has shape"):
        FaceClassifier(save_bundle(tmp_path / "larger", spec, plain.weights, card=""))

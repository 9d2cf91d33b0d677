"""Heat maps point at what the score depends on, and are numbers that can be drawn."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fakeface_jax.bundle import load_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.errors import ConfigError
from fakeface_jax.explain import attributions, heatmap
from fakeface_jax.faces import whole_image_box
from fakeface_jax.models import build_network, flatten_state

SIZE, PATCH = 32, 8
CONFIG = {"name": "report", "size": SIZE, "dtype": "float32"}


def crops_with_patch(rng, corners):
    """Noise around a random grey, with a checkerboard of single pixels at each corner (x, y); none for None."""
    crops = rng.normal(rng.uniform(90, 160, (len(corners), 1, 1, 3)), 12, (len(corners), SIZE, SIZE, 3))
    checks = 60 * ((np.indices((PATCH, PATCH)).sum(axis=0) % 2) * 2 - 1)[..., None]
    for crop, corner in zip(crops, corners, strict=True):
        if corner is not None:
            x, y = corner
            crop[y : y + PATCH, x : x + PATCH] += checks
    return np.clip(crops, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def patch_finder(tiny_bundle):
    """The report's network, trained to call crops with the patch fake, wherever it is."""
    rng = np.random.default_rng(0)
    network = build_network(CONFIG, seed=0)
    optimizer = optax.adam(2e-3)

    @jax.jit
    def step(params, state, pixels, labels):
        def loss(params):
            logits = network.apply(params, network.stats, pixels.astype(jnp.float32) / 255.0)
            return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params, state, losses = network.params, optimizer.init(network.params), []
    labels = (np.arange(32) % 2).astype(np.float32)
    for _ in range(150):
        corners = [tuple(rng.integers(0, SIZE - PATCH + 1, 2)) if label else None for label in labels]
        params, state, value = step(params, state, crops_with_patch(rng, corners), labels)
        losses.append(float(value))
    assert np.mean(losses[-5:]) < 0.1  # it has learnt what the test is about
    bundle = load_bundle(tiny_bundle)
    spec = dataclasses.replace(bundle.spec, model=CONFIG, crop=dataclasses.replace(bundle.spec.crop, size=SIZE))
    return FaceClassifier(dataclasses.replace(bundle, spec=spec, weights=flatten_state(params)))


@pytest.mark.parametrize("corner", [(0, 0), (20, 4), (12, 12), (4, 20), (20, 18)])
def test_peak_lies_in_the_planted_patch(patch_finder, corner):
    crops = crops_with_patch(np.random.default_rng(sum(corner)), [corner])
    assert patch_finder.logits(crops)[0] > 0
    heat = heatmap(patch_finder, crops)[0]
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert corner[0] <= x < corner[0] + PATCH
    assert corner[1] <= y < corner[1] + PATCH
    inside = heat[corner[1] : corner[1] + PATCH, corner[0] : corner[0] + PATCH].mean()
    assert inside > 3 * heat.mean()


def test_attributions_sum_up_to_the_change_of_the_logit(patch_finder):
    import cv2

    crops = crops_with_patch(np.random.default_rng(1), [(10, 15)])
    blurred = cv2.GaussianBlur(crops[0], (0, 0), sigmaX=SIZE / 10, borderType=cv2.BORDER_REFLECT)[None]
    change = patch_finder.logits(crops)[0] - patch_finder.logits(blurred)[0]
    assert abs(change) > 2
    assert attributions(patch_finder, crops, steps=64).sum() == pytest.approx(change, rel=0.05)
    assert attributions(patch_finder, crops).sum() == pytest.approx(change, rel=0.3)


def test_each_crop_has_the_map_that_it_has_alone(patch_finder):
    crops = crops_with_patch(np.random.default_rng(2), [(0, 0), (20, 20), None])
    together = heatmap(patch_finder, crops)
    for crop, heat in zip(crops, together, strict=True):
        np.testing.assert_array_equal(heatmap(patch_finder, crop[None])[0], heat)
    assert heatmap(patch_finder, crops[:0]).shape == (0, SIZE, SIZE)


def test_a_crop_of_one_colour_has_no_place_that_counts(patch_finder):
    assert not heatmap(patch_finder, np.full((1, SIZE, SIZE, 3), 128, np.uint8)).any()


def test_crops_of_another_size_are_refused(patch_finder):
    with pytest.raises(ConfigError, match=r"\(64, 64, 3\)"):
        heatmap(patch_finder, np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(ConfigError, match="got 0"):
        attributions(patch_finder, np.zeros((1, SIZE, SIZE, 3), np.uint8), steps=0)


@pytest.mark.long
def test_shipped_model_gives_maps_that_can_be_drawn(face_picture, capsys):
    from fakeface_jax.faces import Face

    classifier = FaceClassifier.load()
    crop = classifier.crop(face_picture, Face(box=whole_image_box(face_picture), confidence=1.0))
    crops = np.stack([crop, crop[:, ::-1]])
    first = heatmap(classifier, crops)
    started = time.perf_counter()
    second = heatmap(classifier, crops)
    milliseconds = 1000 * (time.perf_counter() - started) / len(crops)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert first.min() >= 0.0
    assert first.max(axis=(1, 2)).tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first[0], first[1])
    with capsys.disabled():
        print(f"\nheat map of the shipped model: {milliseconds:.0f} ms per crop")


@pytest.mark.parametrize(
    "config",
    [
        {"name": "efficientnet_lite0", "size": 32, "dtype": "float32"},
        {"name": "vit", "size": 32, "patch": 16, "width": 32, "depth": 1, "heads": 2, "dtype": "float32"},
        {"name": "report", "size": 32, "dtype": "float32", "input": "residual"},
    ],
    ids=["efficientnet", "vit", "residual"],
)
@pytest.mark.long
def test_every_kind_of_network_has_maps(tiny_bundle, config):
    bundle = load_bundle(tiny_bundle)
    network = build_network(config, seed=0)
    weights = {**flatten_state(network.params), **flatten_state(network.stats)}
    crop = dataclasses.replace(bundle.spec.crop, size=32)
    spec = dataclasses.replace(bundle.spec, model=config, crop=crop)
    classifier = FaceClassifier(dataclasses.replace(bundle, spec=spec, weights=weights))
    heat = heatmap(classifier, np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8))
    assert np.isfinite(heat).all()
    assert heat.max() == 1.0
    assert 0.0 <= heat.mean() < 0.9

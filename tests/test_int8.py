"""Bundles that compute in int8: near the float32 answers, with an identity of their own, and by no other arithmetic."""

import dataclasses

import numpy as np
import pytest

from fakeface_jax.backends import int8
from fakeface_jax.backends.choice import create_backend
from fakeface_jax.backends.openvino_graph import PIXELS, _on_grid
from fakeface_jax.bundle import load_bundle, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.errors import ConfigError


def faces(count):
    """Smooth pictures: noise alone would not say which differences an eye could see."""
    rng = np.random.default_rng(0)
    grids = rng.integers(0, 256, (count, 4, 4, 3)).astype(np.float32)
    pictures = grids.repeat(16, axis=1).repeat(16, axis=2) + rng.normal(0, 8, (count, 64, 64, 3))
    return np.clip(pictures, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def made(tiny_bundle, tmp_path_factory):
    plain = load_bundle(tiny_bundle)
    spec = dataclasses.replace(plain.spec, int8=int8.observed_ranges(plain, faces(24)))
    return plain, save_bundle(tmp_path_factory.mktemp("int8") / "tiny", spec, plain.weights, card="")


def test_the_answers_are_near_those_of_float32(made):
    plain, rounded = made
    crops = faces(24)
    exact, found = create_backend(plain).logits(crops), FaceClassifier(rounded).logits(crops)
    error = np.abs(found - exact)
    assert 0 < error.max() < 0.1 * exact.std()
    assert np.corrcoef(found, exact)[0, 1] > 0.999


def test_the_bundle_comes_back_with_ranges_answers_and_another_identity(made):
    plain, rounded = made
    assert rounded.id != plain.id
    assert set(rounded.spec.int8) == {PIXELS, "convs.0", "convs.1", "convs.2", "dense1"}
    assert rounded.spec.int8[PIXELS] == (0.0, 1.0)
    assert all(low == 0.0 < high for low, high in rounded.spec.int8.values())
    assert np.abs(np.subtract(rounded.reference, plain.reference)).max() > 0
    np.testing.assert_array_equal(rounded.weights["dense1.kernel"], plain.weights["dense1.kernel"])


def test_no_other_arithmetic_will_do(made, monkeypatch):
    _, rounded = made
    with pytest.raises(ConfigError, match="computes in int8, which JAX does not"):
        create_backend(rounded, "jax")
    with pytest.raises(ConfigError, match=r"OpenVINO computes .* instead of .*; use the float32 model it came from"):
        create_backend(dataclasses.replace(rounded, reference=(5.0, 5.0)))
    spec = dataclasses.replace(rounded.spec, model={**rounded.spec.model, "dtype": "bfloat16"})
    with pytest.raises(ConfigError, match="only for networks that OpenVINO runs"):
        int8.observed_ranges(dataclasses.replace(rounded, spec=spec), faces(1))
    with pytest.raises(ConfigError, match="there are none"):
        int8.observed_ranges(rounded, faces(1)[:0])


def test_weights_on_the_grid_keep_their_sums():
    rows = np.random.default_rng(0).normal(0, 1, (16, 400)).astype(np.float32)
    rows[3] = 0
    steps, numbers = _on_grid(rows, 63)
    assert np.abs(numbers).max() == 63
    np.testing.assert_array_equal(numbers, np.round(numbers))
    # One step at most, where a weight at the end of the grid could not be moved.
    assert np.all(np.abs((numbers * steps).sum(axis=1) - rows.sum(axis=1)) <= 1.01 * steps[:, 0])
    assert np.all(np.abs(numbers * steps - rows) <= 1.01 * steps)
    plain = np.round(rows / steps) * steps
    assert np.abs((plain - rows).sum(axis=1)).max() > 2 * steps.max()


@pytest.mark.parametrize("ends", [(-1.0, 3.0), (-2.0, 0.5), (-0.1, 0.0), (0.0, 6.0), (0.5, 2.0), (0.0, 0.0)])
def test_zero_is_a_level_of_every_range(ends):
    low, high = int8._levelled(np.array(ends, np.float32))
    levels = np.linspace(low, high, 256)
    assert np.abs(levels).min() < 1e-6
    assert low <= min(ends[0], 0) + 1e-6
    assert high >= ends[1] - 1e-6

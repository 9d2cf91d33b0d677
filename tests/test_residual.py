"""The high-pass input against scipy's filter, and in front of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from fakeface_jax.errors import ConfigError
from fakeface_jax.models import build_network
from fakeface_jax.models.residual import FILTER, high_pass


def pictures(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("side", [(7, 9), (8, 3), (2, 2), (1, 4)])
def test_the_filter_is_scipys_with_repeated_edges(side):
    pixels = pictures(2, *side, 3)
    wanted = [
        [scipy.ndimage.correlate(picture[..., c].astype(np.float64), FILTER, mode="nearest") for c in range(3)]
        for picture in pixels
    ]
    np.testing.assert_allclose(high_pass(jnp.asarray(pixels)), np.moveaxis(wanted, 1, -1), rtol=1e-5, atol=1e-5)


def test_what_changes_along_one_axis_only_leaves_nothing():
    rows, columns = pictures(6, 1, 1), pictures(1, 5, 1)
    for smooth in (np.full((6, 5, 3), 200), rows + np.zeros((1, 5, 3)), rows + columns + np.zeros(3)):
        found = high_pass(jnp.asarray(smooth[None], jnp.float32))
        assert float(jnp.abs(found).max()) < 1e-4
    spot = np.zeros((1, 5, 5, 1), np.float32)
    spot[0, 2, 2] = 1
    np.testing.assert_allclose(high_pass(jnp.asarray(spot))[0, 1:4, 1:4, 0], FILTER, atol=1e-7)


def test_a_network_is_given_the_residual():
    plain, filtered = (
        build_network({"name": "report", "size": 32} | more, seed=0) for more in ({}, {"input": "residual"})
    )
    pixels = jnp.asarray(pictures(2, 32, 32, 3))
    weights = plain.params, plain.stats
    apply = jax.jit(plain.apply)
    ours = jax.jit(filtered.apply)(*weights, pixels)
    np.testing.assert_allclose(ours, apply(*weights, high_pass(pixels)), rtol=1e-4, atol=1e-5)
    assert not np.allclose(ours, apply(*weights, pixels), atol=1e-3)
    # In training as well.
    trained, _ = jax.jit(filtered.train)(*weights, pixels, jax.random.key(0))
    np.testing.assert_allclose(trained, ours, rtol=1e-4, atol=1e-5)


def test_an_unknown_input_is_refused():
    with pytest.raises(ConfigError, match="unknown input 'wavelet' of a network; use one of rgb, residual"):
        build_network({"name": "report", "size": 32, "input": "wavelet"}, seed=0)

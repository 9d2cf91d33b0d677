"""Computes the high-pass residual of a picture, which any network can take as its input.

Generators leave their traces in fine texture, which the content of a face outweighs. Mo, Chen and Luo (Fake Faces
Identification via Convolutional Neural Network, 2018), whose work the report builds on, let their network see only the
result of a high-pass filter. The filter here is the 3 x 3 second-order one of steganalysis (Fridrich and Kodovsky,
2012).

Example:
    >>> high_pass(jnp.ones((1, 8, 8, 3))).max()
    0.0
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

FILTER = np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]], np.float32) / 4
"""The filter; its result is zero for every picture that is linear in rows or in columns."""


def high_pass(pixels: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Filters a picture channel by channel; edge pixels are repeated outside, so that borders leave no trace."""
    height, width = pixels.shape[1:3]
    padded = jnp.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    parts = [FILTER[i, j] * padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return functools.reduce(jax.lax.add, parts)

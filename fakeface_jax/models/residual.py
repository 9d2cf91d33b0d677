"""The high-pass residual of a picture, as an input for any network.

Generators leave their traces in fine texture, which the content of a face drowns. Mo, Chen and Luo (Fake Faces
Identification via Convolutional Neural Network, 2018), whom the report builds on, let their network see only what a
high-pass filter leaves. The filter here is the 3 x 3 second-order one of steganalysis (Fridrich and Kodovsky, 2012).

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
"""Zero on every picture that is linear in rows or in columns."""


def high_pass(pixels: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """The filtered picture, channel by channel; edge pixels are repeated outside, so borders leave no trace."""
    height, width = pixels.shape[1:3]
    padded = jnp.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    parts = [FILTER[i, j] * padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return functools.reduce(jax.lax.add, parts)

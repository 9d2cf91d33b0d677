"""JAX's logits of two crops that every machine can make: stored in a bundle and used to check other backends.

Example:
    >>> agrees(backend.logits(probe_crops(224)), bundle.reference)
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from fakeface_jax.backends.xla import logits_and_state
from fakeface_jax.bundle import BundleSpec

TOLERANCE = 1e-3
"""Largest difference in logits, plus 1e-4 of a large logit: P(fake) then differs by less than 1e-3. Measured: 1e-5."""


def probe_crops(size: int) -> UInt8[np.ndarray, "2 s s 3"]:
    """Makes two crops, one smooth and one of noise, from integers alone: the same on every machine and version."""
    rows, columns, channels = np.meshgrid(*(np.arange(n, dtype=np.uint32) for n in (size, size, 3)), indexing="ij")
    smooth = (rows * (180 - 60 * channels) + columns * (40 + 70 * channels)) // size
    mixed = (rows * np.uint32(size) + columns) * np.uint32(3) + channels
    for factor in (2654435761, 2246822519, 3266489917):  # multiplicative hashing
        mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(factor)
    return np.stack([smooth, mixed >> np.uint32(24)]).astype(np.uint8)


def reference_logits(spec: BundleSpec, weights: Mapping[str, np.ndarray]) -> Float32[np.ndarray, " 2"]:
    """Returns JAX's uncalibrated logits of `probe_crops`, computed on the CPU in float32.

    Raises:
        ConfigError: this release does not know the network.
        BundleError: the weights belong to another network.
    """
    import jax

    with jax.default_device(jax.devices("cpu")[0]):
        logits, state = logits_and_state(spec, weights)
        return np.asarray(jax.jit(logits)(state, probe_crops(spec.crop.size)), np.float32)


def agrees(answers: Float32[np.ndarray, " n"], reference: Sequence[float] | Float32[np.ndarray, " m"]) -> bool:
    """Says whether a backend's logits of `probe_crops` are those that the bundle states."""
    expected = np.asarray(reference, np.float32)
    return answers.shape == expected.shape and bool(np.allclose(answers, expected, atol=TOLERANCE, rtol=TOLERANCE / 10))

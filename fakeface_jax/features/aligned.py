"""Makes aligned fakes: a real face with the traces of a fake, and with everything else unchanged.

A real face and its altered copy share person, light, camera and compression; only the alteration tells them apart.
`taef2` is a round trip through a generator's autoencoder (AlignedForensics: Rajan et al., 2025, arXiv 2410.11835),
`blend` is a self-blended face (Shiohara and Yamasaki, CVPR 2022), and `upsample` is a generator's up-sampling.

Example:
    >>> make = aligned_fakes("taef2.safetensors")["taef2"]
    >>> fake = make(square, landmarks, np.random.default_rng(0))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fakeface_jax.data.pseudo_fakes import self_blend, up_sample

Maker = Callable[[UInt8[np.ndarray, "d d 3"], Float[np.ndarray, "5 2"], np.random.Generator], Any]
"""(square around a real face, its landmarks in the square, random generator) -> the altered square."""


def aligned_fakes(autoencoder: str | os.PathLike[str] | None = None) -> Mapping[str, Maker]:
    """Returns the functions that make aligned fakes, by name.

    Args:
        autoencoder: path of `taef2.safetensors`; without it there is no `taef2`.

    Raises:
        DataError: the file contains other weights.
    """
    makers: dict[str, Maker] = {
        "blend": self_blend,
        "upsample": lambda square, landmarks, rng: up_sample(square, rng),
    }
    if autoencoder is not None:
        from fakeface_jax.features.reconstruction import TinyAutoencoder

        taef2 = TinyAutoencoder(autoencoder)
        makers["taef2"] = lambda square, landmarks, rng: taef2.reconstruct(square)
    return makers

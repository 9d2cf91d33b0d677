"""Makes aligned fakes by passing a real face through an autoencoder, which adds only the decoder's traces.

`TinyAutoencoder` is TAEF2 (madebyollin/taesd, MIT), the tiny autoencoder of FLUX.2's latents: 3 x 3 convolutions, ReLU,
nearest up-sampling, and a group-normalised 1 x 1 path in the blocks at the lowest resolution; 32 channels at an eighth
of the size. Training on real faces and their reconstructions follows AlignedForensics (Rajan et al., 2025, arXiv
2410.11835).

Example:
    >>> autoencoder = TinyAutoencoder("taef2.safetensors")
    >>> fake = autoencoder.reconstruct(square)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from fakeface_jax.errors import DataError

_SIDE = 192
_STRIDED_ENCODER, _BLOCKS_ENCODER = (2, 6, 10), (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)
_UP_DECODER, _BLOCKS_DECODER = (7, 12, 17), (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)


class TinyAutoencoder:
    """The autoencoder TAEF2, loaded from weights with PyTorch's names.

    Args:
        path: path of `taef2.safetensors`.

    Raises:
        DataError: the file is missing, or contains other weights.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            weights = {name: jnp.asarray(value, jnp.float32) for name, value in load_file(Path(path)).items()}
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be read as TAEF2's weights: {error}; check the path") from error
        if {"encoder.14.weight", "decoder.19.weight"} - weights.keys():
            raise DataError(f"{path}: does not contain TAEF2's weights; name taef2.safetensors")
        self._weights = weights
        self._run = jax.jit(_round_trip)

    def reconstruct(self, square: UInt8[np.ndarray, "d d 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """Encodes and decodes a face at 192 pixels, the size up to which views keep detail."""
        if len(square) != _SIDE:
            shrinks = len(square) > _SIDE
            square = cv2.resize(square, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        pixels = jnp.asarray(square[None], jnp.float32) / 255
        decoded = np.asarray(self._run(self._weights, pixels))[0]
        return np.clip(np.round(decoded * 255), 0, 255).astype(np.uint8)


def _round_trip(weights: Mapping[str, Any], pixels: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
    x = pixels
    for index in range(15):
        name = f"encoder.{index}"
        x = (
            _block(weights, name, x)
            if index in _BLOCKS_ENCODER
            else _conv(weights, name, x, 2 if index in _STRIDED_ENCODER else 1)
        )
    x = jax.nn.relu(_conv(weights, "decoder.1", 3 * jnp.tanh(x / 3)))
    for index in range(3, 20):
        name = f"decoder.{index}"
        if index in _BLOCKS_DECODER:
            x = _block(weights, name, x)
        elif index in _UP_DECODER:
            x = _conv(weights, name, jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
        elif index == 19:
            x = _conv(weights, name, x)
    return x


def _conv(weights: Mapping[str, Any], name: str, x: jax.Array, stride: int = 1) -> jax.Array:
    kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
    pad = (kernel.shape[0] // 2,) * 2
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def _block(weights: Mapping[str, Any], name: str, x: jax.Array) -> jax.Array:
    if f"{name}.pool.0.weight" in weights:
        y = _conv(weights, f"{name}.pool.0", x)
        groups = y.reshape(*y.shape[:3], 4, -1)
        mean = groups.mean((1, 2, 4), keepdims=True)
        var = groups.var((1, 2, 4), keepdims=True)
        y = ((groups - mean) * jax.lax.rsqrt(var + 1e-5)).reshape(y.shape)
        y = y * weights[f"{name}.pool.1.weight"] + weights[f"{name}.pool.1.bias"]
        x = x + _conv(weights, f"{name}.pool.3", jax.nn.relu(y))
    y = jax.nn.relu(_conv(weights, f"{name}.conv.0", x))
    y = jax.nn.relu(_conv(weights, f"{name}.conv.2", y))
    return jax.nn.relu(_conv(weights, f"{name}.conv.4", y) + x)

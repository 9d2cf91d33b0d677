"""Shows which parts of a face crop its score comes from.

Integrated gradients (Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017): the gradient of
the logit is averaged on a straight path from a blurred crop, which has no traces of a manipulation, to the crop itself,
and multiplied by what the blur removed. Only the network's gradient is needed, so it works for every network that a
bundle can contain. The map shows where this network looked; it does not prove that this region is manipulated.

Example:
    >>> heat = heatmap(classifier, crops)          # [n, s, s], 0 to 1
    >>> np.unravel_index(heat[0].argmax(), heat[0].shape)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt8

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.errors import ConfigError

STEPS = 8
"""Gradients per crop. With this many, the attributions sum to the change of the logit within a few per cent, a
difference that is invisible in a blurred map."""

_BLURRED = 1 / 10
"""Standard deviation of the blur at the start of the path, in sides of the crop: light stays, features vanish."""

_ROUNDING = 1e-2
"""Grey levels, of 255, below which a difference comes from the arithmetic of the blur."""

_SMOOTHED = 1 / 32
"""Standard deviation of the blur of the map itself, in sides of the crop: single pixels of a gradient are noise."""


def attributions(
    classifier: FaceClassifier, crops: UInt8[np.ndarray, "n s s 3"], *, steps: int = STEPS
) -> Float32[np.ndarray, "n s s"]:
    """Returns how much each pixel adds to the uncalibrated logit; positive speaks for fake.

    A crop's values sum up to its logit less that of the blurred crop, the better the more steps. Of a fusion with a
    frozen backbone they are those of the network beside it (`FaceClassifier.explained_function`).

    Args:
        classifier: the model.
        crops: crops made with `classifier.crop`.
        steps: number of gradients per crop, at least 1.

    Raises:
        ConfigError: the crops have another size than the model's, or `steps` is below 1.
    """
    size = classifier.spec.crop.size
    if crops.shape[1:] != (size, size, 3):
        raise ConfigError(f"crops are {crops.shape[1:]}; the model takes {(size, size, 3)}, made with classifier.crop")
    if steps < 1:
        raise ConfigError(f"integrated gradients need at least 1 step; got {steps}")
    found = np.zeros(crops.shape[:3], np.float32)
    logits, state = classifier.explained_function()
    for index, crop in enumerate(crops):
        # One picture at a time: one program is compiled for any number of pictures, and on CPUs this is not slower.
        end = crop.astype(np.float32)
        way = end - _blurred(end, _BLURRED)
        way[np.abs(way) < _ROUNDING] = 0.0
        total = np.zeros_like(end)
        for share in (np.arange(steps) + 0.5) / steps:
            point = end - np.float32(1.0 - share) * way
            total += np.asarray(_gradient(logits, state, point[None]))[0]
        found[index] = (way * total).sum(axis=2) / steps
    return found


def heatmap(classifier: FaceClassifier, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, "n s s"]:
    """Returns a map of the parts of each crop that moved its score, in either direction.

    Args:
        classifier: the model.
        crops: crops made with `classifier.crop`.

    Returns:
        Values from 0 to 1; 1 is the part of a crop that counted most, so maps of different crops cannot be compared.
        All
            0 for a crop in which no part counted, such as one of a single colour.

    Raises:
        ConfigError: the crops have another size than the model's.
    """
    heat = np.abs(attributions(classifier, crops))
    for index, one in enumerate(heat):
        smooth = _blurred(one, _SMOOTHED)
        top = float(smooth.max())
        heat[index] = np.clip(smooth / top, 0.0, 1.0) if np.isfinite(top) and top > 0.0 else 0.0
    return heat


def _blurred(picture: Float32[np.ndarray, "s s *c"], share: float) -> Float32[np.ndarray, "s s *c"]:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigmaX=share * len(picture), borderType=cv2.BORDER_REFLECT))


@functools.partial(jax.jit, static_argnums=0)
def _gradient(logits: Callable[[Any, Any], Any], state: Any, pixels: Any) -> Any:
    return jax.grad(lambda values: jnp.sum(logits(state, values)))(pixels)

"""Where in a face crop the score comes from.

Integrated gradients (Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017): the gradient of
the logit is averaged on the way from a blurred crop, in which no trace of a manipulation is left, to the crop itself,
and multiplied by what the blur took away. It needs nothing of a network but its gradient, so it serves every network
that a bundle can hold. What it shows is what this network looked at, which is no proof that the place is manipulated.

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
"""Gradients per crop. The sum of the attributions then misses the change of the logit by some per cent, which no eye
sees in a blurred map."""

_BLURRED = 1 / 10
"""Standard deviation of the blur that the way begins with, in sides of the crop: light stays, features go."""

_ROUNDING = 1e-2
"""Grey levels, of 255, below which a difference is the blur's arithmetic."""

_SMOOTHED = 1 / 32
"""The same for the map itself: single pixels of a gradient are noise."""


def attributions(
    classifier: FaceClassifier, crops: UInt8[np.ndarray, "n s s 3"], *, steps: int = STEPS
) -> Float32[np.ndarray, "n s s"]:
    """Returns how much each pixel adds to the uncalibrated logit; positive speaks for fake.

    A crop's values sum up to its logit less that of the blurred crop, the better the more steps. Of a fusion with a
    frozen backbone they are those of the network beside it (`FaceClassifier.explained_function`).

    Args:
        classifier: the model.
        crops: made with `classifier.crop`.
        steps: gradients per crop, at least 1.

    Raises:
        ConfigError: crops of another size than the model's, or no step.
    """
    size = classifier.spec.crop.size
    if crops.shape[1:] != (size, size, 3):
        raise ConfigError(f"crops are {crops.shape[1:]}, the model takes {(size, size, 3)}")
    if steps < 1:
        raise ConfigError(f"{steps} steps of integrated gradients; at least 1 is needed")
    found = np.zeros(crops.shape[:3], np.float32)
    logits, state = classifier.explained_function()
    for index, crop in enumerate(crops):
        # One picture at a time: a single program is compiled whatever their number, and on CPUs it is no slower.
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
    """Which parts of each crop moved its score, in either direction.

    Args:
        classifier: the model.
        crops: made with `classifier.crop`.

    Returns:
        0 to 1; 1 is the place of a crop that counted most, so crops cannot be compared by it. All 0 for a crop in
        which no place counted, such as one of a single colour.

    Raises:
        ConfigError: crops of another size than the model's.
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

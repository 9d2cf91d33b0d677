"""OpenVINO's graph of a network, built from its layers, in float32.

Example:
    >>> model = build_model(layers, size=224, mean=mean, std=std, one=True)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fakeface_jax.backends.inference_layers import (
    Activation,
    Average,
    Conv,
    Dense,
    Flatten,
    Layer,
    MaxPool,
    RepeatEdge,
    Residual,
)
from fakeface_jax.openvino_runtime import import_openvino

Channels = tuple[float, float, float]
"""One number per RGB channel."""


def build_model(layers: Sequence[Layer], *, size: int, mean: Channels, std: Channels, one: bool) -> Any:
    """Builds an `openvino.Model` from uint8 RGB crops [n, size, size, 3] to their uncalibrated logits [n, 1].

    Args:
        layers: layers from `inference_layers`.
        size: side of the crops in pixels.
        mean: of the pixels in [0, 1].
        std: of the same.
        one: n is 1.
    """
    crops, logits = _Graph().network(layers, size, mean, std, count=1 if one else -1)
    return import_openvino().Model([logits], [crops], "fakeface")


class _Graph:
    """Adds nodes; pictures are channels first inside."""

    def __init__(self) -> None:
        self._ops = import_openvino().opset13

    def network(
        self, layers: Sequence[Layer], size: int, mean: Channels, std: Channels, *, count: int
    ) -> tuple[Any, Any]:
        """Returns the nodes of the crops and of the logits."""
        ops = self._ops
        crops = ops.parameter([count, size, size, 3], np.uint8, name="crops")
        pixels = ops.transpose(ops.convert(crops, "f32"), np.array([0, 3, 1, 2]))
        pixels = ops.multiply(pixels, _per_channel(1.0 / (255.0 * np.asarray(std, np.float64))))
        if any(mean):
            pixels = ops.subtract(pixels, _per_channel(np.asarray(mean, np.float64) / np.asarray(std, np.float64)))
        return crops, functools.reduce(self._add, layers, pixels)

    def _add(self, x: Any, layer: Layer) -> Any:
        ops = self._ops
        match layer:
            case Conv():
                return self._conv(x, layer)
            case Residual():
                return ops.add(x, functools.reduce(self._add, layer.layers, x))
            case MaxPool():
                return ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
            case RepeatEdge():
                edges = np.array([0, 0, 1, 1])
                return ops.pad(x, edges, edges, "edge")
            case Average():
                return ops.reduce_mean(x, np.array([2, 3]), False)
            case Flatten():
                # The order of the bundle's weights: moving a small map is cheaper than copying large weights.
                return ops.reshape(ops.transpose(x, np.array([0, 2, 3, 1])), np.array([0, -1]), True)
            case Dense():
                product = ops.matmul(x, _constant(layer.kernel), False, False)
                return self._activated(ops.add(product, _constant(layer.bias)), layer.activation)

    def _conv(self, x: Any, layer: Conv) -> Any:
        ops = self._ops
        # SAME_UPPER puts the odd pixel after, as TensorFlow's SAME does.
        place = ([layer.stride] * 2, [0, 0], [0, 0], [1, 1], "same_upper" if layer.same else "valid")
        if layer.depthwise:
            y = ops.group_convolution(x, _constant(layer.kernel.transpose(2, 0, 1)[:, None, None]), *place)
        else:
            y = ops.convolution(x, _constant(layer.kernel.transpose(3, 2, 0, 1)), *place)
        return self._activated(ops.add(y, _per_channel(layer.bias)), layer.activation)

    def _activated(self, x: Any, activation: Activation) -> Any:
        if activation == "relu6":
            return self._ops.clamp(x, 0.0, 6.0)
        return self._ops.relu(x) if activation == "relu" else x


def _per_channel(values: np.ndarray) -> Any:
    return _constant(np.asarray(values).reshape(1, -1, 1, 1))


def _constant(values: Any) -> Any:
    # Not copied unless necessary: the model keeps the array alive. OpenVINO does not accept read-only arrays.
    return import_openvino().opset13.constant(np.require(values, np.float32, ("C", "W")), shared_memory=True)

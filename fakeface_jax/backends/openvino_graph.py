"""OpenVINO's graph of a network, built from its layers: in float32, in int8, or with its activations looked at.

In int8 the activations are rounded to 256 levels between the ends of a range that was observed on faces (`int8.py`),
and the weights that they meet to 127 levels per output channel; the last layer stays in float32. 127 levels and not
255, because CPUs without VNNI add two products of an unsigned and a signed byte in 16 bits: with 255, logits of the
model that ships are off by 3.7. The graph says it with `FakeQuantize` nodes, of which the runtime makes integer sums.

Example:
    >>> model = build_model(layers, size=224, mean=mean, std=std, one=True)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

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

Ranges = Mapping[str, tuple[float, float]]
"""Least and greatest value of each activation that is rounded, by the name of the layer that makes it."""

PIXELS = "pixels"
"""The name of the normalised pixels among the activations."""

_GREATEST = 63
"""Weights are whole numbers from -63 to 63 times a step."""

_GREATEST_DEPTHWISE = 127
"""A depthwise filter adds no two products in 16 bits, and the whole byte halves the error of the network's answers."""

_LEVELS = {"weights": 255, "activations": 256}
"""What the runtime knows as int8; of the weights' levels only the inner half is used, but in depthwise filters."""


def build_model(
    layers: Sequence[Layer], *, size: int, mean: Channels, std: Channels, ranges: Ranges | None = None, one: bool
) -> Any:
    """An `openvino.Model` from uint8 RGB crops [n, size, size, 3] to their uncalibrated logits [n, 1].

    Args:
        layers: from `inference_layers`.
        size: side of the crops in pixels.
        mean: of the pixels in [0, 1].
        std: of the same.
        ranges: of the activations, for int8; what is not in it is not rounded. None for float32.
        one: n is 1.
    """
    graph = _Graph(ranges or {})
    crops, logits = graph.network(layers, size, mean, std, count=1 if one else -1)
    return _model([logits], crops)


def build_observer(layers: Sequence[Layer], *, size: int, mean: Channels, std: Channels) -> tuple[Any, list[str]]:
    """A model with the least and the greatest value of each activation [activations, 2] as result, and their names."""
    ops = import_openvino().opset13
    graph = _Graph({})
    crops, _ = graph.network(layers, size, mean, std, count=1)
    rows = []
    for node in graph.activations.values():
        flat = ops.reshape(node, np.array([1, -1]), False)
        axis = np.array([1])
        rows.append(ops.concat([ops.reduce_min(flat, axis, True), ops.reduce_max(flat, axis, True)], 1))
    return _model([ops.concat(rows, 0)], crops), list(graph.activations)


def _model(results: list[Any], crops: Any) -> Any:
    return import_openvino().Model(results, [crops], "fakeface")


class _Graph:
    """Adds nodes; pictures are channels first inside. `activations` are the nodes that int8 rounds, by name."""

    def __init__(self, ranges: Ranges) -> None:
        self._ops = import_openvino().opset13
        self._ranges = ranges
        self._is_rounded = False  # what the next layer gets
        self.activations: dict[str, Any] = {}

    def network(
        self, layers: Sequence[Layer], size: int, mean: Channels, std: Channels, *, count: int
    ) -> tuple[Any, Any]:
        """The node of the crops and that of the logits."""
        ops = self._ops
        crops = ops.parameter([count, size, size, 3], np.uint8, name="crops")
        pixels = ops.transpose(ops.convert(crops, "f32"), np.array([0, 3, 1, 2]))
        pixels = ops.multiply(pixels, _per_channel(1.0 / (255.0 * np.asarray(std, np.float64))))
        if any(mean):
            pixels = ops.subtract(pixels, _per_channel(np.asarray(mean, np.float64) / np.asarray(std, np.float64)))
        return crops, functools.reduce(self._add, layers, self._rounded(pixels, PIXELS))

    def _add(self, x: Any, layer: Layer) -> Any:
        ops = self._ops
        match layer:
            case Conv():
                return self._conv(x, layer)
            case Residual():
                total = ops.add(x, functools.reduce(self._add, layer.layers, x))
                return self._rounded(total, f"{layer.layers[-1].name}+")
            case MaxPool():
                return ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
            case RepeatEdge():
                edges = np.array([0, 0, 1, 1])
                return ops.pad(x, edges, edges, "edge")
            case Average():
                return ops.reduce_mean(x, np.array([2, 3]), False)
            case Flatten():
                # The order of the bundle's weights: moving a small map is cheaper than a copy of large weights.
                return ops.reshape(ops.transpose(x, np.array([0, 2, 3, 1])), np.array([0, -1]), True)
            case Dense():
                last = layer.kernel.shape[1] == 1
                kernel = _constant(layer.kernel) if last else self._weights(layer.kernel, axis=1)
                product = ops.add(ops.matmul(x, kernel, False, False), _constant(layer.bias))
                product = self._activated(product, layer.activation)
                return product if last else self._rounded(product, layer.name)

    def _conv(self, x: Any, layer: Conv) -> Any:
        ops = self._ops
        # SAME_UPPER puts the odd pixel after, as TensorFlow's SAME does.
        place = ([layer.stride] * 2, [0, 0], [0, 0], [1, 1], "same_upper" if layer.same else "valid")
        if layer.depthwise:
            kernel = self._weights(layer.kernel.transpose(2, 0, 1)[:, None, None], greatest=_GREATEST_DEPTHWISE)
            y = ops.group_convolution(x, kernel, *place)
        else:
            y = ops.convolution(x, self._weights(layer.kernel.transpose(3, 2, 0, 1)), *place)
        y = self._activated(ops.add(y, _per_channel(layer.bias)), layer.activation)
        return self._rounded(y, layer.name)

    def _activated(self, x: Any, activation: Activation) -> Any:
        if activation == "relu6":
            return self._ops.clamp(x, 0.0, 6.0)
        return self._ops.relu(x) if activation == "relu" else x

    def _weights(self, kernel: Float32[np.ndarray, "*shape"], *, axis: int = 0, greatest: int = _GREATEST) -> Any:
        """The kernel; rounded where its input is, with a step for each output channel, which `axis` counts."""
        if not self._is_rounded:
            return _constant(kernel)
        rows = np.moveaxis(kernel, axis, 0)
        steps, numbers = _on_grid(rows.reshape(len(rows), -1), greatest)
        shape = [1] * kernel.ndim
        shape[axis] = -1
        ends = (steps * np.float32(127)).reshape(shape)
        values = np.moveaxis((numbers * steps).reshape(rows.shape), 0, axis)
        return self._fake_quantize(_constant(values), -ends, ends, _LEVELS["weights"])

    def _rounded(self, x: Any, name: str) -> Any:
        self.activations[name] = x
        self._is_rounded = name in self._ranges
        if not self._is_rounded:
            return x
        low, high = self._ranges[name]
        return self._fake_quantize(x, np.float32(low), np.float32(high), _LEVELS["activations"])

    def _fake_quantize(self, x: Any, low: Any, high: Any, levels: int) -> Any:
        ends = (_constant(low), _constant(high))
        return self._ops.fake_quantize(x, *ends, *ends, levels)


def _on_grid(
    rows: Float32[np.ndarray, "channels n"], greatest: int
) -> tuple[Float32[np.ndarray, "channels 1"], Float32[np.ndarray, "channels n"]]:
    """Steps and whole numbers whose products are about the rows, and have their sums.

    Rounding each weight for itself moves the sum, and so the mean of whatever comes out of positive activations; over
    fifty layers that adds up. So as many are rounded the other way as keep the sum, the nearest to it first.
    """
    steps = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(1e-8)) / np.float32(greatest)
    exact = rows / steps
    numbers = np.round(exact)
    errors = numbers - exact
    for number, error, excess in zip(numbers, errors, np.round(errors.sum(axis=1)).astype(int), strict=True):
        if excess > 0:
            number[np.argpartition(error, -excess)[-excess:]] -= 1
        elif excess < 0:
            number[np.argpartition(error, -excess - 1)[:-excess]] += 1
    return steps, np.clip(numbers, -greatest, greatest)


def _per_channel(values: np.ndarray) -> Any:
    return _constant(np.asarray(values).reshape(1, -1, 1, 1))


def _constant(values: Any) -> Any:
    # Not copied if it need not be: the model keeps the array alive. OpenVINO takes no array that is read-only.
    return import_openvino().opset13.constant(np.require(values, np.float32, ("C", "W")), shared_memory=True)

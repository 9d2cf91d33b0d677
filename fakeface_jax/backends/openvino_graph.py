"""Builds OpenVINO's graph of a network from its layers: in float32, in int8, or with its activations as results.

In int8 the activations are rounded to 256 levels between the ends of a range that was observed on faces (`int8.py`),
and their weights to 127 levels per output channel; the last layer stays in float32. Weights have 127 levels instead of
255 because CPUs without VNNI add two products of an unsigned and a signed byte in 16 bits: with 255, logits of the
bundled model are wrong by 3.7. The graph contains `FakeQuantize` nodes, which the runtime turns into integer
arithmetic.

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
"""Smallest and largest value of each activation that is rounded, by the name of the layer that computes it."""

PIXELS = "pixels"
"""The name of the normalised pixels among the activations."""

_GREATEST = 63
"""Weights are integers from -63 to 63 times a step."""

_GREATEST_DEPTHWISE = 127
"""Greatest integer of a depthwise filter, which does not add products in 16 bits; it halves the network's error."""

_LEVELS = {"weights": 255, "activations": 256}
"""Levels that the runtime recognises as int8; only depthwise filters use more than the inner half of the weights'."""


def build_model(
    layers: Sequence[Layer], *, size: int, mean: Channels, std: Channels, ranges: Ranges | None = None, one: bool
) -> Any:
    """Builds an `openvino.Model` from uint8 RGB crops [n, size, size, 3] to their uncalibrated logits [n, 1].

    Args:
        layers: layers from `inference_layers`.
        size: side of the crops in pixels.
        mean: mean of the pixels in [0, 1], per channel.
        std: standard deviation of the pixels in [0, 1], per channel.
        ranges: ranges of the activations for int8; an activation that is missing is not rounded. None for float32.
        one: n is 1.
    """
    graph = _Graph(ranges or {})
    crops, logits = graph.network(layers, size, mean, std, count=1 if one else -1)
    return _model([logits], crops)


def build_observer(layers: Sequence[Layer], *, size: int, mean: Channels, std: Channels) -> tuple[Any, list[str]]:
    """Builds a model that returns the least and greatest value of each activation [activations, 2], and their names."""
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
    """A graph under construction, channels first inside. `activations` are the nodes that int8 rounds, by name."""

    def __init__(self, ranges: Ranges) -> None:
        self._ops = import_openvino().opset13
        self._ranges = ranges
        self._is_rounded = False  # the input of the next layer
        self.activations: dict[str, Any] = {}

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
                # The order of the bundle's weights: moving a small map is cheaper than copying large weights.
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
        """Adds the kernel, rounded if its input is, with one step per output channel along `axis`."""
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
    """Returns steps and integers whose products approximate the rows and have the same sums.

    Rounding each weight on its own changes the sum, and with it the mean of the output for positive activations; over
    fifty layers this adds up. So the weights nearest to a half are rounded the other way until the sum is kept.
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
    # Not copied unless necessary: the model keeps the array alive. OpenVINO does not accept read-only arrays.
    return import_openvino().opset13.constant(np.require(values, np.float32, ("C", "W")), shared_memory=True)

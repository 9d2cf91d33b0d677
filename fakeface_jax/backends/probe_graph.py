"""Builds OpenVINO's graph of a frozen vision transformer: its features at several depths, or a linear head's logit.

Kernels stay in int8 and are expanded where they are used, which takes a third of the memory and no more time.
Activations are float32, so the answers agree with JAX.

Example:
    >>> model = probe_model(load_backbone("clip-vit-base-patch16"), taps=(3, 6, 8), statistics=STATISTICS, head=head)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from fakeface_jax.backbones import STATISTICS, Backbone
from fakeface_jax.openvino_runtime import import_openvino


def features_model(backbone: Backbone, taps: Sequence[int]) -> Any:
    """Builds an `openvino.Model` from one uint8 RGB crop [1, s, s, 3] to its features [1, taps, 3, width]."""
    graph = _Graph(backbone)
    crops, features = graph.features(taps)
    return import_openvino().Model([graph.ops.result(features)], [crops], "features")


def probe_model(
    backbone: Backbone,
    *,
    taps: Sequence[int],
    statistics: Sequence[str],
    kernel: Float32[np.ndarray, "f 1"],
    bias: Float32[np.ndarray, " 1"],
) -> Any:
    """Builds an `openvino.Model` from one uint8 RGB crop [1, s, s, 3] to its uncalibrated logit [1, 1]."""
    graph = _Graph(backbone)
    ops = graph.ops
    crops, features = graph.features(taps)
    kept = graph.whole([STATISTICS.index(name) for name in statistics])
    flat = ops.reshape(ops.gather(features, kept, graph.whole(2)), graph.whole([1, -1]), False)
    logit = ops.add(ops.matmul(flat, graph.constant(kernel), False, False), graph.constant(bias[None]))
    return import_openvino().Model([ops.result(logit)], [crops], "probe")


class _Graph:
    """A graph under construction, for one crop at a time."""

    def __init__(self, backbone: Backbone) -> None:
        self.ops = import_openvino().opset13
        self._backbone = backbone

    def features(self, taps: Sequence[int]) -> tuple[Any, Any]:
        """Returns the nodes of the crop and of the features [1, taps, 3, width]."""
        ops, settings = self.ops, self._backbone.settings
        size, patch, width = (int(settings[name]) for name in ("size", "patch", "width"))
        grid = size // patch
        mean, std = (np.asarray(value, np.float64) for value in (self._backbone.mean, self._backbone.std))
        crops = ops.parameter([1, size, size, 3], np.uint8, name="crops")
        x = ops.multiply(ops.convert(crops, "f32"), self.constant(1 / (255 * std)))
        x = ops.transpose(ops.subtract(x, self.constant(mean / std)), self.whole([0, 3, 1, 2]))
        kernel = self._backbone.array("patch.kernel").reshape(patch, patch, 3, width).transpose(3, 2, 0, 1)
        x = ops.convolution(x, self.constant(kernel), [patch] * 2, [0, 0], [0, 0], [1, 1])
        x = ops.transpose(ops.reshape(x, self.whole([1, width, grid * grid]), False), self.whole([0, 2, 1]))
        x = ops.concat([self.constant(self._backbone.array("class_token").reshape(1, 1, width)), x], 1)
        x = self._norm(ops.add(x, self.constant(self._backbone.array("position")[None])), "norm_pre")
        found = []
        for index in range(max(taps) + 1):
            x = self._block(x, f"blocks.{index}", int(settings["heads"]), width)
            if index in taps:
                found.append(ops.unsqueeze(self._statistics(x), self.whole([1])))
        return crops, ops.concat(found, 1)

    def constant(self, value: Any) -> Any:
        return self.ops.constant(np.ascontiguousarray(value, np.float32))

    def whole(self, value: Any) -> Any:
        return self.ops.constant(np.asarray(value, np.int64))

    def _block(self, x: Any, name: str, heads: int, width: int) -> Any:
        ops = self.ops

        def split(part: str) -> Any:
            shaped = ops.reshape(self._linear(y, f"{name}.{part}"), self.whole([1, -1, heads, width // heads]), False)
            return ops.transpose(shaped, self.whole([0, 2, 1, 3]))

        y = self._norm(x, f"{name}.norm1")
        seen = ops.scaled_dot_product_attention(*(split(part) for part in ("query", "key", "value")))
        seen = ops.reshape(ops.transpose(seen, self.whole([0, 2, 1, 3])), self.whole([1, -1, width]), False)
        x = ops.add(x, self._linear(seen, f"{name}.out"))
        hidden = self._linear(self._norm(x, f"{name}.norm2"), f"{name}.up")
        # Quick GELU.
        hidden = ops.multiply(hidden, ops.sigmoid(ops.multiply(hidden, self.constant(1.702))))
        return ops.add(x, self._linear(hidden, f"{name}.down"))

    def _norm(self, x: Any, name: str) -> Any:
        epsilon = float(self._backbone.settings["norm_epsilon"])
        x = self.ops.mvn(x, self.whole([2]), True, epsilon, "INSIDE_SQRT")
        scale, bias = (self.constant(self._backbone.array(f"{name}.{part}")[None, None]) for part in ("scale", "bias"))
        return self.ops.add(self.ops.multiply(x, scale), bias)

    def _linear(self, x: Any, name: str) -> Any:
        ops, kernel = self.ops, self._backbone.kernel(f"{name}.kernel")
        rows = ops.convert(ops.constant(np.ascontiguousarray(kernel.values.T)), "f32")
        rows = ops.multiply(rows, self.constant(kernel.steps[:, None]))
        bias = self.constant(self._backbone.array(f"{name}.bias")[None, None])
        return ops.add(ops.matmul(x, rows, False, True), bias)

    def _statistics(self, x: Any) -> Any:
        ops = self.ops
        first, second, end = self.whole([0]), self.whole([1]), self.whole([np.iinfo(np.int64).max])
        patches = ops.slice(x, second, end, second, second)
        average = ops.reduce_mean(patches, second, True)
        off = ops.subtract(patches, average)
        deviation = ops.sqrt(ops.maximum(ops.reduce_mean(ops.multiply(off, off), second, True), self.constant(1e-12)))
        return ops.concat([ops.slice(x, first, second, second, second), average, deviation], 1)

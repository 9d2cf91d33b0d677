"""A network's layers, run by OpenVINO: what scores on a CPU.

The model is built in memory from the bundle's own weights, in some hundredths of a second; there is no second file to
trust. One picture is computed by all cores together. Of several, each core computes its own, so nobody
waits for the slowest after every layer, and the maps of one picture stay in a core's cache; where a layer's weights are
large, a core takes a few at a time, so that they are read from memory once for these.

Example:
    >>> OpenVinoBackend(layers, size=224, mean=mean, std=std).logits(crops)
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from fakeface_jax.backends.graph import Channels, Ranges, build_model
from fakeface_jax.backends.layers import Dense, Layer, inference_layers
from fakeface_jax.bundle import BundleSpec
from fakeface_jax.runtime import CPU_SETTINGS, import_openvino, openvino_core

_STREAMS = 8
"""Pictures at once at most: `FaceClassifier` gives 32 at a time."""

_PIECE = 4
"""Pictures that a core computes at a time, where a layer's weights are read from memory each time; else 1."""

_CACHED = 4 * 2**20
"""Bytes of weights that stay in a CPU's cache from one picture to the next."""


class OpenVinoBackend:
    """The network, compiled for this machine's CPU.

    Args:
        layers: from `inference_layers`.
        size: side of the crops in pixels.
        mean: of the pixels in [0, 1].
        std: of the same.
        ranges: of the activations, for int8; None for float32.
    """

    name = "openvino"

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        size: int,
        mean: Channels,
        std: Channels,
        ranges: Ranges | None = None,
    ) -> None:
        self._core = openvino_core()
        self._build = functools.partial(build_model, layers, size=size, mean=mean, std=std, ranges=ranges)
        large = any(isinstance(layer, Dense) and layer.kernel.nbytes > _CACHED for layer in layers)
        self._most = _PIECE if large else 1
        self._lock = threading.Lock()
        one = self._core.compile_model(self._build(one=True), "CPU", {**CPU_SETTINGS, "PERFORMANCE_HINT": "LATENCY"})
        self._one = one.create_infer_request()

    @classmethod
    def of(cls, spec: BundleSpec, weights: Mapping[str, np.ndarray]) -> OpenVinoBackend | None:
        """The backend of a bundle's specification and weights; None for a network that it cannot run."""
        layers = inference_layers(spec.model, weights)
        if layers is None:
            return None
        pixels = spec.normalization
        return cls(layers, size=spec.crop.size, mean=pixels.mean, std=pixels.std, ranges=spec.int8)

    def logits(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, " n"]:
        """Uncalibrated logits. Safe to call from several threads, which wait for each other."""
        # Held until all is done: OpenVINO reads where the pixels are, and its own copy of a view would be gone by then.
        crops = np.ascontiguousarray(crops)
        found = np.empty(len(crops), np.float32)
        with self._lock:
            if len(crops) == 1:
                found[:] = self._one.infer({0: crops}, share_inputs=True)[0][:, 0]
            elif len(crops):
                queue, places = self._queue, list(range(0, len(crops), self._piece(len(crops))))
                queue.set_callback(
                    lambda request, place: found[place].__setitem__(..., request.get_output_tensor(0).data[:, 0])
                )
                for start, end in itertools.pairwise([*places, len(crops)]):
                    queue.start_async({0: crops[start:end]}, slice(start, end), share_inputs=True)
                queue.wait_all()
        return found

    def _piece(self, count: int) -> int:
        """So many at a time that every core has some."""
        return max(1, min(self._most, count // len(self._queue)))

    @functools.cached_property
    def _queue(self) -> Any:
        """Made for the first batch: a process that scores one picture does not wait for it."""
        openvino = import_openvino()
        settings = {**CPU_SETTINGS, "NUM_STREAMS": min(_STREAMS, os.cpu_count() or 1)}
        compiled = self._core.compile_model(self._build(one=False), "CPU", settings)
        return openvino.AsyncInferQueue(compiled, compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

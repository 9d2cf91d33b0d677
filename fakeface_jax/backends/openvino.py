"""Runs a network's layers with OpenVINO, which scores on CPUs.

The model is built in memory from the bundle's own weights in some hundredths of a second, so there is no second file to
trust. A single picture is computed by all cores together. Of several pictures, each core computes its own, so that no
core waits for the slowest one after every layer and the maps of one picture stay in a core's cache. If a layer's
weights are large, a core computes a few pictures together, so that the weights are read from memory once for all of
them.

Example:
    >>> OpenVinoBackend.of(bundle.spec, bundle.weights).logits(crops)
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from fakeface_jax.backbones import STATISTICS, load_backbone
from fakeface_jax.backends.inference_layers import Dense, inference_layers
from fakeface_jax.backends.openvino_graph import build_model
from fakeface_jax.backends.probe_graph import probe_model
from fakeface_jax.bundle import BundleSpec, Normalization
from fakeface_jax.errors import BundleError
from fakeface_jax.network_config import members, pixel_scaling
from fakeface_jax.openvino_runtime import CPU_SETTINGS, import_openvino, openvino_core

_STREAMS = 8
"""Largest number of pictures at once: `FaceClassifier` passes 32 at a time."""

_PIECE = 4
"""Pictures that a core computes together if a layer's weights must be read from memory each time; otherwise 1."""

_CACHED = 4 * 2**20
"""Bytes of weights that stay in a CPU's cache between two pictures."""


class OpenVinoBackend:
    """A network that is compiled for this machine's CPU.

    Args:
        build: builds the `openvino.Model` from uint8 crops [n, s, s, 3] to logits [n, 1]; called with `one=True`, for a
            single crop.
        piece: crops that a core computes together if there are many; the batch size of the model of `one=False`.
    """

    name = "openvino"

    def __init__(self, build: Callable[..., Any], *, piece: int = 1) -> None:
        self._core = openvino_core()
        self._build = build
        self._most = piece
        self._lock = threading.Lock()
        one = self._core.compile_model(self._build(one=True), "CPU", {**CPU_SETTINGS, "PERFORMANCE_HINT": "LATENCY"})
        self._one = one.create_infer_request()

    @classmethod
    def of(cls, spec: BundleSpec, weights: Mapping[str, np.ndarray]) -> OpenVinoBackend | ExpertsBackend | None:
        """Builds the backend from a bundle's specification and weights; None for a network that OpenVINO cannot run."""
        if spec.model.get("name") == "experts":
            return ExpertsBackend.of(spec, weights)
        if spec.model.get("name") == "feature_probe":
            return cls(_probe(spec.model, weights))
        layers = inference_layers(spec.model, weights)
        if layers is None:
            return None
        pixels = spec.normalization
        build = functools.partial(build_model, layers, size=spec.crop.size, mean=pixels.mean, std=pixels.std)
        large = any(isinstance(layer, Dense) and layer.kernel.nbytes > _CACHED for layer in layers)
        return cls(build, piece=_PIECE if large else 1)

    def logits(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, " n"]:
        """Returns uncalibrated logits. Threads may call it concurrently and wait for each other."""
        # Kept alive until all is done: OpenVINO reads these pixels in place, and its own copy of a view would be gone
        # by then.
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
        """Returns the number of pictures per core at which every core has work."""
        return max(1, min(self._most, count // len(self._queue)))

    @functools.cached_property
    def _queue(self) -> Any:
        """Creates the queue for the first batch, so that a process that scores one picture does not wait for it."""
        openvino = import_openvino()
        settings = {**CPU_SETTINGS, "NUM_STREAMS": min(_STREAMS, os.cpu_count() or 1)}
        compiled = self._core.compile_model(self._build(one=False), "CPU", settings)
        return openvino.AsyncInferQueue(compiled, compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))


class ExpertsBackend:
    """A fusion of several networks, which adds their logits.

    Args:
        experts: the backends, in order.
    """

    name = "openvino"

    def __init__(self, experts: Sequence[OpenVinoBackend]) -> None:
        self._experts = tuple(experts)

    @classmethod
    def of(cls, spec: BundleSpec, weights: Mapping[str, np.ndarray]) -> ExpertsBackend | None:
        """Builds the backend of a fusion; None if OpenVINO cannot run one of its experts."""
        found = []
        for config, own in members(spec.model, weights):
            mean, std = pixel_scaling(config)
            part = dataclasses.replace(spec, model=config, normalization=Normalization(mean=mean, std=std))
            backend = OpenVinoBackend.of(part, own)
            if not isinstance(backend, OpenVinoBackend):
                return None
            found.append(backend)
        return cls(found) if found else None

    def logits(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, " n"]:
        """Returns uncalibrated logits. Threads may call it concurrently and wait for each other."""
        return np.sum([expert.logits(crops) for expert in self._experts], axis=0, dtype=np.float32)


def _probe(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Callable[..., Any]:
    backbone = load_backbone(str(config.get("backbone")), config.get("backbone_sha256"))
    depth, taps, statistics = int(backbone.settings["depth"]), config.get("taps"), config.get("statistics", STATISTICS)
    if (
        not isinstance(taps, list | tuple)
        or not all(isinstance(tap, int) and 0 <= tap < depth for tap in taps)
        or list(taps) != sorted(set(taps))
        or not set(statistics) <= set(STATISTICS)
    ):
        raise BundleError(f"taps {taps} and statistics {statistics} do not fit {backbone.name}; get the bundle again")
    kernel, bias = (np.asarray(weights.get(f"classifier.{part}", ()), np.float32) for part in ("kernel", "bias"))
    if kernel.shape != (len(taps) * len(statistics) * int(backbone.settings["width"]), 1) or bias.shape != (1,):
        raise BundleError("the weights do not belong to this head; get the bundle again")

    def build(*, one: bool) -> Any:
        # One crop at a time in both cases: it is enough work for a single core, and for all of them.
        return probe_model(backbone, taps=taps, statistics=statistics, kernel=kernel, bias=bias)

    return build

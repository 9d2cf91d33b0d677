"""Computes the features for the cache: two frozen networks, run by OpenVINO on a CPU.

Example:
    >>> extractor = FeatureExtractor.default()
    >>> arrays = extractor(crops)
    >>> arrays["features"].shape, arrays["detail"].shape      # faces, taps, statistics, width; faces, channels
    ((32, 7, 3, 768), (32, 1280))
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.backbones import STATISTICS, Backbone, load_backbone
from fakeface_jax.backends.inference_layers import inference_layers
from fakeface_jax.backends.openvino_graph import build_model
from fakeface_jax.backends.probe_graph import features_model
from fakeface_jax.bundle import Bundle, load_bundle
from fakeface_jax.errors import ConfigError
from fakeface_jax.openvino_runtime import CPU_SETTINGS, import_openvino, openvino_core

BACKBONE = "clip-vit-base-patch16"
"""The backbone that the detector uses."""

DETAIL = "lite0"
"""The small network that the detector uses beside the backbone, a bundled model."""

TAPS = (2, 3, 4, 5, 6, 7, 8)
"""Blocks whose features are cached; heads choose among them."""


class FeatureExtractor:
    """The frozen networks, compiled for this machine's CPU.

    Attributes:
        id: name of the cache; follows from the networks' weights and the taps.
        size: side of the crops in pixels.
        taps: blocks of the backbone, counted from 0, whose output is used as features.

    Args:
        backbone: the backbone that computes the features.
        detail: bundle of the small network; the input of its last layer is kept.
        taps: blocks of the backbone, as in the attribute.

    Raises:
        ConfigError: OpenVINO cannot run the small network, or it takes crops of another size.
    """

    def __init__(self, backbone: Backbone, detail: Bundle, *, taps: Sequence[int]) -> None:
        self.id = hashlib.sha256(repr((backbone.sha256, tuple(taps), STATISTICS, detail.id)).encode()).hexdigest()[:16]
        self.size, self.taps = int(backbone.settings["size"]), tuple(taps)
        layers = inference_layers(detail.spec.model, detail.weights)
        if layers is None or detail.spec.crop.size != self.size:
            raise ConfigError(
                f"{detail.path}: OpenVINO must run it, with the crop size of {backbone.name}; name another"
            )
        streams = os.cpu_count() or 1
        settings = {**CPU_SETTINGS, "NUM_STREAMS": streams}
        pixels = detail.spec.normalization
        pooled = build_model(layers[:-1], size=self.size, mean=pixels.mean, std=pixels.std, one=True)
        self._queues = {}
        for name, model in (("features", features_model(backbone, taps)), ("detail", pooled)):
            compiled = openvino_core().compile_model(model, "CPU", settings)
            self._queues[name] = import_openvino().AsyncInferQueue(compiled, streams)

    @classmethod
    def default(cls) -> FeatureExtractor:
        """Creates the extractor of CLIP (`make backbone`) and lite0, at all depths. Raises `BundleError`."""
        return cls(load_backbone(BACKBONE), load_bundle(DETAIL), taps=TAPS)

    def __call__(self, crops: UInt8[np.ndarray, "n s s 3"]) -> dict[str, np.ndarray]:
        """Computes arrays in half precision, in order: `features` [n, taps, 3, width] and `detail` [n, channels]."""
        return {name: self._run(queue, crops) for name, queue in self._queues.items()}

    def _run(self, queue: Any, crops: UInt8[np.ndarray, "n s s 3"]) -> np.ndarray:
        found: list[Any] = [None] * len(crops)

        def keep(request: Any, place: int) -> None:
            found[place] = request.get_output_tensor(0).data[0].astype(np.float16)

        queue.set_callback(keep)
        for place in range(len(crops)):
            queue.start_async({0: np.ascontiguousarray(crops[place : place + 1])}, place)
        queue.wait_all()
        return np.stack(found)

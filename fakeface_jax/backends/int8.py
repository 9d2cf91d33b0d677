"""Makes a bundle compute in int8: faster on CPUs with fast integer arithmetic, and slightly less exact.

The bundle's weights stay the same; what is added are the ranges of the activations, observed on training faces. The new
bundle has other scores, so it has another id, and its probabilities and thresholds must be fitted again
(`fakeface_jax.training.finish.calibrate`), as `scripts/quantize.py` does.

Example:
    >>> spec = dataclasses.replace(bundle.spec, int8=observed_ranges(bundle, crops))
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from fakeface_jax.backends.inference_layers import inference_layers
from fakeface_jax.backends.openvino_graph import PIXELS, build_observer
from fakeface_jax.bundle import Bundle
from fakeface_jax.errors import ConfigError
from fakeface_jax.openvino_runtime import CPU_SETTINGS, openvino_core

FACES = 256
"""Training faces that suffice: with more, the ends of the ranges hardly move."""


def observed_ranges(bundle: Bundle, crops: UInt8[np.ndarray, "n s s 3"]) -> dict[str, tuple[float, float]]:
    """Observes the ranges of a network's activations on crops, by the names of the layers that compute them.

    Pixels are bytes already. Their range is included if normalisation only scales them; if it moves their zero, the
    first layer computes in float32, because rounding its input twice costs more than the layer.

    Raises:
        ConfigError: OpenVINO cannot run this network, or there are no crops.
    """
    spec = bundle.spec
    layers = inference_layers(spec.model, bundle.weights)
    if layers is None:
        raise ConfigError(f"{bundle.path}: int8 is available only for networks that OpenVINO runs; name another bundle")
    if not len(crops):
        raise ConfigError("ranges of activations are observed on faces, but there are none; pass at least one crop")
    mean, std = spec.normalization.mean, spec.normalization.std
    model, names = build_observer(layers, size=spec.crop.size, mean=mean, std=std)
    compiled = openvino_core().compile_model(model, "CPU", CPU_SETTINGS)
    request = compiled.create_infer_request()
    seen = np.stack([request.infer({0: np.ascontiguousarray(crop[None])})[0].copy() for crop in crops])
    low, high = seen[:, :, 0].min(axis=0), seen[:, :, 1].max(axis=0)
    ranges = {name: _levelled(ends) for name, ends in zip(names, np.stack([low, high], axis=1), strict=True)}
    del ranges[PIXELS]
    if not any(mean) and len(set(std)) == 1:
        ranges[PIXELS] = (0.0, 1.0 / std[0])
    return ranges


def _levelled(ends: Float32[np.ndarray, 2]) -> tuple[float, float]:
    """Widens a range so that 0 is one of its 256 levels: every zero, including padding, stays zero."""
    low, high = float(ends[0]), max(float(ends[1]), 1e-6)
    if low >= 0:
        return 0.0, high
    step = max(-low / 128, high / 127)
    return -128 * step, 127 * step

"""A trained network as a plain list of layers with their weights, from which other runtimes than JAX are built.

Batch normalisation is folded into the convolution before it, in float64. This module does not import JAX, so that a
process that only scores does not either. If anything is not understood here (another network, a setting, weights of
another shape), there are no layers, and JAX runs the network or reports what is wrong.

Example:
    >>> layers = inference_layers(bundle.spec.model, bundle.weights)
    >>> layers[0]
    Conv(...)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32

from fakeface_jax.efficientnet_lite_config import EPSILON, HEAD, SCALES, STEM, LiteBlock, lite_stages

Activation = Literal["none", "relu", "relu6"]

Edges = tuple[tuple[int, int], tuple[int, int]]
"""Pixels before and after, for rows and for columns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conv:
    """A convolution, channels last; `depthwise` if each channel has a filter of its own.

    Attributes:
        name: name in the bundle's weights.
        kernel: [height, width, channels in, channels out], or [height, width, channels].
        bias: bias of each channel.
        stride: stride of rows and columns.
        same: TensorFlow's `SAME` padding with zeros; otherwise `valid`.
        activation: activation of the result.
        depthwise: each channel has a filter of its own.
    """

    name: str
    kernel: Float32[np.ndarray, "*shape"]
    bias: Float32[np.ndarray, " d"]
    stride: int = 1
    same: bool = True
    activation: Activation = "none"
    depthwise: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaxPool:
    """A maximum over 2 x 2 windows with stride 2; an odd last row or column is dropped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepeatEdge:
    """One more row and column on each side, copied from the outermost one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flatten:
    """A layer that joins rows, columns and channels into one axis, channels fastest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Average:
    """The mean of each channel over all pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dense:
    """A matrix product.

    Attributes:
        name: name in the bundle's weights.
        kernel: [features in, features out].
        bias: bias of each feature.
        activation: activation of the result.
    """

    name: str
    kernel: Float32[np.ndarray, "f d"]
    bias: Float32[np.ndarray, " d"]
    activation: Activation = "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Residual:
    """The input plus the result of some layers applied to it."""

    layers: tuple[Conv, ...]


Layer = Conv | MaxPool | RepeatEdge | Flatten | Average | Dense | Residual


def inference_layers(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> tuple[Layer, ...] | None:
    """Returns the layers between normalised pixels [n, s, s, 3] and logits [n, 1].

    Args:
        config: configuration for `fakeface_jax.models.create_model`.
        weights: parameter path (joined by dots) to float array.

    Returns:
        None for networks that this module does not know, and for weights that do not belong to the network.
    """
    name = config.get("name")
    if not isinstance(name, str) or name not in _MAKERS or not set(config) <= _SETTINGS[name]:
        return None
    # Rounding to bfloat16 is part of a network that was trained with it.
    if config.get("dtype", "float32") != "float32" or config.get("input", "rgb") not in ("rgb", "residual"):
        return None
    taken = _Weights(weights)
    try:
        layers = _MAKERS[name](config, taken)
    except (KeyError, ValueError, TypeError):
        return None
    if taken.left:
        return None
    return (*_high_pass(), *layers) if config.get("input") == "residual" else tuple(layers)


class _Weights:
    """A bundle's weights; each must be taken once and have the shape that the network needs."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = weights
        self.left = set(weights)

    def take(self, name: str, *shape: int) -> Float32[np.ndarray, "*shape"]:
        self.left.remove(name)  # KeyError: the weight belongs to another network
        found = np.asarray(self._weights[name], np.float32)
        if found.shape != shape:
            raise ValueError(f"{name} has shape {found.shape}, not {shape}")
        return found


def _high_pass() -> tuple[Layer, ...]:
    """Builds `fakeface_jax.models.residual` as a convolution."""
    kernel = np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]], np.float32) / 4
    return (
        RepeatEdge(),
        Conv(
            name="high_pass",
            kernel=np.repeat(kernel[:, :, None], 3, axis=2),
            bias=np.zeros(3, np.float32),
            same=False,
            depthwise=True,
        ),
    )


def _report(config: Mapping[str, Any], weights: _Weights) -> list[Layer]:
    """Builds `fakeface_jax.models.cnn`."""
    side, channels = int(config.get("size", 150)), 3
    layers: list[Layer] = []
    for index, filters in enumerate((32, 64, 128)):
        kernel = weights.take(f"convs.{index}.kernel", 3, 3, channels, filters)
        bias = weights.take(f"convs.{index}.bias", filters)
        layers.append(Conv(name=f"convs.{index}", kernel=_f32(kernel), bias=_f32(bias), same=False, activation="relu"))
        layers.append(MaxPool())
        side, channels = (side - 2) // 2, filters
    layers.append(Flatten())
    inputs = side * side * channels
    for name, outputs, activation in (("dense1", 256, "relu"), ("dense2", 1, "none")):
        kernel, bias = weights.take(f"{name}.kernel", inputs, outputs), weights.take(f"{name}.bias", outputs)
        layers.append(Dense(name=name, kernel=_f32(kernel), bias=_f32(bias), activation=activation))  # type: ignore[arg-type]
        inputs = outputs
    return layers


def _lite(config: Mapping[str, Any], weights: _Weights) -> list[Layer]:
    """Builds `fakeface_jax.models.efficientnet_lite`."""
    layers: list[Layer] = [_folded(weights, "stem", "stem_norm", (3, 3, 3, STEM), stride=2, activation="relu6")]
    inputs = STEM
    for index, blocks in enumerate(lite_stages(int(str(config["name"])[-1]))):
        for number, block in enumerate(blocks):
            convs = _inverted_residual(weights, f"stages.{index}.{number}", block)
            layers += [Residual(layers=convs)] if block.residual else convs
            inputs = block.outputs
    layers.append(_folded(weights, "head", "head_norm", (1, 1, inputs, HEAD), activation="relu6"))
    kernel, bias = weights.take("classifier.kernel", HEAD, 1), weights.take("classifier.bias", 1)
    return [*layers, Average(), Dense(name="classifier", kernel=_f32(kernel), bias=_f32(bias))]


def _inverted_residual(weights: _Weights, name: str, block: LiteBlock) -> tuple[Conv, ...]:
    inner = block.inputs * block.expansion
    convs = []
    if block.expansion != 1:
        shape: tuple[int, ...] = (1, 1, block.inputs, inner)
        convs.append(_folded(weights, f"{name}.expand", f"{name}.expand_norm", shape, activation="relu6"))
    shape = (block.kernel, block.kernel, inner)
    convs.append(
        _folded(weights, f"{name}.depthwise", f"{name}.depthwise_norm", shape, stride=block.stride, activation="relu6")
    )
    convs.append(_folded(weights, f"{name}.project", f"{name}.project_norm", (1, 1, inner, block.outputs)))
    return tuple(convs)


def _folded(
    weights: _Weights,
    name: str,
    norm: str,
    shape: tuple[int, ...],
    *,
    stride: int = 1,
    activation: Activation = "none",
) -> Conv:
    """Returns a convolution without bias and the batch normalisation after it as one convolution."""
    channels = shape[-1]
    # In bundles a 1 x 1 convolution is stored as a matrix.
    kernel = weights.take(name, *(shape[2:] if shape[:2] == (1, 1) else shape)).reshape(shape)
    gain, shift, mean, var = (
        weights.take(f"{norm}.{part}", channels).astype(np.float64) for part in ("scale", "bias", "mean", "var")
    )
    with np.errstate(invalid="ignore"):  # variances are not negative; if one is, JAX gives NaN too
        scale = gain / np.sqrt(var + EPSILON)
    bias = shift - mean * scale
    return Conv(
        name=name,
        kernel=_f32(kernel * scale),
        bias=_f32(bias),
        stride=stride,
        activation=activation,
        depthwise=len(shape) == 3,
    )


def _f32(value: Float[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    return np.ascontiguousarray(value, np.float32)


_PIXELS = frozenset({"name", "size", "dtype", "input", "mean", "std"})
_LITE = _PIXELS | {
    "dropout",
    "drop_path",
    "frozen_stages",
    "running_statistics",
}  # these settings matter only in training
_LITES = tuple(f"efficientnet_lite{variant}" for variant in SCALES)

_MAKERS: dict[str, Callable[[Mapping[str, Any], _Weights], list[Layer]]] = {
    "report": _report,
    **dict.fromkeys(_LITES, _lite),
}
_SETTINGS = {"report": _PIXELS, **dict.fromkeys(_LITES, _LITE)}

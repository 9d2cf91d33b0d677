"""The networks and the functions that create them by name.

A network is a Flax NNX module that maps normalised float pixels [n, h, w, 3] to logits [n]; positive means fake. Pass
`key` for training mode, which turns on dropout and batch statistics.

Example:
    >>> model = create_model({"name": "efficientnet_lite0", "size": 160}, nnx.Rngs(0))
    >>> model(jnp.zeros((1, 160, 160, 3))).shape
    (1,)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from fakeface_jax.backbones import load_backbone
from fakeface_jax.errors import BundleError, ConfigError
from fakeface_jax.models.cnn import ReportCNN
from fakeface_jax.models.efficientnet_lite import EfficientNetLite
from fakeface_jax.models.experts import Experts
from fakeface_jax.models.feature_probe import FeatureProbe
from fakeface_jax.models.residual import high_pass
from fakeface_jax.models.vit import VisionTransformer
from fakeface_jax.network_config import members, pixel_scaling

Model = ReportCNN | EfficientNetLite | VisionTransformer | FeatureProbe | Experts
"""The type that `create_model` returns."""

_MODELS: dict[str, Callable[..., Model]] = {
    "report": ReportCNN,
    **{f"efficientnet_lite{variant}": functools.partial(EfficientNetLite, variant=variant) for variant in (0, 1, 2)},
    "vit": VisionTransformer,
    "feature_probe": FeatureProbe,
}

NAMES = (*_MODELS, "experts")
"""Names that `create_model` accepts."""

INPUTS = ("rgb", "residual")
"""Possible inputs of a network: the colours, or their residual after a high-pass filter."""

_NO_SETTINGS_OF_A_NETWORK = ("input", "mean", "std")


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that was split once into functions and arrays, so that no training step traverses Python objects.

    Attributes:
        config: the configuration for `create_model`.
        apply: (params, stats, normalised pixels) -> logits, outside training.
        train: (params, stats, normalised pixels, key) -> (logits, new stats).
        params: weights that training changes.
        stats: running statistics; empty for a network without any.
        summary: table of its layers and parameters.
        stage_of: maps a parameter's path to its stage, counted from the input.
    """

    config: Mapping[str, Any]
    apply: Callable[[nnx.State, nnx.State, Any], jax.Array]
    train: Callable[[nnx.State, nnx.State, Any, jax.Array], tuple[jax.Array, nnx.State]]
    params: nnx.State
    stats: nnx.State
    summary: str
    stage_of: Callable[[tuple[Any, ...]], int]


def create_model(config: Mapping[str, Any], rngs: nnx.Rngs) -> Model:
    """Creates a network with fresh weights.

    Args:
        config: `name`, one of `NAMES`, and that network's settings. It may also describe the preparation of the pixels,
            which the network itself ignores: `input`, one of `INPUTS`, and `mean` and `std`, see `pixel_scaling`.
        rngs: random numbers for the initial weights.

    Raises:
        ConfigError: the name or a setting is unknown.
    """
    settings = dict(config)
    name = settings.pop("name", None)
    if name == "experts":
        return _create_experts(settings, rngs)
    if not isinstance(name, str) or name not in _MODELS:
        raise ConfigError(f"unknown model {name!r}; use one of {', '.join(NAMES)}")
    if config.get("input", INPUTS[0]) not in INPUTS:
        raise ConfigError(f"unknown input {config['input']!r} of a network; use one of {', '.join(INPUTS)}")
    for key in _NO_SETTINGS_OF_A_NETWORK:
        settings.pop(key, None)
    try:
        return _MODELS[name](rngs=rngs, **settings)
    except TypeError as error:
        raise ConfigError(f"model {name!r} does not take these settings: {error}; remove them") from error


def _create_experts(settings: Mapping[str, Any], rngs: nnx.Rngs) -> Experts:
    members = settings.get("experts")
    if not isinstance(members, Sequence) or not all(isinstance(one, Mapping) for one in members):
        raise ConfigError("a fusion of experts must list the networks' configurations as `experts`")
    size = settings.get("size")
    if any(size is not None and one.get("size", size) != size for one in members):
        raise ConfigError(f"all experts must take crops of the fusion's size, {size}")
    return Experts([create_model(one, rngs) for one in members], [pixel_scaling(one) for one in members])


def build_network(config: Mapping[str, Any], *, seed: int | None) -> Network:
    """Creates a network as pure functions and its initial weights.

    Args:
        config: configuration for `create_model`.
        seed: seed of the initial weights; None creates only shapes and draws no random numbers.

    Raises:
        ConfigError: the name or a setting is unknown.
    """
    if seed is None:
        model = nnx.eval_shape(lambda: create_model(config, nnx.Rngs(0)))
    else:
        model = create_model(config, nnx.Rngs(seed))
    summary = model.summary() if seed is not None else ""
    graph, *parts = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    params, stats, rest = parts
    prepare: Callable[[Any], Any] = high_pass if config.get("input") == "residual" else lambda pixels: pixels

    def apply(params: nnx.State, stats: nnx.State, pixels: Any) -> jax.Array:
        return nnx.merge(graph, params, stats, rest)(prepare(pixels))

    def train(params: nnx.State, stats: nnx.State, pixels: Any, key: jax.Array) -> tuple[jax.Array, nnx.State]:
        # Copied, because the statistics come from outside the trace that changes them.
        model = nnx.merge(graph, params, stats, rest, copy=True)
        logits = model(prepare(pixels), key=key)
        return logits, nnx.state(model, nnx.BatchStat)

    return Network(
        config=config,
        apply=apply,
        train=train,
        params=params,
        stats=stats,
        summary=summary,
        stage_of=model.stage_of,
    )


def flatten_state(state: nnx.State) -> dict[str, np.ndarray]:
    """Converts a parameter state to arrays by paths joined by dots, the form that bundles store."""
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def fill_state(state: nnx.State, weights: Mapping[str, np.ndarray], *, name: str) -> nnx.State:
    """Returns the state with its arrays, or placeholders of arrays, replaced by the given weights.

    Raises:
        BundleError: the weights do not belong to this model.
    """
    flat = dict(nnx.to_flat_state(state))
    names = {".".join(map(str, path)): path for path in flat}
    if names.keys() != weights.keys():
        odd = sorted(names.keys() ^ weights.keys())
        raise BundleError(f"the weights do not belong to {name!r}: {', '.join(odd[:4])} differ")
    for key, path in names.items():
        if flat[path].shape != weights[key].shape:
            raise BundleError(f"weight {key} has shape {weights[key].shape}, but the model's has {flat[path].shape}")
        flat[path] = flat[path].replace(weights[key])
    return nnx.from_flat_state(flat)


def apply_function(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> tuple[Callable[[tuple[nnx.State, nnx.State], Any], Any], tuple[nnx.State, nnx.State]]:
    """Returns a pure function `(state, pixels) -> logits` and the state with the given weights.

    Raises:
        ConfigError: this release does not know the model.
        BundleError: the weights do not belong to this model.
    """
    network = build_network(config, seed=None)
    weights = with_backbone(config, weights)
    kinds = flatten_shapes(network.stats)
    name = str(config.get("name"))
    params = fill_state(network.params, {key: value for key, value in weights.items() if key not in kinds}, name=name)
    stats = fill_state(network.stats, {key: value for key, value in weights.items() if key in kinds}, name=name)

    def apply(state: tuple[nnx.State, nnx.State], pixels: Any) -> Any:
        return network.apply(*state, pixels)

    return apply, (params, stats)


def with_backbone(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Returns a bundle's weights, with those of its backbone if it names one.

    Raises:
        BundleError: this release does not contain the backbone.
    """
    if config.get("name") == "experts":
        found: dict[str, np.ndarray] = {}
        for index, (member, own) in enumerate(members(config, weights)):
            found |= {f"experts.{index}.{name}": value for name, value in with_backbone(member, own).items()}
        return found
    if config.get("name") != "feature_probe":
        return weights
    backbone = load_backbone(str(config.get("backbone")), config.get("backbone_sha256"))
    frozen = {f"backbone.{name}": value for name, value in backbone.weights().items()}
    return {**frozen, **weights}


def flatten_shapes(state: nnx.State) -> dict[str, tuple[int, ...]]:
    """Maps paths joined by dots to the shapes of arrays or of their placeholders."""
    return {".".join(map(str, path)): tuple(leaf.shape) for path, leaf in nnx.to_flat_state(state)}

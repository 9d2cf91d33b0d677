"""The networks, by name.

A network is a Flax NNX module that maps float pixels [n, h, w, 3] to logits [n]; positive means fake.

Example:
    >>> model = create_model({"name": "report"}, nnx.Rngs(0))
    >>> model(jnp.zeros((1, 150, 150, 3))).shape
    (1,)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from fakeface_jax.errors import BundleError, ConfigError
from fakeface_jax.models.cnn import ReportCNN

Model = ReportCNN
"""What `create_model` makes; a union once there are several."""

_MODELS: dict[str, Callable[..., Model]] = {"report": ReportCNN}

NAMES = tuple(_MODELS)
"""What `create_model` knows."""


def create_model(config: Mapping[str, Any], rngs: nnx.Rngs) -> Model:
    """Makes a network with fresh weights.

    Args:
        config: `name`, one of `NAMES`, and that network's settings.
        rngs: where the initial weights come from.

    Raises:
        ConfigError: unknown name or setting.
    """
    settings = dict(config)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in _MODELS:
        raise ConfigError(f"unknown model {name!r}; known: {', '.join(NAMES)}")
    try:
        return _MODELS[name](rngs=rngs, **settings)
    except TypeError as error:
        raise ConfigError(f"model {name!r} does not take these settings: {error}") from error


def flatten_state(state: nnx.State) -> dict[str, np.ndarray]:
    """A parameter state as paths joined by dots to arrays, the form bundles store."""
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def apply_function(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> tuple[Callable[[nnx.State, Any], Any], nnx.State]:
    """A pure function `(state, pixels) -> logits` and the state that holds the given weights.

    Raises:
        ConfigError: the model is unknown to this release.
        BundleError: the weights are not this model's.
    """
    # eval_shape: the shapes of the weights without drawing 9.5 million random numbers.
    model = nnx.eval_shape(lambda: create_model(config, nnx.Rngs(0)))
    graph, *parts = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)
    state, rest = parts
    flat = dict(nnx.to_flat_state(state))
    names = {".".join(map(str, path)): path for path in flat}
    if names.keys() != weights.keys():
        odd = sorted(names.keys() ^ weights.keys())
        raise BundleError(f"the weights are not those of {config.get('name')!r}: {', '.join(odd[:4])} differ")
    for name, path in names.items():
        if flat[path].shape != weights[name].shape:
            raise BundleError(f"weight {name} has shape {weights[name].shape}, the model's is {flat[path].shape}")
        flat[path] = flat[path].replace(weights[name])
    loaded = nnx.from_flat_state(flat)

    def apply(state: nnx.State, pixels: Any) -> Any:
        return nnx.merge(graph, state, rest)(pixels)

    return apply, loaded

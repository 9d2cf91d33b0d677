"""What a run carries from step to step, and how it lies on the devices.

Example:
    >>> network, params = build_network({"name": "report"}, seed=0)
    >>> state = init_state(params, optimizer)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fakeface_jax.errors import ConfigError
from fakeface_jax.models import create_model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Step counter, weights and the optimiser's memory: one pytree.

    JAX and Orbax also make it of placeholders and of shapes, so the types hold for states that a step takes.
    """

    step: jax.Array | Any
    params: nnx.State | Any
    opt_state: optax.OptState | Any


@dataclasses.dataclass(frozen=True)
class Network:
    """A network taken apart once, so that no step walks its Python objects.

    Attributes:
        apply: (params, float pixels) -> logits.
        config: what `create_model` made it from.
        summary: its layers and parameters as a table.
    """

    apply: Callable[[nnx.State, Any], jax.Array]
    config: Mapping[str, Any]
    summary: str


def build_network(config: Mapping[str, Any], *, seed: int) -> tuple[Network, nnx.State]:
    """A network and its fresh weights."""
    model = create_model(config, nnx.Rngs(seed))
    summary = model.summary()
    graph, *parts = nnx.split(model, nnx.Param, ...)
    params, rest = parts

    def apply(params: nnx.State, pixels: Any) -> jax.Array:
        return nnx.merge(graph, params, rest)(pixels)

    return Network(apply=apply, config=config, summary=summary), params


def init_state(params: nnx.State, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Data parallelism over all local devices: weights everywhere, each device its part of the batch."""

    mesh: Mesh

    @classmethod
    def over_local_devices(cls, batch_size: int) -> Layout:
        """All devices. Raises `ConfigError` where the batch cannot be divided among them."""
        devices = np.array(jax.devices())
        if batch_size % len(devices):
            raise ConfigError(f"batch size {batch_size} cannot be divided among {len(devices)} devices")
        return cls(Mesh(devices, ("data",)))

    def replicate(self, tree: Any) -> Any:
        """The same values on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def split(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A host batch, divided along its first axis."""
        sharding = NamedSharding(self.mesh, PartitionSpec("data"))
        return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}

"""What a run carries from step to step, and how it lies on the devices.

Example:
    >>> state = init_state(build_network({"name": "report"}, seed=0), optimizer)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fakeface_jax.errors import ConfigError
from fakeface_jax.models import Network


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Step counter, weights, statistics and the optimiser's memory: one pytree.

    JAX and Orbax also make it of placeholders and of shapes, so the types hold for states that a step takes.

    Attributes:
        step: updates so far.
        params: what the optimiser moves.
        stats: running statistics of normalisation.
        average: exponential moving average of (params, stats), or None where the run keeps none.
        opt_state: the optimiser's memory.
    """

    step: jax.Array | Any
    params: nnx.State | Any
    stats: nnx.State | Any
    average: tuple[nnx.State, nnx.State] | Any
    opt_state: optax.OptState | Any

    @property
    def weights(self) -> tuple[nnx.State, nnx.State]:
        """The (params, stats) that are validated, kept and shipped: the average where there is one."""
        return (self.params, self.stats) if self.average is None else self.average


def init_state(network: Network, optimizer: optax.GradientTransformation, *, average: bool = False) -> TrainState:
    """The state before the first step."""
    # Copies: a step gives the memory of its state away, and no two of its arrays may share one.
    mean = jax.tree.map(jnp.array, (network.params, network.stats)) if average else None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=network.params,
        stats=network.stats,
        average=mean,
        opt_state=optimizer.init(network.params),
    )


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

"""The state of a run between steps, and its layout on the devices.

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
    """Step counter, weights, statistics and the optimiser's state, as one pytree.

    JAX and Orbax also fill it with placeholders and shapes; the types hold for states that a step takes.

    Attributes:
        step: number of updates so far.
        params: weights that the optimiser updates.
        stats: running statistics of normalisation.
        average: exponential moving average of (params, stats), or None if the run keeps none.
        opt_state: state of the optimiser.
    """

    step: jax.Array | Any
    params: nnx.State | Any
    stats: nnx.State | Any
    average: tuple[nnx.State, nnx.State] | Any
    opt_state: optax.OptState | Any

    @property
    def weights(self) -> tuple[nnx.State, nnx.State]:
        """Returns the (params, stats) to validate, keep and store in the bundle: the average, if there is one."""
        return (self.params, self.stats) if self.average is None else self.average


def init_state(network: Network, optimizer: optax.GradientTransformation, *, average: bool = False) -> TrainState:
    """Returns the state before the first step."""
    # Copied: a step donates the memory of its state, and no two of its arrays may share memory.
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
    """Data parallelism over all local devices: weights are on every device, and the batch is divided among them."""

    mesh: Mesh

    @classmethod
    def over_local_devices(cls, batch_size: int) -> Layout:
        """Uses all local devices. Raises `ConfigError` if the batch cannot be divided among them."""
        devices = np.array(jax.devices())
        if batch_size % len(devices):
            raise ConfigError(f"batch size {batch_size} cannot be divided among {len(devices)} devices; use a multiple")
        return cls(Mesh(devices, ("data",)))

    def replicate(self, tree: Any) -> Any:
        """Puts the same values on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def split(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Divides a host batch along its first axis."""
        sharding = NamedSharding(self.mesh, PartitionSpec("data"))
        return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}

"""Makes the optimiser of a run: Adam or AdamW, a schedule, layer-wise learning rates, frozen stages.

Example:
    >>> optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3, schedule="cosine"), network, steps=10_000)
"""

from __future__ import annotations

from typing import Any

import jax
import optax
from flax import nnx

from fakeface_jax.errors import ConfigError
from fakeface_jax.models import Network
from fakeface_jax.models.vit import layer_norm_only
from fakeface_jax.training.train_config import NetworkConfig, OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns the learning rate by step: a linear warm-up, then constant or a cosine that ends at zero."""
    warmup = round(config.warmup * steps)
    if config.schedule == "cosine":
        # Loshchilov and Hutter, 2017. The schedule would divide by a warm-up of zero steps.
        return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, warmup + 1))
    constant = optax.constant_schedule(config.learning_rate)
    if not warmup:
        return constant
    return optax.join_schedules([optax.linear_schedule(0.0, config.learning_rate, warmup), constant], [warmup])


def make_optimizer(
    config: OptimizerConfig, network: Network, *, steps: int, trained: NetworkConfig = NetworkConfig()
) -> optax.GradientTransformation:
    """Returns the update rule of a run.

    Args:
        network: the network whose weights are updated; `stage_of` orders them.
        steps: steps of the whole run, for the schedule.
        trained: which weights are trained, by `frozen_stages` and `tune`.

    Raises:
        ConfigError: only layer normalisations are to be tuned, but there are none.
    """
    flat = nnx.to_flat_state(network.params)
    stages = [network.stage_of(path) for path, _ in flat]
    last = max(stages)

    def tree(values: list[Any]) -> Any:
        """Builds a tree with one value per weight, in the place of the weight's array."""
        return jax.tree.unflatten(jax.tree.structure(network.params), values)

    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts += [optax.scale_by_adam()]
    if config.weight_decay:
        parts += [optax.add_decayed_weights(config.weight_decay, mask=_decays)]
    moved = optax.chain(*parts)
    moving = [stage >= trained.frozen_stages for stage in stages]
    if trained.tune == "layer-norm":
        if network.config["name"] != "vit":
            raise ConfigError(
                f"{network.config['name']!r} has no layer normalisation to tune; use --tune all, or the network vit"
            )
        moving = [moves and layer_norm_only(path) for moves, (path, _) in zip(moving, flat, strict=True)]
    if not all(moving):
        kinds = tree(["moved" if moves else "frozen" for moves in moving])
        moved = optax.partition({"moved": moved, "frozen": optax.set_to_zero()}, kinds)
    chain = [moved]
    if config.layer_decay != 1.0:
        factors = tree([config.layer_decay ** (last - stage) for stage in stages])
        chain += [optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors))]
    return optax.chain(*chain, optax.scale_by_learning_rate(learning_rate(config, steps)))


def _decays(params: Any) -> Any:
    """Tells which weights decay: matrices and kernels do; scales, shifts and biases, which have one axis, do not."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

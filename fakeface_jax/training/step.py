"""The jitted training and evaluation steps: uint8 batch in, augmentation, loss, gradient, update in one program.

Example:
    >>> step = make_train_step(graph, optimizer, config)
    >>> state, metrics = step(state, batch)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from fakeface_jax.data.augment import AugmentConfig, augment
from fakeface_jax.training.state import Network, TrainState

Metrics = dict[str, jax.Array]
"""Scalars: `loss` (mean binary cross-entropy), `correct` and `count` (samples)."""


def cross_entropy(logits: Float[Array, " n"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Binary cross-entropy per sample, in nats; label 1 is fake."""
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def make_train_step(
    network: Network, optimizer: optax.GradientTransformation, config: AugmentConfig, *, seed: int
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """The update of one batch. Metrics are of the weights before it, as they were when the batch was seen."""

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        # The key follows from seed and step alone, so a resumed run draws what an uninterrupted one would.
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        pixels = augment(key, batch["image"], config) / 255.0

        def loss_of(params: nnx.State) -> tuple[jax.Array, jax.Array]:
            logits = network.apply(params, pixels)
            return cross_entropy(logits, batch["label"]).mean(), logits

        (loss, logits), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        correct = jnp.sum((logits > 0) == (batch["label"] > 0.5))
        metrics = {"loss": loss, "correct": correct, "count": jnp.asarray(len(logits))}
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    # Donation: the old weights' memory takes the new ones.
    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(network: Network) -> Callable[[nnx.State, Any], tuple[jax.Array, Metrics]]:
    """Logits and sums over the samples of a batch that are no padding; pictures are only rescaled."""

    def eval_step(params: nnx.State, batch: Any) -> tuple[jax.Array, Metrics]:
        logits = network.apply(params, batch["image"].astype(jnp.float32) / 255.0)
        mask = batch["mask"]
        loss = jnp.sum(cross_entropy(logits, batch["label"]) * mask)
        correct = jnp.sum(((logits > 0) == (batch["label"] > 0.5)) * mask)
        return logits, {"loss": loss, "correct": correct, "count": mask.sum()}

    return jax.jit(eval_step)

"""The jitted training and evaluation steps: augmentation, loss, gradient and update of a uint8 batch in one program.

Example:
    >>> step = make_train_step(network, optimizer, config)
    >>> state, metrics = step(state, batch)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from fakeface_jax.data.augment import augment
from fakeface_jax.data.augmentation_config import SELF_BLENDED, UP_SAMPLED
from fakeface_jax.data.degrade import degrade
from fakeface_jax.models import Network, pixel_scaling
from fakeface_jax.training.train_config import LossConfig, TrainConfig
from fakeface_jax.training.train_state import TrainState

Metrics = dict[str, jax.Array]
"""Scalars: `loss` (mean binary cross-entropy), `correct` and `count` (samples); in training also `self_blended` and
`up_sampled`, the numbers of samples that were fakes made from real faces."""


def cross_entropy(logits: Float[Array, " n"], labels: Float[Array, " n"]) -> Float[Array, " n"]:
    """Computes the binary cross-entropy per sample, in nats; label 1 is fake."""
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def training_loss(logits: Float[Array, " n"], labels: Float[Array, " n"], config: LossConfig) -> Float[Array, ""]:
    """Computes the loss that a step minimises, in nats."""
    targets = labels * (1 - config.label_smoothing) + config.label_smoothing / 2
    losses = cross_entropy(logits, targets)
    if not config.separate_classes:
        return losses.mean()
    # A class that the batch lacks has no weight, and nothing is divided by zero.
    means = [jnp.sum(losses * mine) / jnp.maximum(mine.sum(), 1) for mine in (labels < 0.5, labels > 0.5)]
    return (means[0] + means[1]) / 2


def normalize(pixels: Float[Array, "n h w 3"], network: Network) -> Float[Array, "n h w 3"]:
    """Scales pixels from 0 to 255 as the network takes them."""
    mean, std = (np.array(values, np.float32) for values in pixel_scaling(network.config))
    return (pixels / 255.0 - mean) / std


def make_train_step(
    network: Network, optimizer: optax.GradientTransformation, config: TrainConfig
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Returns the update for one batch. Its metrics belong to the weights before the update."""

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        # Keys depend only on seed and step, so a resumed run draws the same as an uninterrupted one.
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        warped = augment(key, batch["image"], config.augment)
        pixels = normalize(degrade(jax.random.fold_in(key, 1), warped, config.degrade), network)

        def loss_of(params: nnx.State) -> tuple[jax.Array, tuple[jax.Array, nnx.State]]:
            logits, stats = network.train(params, state.stats, pixels, jax.random.fold_in(key, 2))
            return training_loss(logits, batch["label"], config.loss), (logits, stats)

        (loss, (logits, stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        correct = jnp.sum((logits > 0) == (batch["label"] > 0.5))
        pseudo = batch.get("pseudo", jnp.zeros(len(logits), jnp.int32))
        metrics = {
            "loss": loss,
            "correct": correct,
            "count": jnp.asarray(len(logits)),
            "self_blended": jnp.sum(pseudo == SELF_BLENDED),
            "up_sampled": jnp.sum(pseudo == UP_SAMPLED),
        }
        moved = TrainState(
            step=state.step + 1,
            params=params,
            stats=stats,
            average=_moved_average(state, (params, stats), config.optimizer.average),
            opt_state=opt_state,
        )
        return moved, metrics

    # Donation: the new weights take the memory of the old ones.
    return jax.jit(train_step, donate_argnums=0)


def _moved_average(state: TrainState, new: tuple[nnx.State, nnx.State], decay: float | None) -> Any:
    if decay is None:
        return None
    kept = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    return jax.tree.map(lambda old, one: kept * old + (1 - kept) * one, state.average, new)


def make_eval_step(network: Network) -> Callable[[tuple[nnx.State, nnx.State], Any], tuple[jax.Array, Metrics]]:
    """Returns a function from a batch to logits and sums over its unpadded samples; pictures are only rescaled."""

    def eval_step(weights: tuple[nnx.State, nnx.State], batch: Any) -> tuple[jax.Array, Metrics]:
        logits = network.apply(*weights, normalize(batch["image"].astype(jnp.float32), network))
        mask = batch["mask"]
        loss = jnp.sum(cross_entropy(logits, batch["label"]) * mask)
        correct = jnp.sum(((logits > 0) == (batch["label"] > 0.5)) * mask)
        return logits, {"loss": loss, "correct": correct, "count": mask.sum()}

    return jax.jit(eval_step)

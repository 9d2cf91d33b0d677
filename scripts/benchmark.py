"""Measures speed as a ratio in one run, interleaved, medians over rounds: machines are noisy, ratios are not.

    make benchmark-training
    python scripts/benchmark.py training

`training`: one optimisation step of the report's network, batch 32, float32: the step that `fakeface train` runs on
this platform against plain Flax (nnx.Conv, nnx.max_pool, nnx.Linear), same weights, same batch. Prints the losses of
both over a few steps too: a fast step that computes something else is worth nothing.
"""

from __future__ import annotations

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from fakeface_jax.models import create_model
from fakeface_jax.models.cnn import ReportCNN


class PlainCNN(nnx.Module):
    """The report's network as anyone would write it in Flax, sharing the weights of ours."""

    def __init__(self, ours: ReportCNN) -> None:
        self.convs, self.dense1, self.dense2 = ours.convs, ours.dense1, ours.dense2

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""
        for conv in self.convs:
            x = nnx.max_pool(nnx.relu(conv(x)), (2, 2), (2, 2))
        return self.dense2(nnx.relu(self.dense1(x.reshape(len(x), -1))))[:, 0]


def make_step(model: nnx.Module):  # noqa: ANN201 - a jitted function and its state
    """A jitted step and its first state."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(state, images, labels):  # noqa: ANN001, ANN202
        params, memory = state

        def loss_of(params):  # noqa: ANN001, ANN202
            logits = nnx.merge(graph, params, rest)(images)
            return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

        loss, gradient = jax.value_and_grad(loss_of)(params)
        updates, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(params, updates), memory), loss

    return step, (params, optimizer.init(params))


def training(rounds: int, batch: int) -> dict[str, object]:
    """Images per second of both steps, and the largest difference of their losses."""
    random = np.random.default_rng(0)
    images = jnp.asarray(random.random((batch, 150, 150, 3)), jnp.float32)
    labels = jnp.asarray(random.integers(0, 2, batch), jnp.float32)
    ours = create_model({"name": "report"}, nnx.Rngs(0))
    steps = {"ours": make_step(ours), "plain Flax": make_step(PlainCNN(ours))}
    states = {name: state for name, (_, state) in steps.items()}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, (step, _) in steps.items():
            started = time.perf_counter()
            states[name], loss = step(states[name], images, labels)
            jax.block_until_ready(states[name])
            if turn:
                # The first turn compiles.
                seconds[name].append(time.perf_counter() - started)
            losses[name].append(float(loss))
    ratios = np.array(seconds["plain Flax"]) / np.array(seconds["ours"])
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "batch": batch,
        "rounds": rounds,
        "images_per_second": {name: round(batch / float(np.median(times)), 1) for name, times in seconds.items()},
        "ratio": {"median": float(np.median(ratios)), "min": float(ratios.min()), "max": float(ratios.max())},
        "largest_loss_difference": float(np.abs(np.subtract(*losses.values())).max()),
    }


def main() -> None:
    """Runs the named benchmark and prints its result as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["training"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    print(json.dumps(training(options.rounds, options.batch), indent=2))


if __name__ == "__main__":
    main()

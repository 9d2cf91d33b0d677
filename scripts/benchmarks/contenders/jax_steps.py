"""Ours: training steps, as `fakeface train` runs them, and plain Flax beside them.

    jax_steps.py FOLDER NETWORK KIND [DATA]

KIND is `ours` (the step on a uint8 batch as it is), `plain` (the report's network as anyone would write it in Flax,
same optimiser), `augmented` (the step with its augmentation, on a batch that is on the device already), or `fed` (the
same step, fed from the ArrayRecord files in DATA as the training loop does). FOLDER holds `batch.npz`; `ours` leaves
its first weights there for the peers. `part` of a question times less than a step, for a profile.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from serving import serve


def make() -> Any:
    """The program's answers."""
    import jax
    import numpy as np

    from fakeface_jax.data.augment import NO_AUGMENTATION, augment
    from fakeface_jax.data.augmentation_config import AugmentConfig, LoaderConfig
    from fakeface_jax.models import build_network, flatten_state
    from fakeface_jax.training.optimizer import make_optimizer
    from fakeface_jax.training.train_config import OptimizerConfig, TrainConfig
    from fakeface_jax.training.train_loop import FLUSH_EVERY
    from fakeface_jax.training.train_state import Layout, init_state
    from fakeface_jax.training.train_step import make_train_step, normalize, training_loss

    folder, name, kind, *data = sys.argv[1:]
    with np.load(Path(folder) / "batch.npz") as found:
        images, labels, dtype = found["images"], found["labels"], str(found["dtype"])
    settings: dict[str, Any] = {"name": name, "size": images.shape[1], "dtype": dtype}
    if name.startswith("efficientnet_lite"):
        # What is dropped at random differs between frameworks; without it, losses can be compared.
        settings |= {"dropout": 0.0, "drop_path": 0.0}
    config = TrainConfig(
        data=Path(folder),
        output=Path(folder),
        model=name,
        dtype=dtype,
        augment=NO_AUGMENTATION if kind in ("ours", "plain") else AugmentConfig(),
        optimizer=OptimizerConfig(learning_rate=1e-4),
        loader=LoaderConfig(batch_size=len(images)),
    )
    network = build_network(settings, seed=0)
    if kind == "ours":
        np.savez(Path(folder) / "weights.npz", **flatten_state(network.params))
    if kind == "plain":
        network = plain(network)
    optimizer = make_optimizer(config.optimizer, network, steps=1000)
    layout = Layout.over_local_devices(len(images))
    state = layout.replicate(init_state(network, optimizer))
    step = make_train_step(network, optimizer, config)
    batch = layout.split({"image": images, "label": labels})
    batches = None
    if kind == "fed":
        from fakeface_jax.data.dataset import open_dataset
        from fakeface_jax.data.loader import train_batches

        dataset = open_dataset(data[0])
        records = dataset.source("train", pictures=False)
        batches = iter(train_batches(dataset.source("train"), config.loader, seed=0, records=records))

    def run(steps: int) -> dict[str, Any]:
        nonlocal state
        losses: list[float] = []
        pending = []
        started = time.perf_counter()
        for number in range(steps):
            given = batch if batches is None else layout.split(next(batches))
            state, metrics = step(state, given)
            pending.append(metrics["loss"])
            if len(pending) == FLUSH_EVERY or number == steps - 1:
                losses += [float(loss) for loss in pending]
                pending.clear()
        jax.block_until_ready(state)
        return {"seconds": time.perf_counter() - started, "losses": losses}

    def parts(steps: int, part: str) -> dict[str, Any]:
        """Seconds of one part of the step, as a program of its own."""

        def pixels() -> Any:
            return normalize(augment(jax.random.key(0), batch["image"], config.augment), network)

        def loss(params: Any) -> Any:
            logits, _ = network.train(params, state.stats, pixels(), jax.random.key(0))
            return training_loss(logits, batch["label"], config.loss)

        made = {
            "augment": jax.jit(lambda params: pixels()),
            "forward": jax.jit(loss),
            "gradient": jax.jit(jax.grad(loss)),
            "update": jax.jit(lambda params: optimizer.update(params, state.opt_state, params)),
        }[part]
        jax.block_until_ready(made(state.params))
        started = time.perf_counter()
        for _ in range(steps):
            jax.block_until_ready(made(state.params))
        return {"seconds": time.perf_counter() - started}

    def cost() -> dict[str, Any]:
        """XLA's count of a step's operations and bytes."""
        found = step.lower(state, batch).compile().cost_analysis()
        return {"flops": found["flops"], "bytes": found["bytes accessed"], "device": jax.devices()[0].device_kind}

    def answer(steps: int = 1, part: str = "") -> dict[str, Any]:
        if part == "cost":
            return cost()
        return parts(steps, part) if part else run(steps)

    return answer


def plain(network: Any) -> Any:
    """The report's network as anyone would write it in Flax, with the same first weights."""
    import dataclasses

    import jax
    from flax import nnx

    from fakeface_jax.models import create_model

    class PlainCNN(nnx.Module):
        """nnx.Conv, nnx.max_pool, nnx.Linear."""

        def __init__(self, ours: Any) -> None:
            self.convs, self.dense1, self.dense2 = ours.convs, ours.dense1, ours.dense2

        def __call__(self, x: jax.Array) -> jax.Array:
            """Logits."""
            for conv in self.convs:
                x = nnx.max_pool(nnx.relu(conv(x)), (2, 2), (2, 2))
            return self.dense2(nnx.relu(self.dense1(x.reshape(len(x), -1))))[:, 0]

    graph, params, stats, rest = nnx.split(
        PlainCNN(create_model(network.config, nnx.Rngs(0))), nnx.Param, nnx.BatchStat, ...
    )

    def train(params: nnx.State, stats: nnx.State, pixels: Any, key: Any) -> Any:
        return nnx.merge(graph, params, stats, rest)(pixels), stats

    return dataclasses.replace(network, train=train, params=params, stats=stats)


if __name__ == "__main__":
    serve(make)

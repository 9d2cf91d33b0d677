"""Batches of crops through Grain: sharded by process before the shuffle, and resumable to the sample.

Example:
    >>> batches = train_batches(dataset.source("train"), LoaderConfig(batch_size=32), seed=0)
    >>> iterator = iter(batches)
    >>> next(iterator)["image"].shape
    (32, 150, 150, 3)
    >>> state = iterator.get_state()        # iterator.set_state(state) continues at the very next batch
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import absl.flags
import grain
import jax
import numpy as np

from fakeface_jax.data.config import LoaderConfig
from fakeface_jax.errors import ConfigError, DataError

Batch = dict[str, np.ndarray]
"""`image` uint8 [n, h, w, 3], `label` float32 [n], `mask` float32 [n]: 1 for a sample, 0 for padding."""


class _Decode(grain.transforms.Map):
    """The two features a step needs. Text features stay on disk: a device cannot hold them."""

    def map(self, element: Any) -> dict[str, np.ndarray]:
        return {"image": np.asarray(element["image"], np.uint8), "label": np.asarray(element["label"], np.float32)}


def _shard(source: Any, processes: tuple[int, int] | None) -> grain.MapDataset:
    index, count = processes or (jax.process_index(), jax.process_count())
    # Shards of equal length, so that no process waits for another at the end of an epoch.
    return grain.MapDataset.source(source)[index : len(source) // count * count : count]


def steps_per_epoch(source: Any, config: LoaderConfig) -> int:
    """Whole batches in the split; the rest is left out of this epoch (another rest in each)."""
    steps = len(source) // config.batch_size
    if steps < 1:
        raise DataError(f"{len(source)} training samples make no batch of {config.batch_size}; lower the batch size")
    return steps


def train_batches(
    source: Any, config: LoaderConfig, *, seed: int, processes: tuple[int, int] | None = None
) -> grain.IterDataset:
    """Endless shuffled batches, every epoch in another order that follows from the seed.

    Args:
        source: random access to samples, from `Dataset.source`.
        seed: of the shuffle.
        processes: (this process's index, how many); None asks JAX.

    Raises:
        ConfigError: a batch that cannot be divided among the processes.
        DataError: fewer samples than one batch.
    """
    count = (processes or (0, jax.process_count()))[1]
    if config.batch_size % count:
        raise ConfigError(f"batch size {config.batch_size} cannot be divided among {count} processes")
    steps_per_epoch(source, config)
    batches = (
        _shard(source, processes)
        .seed(seed)
        .shuffle()
        .map(_Decode())
        .batch(config.batch_size // count, drop_remainder=True)
        .repeat()
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    )
    if config.workers:
        # Grain reads absl flags in its workers and fails where nobody parsed a command line through absl.
        absl.flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=2)
        )
    return batches


def evaluation_batches(source: Any, batch_size: int, *, processes: tuple[int, int] | None = None) -> Iterator[Batch]:
    """Every sample of this process once, in order; the last batch is padded with zeros and masked."""
    index, count = processes or (jax.process_index(), jax.process_count())
    samples = grain.MapDataset.source(source)[index::count].map(_Decode()).batch(batch_size)
    for batch in samples.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)):
        filled = len(batch["label"])
        padding = batch_size - filled
        yield {
            "image": np.pad(batch["image"], [(0, padding)] + [(0, 0)] * 3),
            "label": np.pad(batch["label"], (0, padding)),
            "mask": np.pad(np.ones(filled, np.float32), (0, padding)),
        }

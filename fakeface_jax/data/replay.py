"""Draws the samples of an update: new ones together with old ones, which are repeated so that they are not forgotten.

The samples of the whole run are drawn in advance, with classes in the proportions of `loader.group_shares` and a fixed
share of new samples in each class; shuffled, they make the batches. New samples are used about once per epoch; old ones
are used in an order of their own that continues over the epochs, so that few of them repeat. (Replay of stored samples:
Robins, 1995.)

Example:
    >>> drawn = replay(dataset.source("train", pictures=False), newest(dataset, "train"), LoaderConfig(), share=0.5,
    ...                epochs=5, seed=0)
    >>> batches = train_batches(Chosen(dataset.source("train"), drawn.rows), LoaderConfig(), seed=0)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Int64

from fakeface_jax.data.augmentation_config import LoaderConfig, PseudoFakeConfig
from fakeface_jax.data.dataset import Dataset, JoinedDataset
from fakeface_jax.data.loader import group_rows, group_shares, kept_indices
from fakeface_jax.errors import DataError
from fakeface_jax.labels import Label


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """The samples that were drawn.

    Attributes:
        rows: rows of the joined split, each as often as it is drawn in the whole run; to be shuffled.
        steps: number of batches per epoch.
    """

    rows: Int64[np.ndarray, " n"]
    steps: int


def newest(dataset: Dataset, split: str) -> int:
    """Counts the samples of a split that come from the last of several data sets; they are at its end.

    Raises:
        DataError: there is only one data set.
    """
    if not isinstance(dataset, JoinedDataset):
        raise DataError(
            f"{dataset.path}: is a single data set, but new samples come from the last of several; name two"
        )
    return int(dataset.parts[-1].sizes.get(split, 0))


def replay(
    records: Any,
    new: int,
    config: LoaderConfig,
    *,
    share: float,
    epochs: int,
    seed: int,
    pseudo: PseudoFakeConfig = PseudoFakeConfig(),
) -> Replay:
    """Draws the samples of a run.

    Classes are balanced as with `balance` "class", and old sources too if it is "source". A class that the new samples
    lack has only old samples; one that the old samples lack has only new ones.

    Args:
        records: the joined split, without decoded pictures.
        new: number of samples at its end that are new.
        config: batch size, balance and excluded names.
        share: share, in (0, 1), of new samples in each class that they have.
        epochs: number of epochs of the run.
        seed: seed of the order.
        pseudo: share of the reals that become fakes; more reals are drawn for it.

    Raises:
        ConfigError: `leave_out` names something that does not exist, or the balance cannot be achieved.
        DataError: a class has no samples, or there are no new samples.
    """
    every = kept_indices(records, config.leave_out) if config.leave_out else np.arange(len(records))
    fresh = every >= len(records) - new
    if not fresh.any():
        raise DataError("the last data set has no training samples; add pictures to it")
    if fresh.all():
        raise DataError("the data sets before the last have no training samples to repeat; name the old data first")
    by_source = config.balance == "source"
    old_groups = group_rows(records, every[~fresh].tolist(), by_source=by_source)
    new_groups = group_rows(records, every[fresh].tolist(), by_source=False)
    # Sizes are balanced only within the old samples. A small class there is not an error: it is drawn often.
    even = dataclasses.replace(config, max_repeats=config.max_repeats if by_source else math.inf)
    sizes = {key: len(rows) for key, rows in old_groups.items()}
    missing = [key for key in new_groups if key[0] not in {label for label, _ in sizes}]
    shares = group_shares(sizes | {key: len(new_groups[key]) for key in missing}, even, pseudo)
    drawn: list[tuple[np.ndarray, float]] = []
    fresh_share = 0.0
    for label in Label:
        mine = {key: value for key, value in shares.items() if key[0] == label}
        whole = sum(mine.values())
        part = whole if (label, "") in missing else whole * share if (label, "") in new_groups else 0.0
        if part:
            drawn.append((new_groups[label, ""], part))
            fresh_share += part
        drawn += [
            (old_groups[key], value * (1 - part / whole)) for key, value in mine.items() if key in old_groups and whole
        ]
    steps = max(1, round(int(fresh.sum()) / fresh_share / config.batch_size))
    total = steps * config.batch_size * epochs
    rng = np.random.default_rng(seed)
    counts = _whole_numbers([part for _, part in drawn], total)
    rows = [_passes(rows, count, rng) for (rows, _), count in zip(drawn, counts, strict=True)]
    return Replay(rows=np.concatenate(rows).astype(np.int64), steps=steps)


def _whole_numbers(shares: list[float], total: int) -> list[int]:
    """Returns counts in these proportions that sum to the total; the largest remainders are rounded up."""
    exact = np.array(shares) / sum(shares) * total
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    return [int(count) for count in counts]


def _passes(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns this many rows: whole passes in random order and the beginning of another."""
    times = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(times)])[:count] if times else rows[:0]

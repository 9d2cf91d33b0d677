"""What an update trains on: new samples beside old ones that are shown again, so that they are not forgotten.

The whole run's samples are drawn beforehand, classes in the proportions of `loader.group_shares` and in each class a
fixed share of new ones; shuffled, they make the batches. New samples are gone through about once an epoch; old ones are
gone through in an order of their own that goes on over the epochs, so that few of them repeat. (Replay of stored
samples: Robins, 1995.)

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
    """What is drawn.

    Attributes:
        rows: of the joined split, each as often as it is drawn in the whole run; to be shuffled.
        steps: batches of one epoch.
    """

    rows: Int64[np.ndarray, " n"]
    steps: int


def newest(dataset: Dataset, split: str) -> int:
    """How many samples of a split, at its end, are from the last of several data sets.

    Raises:
        DataError: there is one data set only.
    """
    if not isinstance(dataset, JoinedDataset):
        raise DataError(f"{dataset.path}: is one data set, and new samples come from the last of several; name two")
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

    Classes are balanced as `balance` "class" does, old sources as well where it is "source". A class that the new
    samples lack is all old; one that the old ones lack is all new.

    Args:
        records: the joined split, without decoded pictures.
        new: so many of its samples, at its end, are new.
        config: batch size, balance, what is left out.
        share: in (0, 1), of the new samples in each class that they have.
        epochs: of the run.
        seed: of the order.
        pseudo: which share of reals becomes fakes; more reals are drawn for it.

    Raises:
        ConfigError: `leave_out` names what is not there, or a balance that cannot be had.
        DataError: a class has no samples, or nothing is new.
    """
    every = kept_indices(records, config.leave_out) if config.leave_out else np.arange(len(records))
    fresh = every >= len(records) - new
    if not fresh.any():
        raise DataError("the last data set has no training samples; give more pictures")
    if fresh.all():
        raise DataError("the data set before the last has no training samples to replay")
    by_source = config.balance == "source"
    old_groups = group_rows(records, every[~fresh].tolist(), by_source=by_source)
    new_groups = group_rows(records, every[fresh].tolist(), by_source=False)
    # Sizes are evened out within the old samples alone. There a small class is no reason to stop: it is drawn often.
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
    """Counts in these proportions that sum to the total: what rounding down leaves goes to the largest remainders."""
    exact = np.array(shares) / sum(shares) * total
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    return [int(count) for count in counts]


def _passes(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """So many rows, in whole passes and the beginning of another."""
    times = -(-count // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(times)])[:count] if times else rows[:0]

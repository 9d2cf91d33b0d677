"""Batches of crops through Grain: sharded by process before the shuffle, and resumable to the sample.

What is drawn, and which reals are turned into fakes (`data.blend`), follows from seed and position alone, so that a
resumed run repeats it. Without balancing an epoch is a pass over the samples; with it, classes and sources are drawn at
fixed rates for as many steps, each source in a shuffled order of its own that begins anew when it is through.

Example:
    >>> batches = train_batches(dataset.source("train"), LoaderConfig(batch_size=32), seed=0)
    >>> iterator = iter(batches)
    >>> next(iterator)["image"].shape
    (32, 150, 150, 3)
    >>> state = iterator.get_state()        # iterator.set_state(state) continues at the very next batch
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import absl.flags
import grain
import jax
import numpy as np
from jaxtyping import Int64

from fakeface_jax.data.augmentation_config import SELF_BLENDED, UP_SAMPLED, LoaderConfig, PseudoFakeConfig
from fakeface_jax.data.dataset import text_of
from fakeface_jax.data.pseudo_fakes import self_blend, up_sample
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.labels import Label

Batch = dict[str, np.ndarray]
"""`image` uint8 [n, h, w, 3], `label` float32 [n]; in evaluation `mask` float32 [n]: 1 for a sample, 0 for padding; in
training, where reals are turned into fakes, `pseudo` int32 [n]: 0 as stored, else `SELF_BLENDED` or `UP_SAMPLED`."""

_NO_PSEUDO_FAKES = PseudoFakeConfig()


class _Decode(grain.transforms.Map):
    """The two features a step needs. Text features stay on disk: a device cannot hold them."""

    def map(self, element: Any) -> dict[str, np.ndarray]:
        return {"image": np.asarray(element["image"], np.uint8), "label": np.asarray(element["label"], np.float32)}


class _PseudoFakes(grain.transforms.RandomMap):
    """Decodes, and turns some reals into fakes. Every sample has a generator of its own, from seed and position."""

    def __init__(self, config: PseudoFakeConfig) -> None:
        self._config = config

    def random_map(self, element: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        sample, kind = _Decode().map(element), 0
        drawn = rng.random()
        if sample["label"] == Label.REAL and drawn < self._config.share:
            if drawn < self._config.self_blended:
                landmarks = np.asarray(element["landmarks"])
                sample["image"], kind = self_blend(sample["image"], landmarks, rng), SELF_BLENDED
            else:
                sample["image"], kind = up_sample(sample["image"], rng), UP_SAMPLED
            sample["label"] = np.asarray(Label.FAKE, np.float32)
        return sample | {"pseudo": np.asarray(kind, np.int32)}


class Chosen:
    """Random access to some of a source's samples, in the order of the rows."""

    def __init__(self, source: Any, rows: Sequence[int] | np.ndarray) -> None:
        self._source, self._rows = source, [int(row) for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._rows[index]]


def kept_indices(records: Any, leave_out: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """Which samples of a split are left when sources, or one method of a source, are left out.

    Args:
        records: the split, best without decoded pictures: `dataset.source(split, pictures=False)`.
        leave_out: `source`, or `source/method` for those of its fakes that were made so.

    Raises:
        ConfigError: a name that nothing in the split has.
    """
    names = [_names(records[row]) for row in range(len(records))]
    known = {name for pair in names for name in pair}
    for name in leave_out:
        if name not in known:
            raise ConfigError(f"leave_out {name!r} matches nothing; there are {', '.join(sorted(known))}")
    return _rows_without(names, leave_out)


def _names(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What a sample can be left out by: its source, and the source with its method where it has one."""
    source, method = text_of(record["source"]), text_of(record["method"])
    return (source, f"{source}/{method}") if method else (source,)


def _rows_without(names: list[tuple[str, ...]], leave_out: Sequence[str]) -> Int64[np.ndarray, " n"]:
    rows = [row for row, mine in enumerate(names) if not set(mine) & set(leave_out)]
    return np.array(rows, np.int64)


def _shard(source: Any, processes: tuple[int, int] | None) -> grain.MapDataset:
    index, count = processes or (jax.process_index(), jax.process_count())
    # Shards of equal length, so that no process waits for another at the end of an epoch.
    return grain.MapDataset.source(source)[index : len(source) // count * count : count]


def _balanced(
    source: Any,
    groups: dict[tuple[int, str], np.ndarray],
    shares: dict[tuple[int, str], float],
    seed: int,
    processes: tuple[int, int] | None,
) -> grain.MapDataset:
    """An endless mixture of groups of rows, each shuffled anew whenever it is through."""
    index, count = processes or (jax.process_index(), jax.process_count())
    classes: dict[int, list[tuple[grain.MapDataset, float]]] = {}
    for number, (key, rows) in enumerate(groups.items()):
        if not shares[key]:
            continue
        mine = rows[index::count]
        if not len(mine):
            raise DataError(
                f"{key[1] or key[0]} has {len(rows)} samples, fewer than the {count} processes; leave it out"
            )
        shuffled = grain.MapDataset.source(Chosen(source, mine)).shuffle(seed=_seed_of(seed, number)).repeat()
        classes.setdefault(key[0], []).append((shuffled, shares[key]))
    # First within each class: Grain rounds proportions to a percent, and the classes' matter most.
    mixed, weights = [], []
    for parts in classes.values():
        mixed.append(grain.MapDataset.mix([part for part, _ in parts], [share for _, share in parts]))
        weights.append(sum(share for _, share in parts))
    return grain.MapDataset.mix(mixed, weights)


def _seed_of(seed: int, number: int) -> int:
    """Seeds that are far apart: Grain adds the epoch to a shuffle's."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def group_shares(
    sizes: Mapping[tuple[int, str], int], config: LoaderConfig, pseudo: PseudoFakeConfig = _NO_PSEUDO_FAKES
) -> dict[tuple[int, str], float]:
    """How often each group is drawn when balancing; the shares sum to 1.

    Half of what is drawn ends as fake: where a share p of the reals becomes fakes, reals are drawn with 1 / (2 - 2p).
    Within a class every group gets the same share, up to `max_repeats` times the one it has by its size; what it cannot
    take goes to the others of its class.

    Args:
        sizes: samples by (label, source), or by (label, "") to balance classes alone.
        config: of the loader.
        pseudo: which reals become fakes.

    Raises:
        ConfigError: more than half of the reals drawn would become fakes, or a class is too small for `max_repeats`.
        DataError: a class has no samples.
    """
    if pseudo.share > 0.5:
        raise ConfigError(f"balance needs at most half of the reals turned into fakes, not {pseudo.share:g}; lower it")
    total = sum(sizes.values())
    reals = 0.5 / (1 - pseudo.share)
    shares: dict[tuple[int, str], float] = {}
    for label, share in ((Label.REAL, reals), (Label.FAKE, 1 - reals)):
        mine = {key: size for key, size in sizes.items() if key[0] == label and size}
        if not mine and share:
            raise DataError(f"balance needs reals and fakes; the training split has no {label} ones")
        most = {key: config.max_repeats * size / total for key, size in mine.items()}
        if sum(most.values()) < share - 1e-9:
            repeats = share * total / sum(mine.values())
            raise ConfigError(f"balance would draw each {label} sample {repeats:.1f} times as often; raise max_repeats")
        # The smallest first: what one cannot take is shared by those after it.
        for place, key in enumerate(sorted(mine, key=lambda key: most[key])):
            shares[key] = min(most[key], share / (len(mine) - place))
            share -= shares[key]
    return shares


def steps_per_epoch(source: Any, config: LoaderConfig, *, records: Any = None) -> int:
    """Whole batches in what is kept of the split; the rest is left out of this epoch (another rest in each).

    Args:
        source: random access to samples.
        config: of the loader.
        records: the same split without decoded pictures; quicker than `source` where something is left out.

    Raises:
        ConfigError: `leave_out` names what is not there.
        DataError: fewer samples than one batch.
    """
    if not config.leave_out:
        return _steps(len(source), config)
    return _steps(len(kept_indices(source if records is None else records, config.leave_out)), config)


def _steps(samples: int, config: LoaderConfig) -> int:
    steps = samples // config.batch_size
    if steps < 1:
        raise DataError(f"{samples} training samples make no batch of {config.batch_size}; lower the batch size")
    return steps


def train_batches(
    source: Any,
    config: LoaderConfig,
    *,
    seed: int,
    processes: tuple[int, int] | None = None,
    records: Any = None,
    pseudo: PseudoFakeConfig = _NO_PSEUDO_FAKES,
) -> grain.IterDataset:
    """Endless shuffled batches, every epoch in another order that follows from the seed.

    Args:
        source: random access to samples, from `Dataset.source`.
        config: batch size, balance, what is left out.
        seed: of the shuffle, and of the fakes made of reals.
        processes: (this process's index, how many); None asks JAX.
        records: the same split without decoded pictures, read once for labels and sources where something is balanced
            or left out; without it `source` is, which decodes every picture.
        pseudo: which share of the reals drawn becomes fakes. Where it is not 0, batches have `pseudo`.

    Raises:
        ConfigError: a batch that cannot be divided among the processes, `leave_out` names what is not there, or a
            balance that cannot be had.
        DataError: fewer samples than one batch, or a class that is to be balanced has none.
    """
    count = (processes or (0, jax.process_count()))[1]
    if config.batch_size % count:
        raise ConfigError(f"batch size {config.batch_size} cannot be divided among {count} processes")
    records = source if records is None else records
    if config.leave_out:
        rows = kept_indices(records, config.leave_out)
        source, records = Chosen(source, rows), Chosen(records, rows)
    _steps(len(source), config)
    if config.balance == "none":
        samples = _shard(source, processes).seed(seed).shuffle()
    else:
        groups = group_rows(records, range(len(records)), by_source=config.balance == "source")
        shares = group_shares({key: len(rows) for key, rows in groups.items()}, config, pseudo)
        samples = _balanced(source, groups, shares, seed, processes)
    if pseudo.share:
        # Processes are at the same positions, and must not draw the same.
        index = (processes or (jax.process_index(), count))[0]
        samples = samples.random_map(_PseudoFakes(pseudo), seed=_seed_of(seed, 10_000 + index))
    else:
        samples = samples.map(_Decode())
    samples = samples.batch(config.batch_size // count, drop_remainder=True)
    if config.balance == "none":
        samples = samples.repeat()
    batches = samples.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    if config.workers:
        # Grain reads absl flags in its workers and fails where nobody parsed a command line through absl.
        absl.flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=2)
        )
    return batches


def group_rows(records: Any, rows: Iterable[int], *, by_source: bool) -> dict[tuple[int, str], np.ndarray]:
    """Rows of a split by (label, source), or by (label, ""), in sorted order; int64 arrays.

    Args:
        records: the split, best without decoded pictures.
        rows: which of its rows.
        by_source: sources apart, not the classes alone.
    """
    found: dict[tuple[int, str], list[int]] = {}
    for row in rows:
        record = records[row]
        key = (int(record["label"]), text_of(record["source"]) if by_source else "")
        found.setdefault(key, []).append(row)
    return {key: np.array(found[key], np.int64) for key in sorted(found)}


def evaluation_batches(
    source: Any,
    batch_size: int,
    *,
    processes: tuple[int, int] | None = None,
    leave_out: Sequence[str] = (),
    records: Any = None,
) -> Iterator[Batch]:
    """Every sample of this process once, in order; the last batch is padded with zeros and masked.

    Args:
        source: random access to samples.
        batch_size: of this process.
        processes: (this process's index, how many); None asks JAX.
        leave_out: as of training. A name that this split does not have leaves nothing out: the training split, which
            has all of them, is where names are checked.
        records: the same split without decoded pictures; quicker than `source` where something is left out.

    Raises:
        DataError: everything is left out.
    """
    if leave_out:
        records = source if records is None else records
        names = [_names(records[row]) for row in range(len(records))]
        rows = _rows_without(names, leave_out)
        if len(names) and not len(rows):
            raise DataError(f"{', '.join(leave_out)} left out, none of {len(names)} samples is left to evaluate")
        source = Chosen(source, rows)
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

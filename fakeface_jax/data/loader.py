"""Makes batches of crops with Grain: sharded by process before the shuffle, and resumable to the sample.

The order of samples, and which reals are turned into fakes (`data.pseudo_fakes`), depends only on seed and position, so
that a resumed run repeats it. Without balancing, an epoch is a pass over the samples; with it, classes and sources are
drawn at fixed rates for as many steps, and each source has a shuffled order of its own that restarts at its end.

Example:
    >>> batches = train_batches(dataset.source("train"), LoaderConfig(batch_size=32), seed=0)
    >>> iterator = iter(batches)
    >>> next(iterator)["image"].shape
    (32, 150, 150, 3)
    >>> state = iterator.get_state()        # iterator.set_state(state) continues at the next batch
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
training with reals turned into fakes, `pseudo` int32 [n]: 0 as stored, else `SELF_BLENDED` or `UP_SAMPLED`."""

_NO_PSEUDO_FAKES = PseudoFakeConfig()


class _Decode(grain.transforms.Map):
    """Keeps the two features that a step needs. Text features are dropped, because a device cannot hold them."""

    def map(self, element: Any) -> dict[str, np.ndarray]:
        return {"image": np.asarray(element["image"], np.uint8), "label": np.asarray(element["label"], np.float32)}


class _PseudoFakes(grain.transforms.RandomMap):
    """Decodes, and turns some reals into fakes. Every sample has its own random generator, from seed and position."""

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
    """Random access to some samples of a source, in the order of the given rows."""

    def __init__(self, source: Any, rows: Sequence[int] | np.ndarray) -> None:
        self._source, self._rows = source, [int(row) for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._rows[index]]


def kept_indices(records: Any, leave_out: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """Returns the rows of a split that remain without the given sources, or kinds of a source's fakes.

    Args:
        records: the split, preferably without decoded pictures: `dataset.source(split, pictures=False)`.
        leave_out: `source`, or `source/method` for one kind of that source's fakes.

    Raises:
        ConfigError: no sample of the split has one of the names.
    """
    names = [_names(records[row]) for row in range(len(records))]
    known = {name for pair in names for name in pair}
    for name in leave_out:
        if name not in known:
            raise ConfigError(f"leave_out {name!r} matches nothing; use one of {', '.join(sorted(known))}")
    return _rows_without(names, leave_out)


def _names(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names by which a sample can be left out: its source and, if it has a method, source/method."""
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
    """Mixes groups of rows without end; each group is shuffled anew at its end."""
    index, count = processes or (jax.process_index(), jax.process_count())
    classes: dict[int, list[tuple[grain.MapDataset, float]]] = {}
    for number, (key, rows) in enumerate(groups.items()):
        if not shares[key]:
            continue
        mine = rows[index::count]
        if not len(mine):
            raise DataError(
                f"{key[1] or key[0]} has {len(rows)} samples, fewer than the {count} processes; --leave-out excludes it"
            )
        shuffled = grain.MapDataset.source(Chosen(source, mine)).shuffle(seed=_seed_of(seed, number)).repeat()
        classes.setdefault(key[0], []).append((shuffled, shares[key]))
    # First within each class: Grain rounds proportions to a percent, and those of the classes matter most.
    mixed, weights = [], []
    for parts in classes.values():
        mixed.append(grain.MapDataset.mix([part for part, _ in parts], [share for _, share in parts]))
        weights.append(sum(share for _, share in parts))
    return grain.MapDataset.mix(mixed, weights)


def _seed_of(seed: int, number: int) -> int:
    """Returns seeds that are far apart, because Grain adds the epoch to a shuffle's seed."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def group_shares(
    sizes: Mapping[tuple[int, str], int], config: LoaderConfig, pseudo: PseudoFakeConfig = _NO_PSEUDO_FAKES
) -> dict[tuple[int, str], float]:
    """Returns the share of draws of each group when balancing; the shares sum to 1.

    Half of the samples drawn end up fake: if a share p of the reals becomes fakes, reals are drawn with 1 / (2 - 2p).
    Within a class every group gets the same share, up to `max_repeats` times its share by size; the remainder goes to
    the other groups of the class.

    Args:
        sizes: number of samples by (label, source), or by (label, "") to balance only classes.
        config: settings of the loader.
        pseudo: which reals become fakes.

    Raises:
        ConfigError: more than half of the drawn reals would become fakes, or a class is too small for `max_repeats`.
        DataError: a class has no samples.
    """
    if pseudo.share > 0.5:
        raise ConfigError(
            f"balance allows at most half of the reals to be turned into fakes; lower the share {pseudo.share:g}"
        )
    total = sum(sizes.values())
    reals = 0.5 / (1 - pseudo.share)
    shares: dict[tuple[int, str], float] = {}
    for label, share in ((Label.REAL, reals), (Label.FAKE, 1 - reals)):
        mine = {key: size for key, size in sizes.items() if key[0] == label and size}
        if not mine and share:
            raise DataError(
                f"balance needs reals and fakes, but the training split has no {label} samples; set balance to none"
            )
        most = {key: config.max_repeats * size / total for key, size in mine.items()}
        if sum(most.values()) < share - 1e-9:
            repeats = share * total / sum(mine.values())
            raise ConfigError(f"balance would draw each {label} sample {repeats:.1f} times as often; raise max_repeats")
        # The smallest first: the share that it cannot take goes to those after it.
        for place, key in enumerate(sorted(mine, key=lambda key: most[key])):
            shares[key] = min(most[key], share / (len(mine) - place))
            share -= shares[key]
    return shares


def steps_per_epoch(source: Any, config: LoaderConfig, *, records: Any = None) -> int:
    """Returns the number of whole batches in the kept part of a split; each epoch drops another remainder.

    Args:
        source: random access to samples.
        config: settings of the loader.
        records: the same split without decoded pictures; faster than `source` if something is left out.

    Raises:
        ConfigError: `leave_out` names something that does not exist.
        DataError: there are fewer samples than one batch.
    """
    if not config.leave_out:
        return _steps(len(source), config)
    return _steps(len(kept_indices(source if records is None else records, config.leave_out)), config)


def _steps(samples: int, config: LoaderConfig) -> int:
    steps = samples // config.batch_size
    if steps < 1:
        raise DataError(
            f"{samples} training samples are fewer than one batch of {config.batch_size}; lower the batch size"
        )
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
    """Yields shuffled batches without end; each epoch has another order, which depends on the seed.

    Args:
        source: random access to samples, from `Dataset.source`.
        config: batch size, balance and excluded names.
        seed: seed of the shuffle and of the fakes made of reals.
        processes: (index of this process, number of processes); None asks JAX.
        records: the same split without decoded pictures, read once for labels and sources if something is balanced
            or left out; without it `source` is read, which decodes every picture.
        pseudo: share of the drawn reals that become fakes. If it is not 0, batches have `pseudo`.

    Raises:
        ConfigError: a batch cannot be divided among the processes, `leave_out` names something that does not exist, or
            the balance cannot be achieved.
        DataError: there are fewer samples than one batch, or a class that is to be balanced has none.
    """
    count = (processes or (0, jax.process_count()))[1]
    if config.batch_size % count:
        raise ConfigError(
            f"batch size {config.batch_size} cannot be divided among {count} processes; use a multiple of {count}"
        )
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
        # Processes have the same positions, but must draw different fakes.
        index = (processes or (jax.process_index(), count))[0]
        samples = samples.random_map(_PseudoFakes(pseudo), seed=_seed_of(seed, 10_000 + index))
    else:
        samples = samples.map(_Decode())
    samples = samples.batch(config.batch_size // count, drop_remainder=True)
    if config.balance == "none":
        samples = samples.repeat()
    batches = samples.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    if config.workers:
        # Grain reads absl flags in its workers and fails if no command line was parsed through absl.
        absl.flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=2)
        )
    return batches


def group_rows(records: Any, rows: Iterable[int], *, by_source: bool) -> dict[tuple[int, str], np.ndarray]:
    """Groups rows of a split by (label, source), or by (label, ""), in sorted order; int64 arrays.

    Args:
        records: the split, preferably without decoded pictures.
        rows: the rows to group.
        by_source: group by source as well as by class.
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
    """Yields every sample of this process once, in order; the last batch is padded with zeros and masked.

    Args:
        source: random access to samples.
        batch_size: samples per batch of this process.
        processes: (index of this process, number of processes); None asks JAX.
        leave_out: names to exclude, as in training. A name that this split lacks excludes nothing; names are checked
            against the training split, which has all of them.
        records: the same split without decoded pictures; faster than `source` if something is left out.

    Raises:
        DataError: all samples are excluded.
    """
    if leave_out:
        records = source if records is None else records
        names = [_names(records[row]) for row in range(len(records))]
        rows = _rows_without(names, leave_out)
        if len(names) and not len(rows):
            raise DataError(
                f"without {', '.join(leave_out)}, none of {len(names)} samples remains to evaluate; exclude less"
            )
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

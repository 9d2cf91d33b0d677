"""The merged data as one table: the facts about each picture, its duplicates, and its split.

`merge` reads every picture once. Exact duplicates (SHA-256) and near duplicates (perceptual hash) across all sources,
and pictures that a source itself relates, form groups; a group is never divided between splits. The source of a group's
first member (in the order in which sources are given) decides its split: by the published split if there is one,
otherwise by a hash of the first member. So adding a source after the others moves no picture, with two exceptions,
because neither a group nor a source's `train_only` is ever broken: groups that a new picture joins end in one split,
and pictures that a `train_only` source copies go to training.

Example:
    >>> manifest = merge(["ciplab:archive.zip", "csv:faces.csv"])
    >>> manifest.save("manifest.parquet")
    >>> print(manifest.counts_table())
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fakeface_jax.data.duplicates import group_samples
from fakeface_jax.data.image_metadata import FileFacts, inspect_file
from fakeface_jax.data.samples import Sample
from fakeface_jax.data.sources import read_sample, read_source
from fakeface_jax.errors import ConfigError, DataError, MediaError
from fakeface_jax.labels import Label

SPLITS = ("train", "validation", "calibration", "test")
"""Names of the splits. Calibration is held out to fit probabilities and thresholds, not for training or testing."""

SHARES = (0.70, 0.08, 0.07, 0.15)
"""Shares of the groups without a published split, in the order of `SPLITS`."""

EXACT = "exact duplicate of another sample"
CONFLICT = "the same picture is labelled real and fake"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One picture of the merge.

    Attributes:
        sample: where the picture is and what its source says about it.
        facts: facts from its file.
        group: an id that is common to all pictures that must share a split.
        split: one of `SPLITS`, or empty if the picture is excluded.
        left_out: reason why the picture is excluded; empty if it is used.
    """

    sample: Sample
    facts: FileFacts
    group: str
    split: str
    left_out: str = ""

    @property
    def id(self) -> str:
        """Returns source and name, which are unique in a manifest of unique inputs."""
        return f"{self.sample.source}/{self.sample.name}"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All pictures of a merge, used or excluded."""

    rows: tuple[Row, ...]

    def used(self, split: str | None = None) -> list[Row]:
        """Returns the rows that are used, of one split or of all."""
        return [row for row in self.rows if not row.left_out and (split is None or row.split == split)]

    def left_out(self) -> list[Row]:
        """Returns the rows that are excluded; their `left_out` says why."""
        return [row for row in self.rows if row.left_out]

    def fingerprint(self) -> str:
        """Returns a SHA-256 over contents, labels and splits: manifests with the same one train the same model."""
        lines = sorted(f"{row.facts.sha256} {row.sample.label} {row.split} {row.sample.source}" for row in self.used())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Counts the used pictures per (source, split, label)."""
        return dict(collections.Counter((row.sample.source, row.split, str(row.sample.label)) for row in self.used()))

    def counts_table(self) -> str:
        """Returns a text with the counts per source, class and split, and of excluded pictures."""
        counts = self.counts()
        sources = list(dict.fromkeys(row.sample.source for row in self.rows))
        head = f"{'source':<16}" + "".join(f"{split + ' real/fake':>24}" for split in SPLITS)
        lines = [head, "-" * len(head)]
        for source in [*sources, "all"]:
            cells = []
            for split in SPLITS:
                pair = [
                    sum(n for (s, p, c), n in counts.items() if source in (s, "all") and p == split and c == label)
                    for label in ("real", "fake")
                ]
                cells.append(f"{f'{pair[0]:,} / {pair[1]:,}':>24}")
            lines.append(f"{source:<16}" + "".join(cells))
        reasons = collections.Counter((row.sample.source, row.left_out.split(":")[0]) for row in self.left_out())
        lines += [f"excluded: {n:,} of {source}: {reason}" for (source, reason), n in sorted(reasons.items())]
        sizes = collections.Counter(row.group for row in self.used())
        lines.append(
            f"groups: {len(sizes):,} of {sum(sizes.values()):,} pictures, largest {max(sizes.values(), default=0)}"
        )
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as Parquet, completely or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.rows:
            raise DataError("the manifest is empty and was not saved; merge at least one picture")
        columns = [
            {
                **_columns(row.sample),
                **_columns(row.facts),
                "group": row.group,
                "split": row.split,
                "left_out": row.left_out,
            }
            for row in self.rows
        ]
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(columns), temporary, compression="zstd")
            temporary.replace(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}; name another file") from error
        finally:
            # If the directory itself cannot exist, there is no file to remove, and the error has been raised already.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def load_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads a manifest that `Manifest.save` wrote. Raises `DataError` if it is missing or has another format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records = pq.read_table(path).to_pylist()
        return Manifest(tuple(_row(record) for record in records))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a manifest that this release reads: {error}; merge the sources again") from error


def _columns(record: Sample | FileFacts) -> dict[str, object]:
    return dataclasses.asdict(record)


def _row(record: dict[str, object]) -> Row:
    def part(kind: type) -> dict[str, Any]:
        return {field.name: record[field.name] for field in dataclasses.fields(kind)}

    sample = part(Sample)
    sample["label"] = Label(sample["label"])
    return Row(
        sample=Sample(**sample),
        facts=FileFacts(**part(FileFacts)),
        group=str(record["group"]),
        split=str(record["split"]),
        left_out=str(record["left_out"]),
    )


def merge(
    specs: Sequence[str],
    *,
    train_only: Iterable[str] = (),
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Reads all sources and assigns groups and splits.

    Args:
        specs: sources, in the form that `read_source` takes. If new ones come last, no old picture moves.
        train_only: sources that are used for training alone.
        workers: reading threads; None uses one per processor.
        progress: called with (pictures read, all pictures).

    Raises:
        ConfigError: a source in `train_only` is unknown, or there are no sources.
        DataError: a source cannot be read. Single unreadable pictures are excluded with a reason.
    """
    samples = [sample for spec in specs for sample in read_source(spec)]
    sources = {sample.source for sample in samples}
    unknown = set(train_only) - sources
    if not samples or unknown:
        raise ConfigError(f"no such source: {', '.join(sorted(unknown)) or 'none given'}; use one of {sorted(sources)}")

    def look(sample: Sample) -> tuple[FileFacts, str]:
        try:
            return inspect_file(read_sample(sample), f"{sample.root}/{sample.name}"), ""
        except MediaError as error:
            return FileFacts(), f"unreadable: {error.problem}"

    found: list[tuple[FileFacts, str]] = []
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for result in pool.map(look, samples):
            found.append(result)
            if progress is not None:
                progress(len(found), len(samples))
    facts = [fact for fact, _ in found]
    groups = group_samples(samples, facts)
    rows = [
        Row(sample=sample, facts=fact, group=group, split="", left_out=reason)
        for sample, (fact, reason), group in zip(samples, found, groups, strict=True)
    ]
    return Manifest(tuple(_assign_splits(_leave_out_copies(rows), set(train_only))))


def _leave_out_copies(rows: list[Row]) -> list[Row]:
    """Keeps one of several rows with the same bytes, and none if their labels differ."""
    copies: dict[str, list[int]] = collections.defaultdict(list)
    for index, row in enumerate(rows):
        if not row.left_out:
            copies[row.facts.sha256].append(index)
    for indices in copies.values():
        conflict = len({rows[index].sample.label for index in indices}) > 1
        for index in indices if conflict else indices[1:]:
            rows[index] = dataclasses.replace(rows[index], left_out=CONFLICT if conflict else EXACT)
    return rows


def _assign_splits(rows: list[Row], train_only: set[str]) -> list[Row]:
    members: dict[str, list[Row]] = collections.defaultdict(list)
    for row in rows:
        # An excluded copy still tells where its picture was published.
        if not row.left_out or row.left_out == EXACT:
            members[row.group].append(row)
    splits = {group: _split_of(group, rows, train_only) for group, rows in members.items()}
    return [row if row.left_out else dataclasses.replace(row, split=splits[row.group]) for row in rows]


def _split_of(group: str, rows: list[Row], train_only: set[str]) -> str:
    """Chooses the split of a group from its rows, which are in the order of the merge."""
    if any(row.sample.source in train_only and not row.left_out for row in rows):
        return "train"
    # Only the source that was there first decides, so that a source that is added later moves no picture.
    official = {row.sample.official_split for row in rows if row.sample.source == rows[0].sample.source}
    if "train" in official:
        # If a test picture has a copy in training, both go to training, so that the test split stays unseen.
        return "train"
    place = int(hashlib.sha256(group.encode()).hexdigest()[:13], 16) / 16**13
    if "validation" in official:
        return "validation" if place < 0.5 else "calibration"
    if "test" in official:
        return "test"
    return SPLITS[int(np.searchsorted(np.cumsum(SHARES[:-1]), place, side="right"))]

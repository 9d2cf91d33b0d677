"""Readers that list the samples of each source with their labels, without opening a picture.

Kaggle archives are read as downloaded, zipped or unpacked. Labels come from the nearest folder whose name means real or
fake, never from alphabetical order. A source is named on the command line as `KIND:PATH`:

    ciplab:real-and-fake-face-detection.zip      the report's set 1
    140k:140k-real-and-fake-faces.zip            the report's set 3
    uditsharma72:real-vs-fake-faces.zip          the report's set 2
    folder:DIR                                   any folder with real/ and fake/ somewhere inside
    csv:FILE.csv                                 columns path, label; optional source, method, group, split
    tfds:NAME[:CONFIG]                           a TFDS data set with features image and label

`folder` and `tfds` may end in `@name`, the name of the source, and `csv` in `@a,b`, the sources to read.

Example:
    >>> samples = read_source("ciplab:archives/real-and-fake-face-detection.zip")
    >>> samples[0].label, samples[0].source
    (<Label.FAKE: 1>, 'ciplab')
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from fakeface_jax.data.files import list_files, read_file
from fakeface_jax.data.samples import Sample
from fakeface_jax.data.tfds_source import TFDS_PREFIX, read_tfds, read_tfds_image
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.images import EXTENSIONS
from fakeface_jax.labels import Label, parse_label

SPLIT_WORDS = {"train": "train", "training": "train", "valid": "validation", "val": "validation"}
SPLIT_WORDS |= {"validation": "validation", "test": "test", "testing": "test"}
"""Names of splits in published data sets. Folder names such as `training_real` are not splits."""

PARTS = ("left_eye", "right_eye", "nose", "mouth")
"""ciplab's four flags, in the order of the file name."""

_CIPLAB_COPY = "real_and_fake_face_detection"
_CIPLAB_FAKE = re.compile(r"(easy|mid|hard)_(\d+)_([01]{4})")


def read_source(spec: str) -> list[Sample]:
    """Reads the samples of one source.

    Args:
        spec: `KIND:PATH`, see the module's docstring.

    Returns:
        Samples ordered by name.

    Raises:
        ConfigError: the kind is unknown, or it does not take names.
        DataError: there is nothing, or it has another layout than stated.
    """
    kind, _, rest = spec.partition(":")
    path, names = _split_names(rest)
    if kind not in _READERS or not path:
        raise ConfigError(f"{spec!r} is not a source; write KIND:PATH with KIND one of {', '.join(_READERS)}")
    if len(names) > _MOST_NAMES.get(kind, 0):
        raise ConfigError(
            f"{spec!r}: {kind} takes {'one name' if kind in _MOST_NAMES else 'no names'} after @; correct it"
        )
    samples = _READERS[kind](path, names)
    if not samples:
        raise DataError(f"{spec}: no labelled pictures found; is this the folder or archive that {kind} expects?")
    return sorted(samples, key=lambda sample: sample.name)


_MOST_NAMES = {"folder": 1, "tfds": 1, "csv": 1000}


def read_sample(sample: Sample) -> bytes:
    """Reads the encoded bytes of a sample's picture from a folder, an archive or a TFDS data set.

    Raises:
        OpenError: the picture is missing or unreadable.
        LimitExceeded: the file is larger than a picture may be.
    """
    if sample.root.startswith(TFDS_PREFIX):
        return read_tfds_image(sample.root, sample.name)
    return read_file(sample.root, sample.name)


def _split_names(rest: str) -> tuple[str, tuple[str, ...]]:
    """Splits `PATH@a,b` into (path, names); an @ in a folder's name belongs to the path."""
    path, at, names = rest.rpartition("@")
    if not at or "/" in names or Path(rest).exists():
        return rest, ()
    return path, tuple(filter(None, names.split(",")))


def _labelled_files(root: str, *, words: Iterable[str] | None = None) -> Iterable[tuple[str, Label, str]]:
    """Yields (name, label, official split) of every picture below a folder whose name means real or fake."""
    for name in list_files(root):
        path = PurePosixPath(name)
        # Operating systems and editors leave hidden files and folders behind, and some have names of pictures.
        hidden = "__MACOSX" in path.parts or any(part.startswith(".") and part != ".." for part in path.parts)
        if path.suffix.lower() not in EXTENSIONS or hidden:
            continue
        label, split = None, ""
        for folder in reversed(path.parts[:-1]):
            if label is None and (words is None or folder.lower() in words):
                label = _LABEL_FOLDERS.get(folder.lower())
            split = split or SPLIT_WORDS.get(folder.lower(), "")
        if label is None:
            # The named folder may itself be real/ or fake/.
            label = _LABEL_FOLDERS.get(Path(root).resolve().name.lower())
        if label is not None:
            yield name, label, split


_LABEL_FOLDERS = {word: parse_label(word) for word in ("real", "fake", "training_real", "training_fake")}


def _ciplab_details(name: str) -> dict[str, str]:
    match = _CIPLAB_FAKE.fullmatch(PurePosixPath(name).stem)
    if match is None:
        return {}
    difficulty, _, flags = match.groups()
    parts = "+".join(part for part, flag in zip(PARTS, flags, strict=True) if flag == "1")
    return {"difficulty": difficulty, "parts": parts}


def _read_ciplab(path: str, names: tuple[str, ...]) -> list[Sample]:
    samples = []
    files = list(_labelled_files(path, words=("training_real", "training_fake")))
    known = {name for name, _, _ in files}
    for name, label, _ in files:
        # The archive contains its pictures a second time in real_and_fake_face_detection/. If it was unpacked by hand,
        # that folder may be the only one.
        folders = PurePosixPath(name).parts
        if _CIPLAB_COPY in folders and "/".join(part for part in folders if part != _CIPLAB_COPY) in known:
            continue
        details = _ciplab_details(name) if label is Label.FAKE else {}
        method = "photoshop" if label is Label.FAKE else ""
        samples.append(Sample(root=path, name=name, label=label, source="ciplab", method=method, **details))
    return samples


def _read_140k(path: str, names: tuple[str, ...]) -> list[Sample]:
    listed = _read_140k_csvs(path)
    samples, seen = [], set()
    for name, label, split in _labelled_files(path, words=("real", "fake")):
        key = "/".join(PurePosixPath(name).parts[-3:])
        seen.add(key)
        stated = listed.get(key)
        if stated is not None and stated != (label, split):
            raise DataError(
                f"{path}: {name} is in {split}/{label}, but its CSV says {stated[1]}/{stated[0]}; get it again"
            )
        method = "stylegan" if label is Label.FAKE else ""
        samples.append(Sample(root=path, name=name, label=label, source="140k", method=method, official_split=split))
    missing = sorted(listed.keys() - seen)
    if missing:
        raise DataError(f"{path}: {len(missing)} files of its CSVs are missing, {missing[0]} first; unpack it again")
    return samples


def _read_140k_csvs(path: str) -> dict[str, tuple[Label, str]]:
    """Reads label and split of each file from train.csv, valid.csv and test.csv by their words: 1 means real there."""
    listed = {}
    for name in list_files(path):
        split = SPLIT_WORDS.get(PurePosixPath(name).stem)
        if split and name.lower().endswith(".csv"):
            for row in _csv_rows(read_file(path, name), f"{path}/{name}")[1]:
                if not row.get("path") or not row.get("label_str"):
                    raise DataError(f"{path}: {name} lacks the columns path and label_str; is it 140k's?")
                listed[row["path"]] = (parse_label(row["label_str"]), split)
    return listed


def _read_uditsharma72(path: str, names: tuple[str, ...]) -> list[Sample]:
    # Some of its fakes have ciplab's names; their details are kept if the names can be parsed.
    return [
        Sample(
            root=path,
            name=name,
            label=label,
            source="uditsharma72",
            official_split=split,
            **(_ciplab_details(name) if label is Label.FAKE else {}),
        )
        for name, label, split in _labelled_files(path)
    ]


def _read_folder(path: str, names: tuple[str, ...]) -> list[Sample]:
    whole = Path(path).resolve()
    source = names[0] if names else whole.name if whole.is_dir() else whole.stem
    return [
        Sample(
            root=path,
            name=name,
            label=label,
            source=source,
            official_split=split,
            # A folder below fake/ names the method: fake/stargan/0001.jpg.
            method=_method_folder(name) if label is Label.FAKE else "",
        )
        for name, label, split in _labelled_files(path)
    ]


def _method_folder(name: str) -> str:
    """Returns the first folder below the nearest `fake/` that is not a split; further folders are clips or people."""
    below: list[str] = []
    for folder in PurePosixPath(name).parts[:-1]:
        below = [] if folder.lower() in _LABEL_FOLDERS else [*below, folder]
    return next((folder for folder in below if folder.lower() not in SPLIT_WORDS), "")


def _csv_rows(data: bytes, source: str) -> tuple[list[str], list[dict[str, str]]]:
    """Returns the column names and the rows of a CSV; a cell that a short row lacks is empty."""
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), restval="")
        return list(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source}: cannot be read as CSV: {error}; save it as UTF-8 with commas") from error


def _read_csv(path: str, names: tuple[str, ...]) -> list[Sample]:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    columns, rows = _csv_rows(data, path)
    lacking = {"path", "label"} - set(columns)
    if lacking:
        raise DataError(f"{path}: the column {sorted(lacking)[0]!r} is missing; a CSV needs the columns path and label")
    samples, sources = [], set()
    for line, row in enumerate(rows, start=2):
        source = row.get("source") or Path(path).stem
        sources.add(source)
        if not names or source in names:
            samples.append(_csv_sample(row, f"{path}: row {line}", str(Path(path).parent), source))
    if set(names) - sources:
        unknown = ", ".join(sorted(set(names) - sources))
        raise DataError(f"{path}: has no source {unknown}; use {', '.join(sorted(sources))}")
    return samples


def _csv_sample(row: dict[str, str], place: str, root: str, source: str) -> Sample:
    if not row["path"] or not row["label"]:
        raise DataError(f"{place} has no path or no label; fill it in")
    split = (row.get("split") or "").strip().lower()
    if split and split not in SPLIT_WORDS:
        raise DataError(f"{place}: unknown split {split!r}; use one of {', '.join(SPLIT_WORDS)}")
    try:
        label = parse_label(row["label"])
        if row.get("label_str") and parse_label(row["label_str"]) != label:
            # The CSVs of 140k use 1 for real.
            raise DataError(f"its label {row['label']} is called {row['label_str']}, but here 1 means fake; use words")
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    return Sample(
        root=root,
        name=row["path"],
        label=label,
        source=source,
        method=row.get("method") or "",
        hint=row.get("group") or "",
        official_split=SPLIT_WORDS.get(split, ""),
    )


def _read_tfds(path: str, names: tuple[str, ...]) -> list[Sample]:
    return read_tfds(path, names[0] if names else "")


_READERS: dict[str, Callable[[str, tuple[str, ...]], list[Sample]]] = {
    "ciplab": _read_ciplab,
    "140k": _read_140k,
    "uditsharma72": _read_uditsharma72,
    "folder": _read_folder,
    "csv": _read_csv,
    "tfds": _read_tfds,
}

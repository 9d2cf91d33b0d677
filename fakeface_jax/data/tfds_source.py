"""Reads a TFDS data set as a source: any with an `image` and a `label` that says real or fake.

Example:
    >>> read_tfds("fake_faces/faces-150", "fake_faces")
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from fakeface_jax.data.samples import Sample
from fakeface_jax.errors import DataError, OpenError
from fakeface_jax.labels import parse_label

TFDS_PREFIX = "tfds:"
"""Roots with this prefix are TFDS data sets instead of folders."""

_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "test": "test"}


def read_tfds(name: str, source: str) -> list[Sample]:
    """Reads the samples of a prepared TFDS data set.

    Args:
        name: a name that TFDS finds in its data directory, or the version directory of a prepared data set.
        source: the name of the source; empty uses the data set's own.

    Raises:
        DataError: it is not prepared, lacks `image` or `label`, or has labels that are neither real nor fake.
    """
    builder = _builder(name)
    features = builder.info.features
    if features is None or not {"image", "label"} <= set(features):
        raise DataError(f"tfds:{name}: lacks the feature image or label; name a data set that has both")
    names = getattr(features["label"], "names", None)
    if not names:
        raise DataError(
            f"tfds:{name}: its labels have no names that say which one is fake; use a data set with named labels"
        )
    labels = [parse_label(word) for word in names]
    samples = []
    for split in builder.info.splits:
        for index, record in enumerate(_records(name, split)):
            samples.append(
                Sample(
                    root=TFDS_PREFIX + name,
                    name=f"{split}/{index:08d}",
                    label=labels[int(record["label"])],
                    source=source or builder.info.name,
                    # Fields that our own builder stores, so that related pictures stay together in the next merge.
                    method=_text(record, "method"),
                    hint=_text(record, "group"),
                    official_split=_SPLITS.get(split, ""),
                )
            )
    return samples


def read_tfds_image(root: str, name: str) -> bytes:
    """Reads the encoded bytes of one picture of a TFDS data set."""
    split, _, index = name.partition("/")
    try:
        return _records(root.removeprefix(TFDS_PREFIX), split)[int(index)]["image"]
    except (DataError, IndexError, ValueError) as error:
        raise OpenError(f"{root}/{name}", f"cannot be read: {error}", "merge the sources again") from error


def _text(record: dict[str, Any], feature: str) -> str:
    value = record.get(feature, b"")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        if (Path(name) / "dataset_info.json").is_file():
            return tfds.builder_from_directory(name)
        return tfds.builder(name.replace(":", "/"))
    except Exception as error:  # TFDS raises many kinds of errors; each means that the data set cannot be read
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"tfds:{name}: not a prepared TFDS data set: {why}; prepare it first") from error


@functools.lru_cache(maxsize=8)
def _records(name: str, split: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return _builder(name).as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise DataError(f"tfds:{name}: stored in a format without random access; prepare it as array_record") from error

"""Writes and opens data sets of crops; only this module knows where TFDS puts them.

Example:
    >>> dataset = build_dataset("manifest.parquet", "data", CropSpec(size=150))
    >>> dataset = open_dataset("data")
    >>> dataset.crop.size, dataset.sizes["train"]
    >>> both = open_dataset(("data", "newer-data"))        # read as one
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fakeface_jax.errors import DataError
from fakeface_jax.faces import CropSpec
from fakeface_jax.labels import Label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A prepared data set of crops on disk.

    Attributes:
        path: the TFDS version directory.
        crop: geometry of the crops.
        detector: detector that found the faces.
        sizes: samples per split.
        manifest_sha256: fingerprint of the manifest that the crops were made from.
        rejected: `id` and `reason` of every picture that could not be used.
        whole_images: True if whole pictures were stored instead of faces.
    """

    path: Path
    crop: CropSpec
    detector: str
    sizes: Mapping[str, int]
    manifest_sha256: str
    rejected: tuple[Mapping[str, str], ...]
    whole_images: bool = False

    def source(self, split: str, *, pictures: bool = True) -> Any:
        """Gives random access to a split: `len`, and items with `image` (uint8 RGB), `label`, `id`, `source`, `group`.

        Without `pictures` the image stays undecoded bytes, which is much faster if only the other fields are needed.
        """
        if split not in self.sizes:
            raise DataError(f"{self.path}: has no split {split!r}; use one of {', '.join(self.sizes)}")
        import tensorflow_datasets as tfds

        decoders = None if pictures else {"image": tfds.decode.SkipDecoding()}
        return tfds.builder_from_directory(self.path).as_data_source(split, decoders=decoders)

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Counts samples per split and class: {"train": {"real": 5000, "fake": 5007}, ...}."""
        counts = {}
        for split in self.sizes:
            labels = [int(record["label"]) for record in self.source(split, pictures=False)]
            counts[split] = {"real": labels.count(Label.REAL), "fake": labels.count(Label.FAKE)}
        return counts


def text_of(value: bytes | str) -> str:
    """Decodes a text feature of a stored sample: TFDS gives bytes, and strings if pictures stay undecoded."""
    return value.decode() if isinstance(value, bytes) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class JoinedDataset(Dataset):
    """Several prepared data sets that are read as one: each split of the first is followed by that of the next.

    Attributes:
        parts: the data sets, in order; all with the same geometry of crops.
    """

    parts: tuple[Dataset, ...]

    def source(self, split: str, *, pictures: bool = True) -> Any:
        """Gives random access to a split, as for one data set; a part without the split adds nothing to it."""
        found = [part.source(split, pictures=pictures) for part in self.parts if split in part.sizes]
        if not found:
            raise DataError(f"{self.path}: has no split {split!r}; use one of {', '.join(self.sizes)}")
        return _OneAfterAnother(found)


class _OneAfterAnother:
    """Random access to the samples of several sources, one after the other."""

    def __init__(self, sources: Sequence[Any]) -> None:
        self._places = [(source, row) for source in sources for row in range(len(source))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Any:
        source, row = self._places[index]
        return source[row]


def join_datasets(parts: Sequence[Dataset]) -> Dataset:
    """Joins several prepared data sets; a single one is returned unchanged.

    Raises:
        DataError: there are none, one is named twice, or their crops were cut differently.
    """
    if not parts:
        raise DataError("no prepared data set was named; name at least one")
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    for number, part in enumerate(parts[1:], start=1):
        if any(part.path.resolve() == other.path.resolve() for other in parts[:number]):
            raise DataError(f"{part.path}: is named twice; name it once")
        if (part.crop, part.whole_images) != (first.crop, first.whole_images):
            raise DataError(
                f"{part.path}: its crops differ from those of {first.path}; build both with the same settings"
            )
        if part.detector != first.detector and not part.whole_images:
            raise DataError(
                f"{part.path}: its faces were found by {part.detector}, those of {first.path} by {first.detector}; "
                "build both with one detector"
            )
    splits = dict.fromkeys(split for part in parts for split in part.sizes)
    fingerprints = "\n".join(part.manifest_sha256 for part in parts)
    return JoinedDataset(
        path=first.path,
        crop=first.crop,
        detector=first.detector,
        sizes={split: sum(part.sizes.get(split, 0) for part in parts) for split in splits},
        manifest_sha256=hashlib.sha256(fingerprints.encode()).hexdigest(),
        rejected=tuple(one for part in parts for one in part.rejected),
        whole_images=first.whole_images,
        parts=tuple(parts),
    )


def build_dataset(
    manifest: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    crop: CropSpec,
    *,
    whole_images: bool = False,
    detector: str = "centerface",
) -> Dataset:
    """Crops and stores every face of a manifest; a finished data set is opened, and a half-written one is never used.

    Raises:
        DataError: the manifest cannot be read or has no usable picture, the directory cannot be written, or it already
            has crops of another manifest, geometry or detector.
    """
    import tensorflow_datasets as tfds

    from fakeface_jax.data.fake_faces.fake_faces_dataset_builder import Builder
    from fakeface_jax.data.manifest import load_manifest

    fingerprint = load_manifest(manifest).fingerprint()
    builder = Builder(
        manifest=manifest,
        crop=crop,
        whole_images=whole_images,
        detector=detector,
        data_dir=str(directory),
        file_format="array_record",
    )
    try:
        # TFDS works in a directory named incomplete and renames it at the end. Its output is not a result, so not for
        # stdout.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=str(Path(manifest).parent))
            )
    except OSError as error:
        raise DataError(
            f"{directory}: cannot be written: {error.strerror or error}; check permissions and free space"
        ) from error
    dataset = open_dataset(Path(builder.data_path))
    wanted, there = (fingerprint, crop, detector), (dataset.manifest_sha256, dataset.crop, dataset.detector)
    for what, one, other in zip(("manifest", "crop", "detector"), wanted, there, strict=True):
        # Whole pictures are cut without a detector.
        if one != other and not (what == "detector" and whole_images):
            raise DataError(f"{dataset.path}: contains crops of another {what}; remove it or name another directory")
    return dataset


def open_dataset(directory: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Dataset:
    """Opens a prepared data set of crops.

    Args:
        directory: TFDS's version directory, or a directory above it with exactly one; several are read as one.

    Raises:
        DataError: there is none, there are several, it was not written by this project, or the crops of several differ.
    """
    if not isinstance(directory, str | os.PathLike):
        return join_datasets([open_dataset(one) for one in directory])
    found = sorted(Path(directory).glob("**/dataset_info.json"))
    found = [path for path in found if "incomplete" not in path.parent.name]
    if len(found) != 1:
        what = "no prepared data set" if not found else f"{len(found)} prepared data sets"
        raise DataError(f"{directory}: contains {what}; name the directory of one (made with fakeface data build)")
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder_from_directory(found[0].parent).info
        metadata = dict(info.metadata or {})
        return Dataset(
            path=found[0].parent,
            crop=CropSpec(**metadata["crop"]),
            detector=metadata["detector"],
            sizes={name: split.num_examples for name, split in info.splits.items()},
            manifest_sha256=metadata["manifest_sha256"],
            rejected=tuple(metadata["rejected"]),
            whole_images=metadata.get("kind") == "whole_images",
        )
    except Exception as error:  # TFDS raises many kinds of errors for files that are not its own
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{found[0].parent}: was not written by fakeface data build: {why}; build it again") from error

"""Writing and opening the crops: one place that knows where TFDS puts them.

Example:
    >>> dataset = build_dataset("manifest.parquet", "data", CropSpec(size=150))
    >>> dataset = open_dataset("data")
    >>> dataset.crop.size, dataset.sizes["train"]
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fakeface_jax.errors import DataError
from fakeface_jax.faces import CropSpec
from fakeface_jax.labels import Label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """Prepared crops on disk.

    Attributes:
        path: the TFDS version directory.
        crop: how the crops were cut.
        detector: which detector found the faces.
        sizes: samples per split.
        manifest_sha256: the fingerprint of the manifest they were made from.
        rejected: `id` and `reason` of every picture that was left out.
    """

    path: Path
    crop: CropSpec
    detector: str
    sizes: Mapping[str, int]
    manifest_sha256: str
    rejected: tuple[Mapping[str, str], ...]

    def source(self, split: str, *, pictures: bool = True) -> Any:
        """Random access to a split: `len`, and items with `image` (uint8 RGB), `label`, `id`, `source`, `group`.

        Without `pictures` the image stays undecoded bytes, which is much faster where only the rest is wanted.
        """
        if split not in self.sizes:
            raise DataError(f"{self.path}: has no split {split!r}; there are {', '.join(self.sizes)}")
        import tensorflow_datasets as tfds

        decoders = None if pictures else {"image": tfds.decode.SkipDecoding()}
        return tfds.builder_from_directory(self.path).as_data_source(split, decoders=decoders)

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Samples per split and class: {"train": {"real": 5000, "fake": 5007}, ...}."""
        counts = {}
        for split in self.sizes:
            labels = [int(record["label"]) for record in self.source(split, pictures=False)]
            counts[split] = {"real": labels.count(Label.REAL), "fake": labels.count(Label.FAKE)}
        return counts


def build_dataset(
    manifest: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    crop: CropSpec,
    *,
    whole_images: bool = False,
    detector: str = "centerface",
) -> Dataset:
    """Cuts and stores every face of a manifest; a finished one is opened, a half-written one never seen.

    Raises:
        DataError: the manifest cannot be read or has no usable picture, the directory cannot be written, or crops of
            another manifest, crop or detector are there.
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
        # TFDS works in a directory named incomplete and renames it at the end. What it prints is no result.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=str(Path(manifest).parent))
            )
    except OSError as error:
        raise DataError(f"{directory}: cannot be written: {error.strerror or error}") from error
    dataset = open_dataset(Path(builder.data_path))
    wanted, there = (fingerprint, crop, detector), (dataset.manifest_sha256, dataset.crop, dataset.detector)
    for what, one, other in zip(("manifest", "crop", "detector"), wanted, there, strict=True):
        # Whole pictures are cut without a detector.
        if one != other and not (what == "detector" and whole_images):
            raise DataError(f"{dataset.path}: holds crops of another {what}; remove it or name another directory")
    return dataset


def open_dataset(directory: str | os.PathLike[str]) -> Dataset:
    """Opens prepared crops.

    Args:
        directory: TFDS's version directory, or one above it that holds exactly one.

    Raises:
        DataError: none there, several there, or not written by this project.
    """
    found = sorted(Path(directory).glob("**/dataset_info.json"))
    found = [path for path in found if "incomplete" not in path.parent.name]
    if len(found) != 1:
        what = "no prepared data set" if not found else f"{len(found)} prepared data sets"
        raise DataError(f"{directory}: holds {what}; name the directory of one (fakeface data build makes it)")
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
        )
    except Exception as error:  # TFDS raises many kinds on files that are not its own
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{found[0].parent}: was not written by fakeface data build: {why}") from error

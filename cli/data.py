"""`fakeface data merge`, `audit` and `build`: turn Kaggle archives and folders into a data set of face crops."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from fakeface_jax.cli import NEEDS_TRAINING_EXTRA, quiet_libraries
from fakeface_jax.cli.output import tell
from fakeface_jax.errors import ConfigError, printable

AUDIT_FAILED = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merge:
    """Merges sources into one manifest: groups duplicates, assigns splits, lists unusable files.

    Attributes:
        sources: sources as KIND:PATH[@NAMES], new ones last. KIND is one of ciplab, 140k, uditsharma72, folder, csv,
            tfds; NAMES, separated by commas, selects or names sources. Examples: folder:photos, csv:faces.csv@dfdc,lfw.
        output: the manifest to write, a Parquet file.
        train_only: sources that are used for training alone, without samples in any other split.
    """

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    output: Path
    train_only: tuple[str, ...] = ()

    def run(self) -> int:
        """Merges the sources and returns the exit code."""
        from tqdm import tqdm

        try:
            from fakeface_jax.data.manifest import merge
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing; {NEEDS_TRAINING_EXTRA}") from error
        with tqdm(desc="reading", unit="picture", disable=None) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            manifest = merge(self.sources, train_only=self.train_only, progress=progress)
        manifest.save(self.output)
        for row in manifest.left_out():
            if row.left_out.startswith("unreadable"):
                tell(printable(f"excluded: {row.sample.root}/{row.sample.name}: {row.left_out}"))
        print(manifest.counts_table())
        print(f"manifest: {self.output}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """Checks whether anything besides the face gives the label away; exits with 1 if a source exceeds the limit.

    Attributes:
        manifest: manifest of `fakeface data merge`.
        max_auc: highest AUC that is allowed when the label is predicted from a source's file properties alone.
        sources: names of the sources to audit. If omitted: all.
    """

    manifest: Annotated[Path, tyro.conf.Positional]
    max_auc: float = 0.7
    sources: tuple[str, ...] = ()

    def run(self) -> int:
        """Audits the manifest and returns the exit code."""
        try:
            from fakeface_jax.data.audit import audit
            from fakeface_jax.data.manifest import load_manifest
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing; {NEEDS_TRAINING_EXTRA}") from error
        findings = audit(load_manifest(self.manifest), max_auc=self.max_auc, sources=self.sources)
        print(findings.table())
        return 0 if findings.passed else AUDIT_FAILED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
    """Crops every face of a manifest and stores the crops as a TFDS data set (ArrayRecord).

    Attributes:
        manifest: manifest of `fakeface data merge`.
        output: the TFDS data directory to write.
        size: side of the crops in pixels.
        margin: side of the cut square relative to the face box.
        whole_images: store whole pictures instead of faces: the report's recipe.
    """

    manifest: Annotated[Path, tyro.conf.Positional]
    output: Path
    size: int = 150
    margin: float = 1.3
    whole_images: bool = False

    def run(self) -> int:
        """Builds the data set and returns the exit code."""
        try:
            from fakeface_jax.data.dataset import build_dataset
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing; {NEEDS_TRAINING_EXTRA}") from error
        from fakeface_jax.faces import CropSpec

        crop = CropSpec(size=self.size, margin=self.margin)
        with quiet_tfds():
            dataset = build_dataset(self.manifest, self.output, crop, whole_images=self.whole_images)
        for one in dataset.rejected:
            tell(printable(f"excluded: {one['id']}: {one['reason']}"))
        print(", ".join(f"{split} {count:,}" for split, count in dataset.sizes.items()))
        print(f"excluded: {len(dataset.rejected)}")
        print(f"data: {dataset.path}")
        return 0


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Hides the progress bars of TFDS when stderr is not a terminal: it would draw them into log files too."""
    import tensorflow_datasets as tfds

    quiet_libraries()
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()

"""`fakeface features` and `fakeface fit`: from pictures to cached features, and from those to a calibrated bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fakeface_jax.cli import NEEDS_TRAINING_EXTRA, quiet_libraries
from fakeface_jax.errors import ConfigError
from fakeface_jax.features.fit_config import FitConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stills:
    """Takes faces out of labelled clips, as pictures that `fakeface data merge` reads (csv:OUTPUT/stills.csv).

    Attributes:
        tables: CSV files with the columns path, label, source, and where known method and group.
        output: directory of the pictures and of stills.csv; clips that are there already are not decoded again.
        frames: pictures of every clip, evenly spread.
    """

    tables: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CSV")]
    output: Path
    frames: int = 6

    def run(self) -> int:
        """Extracts; the exit code."""
        from fakeface_jax.cli.update_command import progress_bar
        from fakeface_jax.video.reading.stills import extract_stills

        with progress_bar("reading", unit="clip") as progress:
            count = extract_stills(self.tables, self.output, frames=self.frames, progress=progress)
        print(f"{count} pictures: {self.output / 'stills.csv'}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """Computes a frozen network's features of faces, once for every picture and view, into a cache.

    What is there is not computed again: an interrupted run goes on where it stopped, and more pictures or views add to
    the cache.

    Attributes:
        manifests: from `fakeface data merge`.
        output: the cache.
        views: clean, web, hard, drawn-0, drawn-1, ... (docs/detector.md).
        splits: of the manifests; leave the test split out of what anything is chosen by.
        most: pictures of a source and class at most.
        aligned: kinds of aligned fakes that are made of the real faces, instead of the pictures as they are: blend,
            upsample, taef2.
        autoencoder: weights of TAEF2, for taef2.
    """

    manifests: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MANIFEST")]
    output: Path
    views: tuple[str, ...] = ("web", "drawn-0")
    splits: tuple[str, ...] = ("train", "validation", "calibration")
    most: int | None = None
    aligned: tuple[str, ...] = ()
    autoencoder: Path | None = None

    def run(self) -> int:
        """Computes; the exit code."""
        quiet_libraries()
        try:
            from fakeface_jax.data.manifest import load_manifest
            from fakeface_jax.features.aligned import aligned_fakes
            from fakeface_jax.features.cache import FeatureCache
            from fakeface_jax.features.extract import extract_features
            from fakeface_jax.features.extractor import FeatureExtractor
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing; {NEEDS_TRAINING_EXTRA}") from error
        from fakeface_jax.cli.update_command import progress_bar
        from fakeface_jax.detectors import create_detector

        extractor = FeatureExtractor.default()
        cache = FeatureCache(self.output / extractor.id)
        makers = aligned_fakes(self.autoencoder)
        if unknown := sorted(set(self.aligned) - makers.keys()):
            raise ConfigError(f"{unknown[0]} cannot be made; there are {', '.join(makers)} (taef2 with --autoencoder)")
        kinds = [(name, makers[name]) for name in self.aligned] if self.aligned else [None]
        added, detector = 0, create_detector()
        for path in self.manifests:
            for kind in kinds:
                with progress_bar("features", unit="view") as progress:
                    added += extract_features(
                        load_manifest(path),
                        extractor,
                        cache,
                        detector,
                        views=self.views,
                        splits=self.splits,
                        most=self.most,
                        aligned=kind,
                        progress=progress,
                    )
        print(f"{added} views added: {cache.directory}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """Fits a detector on cached features, judges it by leaving sources out, and writes a calibrated bundle.

    Probabilities and thresholds, of faces and of videos, come from faces that were scored by heads that had seen
    neither their source nor their method.

    Attributes:
        features: the cache of `fakeface features`: the directory that holds its shards.
        config: what is fitted.
    """

    features: Path
    config: FitConfig

    def run(self) -> int:
        """Fits; the exit code."""
        quiet_libraries()
        try:
            from fakeface_jax.features.extractor import BACKBONE, DETAIL
            from fakeface_jax.features.table import FeatureTable
            from fakeface_jax.training.fit import fit_detector
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing; {NEEDS_TRAINING_EXTRA}") from error
        from fakeface_jax.backbones import load_backbone
        from fakeface_jax.bundle import load_bundle

        table = FeatureTable.load(self.features)
        done = fit_detector(table, self.config, load_backbone(BACKBONE), load_bundle(DETAIL))
        judged = done.judged
        print(f"{judged.methods.title}\n\n{judged.methods.table()}\n")
        print(f"{judged.sources.title}\n\n{judged.sources.table()}\n")
        print(
            f"mean AUC {judged.mean_auc:.4f}, worst source's false alarms {judged.worst_false_alarms:.3f}, "
            f"objective {judged.objective:.4f}"
        )
        for what, figures in done.bundle.spec.metrics["sources_left_out"].items():
            print(f"{what}: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
        print(f"bundle: {done.bundle.path}")
        return 0

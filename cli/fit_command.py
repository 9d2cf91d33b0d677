"""`fakeface features`, `fakeface fit` and `fakeface data stills`: clips to stills, to features, to a bundle."""

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
    """Extracts faces from labelled clips as pictures that `fakeface data merge` reads (csv:OUTPUT/stills.csv).

    Attributes:
        tables: CSV files with the columns path, label, source and, where known, method and group.
        output: directory for the pictures and stills.csv; clips that are already there are not decoded again.
        frames: number of pictures per clip, evenly spread.
    """

    tables: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CSV")]
    output: Path
    frames: int = 6

    def run(self) -> int:
        """Extracts the pictures and returns the exit code."""
        from fakeface_jax.cli.update_command import progress_bar
        from fakeface_jax.video.reading.stills import extract_stills

        with progress_bar("reading", unit="clip") as progress:
            count = extract_stills(self.tables, self.output, frames=self.frames, progress=progress)
        print(f"{count} pictures: {self.output / 'stills.csv'}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """Computes a frozen network's features for every picture and view, and caches them.

    Cached features are not computed again: an interrupted run continues where it stopped, and more pictures or views
    are added to the cache.

    Attributes:
        manifests: manifests of `fakeface data merge`.
        output: directory of the cache.
        views: versions of each face to compute: clean, web, hard, drawn-0, drawn-1, ... (docs/detector.md).
        splits: splits of the manifests to include; leave out the test split if anything is chosen by these features.
        most: largest number of pictures per source and class. If omitted: no limit.
        aligned: kinds of fakes to make from the real faces, used instead of the pictures as they are: blend, upsample,
            taef2.
        autoencoder: weights of TAEF2, needed for the kind taef2.
    """

    manifests: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MANIFEST")]
    output: Path
    views: tuple[str, ...] = ("web", "drawn-0")
    splits: tuple[str, ...] = ("train", "validation", "calibration")
    most: int | None = None
    aligned: tuple[str, ...] = ()
    autoencoder: Path | None = None

    def run(self) -> int:
        """Computes the features and returns the exit code."""
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
            raise ConfigError(
                f"--aligned {unknown[0]}: not a known kind; use one of {', '.join(makers)} (taef2 needs --autoencoder)"
            )
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
    """Fits a detector on cached features, evaluates it with held-out sources and writes a calibrated bundle.

    Probabilities and thresholds of faces and videos are fitted to scores of heads that saw neither the face's source
    nor its method during training.

    Attributes:
        features: directory with the shards of the cache that `fakeface features` wrote.
        config: settings of the fit.
    """

    features: Path
    config: FitConfig

    def run(self) -> int:
        """Fits the detector and returns the exit code."""
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

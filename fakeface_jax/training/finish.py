"""Turns the best weights into a calibrated bundle with thresholds, figures and a model card.

Example:
    >>> bundle = finish(train(config, reporter), config)
"""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fakeface_jax.bundle import Bundle, BundleSpec, Normalization, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.data.augment import augment
from fakeface_jax.data.dataset import Dataset
from fakeface_jax.data.degrade import degrade
from fakeface_jax.data.loader import train_batches
from fakeface_jax.decision import VerdictBands
from fakeface_jax.evaluation.batch_scoring import labelled_faces, named, predict
from fakeface_jax.evaluation.calibration import (
    balanced_weights,
    choose_bands,
    choose_operating_points,
    fit_calibration,
)
from fakeface_jax.evaluation.plots import plot_batch, plot_class_histogram, plot_history
from fakeface_jax.models import flatten_state, pixel_scaling
from fakeface_jax.training.card import model_card
from fakeface_jax.training.train_config import TrainConfig
from fakeface_jax.training.train_loop import TrainResult

CALIBRATION_SPLIT = "calibration"
"""Split that training, early stopping and testing do not use."""


def finish(result: TrainResult, config: TrainConfig) -> Bundle:
    """Calibrates the best weights and writes the bundle to `bundle/` in the run directory.

    Probabilities and thresholds are fitted on the calibration split with the weights as stored (half precision), so
    that they belong to exactly the model that is used. Without that split the bundle says that it is not calibrated.
    """
    path = config.output / "bundle"
    params, stats = result.weights
    weights = flatten_state(params) | flatten_state(stats)
    mean, std = pixel_scaling(result.network.config)
    spec = BundleSpec(
        name=config.output.name,
        model=result.network.config,
        crop=result.dataset.crop,
        detector=result.dataset.detector,
        normalization=Normalization(mean=mean, std=std),
        bands=VerdictBands(real_below=0.0, fake_from=1.0, reason="not calibrated: every verdict is inconclusive"),
        provenance=_provenance(result, config),
    )
    bundle = save_bundle(path, spec, weights, card=model_card(spec))
    if CALIBRATION_SPLIT in result.dataset.sizes:
        spec = calibrate(spec, FaceClassifier(bundle), result.dataset, leave_out=config.loader.leave_out)
        bundle = save_bundle(path, spec, weights, card=model_card(spec))
    plot_history(result.epochs, config.output / "history.png")
    return bundle


def calibrate(
    spec: BundleSpec, classifier: FaceClassifier, dataset: Dataset, *, leave_out: Sequence[str] = ()
) -> BundleSpec:
    """Returns the specification with probabilities, operating points and verdict bands fitted on the calibration split.

    Both classes have the same weight, and within a class so has every source, whatever its size: it is unknown which
    one a user's picture resembles, and otherwise the largest source would determine the thresholds.

    Args:
        leave_out: sources or methods that training did not see; they are excluded here too, so that a test on them
            remains a test on unseen data.
    """
    left_out = named(labelled_faces(dataset, CALIBRATION_SPLIT), leave_out)
    predictions = predict(classifier, dataset, CALIBRATION_SPLIT, keep=~left_out)
    labels, groups = predictions.labels, predictions.groups
    weights = balanced_weights(labels, predictions.sources)
    calibration = fit_calibration(labels, predictions.logits, split=CALIBRATION_SPLIT, groups=groups, weights=weights)
    p_fake = calibration(predictions.logits.astype(np.float64))
    points = choose_operating_points(labels, p_fake, split=CALIBRATION_SPLIT, groups=groups, weights=weights)
    bands = choose_bands(points)
    bands = dataclasses.replace(bands, reason=f"{bands.reason}; every source counts alike")
    return dataclasses.replace(spec, calibration=calibration, operating_points=points, bands=bands, video=None)


def draw_data(config: TrainConfig, dataset: Dataset) -> None:
    """Draws figures to check before a run: a class histogram per split and a 4 x 4 grid of an augmented batch."""
    config.output.mkdir(parents=True, exist_ok=True)
    plot_class_histogram(dataset.class_counts(), config.output / "classes.png")
    batches = train_batches(
        dataset.source("train"),
        config.loader,
        seed=config.seed,
        processes=(0, 1),
        records=dataset.source("train", pictures=False),
        pseudo=config.pseudo,
    )
    batch = next(iter(batches))
    count = min(16, len(batch["label"]))
    key = jax.random.key(config.seed)
    pixels = degrade(key, augment(key, jnp.asarray(batch["image"][:count]), config.augment), config.degrade)
    images = np.asarray(pixels).round().astype(np.uint8)
    plot_batch(images, batch["label"][:count].astype(np.int64), config.output / "batch.png")


def _origin(bundle: Bundle) -> Mapping[str, Any]:
    """Describes the starting bundle: what it was trained on counts as seen by this one too."""
    # Later changes of the bundle's thresholds do not concern the data that its weights were trained on.
    kept = {key: value for key, value in bundle.spec.provenance.items() if key not in ("updates", "recalibration")}
    return {"name": bundle.spec.name, "id": bundle.id, "provenance": kept}


def _provenance(result: TrainResult, config: TrainConfig) -> Mapping[str, Any]:
    best = next(row for row in result.epochs if row["epoch"] == result.best_epoch)
    return {
        "config": config.to_dict(),
        "start": None if result.start is None else _origin(result.start),
        "data": {
            "sizes": dict(result.dataset.sizes),
            "manifest_sha256": result.dataset.manifest_sha256,
            "rejected": len(result.dataset.rejected),
        },
        "chosen_by": "lowest validation loss",
        "best_epoch": {key: float(value) for key, value in best.items()},
        "epochs_run": len(result.epochs),
        "training_seconds": float(sum(row["seconds"] for row in result.epochs)),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "machine": platform.machine(),
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "grain", "fakeface-jax")},
    }

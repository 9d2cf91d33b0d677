"""Converts a float32 bundle to one that computes in int8, and measures the cost.

    python scripts/quantize.py --bundle lite0 --data runs/data/fake_faces/faces-224 --output runs/lite0-int8

Ranges are observed on faces of the training split. Probabilities and thresholds are fitted again on the calibration
split; those of videos must be fitted again too (`fakeface_jax.video.verdict.video_calibration`). Prints AUC per source
on the validation split for both bundles.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from fakeface_jax.backends.int8 import FACES, observed_ranges
from fakeface_jax.bundle import Bundle, load_bundle, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.data.dataset import Dataset, open_dataset
from fakeface_jax.evaluation.batch_scoring import labelled_faces, map_crops, predict
from fakeface_jax.evaluation.weighted_metrics import point_metrics
from fakeface_jax.training.card import model_card
from fakeface_jax.training.finish import calibrate


def main() -> None:
    """Writes the bundle and prints a Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, default=None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--leave-out", nargs="*", default=[])
    options = parser.parse_args()
    bundle, dataset = load_bundle(options.bundle), open_dataset(options.data)
    made = quantized(bundle, dataset, options.output, leave_out=options.leave_out)
    before, after = aucs(bundle, dataset), aucs(made, dataset)
    print("| source | float32 AUC | int8 AUC | difference |\n| --- | --- | --- | --- |")
    for source, auc in before.items():
        print(f"| {source} | {auc:.4f} | {after[source]:.4f} | {after[source] - auc:+.4f} |")


def quantized(bundle: Bundle, dataset: Dataset, output: Path, *, leave_out: list[str]) -> Bundle:
    """Writes the same weights in int8, calibrated again, to `output`."""
    count = len(labelled_faces(dataset, "train").labels)
    keep = np.zeros(count, bool)
    keep[np.random.default_rng(0).permutation(count)[:FACES]] = True
    crops = map_crops(lambda batch: batch, dataset, "train", keep=keep)
    spec = dataclasses.replace(
        bundle.spec,
        name=f"{bundle.spec.name}-int8",
        int8=observed_ranges(bundle, crops),
        provenance={**bundle.spec.provenance, "int8_of": {"name": bundle.spec.name, "id": bundle.id}},
        metrics={},
    )
    made = save_bundle(output, spec, bundle.weights, card=model_card(spec))
    spec = calibrate(spec, FaceClassifier(made), dataset, leave_out=leave_out)
    return save_bundle(output, spec, bundle.weights, card=model_card(spec))


def aucs(bundle: Bundle, dataset: Dataset) -> dict[str, float]:
    """Computes the AUC of each source that has both classes in the validation split."""
    faces = predict(FaceClassifier(bundle), dataset, "validation")
    found = {}
    for source in np.unique(faces.sources):
        one = faces.sources == source
        auc = point_metrics(faces.labels[one], bundle.spec.calibration(faces.logits[one].astype(np.float64)))["auc"]
        if auc is not None:
            found[str(source)] = auc
    return found


if __name__ == "__main__":
    main()

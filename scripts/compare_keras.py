"""Compares our run with the same recipe in Keras, on the same crops and the same split.

    make compare-keras
    python scripts/compare_keras.py --data runs/report-data/fake_faces/faces-150 --output runs/keras \
        --peer-python .venv-peers/bin/python --epochs 20

Exports the stored crops to folders (the original JPEG bytes), runs `keras_recipe.py` in the peers' environment for
training and prediction, and prints both results per source with intervals, and their differences with intervals of
their own (both models are drawn on the same resampled groups), both at P(fake) = 0.5. The test split is read for this
table; nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
from pathlib import Path

import numpy as np

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.data.dataset import Dataset, open_dataset
from fakeface_jax.decision import Calibration, VerdictBands
from fakeface_jax.evaluation.batch_scoring import predict
from fakeface_jax.evaluation.comparison import compare
from fakeface_jax.evaluation.evaluation_report import markdown_table
from fakeface_jax.evaluation.metrics import evaluate
from fakeface_jax.evaluation.paired_bootstrap import Scored
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.weighted_metrics import THRESHOLD


def main() -> None:
    """Exports the crops, trains the peer and prints the comparison."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=None, help="our bundle. If omitted: the bundled model")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    folder, result = options.output / "crops", options.output / "keras.npz"
    export(dataset, folder)
    if not result.exists():
        recipe = Path(__file__).with_name("keras_recipe.py")
        command = [str(options.peer_python), str(recipe), str(folder), str(result)]
        command += ["--size", str(dataset.crop.size), "--epochs", str(options.epochs)]
        subprocess.run([*command, "--learning-rate", str(options.learning_rate)], check=True)
    classifier = FaceClassifier.load(options.bundle)
    ours = predict(classifier, dataset, "test")
    theirs = peer_predictions(ours, result)
    print("ours\n")
    print(markdown_table(evaluate(ours, classifier.spec.calibration)))
    print("\nKeras, scores as they come\n")
    print(markdown_table(evaluate(theirs, Calibration())))
    spec = classifier.spec
    at_half = VerdictBands(real_below=THRESHOLD, fake_from=THRESHOLD)
    comparison = compare(
        Scored(name="Keras, scores as they come", predictions=theirs, calibration=Calibration(), bands=at_half),
        Scored(name=spec.name, predictions=ours, calibration=spec.calibration, bands=at_half),
    )
    print(f"\n{comparison.result.caption}\n\n{comparison.table()}")


def export(dataset: Dataset, folder: Path) -> None:
    """Exports the stored crops to folders for flow_from_directory; the number in a name is the sample's index."""
    for split in ("train", "validation", "test"):
        if (folder / split / "complete").exists():
            continue
        for index, record in enumerate(dataset.source(split, pictures=False)):
            place = folder / split / ("fake" if record["label"] else "real") / f"{index:06d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(record["image"])
        (folder / split / "complete").touch()


def peer_predictions(ours: Predictions, result: Path) -> Predictions:
    """Returns the scores of Keras in our order, as logits."""
    with np.load(result) as found:
        index = np.array([int(Path(name).stem) for name in found["names"]])
        p_fake = np.clip(found["p_fake"].astype(np.float64), 1e-7, 1 - 1e-7)
    logits = np.full(len(ours), np.nan, np.float32)
    logits[index] = np.log(p_fake / (1 - p_fake))
    return dataclasses.replace(ours, logits=logits)


if __name__ == "__main__":
    main()

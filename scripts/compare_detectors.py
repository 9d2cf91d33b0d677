"""Compares face detectors by faces found, false alarms and milliseconds; writes the table of docs/detectors.md.

    make compare-detectors
    python scripts/compare_detectors.py ../shared/data --per-source 200

Pictures with a face come from the labelled sets (every one contains a face). Pictures without one are those of
scikit-image and scikit-learn, whole and cut into quarters. The detectors alternate on each picture, so that changes in
the machine's speed affect all alike; times are medians on the pictures in their original size.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from compared_detectors import MtcnnDetector, YuNetDetector
from skimage import data
from sklearn.datasets import load_sample_images

from fakeface_jax.detectors import create_detector
from fakeface_jax.faces import FaceDetector
from fakeface_jax.images import read_image

FACELESS = ("brick", "cat", "coffee", "coins", "clock", "grass", "gravel", "hubble_deep_field")
FACELESS += ("immunohistochemistry", "moon", "page", "retina", "rocket", "text", "colorwheel", "cell", "logo", "horse")


def faceless() -> list[np.ndarray]:
    """Returns RGB pictures without a face, whole and in quarters."""
    pictures = [np.asarray(picture) for picture in load_sample_images().images]
    for name in FACELESS:
        picture = np.asarray(getattr(data, name)())
        if picture.dtype == bool:
            picture = picture.astype(np.uint8) * 255
        pictures.append(np.stack([picture] * 3, -1) if picture.ndim == 2 else picture[..., :3])
    quarters = []
    for picture in pictures:
        height, width = picture.shape[0] // 2, picture.shape[1] // 2
        quarters += [picture[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    return [np.ascontiguousarray(picture) for picture in [*pictures, *quarters]]


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--per-source", type=int, default=200)
    options = parser.parse_args()
    detectors: dict[str, FaceDetector] = {"centerface": create_detector(), "mtcnn": MtcnnDetector()}
    for model in sorted((options.data / "models").glob("*yunet*.onnx")):
        detectors["yunet"] = YuNetDetector(model)
    with (options.data / "faces.csv").open(newline="", encoding="utf-8") as file:
        by_source = defaultdict(list)
        for row in csv.DictReader(file):
            by_source[row["source"]].append(options.data / row["path"])
    chooser = random.Random(0)
    pictures = {
        source: [read_image(path) for path in chooser.sample(paths, min(options.per_source, len(paths)))]
        for source, paths in by_source.items()
        if len(paths) >= 100
    }
    pictures["no face"] = faceless()
    columns = list(pictures)
    print("| detector | " + " | ".join(f"{c}: found, ms" for c in columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    cells: dict[str, list[str]] = {name: [] for name in detectors}
    for images in pictures.values():
        found: dict[str, list[int]] = defaultdict(list)
        spent: dict[str, list[float]] = defaultdict(list)
        for image in images:
            for name, detector in detectors.items():
                started = time.perf_counter()
                found[name].append(len(detector.detect(image)))
                spent[name].append(1000 * (time.perf_counter() - started))
        for name in detectors:
            hits = sum(count > 0 for count in found[name])
            several = sum(count > 1 for count in found[name])
            note = f" ({several} with several)" if several else ""
            cells[name].append(f"{hits}/{len(images)}{note}, {np.median(spent[name]):.0f}")
    for name, row in cells.items():
        print(f"| {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()

"""Measures how often faces must be detected: interpolated boxes against boxes detected in every frame.

    make compare-detection
    python scripts/compare_detection.py ../shared/data/videos.csv --seconds 4

Prints, over all clips and for each interval between detections: detections per frame, intersection over union with
the box detected in the same frame (mean and 1st percentile), missed faces, and milliseconds per frame, without
decoding.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np

from fakeface_jax.detectors import create_detector
from fakeface_jax.faces import CropSpec, crop_face
from fakeface_jax.video.faces.detection import find_faces
from fakeface_jax.video.faces.tracking import overlap
from fakeface_jax.video.reading.opencv import open_video
from fakeface_jax.video.reading.sampling import Sampling

SPACINGS = (0.0, 0.1, 0.2, 0.3, 0.5)


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("csv", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    detector = create_detector()
    spec = CropSpec(size=224)
    rows = {spacing: Row() for spacing in SPACINGS}
    with options.csv.open(newline="", encoding="utf-8") as file:
        paths = [options.csv.parent / row["path"] for row in csv.DictReader(file)]
    for path in paths:
        with open_video(path) as video:
            frames = list(video.frames(Sampling(every=1, end=options.seconds)))
        truth = {}
        for spacing, row in rows.items():
            start = time.perf_counter()
            found = list(
                find_faces(frames, detector, lambda image, face: crop_face(image, face.box, spec), spacing=spacing)
            )
            row.seconds += time.perf_counter() - start
            row.frames += len(found)
            row.detected += sum(not one.carried for one in found)
            if not spacing:
                truth = {one.index: [face.box for face in one.faces] for one in found}
            for one in found:
                for box in truth[one.index]:
                    row.overlaps.append(max((overlap(box, face.box) for face in one.faces), default=0.0))
    print(f"{len(paths)} clips, the first {options.seconds:g} s of each, every frame\n")
    print("| s between detections | detections per frame | IoU mean | IoU 1 % | IoU under .5 | ms per frame |")
    print("| --- | --- | --- | --- | --- | --- |")
    for spacing, row in rows.items():
        overlaps = np.array(row.overlaps)
        print(
            f"| {spacing:g} | {row.detected / row.frames:.2f} | {overlaps.mean():.3f} | "
            f"{np.percentile(overlaps, 1):.3f} | {(overlaps < 0.5).mean():.2%} | {1e3 * row.seconds / row.frames:.1f} |"
        )


class Row:
    """The sums for one row of the table."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.frames = self.detected = 0
        self.overlaps: list[float] = []


if __name__ == "__main__":
    main()

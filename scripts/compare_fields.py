"""Measures the effect of interlaced video on scores: both fields woven into one picture, or one field at full height.

    make compare-fields
    python scripts/compare_fields.py ../shared/data/videos.csv

Interlaced pictures are made from progressive clips: the even lines of one frame, the odd lines of the next. Prints the
mean logit of each clip's largest faces in the original frames, in woven ones, and in their even lines alone, and the
difference of the last two from the first. (Frames are about 1/25 s apart, the fields of real video 1/50 s, so their
combs are shorter.)
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np

from fakeface_jax.bundle import load_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.detectors import create_detector
from fakeface_jax.faces import crop_face
from fakeface_jax.video.reading.opencv import open_video


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("csv", type=Path)
    parser.add_argument("--frames", type=int, default=16)
    options = parser.parse_args()
    bundle = load_bundle(None)
    classifier, detector = FaceClassifier(bundle), create_detector(bundle.spec.detector)
    with options.csv.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    means: list[list[float]] = []
    print("| clip | label | as it is | both fields woven | one field |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        crops: list[list[np.ndarray]] = [[], [], []]
        for frame, following in pairs(options.csv.parent / row["path"], options.frames):
            faces = detector.detect(frame)
            if not faces:
                continue
            box = max(faces, key=lambda face: face.box[2] - face.box[0]).box
            for shown, picture in zip(crops, (frame, woven(frame, following), one_field(frame)), strict=True):
                shown.append(crop_face(picture, box, bundle.spec.crop))
        if crops[0]:
            means.append([float(classifier.calibrated_logits(np.stack(some)).mean()) for some in crops])
            print(
                f"| {Path(row['path']).stem} | {row['label']} |", " | ".join(f"{mean:.2f}" for mean in means[-1]), "|"
            )
    away = np.array(means)[:, 1:] - np.array(means)[:, :1]
    print(f"\n{len(means)} clips. Mean difference: woven {away[:, 0].mean():+.2f}, one field {away[:, 1].mean():+.2f};")
    print(f"mean distance: woven {np.abs(away[:, 0]).mean():.2f}, one field {np.abs(away[:, 1]).mean():.2f}.")


def pairs(path: Path, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns evenly spread frames, each with the frame after it."""
    with open_video(path) as video:
        starts = np.unique(np.linspace(0, max(0, video.frame_count - 2), count).astype(int)).tolist()
        wanted = sorted({index for start in starts for index in (start, start + 1)})
        images = {frame.index: frame.image for frame in video.frames_at(wanted)}
    return [(images[n], images[n + 1]) for n in starts if n in images and n + 1 in images]


def woven(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Combines the even lines of one picture with the odd lines of another."""
    picture = first.copy()
    picture[1::2] = second[1::2]
    return picture


def one_field(picture: np.ndarray) -> np.ndarray:
    """Stretches the even lines of a picture to its full height."""
    return cv2.resize(picture[0::2], picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)


if __name__ == "__main__":
    main()

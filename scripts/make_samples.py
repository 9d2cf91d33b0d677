"""Makes the sample media of `make demo` from freely licensed pictures in Python packages.

    python scripts/make_samples.py samples

Two public-domain portraits (NASA, U.S. Navy), a picture without a face (CC0), a face swap between the portraits, and
a clip that pans over a portrait. Nothing is downloaded. See samples/README.md for the origin of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image
from skimage import data

from fakeface_jax import Face, create_detector, read_image

FPS = 25
SECONDS = 4
SIZE = (640, 480)


def main() -> None:
    """Writes all samples into the named directory."""
    parser = argparse.ArgumentParser(description="Makes the sample media of `make demo`.")
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    collins = np.ascontiguousarray(data.astronaut())
    hopper = read_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    detector = create_detector()
    swapped = swap_face(hopper, detector.detect(hopper)[0], collins, detector.detect(collins)[0])
    for name, picture in (
        ("real_collins", collins),
        ("real_hopper", hopper),
        ("fake_hopper_on_collins", swapped),
        ("no_face_coffee", np.ascontiguousarray(data.coffee())),
    ):
        Image.fromarray(picture).save(directory / f"{name}.jpg", quality=92)
    write_clip(directory / "real_collins_pan.mp4", collins)


def swap_face(source: np.ndarray, source_face: Face, target: np.ndarray, target_face: Face) -> np.ndarray:
    """Lays one face over another by their five landmarks and blends the seam (Perez et al., 2003)."""
    moved, _ = cv2.estimateAffinePartial2D(
        np.float32(source_face.landmarks), np.float32(target_face.landmarks), method=cv2.LMEDS
    )
    height, width = target.shape[:2]
    warped = cv2.warpAffine(source, moved, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    x0, y0, x1, y1 = target_face.box
    centre = (round((x0 + x1) / 2), round((y0 + y1) / 2))
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, centre, (round((x1 - x0) * 0.42), round((y1 - y0) * 0.42)), 0, 0, 360, 255, -1)
    top, left = np.argwhere(mask).min(0)
    bottom, right = np.argwhere(mask).max(0)
    # seamlessClone centres the mask's bounding box on the given point.
    return cv2.seamlessClone(
        warped, target, mask, (int(left + right + 1) // 2, int(top + bottom + 1) // 2), cv2.NORMAL_CLONE
    )


def write_clip(path: Path, picture: np.ndarray) -> None:
    """Writes a slow zoom and pan over the picture."""
    width, height = SIZE
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, SIZE)
    for index in range(FPS * SECONDS):
        progress = index / (FPS * SECONDS - 1)
        view = 300 + 180 * (0.5 - 0.5 * np.cos(2 * np.pi * progress))
        view_height = view * height / width
        x = 226 - view / 2 + 40 * np.sin(2 * np.pi * progress)
        y = max(0, 125 - view_height / 2)
        scale = width / view
        moved = np.float32([[scale, 0, -x * scale], [0, scale, -y * scale]])
        frame = cv2.warpAffine(picture, moved, SIZE, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()


if __name__ == "__main__":
    main()

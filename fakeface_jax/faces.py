"""Face boxes and the one crop that training and scoring share.

Detectors return boxes in pixels of the picture they were given. `crop_face` cuts every face that this project trains
on or scores, so that a model never sees in use a crop it was not trained on.

Example:
    >>> faces = create_detector().detect(image)
    >>> crops = [crop_face(image, face.box, CropSpec(size=150, margin=1.3)) for face in faces]
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from fakeface_jax.errors import ConfigError

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the original picture; x1 and y1 are exclusive."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Face:
    """One detected face.

    Attributes:
        box: box inside the picture, in pixels.
        confidence: the detector's confidence in [0, 1]; not comparable between detectors.
        landmarks: five (x, y) points in pixels of the picture (left eye, right eye, nose, left and right corner of
            the mouth, as seen in the picture), or None if the detector finds none.
    """

    box: Box
    confidence: float
    landmarks: tuple[tuple[float, float], ...] | None = None

    @property
    def size(self) -> float:
        """Returns the longer side of the box, in pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


@runtime_checkable
class FaceDetector(Protocol):
    """A detector of faces in one picture. Implementations are safe to call from several threads."""

    name: str

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Returns all faces of an RGB picture, the largest first; an empty list if there are none."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropSpec:
    """The geometry of a face crop; stored in every data set and bundle.

    Attributes:
        size: side of the square crop in pixels.
        margin: side of the square relative to the longer side of the face box. FaceForensics++, DeepfakeBench and
            MesoNet use 1.3.
    """

    size: int = 150
    margin: float = 1.3

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024:
            raise ConfigError(f"crop size {self.size}: must be between 16 and 1024 pixels")
        if not 1.0 <= self.margin <= 3.0:
            raise ConfigError(f"crop margin {self.margin}: must be between 1 and 3")


def crop_face(image: UInt8[np.ndarray, "h w 3"], box: Box, spec: CropSpec) -> UInt8[np.ndarray, "s s 3"]:
    """Cuts a square around a box and resizes it.

    The side is `margin` times the longer side of the box, at most the shorter side of the picture, and the square is
    moved inside the picture where it extends beyond it. A crop contains only pixels of the picture: an invented border
    could give a source away.

    Args:
        image: RGB, 0 to 255.
        box: x0, y0, x1, y1 in pixels.

    Returns:
        RGB square with the side `spec.size`; area averaging when it shrinks, bilinear interpolation when it grows.
    """
    left, top, side = crop_square(image.shape[:2], box, spec)
    square = image[top : top + side, left : left + side]
    if side == spec.size:
        # Copied, because the caller may write into a crop, and because a view would keep a large picture alive.
        return square.copy()
    interpolation = cv2.INTER_AREA if side > spec.size else cv2.INTER_LINEAR
    return cv2.resize(square, (spec.size, spec.size), interpolation=interpolation)


def crop_square(shape: tuple[int, int], box: Box, spec: CropSpec) -> tuple[int, int, int]:
    """Returns the square that `crop_face` cuts from a picture of shape (height, width): left, top, side, in pixels."""
    height, width = shape
    x0, y0, x1, y1 = box
    side = round(max(x1 - x0, y1 - y0) * spec.margin)
    side = max(1, min(side, height, width))
    left = min(max(round((x0 + x1 - side) / 2), 0), width - side)
    top = min(max(round((y0 + y1 - side) / 2), 0), height - side)
    return left, top, side


def landmarks_in_crop(shape: tuple[int, int], face: Face, spec: CropSpec) -> Float32[np.ndarray, "5 2"]:
    """Returns a face's five landmarks as (x, y) in pixels of its crop; NaN if the detector found none.

    Args:
        shape: height and width of the picture.
        face: the face that the detector found in that picture.
    """
    if face.landmarks is None:
        return np.full((5, 2), np.nan, np.float32)
    left, top, side = crop_square(shape, face.box, spec)
    # Pixel centres lie at integers: resizing keeps the outer edges of the square.
    points = (np.asarray(face.landmarks, np.float64) - (left, top) + 0.5) * (spec.size / side) - 0.5
    return points.astype(np.float32)


def sharpness(crop: UInt8[np.ndarray, "s s 3"]) -> float:
    """Measures how much fine detail a crop has, independently of its size, light and contrast.

    The measure is the variance of the Laplacian (Pech-Pacheco et al., 2000) of the brightness at 112 pixels, as a share
    of the variance of the brightness itself. Faces in focus have .05 to .25; a uniform crop has 0.
    """
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (112, 112), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var() / max(float(grey.var()), 1.0))


def whole_image_box(image: UInt8[np.ndarray, "h w 3"]) -> Box:
    """Returns the box of a picture that is itself a face crop: `crop_face` then takes the largest centred square."""
    return (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))


def largest_first(faces: list[Face]) -> list[Face]:
    """Sorts faces in the order in which detectors return them."""
    return sorted(faces, key=lambda face: -face.size)


def clip_box(box: Float32[np.ndarray, 4] | Float64[np.ndarray, 4], width: int, height: int) -> Box | None:
    """Clips a box to the picture; returns None if nothing of it is left, or if a coordinate is not a number."""
    if not np.isfinite(box).all():
        return None
    x0, x1 = np.clip(box[[0, 2]], 0, width).tolist()
    y0, y1 = np.clip(box[[1, 3]], 0, height).tolist()
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None

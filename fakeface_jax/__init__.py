"""fakeface-jax tells how likely a face is to be fake, and how far that answer can be trusted.

Importing the package takes milliseconds; JAX, Flax and OpenCV are imported when something that needs them is used.

Example:
    >>> import fakeface_jax as ff
    >>> report = ff.score("portrait.jpg")               # a picture or a video
    >>> report.verdict, report.p_fake
    (<Verdict.REAL: 'real'>, 0.046)
    >>> ff.score_image(frame, colour="bgr")             # an array that OpenCV read
    >>> for event in ff.stream("rtsp://camera/live"):   # a live source
    ...     print(event)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fakeface_jax.errors import (
    BundleError,
    ConfigError,
    DataError,
    DecodeError,
    FakeFaceError,
    LimitExceeded,
    MediaError,
    OpenError,
)
from fakeface_jax.labels import Label, Verdict, parse_label

if TYPE_CHECKING:
    from fakeface_jax.bundle import Bundle, load_bundle
    from fakeface_jax.classifier import FaceClassifier, FaceScore
    from fakeface_jax.detectors import create_detector
    from fakeface_jax.faces import CropSpec, Face, FaceDetector, crop_face
    from fakeface_jax.images import decode_image, read_image
    from fakeface_jax.video.detector import FakeFaceDetector, load, score, score_image, score_video, stream
    from fakeface_jax.video.reading.sampling import Sampling
    from fakeface_jax.video.report.video_report import ImageReport, VideoReport

__version__ = "0.1.0"

_LAZY = {
    "Bundle": "bundle",
    "load_bundle": "bundle",
    "FaceClassifier": "classifier",
    "FaceScore": "classifier",
    "FakeFaceDetector": "video.detector",
    "ImageReport": "video.report.video_report",
    "Sampling": "video.reading.sampling",
    "VideoReport": "video.report.video_report",
    "load": "video.detector",
    "score": "video.detector",
    "score_image": "video.detector",
    "score_video": "video.detector",
    "stream": "video.detector",
    "CropSpec": "faces",
    "Face": "faces",
    "FaceDetector": "faces",
    "create_detector": "detectors",
    "crop_face": "faces",
    "decode_image": "images",
    "read_image": "images",
}

__all__ = [
    "Bundle",
    "BundleError",
    "ConfigError",
    "CropSpec",
    "DataError",
    "DecodeError",
    "Face",
    "FaceClassifier",
    "FaceDetector",
    "FaceScore",
    "FakeFaceDetector",
    "FakeFaceError",
    "ImageReport",
    "Label",
    "LimitExceeded",
    "MediaError",
    "OpenError",
    "Sampling",
    "Verdict",
    "VideoReport",
    "create_detector",
    "crop_face",
    "decode_image",
    "load",
    "load_bundle",
    "parse_label",
    "read_image",
    "score",
    "score_image",
    "score_video",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

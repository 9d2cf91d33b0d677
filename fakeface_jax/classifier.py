"""Turns face crops into calibrated P(fake) and verdicts.

A backend (`fakeface_jax/backends/`) runs the network; the answers are the same for all backends.

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
from fakeface_jax.bundle import Bundle, Medium, Normalization, load_bundle
from fakeface_jax.decision import sigmoid
from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import Face, crop_face
from fakeface_jax.labels import Verdict
from fakeface_jax.network_config import members, pixel_scaling


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaceScore:
    """One scored face.

    Attributes:
        face: the detected face.
        logit: calibrated logit; `p_fake` is its sigmoid.
        p_fake: calibrated probability in [0, 1] that the face is fake.
        verdict: verdict by the bundle's bands.
    """

    face: Face
    logit: float
    p_fake: float
    verdict: Verdict


class FaceClassifier:
    """A bundle that is ready to score faces.

    Attributes:
        bundle: the bundle, from `load_bundle`.
        spec: the bundle's specification.
        backend: the backend that runs the network; its `name` is that of its distribution.

    Args:
        bundle: the bundle, from `load_bundle`.
        backend: `auto`, `openvino` or `jax`; see `fakeface_jax.backends.choice`.

    Raises:
        BundleError: this release does not know the network, or the weights belong to another one.
        ConfigError: the backend is unknown, or it cannot run this network.
    """

    def __init__(self, bundle: Bundle, *, backend: BackendName = "auto") -> None:
        self.bundle = bundle
        self.spec = bundle.spec
        self.backend = create_backend(bundle, backend)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, *, medium: Medium = "picture") -> FaceClassifier:
        """Loads a bundle directory; None for the model that ships for the medium. Raises `BundleError`."""
        return cls(load_bundle(path, medium=medium))

    def logits(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, " n"]:
        """Returns the uncalibrated logits of face crops made with `crop_face` and this bundle's `CropSpec`.

        Raises:
            ConfigError: the crops have another size than the model's, or are not integers from 0 to 255.
        """
        if crops.dtype != np.uint8:
            raise ConfigError(f"crops are {crops.dtype}; the model takes uint8 from 0 to 255, made with crop_face")
        size = self.spec.crop.size
        if crops.shape[1:] != (size, size, 3):
            raise ConfigError(
                f"crops are {crops.shape[1:]}; the model takes {(size, size, 3)}, made with classifier.crop"
            )
        return self.backend.logits(crops)

    def logits_function(self) -> tuple[Callable[[Any, Any], Any], Any]:
        """Returns a pure function `(state, crops) -> uncalibrated logits` and its state; JAX can differentiate it.

        Crops have the size `spec.crop.size` and values from 0 to 255, not normalised; as float32 they have a gradient.
        """
        jax = self._jax
        return jax.function, jax.state

    def explained_function(self) -> tuple[Callable[[Any, Any], Any], Any]:
        """Returns the same for what heat maps explain.

        That is the model, but of a fusion with a frozen backbone the network beside it: the backbone's gradient takes a
        hundred times as long, and says less of small places.
        """
        explained = self._explained
        return explained.function, explained.state

    @functools.cached_property
    def _explained(self) -> JaxBackend:
        parts = members(self.spec.model, self.bundle.weights) if self.spec.model.get("name") == "experts" else []
        small = [part for part in parts if part[0].get("name") != "feature_probe"]
        if len(small) == len(parts) or not small:
            return self._jax
        model, weights = small[-1]
        mean, std = pixel_scaling(model)
        spec = dataclasses.replace(self.spec, model=model, normalization=Normalization(mean=mean, std=std))
        return JaxBackend(dataclasses.replace(self.bundle, spec=spec, weights=weights))

    @functools.cached_property
    def _jax(self) -> JaxBackend:
        """Creates the JAX backend when a gradient is first wanted, so that scoring need not import JAX.

        Threads that want it at the same time may each create one; the last one is kept.
        """
        return self.backend if isinstance(self.backend, JaxBackend) else JaxBackend(self.bundle)

    def calibrated_logits(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, " n"]:
        """Returns calibrated logits; their sigmoid is P(fake)."""
        return self.spec.calibration.logit(self.logits(crops)).astype(np.float32)

    def crop(self, image: UInt8[np.ndarray, "h w 3"], face: Face) -> UInt8[np.ndarray, "s s 3"]:
        """Returns the crop of one face as this model takes it."""
        return crop_face(image, face.box, self.spec.crop)

    def scores(self, faces: Sequence[Face], crops: UInt8[np.ndarray, "n s s 3"]) -> list[FaceScore]:
        """Scores faces whose crops were made with `crop`, in order."""
        found = []
        logits = self.calibrated_logits(crops).astype(np.float64)
        for face, logit, p_fake in zip(faces, logits.tolist(), sigmoid(logits).tolist(), strict=True):
            found.append(FaceScore(face=face, logit=logit, p_fake=p_fake, verdict=self.spec.bands.decide(p_fake)))
        return found

    def score_faces(self, image: UInt8[np.ndarray, "h w 3"], faces: Sequence[Face]) -> list[FaceScore]:
        """Crops and scores the given faces of an RGB picture."""
        size = self.spec.crop.size
        crops = np.zeros((len(faces), size, size, 3), np.uint8)
        for index, face in enumerate(faces):
            crops[index] = self.crop(image, face)
        return self.scores(faces, crops)

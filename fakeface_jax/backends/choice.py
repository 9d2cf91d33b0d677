"""Which backend runs a bundle's network.

On a CPU it is OpenVINO, for the networks that `layers.py` knows. It gets the weights of the same bundle, and has to
give the answers that JAX gave when the bundle was saved (`reference.py`); if it does not, JAX it is. JAX also runs what
OpenVINO cannot, and everything where it has an accelerator.

Example:
    >>> create_backend(load_bundle()).name
    'openvino'
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from fakeface_jax.backends.reference import agrees, probe_crops, reference_logits
from fakeface_jax.backends.xla import JaxBackend
from fakeface_jax.bundle import Bundle
from fakeface_jax.errors import BundleError, ConfigError

BackendName = Literal["auto", "openvino", "jax"]
"""`auto` chooses as the module says."""

_log = logging.getLogger(__name__)


@runtime_checkable
class Backend(Protocol):
    """A network, ready to compute. Implementations are safe to call from several threads.

    Attributes:
        name: `openvino` or `jax`, which is the distribution's name too.
    """

    name: str

    def logits(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, " n"]:
        """Uncalibrated logits of crops of the model's size, in order; none of none."""
        ...


def create_backend(bundle: Bundle, name: BackendName = "auto") -> Backend:
    """Makes a bundle's network run.

    Raises:
        ConfigError: an unknown name; or OpenVINO was asked for, and it is not installed, cannot run this network, or
            gives other answers than it should.
        BundleError: the network is unknown to this release, or the weights are not its own.
    """
    if name not in ("auto", "openvino", "jax"):
        raise ConfigError(f"unknown backend {name!r}; known: auto, openvino, jax")
    if name == "openvino" or (name == "auto" and not _has_accelerator()):
        try:
            return _checked_openvino(bundle)
        except ConfigError as error:
            if name == "openvino":
                raise
            _log.info("%s", error)
    return JaxBackend(bundle)


def _checked_openvino(bundle: Bundle) -> Backend:
    spec = bundle.spec
    remedy = "choose the backend jax"
    if importlib.util.find_spec("openvino") is None:
        raise ConfigError(f"{bundle.path}: OpenVINO is not installed; pip install openvino, or {remedy}")
    try:
        from fakeface_jax.backends.openvino import OpenVinoBackend

        backend = OpenVinoBackend.of(spec, bundle.weights)
        if backend is None:
            raise ConfigError(f"{bundle.path}: OpenVINO cannot run this network; {remedy}")
        # One at a time, which prepares nothing but what the first picture needs.
        answers = np.concatenate([backend.logits(crop[None]) for crop in probe_crops(spec.crop.size)])
    except (ImportError, OSError, RuntimeError) as error:
        # Its library does not load here, or has no plug-in for this processor.
        raise ConfigError(f"{bundle.path}: OpenVINO does not work here: {error}; {remedy}") from error
    expected = np.asarray(() if bundle.reference is None else bundle.reference, np.float32)
    if agrees(answers, expected):
        return backend
    # The bundle got other weights since it was loaded, or holds no answers: JAX is asked now.
    try:
        expected = reference_logits(spec, bundle.weights)
    except ConfigError as error:
        raise BundleError(f"{bundle.path}: {error}; install the release it was made with") from error
    if agrees(answers, expected):
        return backend
    raise ConfigError(f"{bundle.path}: OpenVINO answers {answers} where {expected} is right; {remedy}")


def _has_accelerator() -> bool:
    """Whether JAX would compute on something that is no CPU; imports JAX only where something says that it might."""
    if "jax" not in sys.modules:
        named = set(os.environ.get("JAX_PLATFORMS", "").split(",")) - {""}
        # What brings an accelerator to JAX: its plug-ins, and the library of TPUs.
        brought = any(importlib.util.find_spec(name) is not None for name in ("jax_plugins", "libtpu"))
        if named == {"cpu"} or not (named or brought):
            return False
    import jax

    return jax.default_backend() != "cpu"

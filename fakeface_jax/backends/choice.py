"""Chooses the backend that runs a bundle's network.

On a CPU this is OpenVINO, for the networks that `inference_layers.py` knows. OpenVINO uses the weights of the same
bundle and must reproduce the logits that JAX computed when the bundle was saved (`reference.py`); otherwise JAX is
used. JAX also runs the networks that OpenVINO cannot run, and all networks on an accelerator.

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
"""`auto` chooses as described in the module's docstring."""

_log = logging.getLogger(__name__)


@runtime_checkable
class Backend(Protocol):
    """A network that is ready to compute. Implementations are safe to call from several threads.

    Attributes:
        name: `openvino` or `jax`, which is also the name of the distribution.
    """

    name: str

    def logits(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, " n"]:
        """Returns the uncalibrated logits of crops of the model's size, in order; an empty array for no crops."""
        ...


def create_backend(bundle: Bundle, name: BackendName = "auto") -> Backend:
    """Creates the backend for a bundle's network.

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
        raise ConfigError(f"{bundle.path}: OpenVINO is not installed; run pip install openvino, or {remedy}")
    try:
        from fakeface_jax.backends.openvino import OpenVinoBackend

        backend = OpenVinoBackend.of(spec, bundle.weights)
        if backend is None:
            raise ConfigError(f"{bundle.path}: OpenVINO cannot run this network; {remedy}")
        # One at a time, which compiles only what the first picture needs anyway.
        answers = np.concatenate([backend.logits(crop[None]) for crop in probe_crops(spec.crop.size)])
    except (ImportError, OSError, RuntimeError) as error:
        # Its library cannot be loaded, or it has no plug-in for this processor.
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
    raise ConfigError(f"{bundle.path}: OpenVINO computes {answers} instead of {expected}; {remedy}")


def _has_accelerator() -> bool:
    """Tells if JAX would use an accelerator; imports JAX only if there are signs of one."""
    if "jax" not in sys.modules:
        named = set(os.environ.get("JAX_PLATFORMS", "").split(",")) - {""}
        # Accelerators come to JAX through its plug-ins or the library of TPUs.
        brought = any(importlib.util.find_spec(name) is not None for name in ("jax_plugins", "libtpu"))
        if named == {"cpu"} or not (named or brought):
            return False
    import jax

    return jax.default_backend() != "cpu"

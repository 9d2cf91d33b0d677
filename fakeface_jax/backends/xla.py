"""Runs a bundle's network with JAX: on accelerators, for networks that only JAX can run, and for gradients.

Batches are padded to a few fixed sizes, so that XLA compiles at most that many programs for any number of crops.

Example:
    >>> JaxBackend(bundle).logits(crops)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from fakeface_jax.bundle import Bundle, BundleSpec
from fakeface_jax.errors import BundleError, ConfigError

BATCH_SIZES = (1, 8, 32)
"""Padded batch sizes; a larger number of crops is split into batches of the largest size."""


class JaxBackend:
    """A network that is compiled for JAX's default device.

    Args:
        bundle: the bundle, from `load_bundle`.

    Raises:
        BundleError: this release does not know the network, or the weights belong to another one.
    """

    name = "jax"

    def __init__(self, bundle: Bundle) -> None:
        import jax

        try:
            logits, state = logits_and_state(bundle.spec, bundle.weights)
        except ConfigError as error:
            raise BundleError(f"{bundle.path}: {error}; install the release that made it") from error
        except BundleError as error:
            raise BundleError(f"{bundle.path}: {error}; get the bundle again") from error
        self.state = jax.device_put(state)
        self.function = jax.jit(logits)

    def logits(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, " n"]:
        """Returns uncalibrated logits, in order."""
        parts = []
        for start in range(0, len(crops), BATCH_SIZES[-1]):
            part = crops[start : start + BATCH_SIZES[-1]]
            padded = next(batch for batch in BATCH_SIZES if batch >= len(part))
            batch = np.zeros((padded, *part.shape[1:]), np.uint8)
            batch[: len(part)] = part
            parts.append(np.asarray(self.function(self.state, batch))[: len(part)])
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def logits_and_state(spec: BundleSpec, weights: Mapping[str, np.ndarray]) -> tuple[Callable[[Any, Any], Any], Any]:
    """Returns a pure function `(state, crops) -> uncalibrated logits`, and its state.

    Crops have the size `spec.crop.size` and values from 0 to 255, not normalised; as float32 they have a gradient.

    Raises:
        ConfigError: this release does not know the network.
        BundleError: the weights belong to another network.
    """
    import jax.numpy as jnp

    from fakeface_jax.models import apply_function

    apply, state = apply_function(spec.model, weights)
    mean = np.asarray(spec.normalization.mean, np.float32)
    std = np.asarray(spec.normalization.std, np.float32)

    def logits(state: Any, crops: Any) -> Any:  # traced
        return apply(state, (crops.astype(jnp.float32) / 255.0 - mean) / std)

    return logits, state

"""Reads a network's configuration before any network is built: how pixels are scaled, which experts are fused.

Nothing here imports JAX, so that a process that only scores does not either.

Example:
    >>> for config, weights in members(bundle.spec.model, bundle.weights):
    ...     print(config["name"], len(weights), pixel_scaling(config))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fakeface_jax.backbones import load_backbone
from fakeface_jax.errors import ConfigError

Channels = tuple[float, float, float]
"""One number per RGB channel."""


def pixel_scaling(config: Mapping[str, Any]) -> tuple[Channels, Channels]:
    """Mean and standard deviation that pixels in [0, 1] are normalised by, before training and in the bundle.

    Args:
        config: as `fakeface_jax.models.create_model` takes it; `mean` and `std` in it, of three channels, go before
            the network's own. A fusion scales nothing itself: each of its experts does.

    Raises:
        ConfigError: a mean or deviation that is not three numbers, or a deviation that is not positive.
    """
    mean: Any = (0.0,) * 3
    std: Any = (1.0,) * 3
    if config.get("name") == "feature_probe":
        backbone = load_backbone(str(config.get("backbone")), config.get("backbone_sha256"))
        mean, std = backbone.mean, backbone.std
    elif str(config.get("name")).startswith("efficientnet_lite"):
        # (value - 127) / 128, as the published weights were trained.
        mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    try:
        red, green, blue = map(float, config.get("mean", mean))
        red_scale, green_scale, blue_scale = map(float, config.get("std", std))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"mean and std of a network's pixels are three numbers each: {error}") from error
    if min(red_scale, green_scale, blue_scale) <= 0:
        raise ConfigError("the standard deviation of a network's pixels must be positive")
    return (red, green, blue), (red_scale, green_scale, blue_scale)


def members(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> list[tuple[Mapping[str, Any], dict[str, np.ndarray]]]:
    """Configuration and weights of every expert of a fusion.

    Args:
        config: of the fusion.
        weights: parameter path to array; those of expert i begin with `experts.i.`.
    """
    found = []
    listed = config.get("experts", ())
    if not isinstance(listed, list | tuple) or not all(isinstance(one, Mapping) for one in listed):
        raise ConfigError("a fusion of experts lists the networks' configurations as `experts`")
    for index, member in enumerate(listed):
        prefix = f"experts.{index}."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        found.append((member, own))
    return found

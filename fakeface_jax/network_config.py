"""Reads a network's configuration before the network is built: how pixels are scaled, which experts are fused.

This module does not import JAX, so that a process that only scores does not either.

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
    """Returns the mean and standard deviation by which pixels in [0, 1] are normalised, in training and in the bundle.

    Args:
        config: configuration for `fakeface_jax.models.create_model`; its `mean` and `std`, of three channels, override
            the network's own. A fusion scales nothing itself: each of its experts does.

    Raises:
        ConfigError: a mean or deviation is not three numbers, or a deviation is not positive.
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
        raise ConfigError(f"mean and std of a network's pixels must be three numbers each: {error}") from error
    if min(red_scale, green_scale, blue_scale) <= 0:
        raise ConfigError("the standard deviation of a network's pixels must be positive")
    return (red, green, blue), (red_scale, green_scale, blue_scale)


def members(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> list[tuple[Mapping[str, Any], dict[str, np.ndarray]]]:
    """Returns the configuration and the weights of every expert of a fusion.

    Args:
        config: configuration of the fusion.
        weights: parameter path to array; the paths of expert i begin with `experts.i.`.
    """
    found = []
    listed = config.get("experts", ())
    if not isinstance(listed, list | tuple) or not all(isinstance(one, Mapping) for one in listed):
        raise ConfigError("a fusion of experts must list the networks' configurations as `experts`")
    for index, member in enumerate(listed):
        prefix = f"experts.{index}."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        found.append((member, own))
    return found

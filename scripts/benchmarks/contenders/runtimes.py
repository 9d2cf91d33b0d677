"""The peers' inference: one runtime, the same weights. Runs in the peers' environment.

    runtimes.py FOLDER RUNTIME

RUNTIME is onnxruntime, openvino (one call per batch), openvino-streams (a batch's pictures side by side), litert or
tensorflow; or onnx-file, which only leaves FOLDER/model.onnx. Two threads each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
from serving import serve

Logits = Callable[[np.ndarray], np.ndarray]
"""Pictures uint8 [n, s, s, 3] -> logits [n]."""


def make() -> Any:
    """The program's answers."""
    folder, runtime = Path(sys.argv[1]), sys.argv[2]
    plan = networks.Plan(folder)
    pictures = np.load(folder / "pictures.npy")
    if runtime == "onnx-file":
        (folder / "model.onnx").write_bytes(networks.onnx_model(plan))
        return lambda: {}
    logits = RUNTIMES[runtime](plan, folder)

    def answer(batch: int, repeats: int) -> dict[str, Any]:
        given = np.ascontiguousarray(pictures[:batch])
        found = logits(given)  # the first of a batch size may prepare something
        started = time.perf_counter()
        for _ in range(repeats):
            logits(given)
        return {"seconds": time.perf_counter() - started, "logits": np.asarray(found, float).tolist()}

    return answer


def onnxruntime(plan: networks.Plan, folder: Path) -> Logits:
    """ONNX Runtime's CPU provider, all optimisations (its default)."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(networks.onnx_model(plan), options, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(None, {"pictures": pictures})[0][:, 0]


_OPENVINO = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}


def openvino(plan: networks.Plan, folder: Path) -> Logits:
    """OpenVINO compiled for each batch size, which is faster than any size in one."""
    import openvino as ov

    core = ov.Core()
    model, requests = core.read_model(networks.onnx_model(plan)), {}

    def logits(pictures: np.ndarray) -> np.ndarray:
        count = len(pictures)
        if count not in requests:
            model.reshape([count, plan.size, plan.size, 3])
            compiled = core.compile_model(model, "CPU", {**_OPENVINO, "PERFORMANCE_HINT": "LATENCY"})
            requests[count] = compiled.create_infer_request()
        return requests[count].infer({0: pictures}, share_inputs=True)[0][:, 0].copy()

    return logits


def openvino_streams(plan: networks.Plan, folder: Path) -> Logits:
    """OpenVINO's way for throughput: one stream per core, a queue of single pictures."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(networks.onnx_model(plan))
    model.reshape([1, plan.size, plan.size, 3])
    compiled = core.compile_model(model, "CPU", {**_OPENVINO, "PERFORMANCE_HINT": "THROUGHPUT"})
    queue = ov.AsyncInferQueue(compiled)

    def logits(pictures: np.ndarray) -> np.ndarray:
        found = np.empty(len(pictures), np.float32)

        def keep(request: Any, index: int) -> None:
            found[index] = request.get_output_tensor(0).data[0, 0]

        queue.set_callback(keep)
        for index in range(len(pictures)):
            queue.start_async({0: pictures[index : index + 1]}, index, share_inputs=True)
        queue.wait_all()
        return found

    return logits


def tensorflow(plan: networks.Plan, folder: Path) -> Logits:
    """A TensorFlow function."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(2)
    function = tf.function(networks.tensorflow_function(plan))
    return lambda pictures: function(tf.constant(pictures)).numpy()[:, 0]


def litert(plan: networks.Plan, folder: Path) -> Logits:
    """LiteRT with XNNPACK, its default on CPUs."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    network = networks.tensorflow_function(plan)
    signature = [tf.TensorSpec([1, plan.size, plan.size, 3], tf.uint8)]
    concrete = tf.function(network, input_signature=signature).get_concrete_function()
    model, interpreters = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert(), {}

    def logits(pictures: np.ndarray) -> np.ndarray:
        count = len(pictures)
        if count not in interpreters:
            made = Interpreter(model_content=model, num_threads=2)
            made.resize_tensor_input(made.get_input_details()[0]["index"], pictures.shape)
            made.allocate_tensors()
            interpreters[count] = made
        one = interpreters[count]
        one.set_tensor(one.get_input_details()[0]["index"], pictures)
        one.invoke()
        return one.get_tensor(one.get_output_details()[0]["index"])[:, 0].copy()

    return logits


RUNTIMES: dict[str, Callable[[networks.Plan, Path], Logits]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino-streams": openvino_streams,
    "litert": litert,
    "tensorflow": tensorflow,
}


if __name__ == "__main__":
    serve(make)

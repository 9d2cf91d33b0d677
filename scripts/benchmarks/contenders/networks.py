"""A network's layers, as `inference.py` writes them, built anew for each of the peers' runtimes.

Pictures are uint8 [n, s, s, 3], results are logits [n, 1]. Scaling of the pixels is part of each network, as it is of
ours. Runs in the peers' environment, where nothing of this project is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


class Plan:
    """The layers, read from a folder that `inference.export` wrote."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "layers.json").read_text())
        with np.load(folder / "layers.npz") as found:
            self.arrays = {key: found[key] for key in found}
        self.size, self.layers = told["size"], told["layers"]
        mean, std = np.array(told["mean"]), np.array(told["std"])
        self.scale, self.shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's `SAME`: pixels before and after."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def onnx_model(plan: Plan) -> bytes:
    """An ONNX model, channels first inside, any batch size."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []
    state = {"side": plan.size, "channels": 3}

    def constant(value: Any) -> str:
        name = f"w{len(constants)}"
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def activated(x: str, kind: str) -> str:
        if kind == "relu6":
            return node("Clip", x, constant(np.float32(0)), constant(np.float32(6)))
        return node("Relu", x) if kind == "relu" else x

    def conv(x: str, layer: dict[str, Any]) -> str:
        kernel, bias = plan.arrays[layer["kernel"]], plan.arrays[layer["bias"]]
        side, stride = kernel.shape[0], layer["stride"]
        before, after = padding(state["side"], side, stride) if layer["same"] else (0, 0)
        state["side"] = (state["side"] + before + after - side) // stride + 1
        state["channels"] = len(bias)
        weights = kernel.transpose(2, 0, 1)[:, None] if layer["depthwise"] else kernel.transpose(3, 2, 0, 1)
        made = node(
            "Conv",
            x,
            constant(weights),
            constant(bias),
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=len(bias) if layer["depthwise"] else 1,
        )
        return activated(made, layer["activation"])

    x = node("Cast", node("Transpose", "pictures", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    x = node("Mul", x, constant(plan.scale.reshape(1, 3, 1, 1)))
    x = node("Add", x, constant(plan.shift.reshape(1, 3, 1, 1)))
    for layer in plan.layers:
        kind = layer["layer"]
        if kind == "Conv":
            x = conv(x, layer)
        elif kind == "Residual":
            y = x
            for inner in layer["layers"]:
                y = conv(y, inner)
            x = node("Add", x, y)
        elif kind == "MaxPool":
            x = node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
            state["side"] //= 2
        elif kind == "Average":
            x, state["side"] = node("Flatten", node("GlobalAveragePool", x), axis=1), 1
        elif kind == "Flatten":
            x = node("Flatten", x, axis=1)
        elif kind == "Dense":
            kernel = plan.arrays[layer["kernel"]]
            area = state["side"] ** 2
            if area > 1 and len(kernel) == area * state["channels"]:
                # Flattened with channels first here, and last in ours.
                kernel = kernel.reshape(area, state["channels"], -1).transpose(1, 0, 2).reshape(len(kernel), -1)
            x = activated(node("Gemm", x, constant(kernel), constant(plan.arrays[layer["bias"]])), layer["activation"])
        else:
            raise ValueError(f"no ONNX for the layer {kind}")
    graph = helper.make_graph(
        nodes,
        "fakeface",
        [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["n", plan.size, plan.size, 3])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["n", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model.SerializeToString()


def tensorflow_function(plan: Plan) -> Any:
    """A function of TensorFlow's own operations, channels last."""
    import tensorflow as tf

    def activated(x: Any, kind: str) -> Any:
        return tf.nn.relu6(x) if kind == "relu6" else tf.nn.relu(x) if kind == "relu" else x

    def conv(x: Any, layer: dict[str, Any]) -> Any:
        kernel, bias = plan.arrays[layer["kernel"]], plan.arrays[layer["bias"]]
        pad, stride = "SAME" if layer["same"] else "VALID", layer["stride"]
        if layer["depthwise"]:
            x = tf.nn.depthwise_conv2d(x, kernel[..., None], [1, stride, stride, 1], pad)
        else:
            x = tf.nn.conv2d(x, kernel, stride, pad)
        return activated(tf.nn.bias_add(x, bias), layer["activation"])

    def network(pictures: Any) -> Any:
        x = tf.cast(pictures, tf.float32) * plan.scale + plan.shift
        for layer in plan.layers:
            kind = layer["layer"]
            if kind == "Conv":
                x = conv(x, layer)
            elif kind == "Residual":
                y = x
                for inner in layer["layers"]:
                    y = conv(y, inner)
                x = x + y
            elif kind == "MaxPool":
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            elif kind == "Average":
                x = tf.reduce_mean(x, [1, 2])
            elif kind == "Flatten":
                x = tf.reshape(x, [-1, int(np.prod(x.shape[1:]))])
            elif kind == "Dense":
                x = activated(
                    tf.matmul(x, plan.arrays[layer["kernel"]]) + plan.arrays[layer["bias"]], layer["activation"]
                )
            else:
                raise ValueError(f"no TensorFlow for the layer {kind}")
        return x

    return network

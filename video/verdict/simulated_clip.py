"""Still faces as a video would show them: moved a little from frame to frame, and through a video encoder.

There are few labelled videos and many labelled faces. What a video adds to a face is that it is seen many times, each
time a little otherwise, and compressed over time; so a face that is shifted, turned and scaled as a hand-held camera
would, and encoded with H.264, says how scores of one face vary within a video. What it does not have is speech,
changing expression and light: within real videos scores vary more.

Example:
    >>> moving_face(crop, 8, np.random.default_rng(0)).shape
    (8, 224, 224, 3)
"""

from __future__ import annotations

import io

import av
import cv2
import numpy as np
from jaxtyping import Float64, UInt8

MOTION = 0.02
"""Standard deviation of the shift between the first and the last frames, as a share of the crop's side; of the scale
too, and in radians of the angle."""

QUALITIES = (18, 23, 28, 33)
"""Constant rate factors of x264: nearly lossless, its default, a messenger, a poor one."""

RATE = 25

_REPRODUCIBLE = "cpu-independent=1"
"""Without it x264's macroblock tree, with AVX-512, reads memory that was never written: other bits each time."""


def moving_face(
    crop: UInt8[np.ndarray, "s s 3"], frames: int, generator: np.random.Generator
) -> UInt8[np.ndarray, "n s s 3"]:
    """A face crop as so many frames of an H.264 video.

    Args:
        crop: RGB; the side is cut to an even number for the encoder and enlarged again.
        frames: how many.
        generator: draws path and quality.
    """
    path = _path(frames, generator)
    quality = int(generator.choice(QUALITIES))
    side = crop.shape[0]
    even = side - side % 2
    shown = [_moved(crop, shift)[:even, :even] for shift in path]
    decoded = _through_encoder(shown, quality)
    if even != side:
        decoded = [cv2.resize(frame, (side, side), interpolation=cv2.INTER_LINEAR) for frame in decoded]
    return np.stack(decoded)


def _path(frames: int, generator: np.random.Generator) -> Float64[np.ndarray, "n 4"]:
    """Shift in x and y, scale and angle of each frame: a smooth drift with a tremble."""
    ends = generator.normal(0.0, MOTION, (2, 4))
    share = np.linspace(0.0, 1.0, frames)[:, None]
    return (1 - share) * ends[0] + share * ends[1] + generator.normal(0.0, MOTION / 4, (frames, 4))


def _moved(crop: UInt8[np.ndarray, "s s 3"], shift: Float64[np.ndarray, " 4"]) -> UInt8[np.ndarray, "s s 3"]:
    side = crop.shape[0]
    right, down, grow, turn = shift
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), float(np.degrees(turn)), 1.0 + float(grow))
    matrix[:, 2] += (right * side, down * side)
    return cv2.warpAffine(crop, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _through_encoder(frames: list[UInt8[np.ndarray, "s s 3"]], quality: int) -> list[UInt8[np.ndarray, "s s 3"]]:
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        options = {"crf": str(quality), "preset": "veryfast", "x264-params": _REPRODUCIBLE}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    memory.seek(0)
    with av.open(memory, "r") as source:
        return [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]

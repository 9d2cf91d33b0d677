"""Makes videos to measure on from the sample clip: of any size and length, H.264 as phones and websites write it.

Example:
    >>> make_clip(folder / "clip.mp4", width=1920, height=1080, frames=100, megabits=8)
    >>> repeat(folder / "clip.mp4", folder / "long.mp4", seconds=3600)
"""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.results import ROOT

SAMPLE = ROOT / "samples" / "real_collins_pan.mp4"
"""One face, 640 x 480; the camera pans."""

FPS = 30


def make_clip(path: Path, *, width: int, height: int, frames: int, megabits: float) -> None:
    """Writes the sample forwards and backwards, scaled and cropped, with the fine noise that scaling removes.

    Args:
        path: path of the file.
        width: width in pixels.
        height: height in pixels.
        frames: number of frames; the last looks like the first, so that the clip can be repeated without a cut.
        megabits: bit rate in Mbit/s.
    """
    with av.open(str(SAMPLE)) as source:
        scene = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    half = min(len(scene), -(-frames // 2))
    order = [*range(half), *range(half - 1, -1, -1)]
    scale = max(width / scene[0].shape[1], height / scene[0].shape[0])
    random = np.random.default_rng(0)
    lighter, darker = (random.integers(0, 5, (height + 64, width + 64, 3), np.uint8) for _ in range(2))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "bf": "3", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = round(megabits * 1e6)
        for number in range(frames):
            big = cv2.resize(scene[order[number % len(order)]], None, fx=scale, fy=scale)
            top, left = (big.shape[0] - height) // 3, (big.shape[1] - width) // 2
            cut = big[top : top + height, left : left + width]
            row, column = random.integers(0, 64, 2)
            here = slice(row, row + height), slice(column, column + width)
            picture = cv2.subtract(cv2.add(cut, lighter[here]), darker[here])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))


def repeat(clip: Path, path: Path, seconds: float) -> None:
    """Copies the packets of a clip repeatedly until the video has the given length."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        packets = [(packet.pts, packet.dts, bytes(packet), packet.is_keyframe) for packet in source.demux(video)][:-1]
        length = max(pts for pts, *_ in packets) + round(1 / (video.average_rate * video.time_base))
        for turn in range(max(1, round(seconds / float(length * video.time_base)))):
            for pts, dts, data, is_key in packets:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.is_keyframe = pts + turn * length, dts + turn * length, is_key
                packet.time_base, packet.stream = video.time_base, stream
                target.mux(packet)

"""Measures how fast frames are sampled from a long video, as ratios within one run, interleaved, medians over rounds.

    python scripts/benchmark_decoding.py
    python scripts/benchmark_decoding.py --clip clip.mp4 --minutes 10

A clip is repeated up to the requested length, without encoding it again. The script reads 32 evenly spread frames, as
for a quick verdict, by decoding everything and by seeking, with OpenCV and with PyAV; and every frame of the first ten
seconds with both. Opening, which reads the file once, is timed separately. Without a clip the script makes one: 720p,
H.264, moving noise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from benchmarks.clips import repeat

from fakeface_jax.video.reading import reader as walk
from fakeface_jax.video.reading.opencv import open_video
from fakeface_jax.video.reading.sampling import Sampling


def make_clip(path: Path, frames: int = 250) -> None:
    """Writes H.264 as phones and websites do: a key frame at least every 10 seconds, and three B-frames."""
    random = np.random.default_rng(0)
    scene = random.integers(0, 256, (90, 160, 3), np.uint8).repeat(12, 0).repeat(12, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast", "bf": "3", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(frames):
            picture = np.ascontiguousarray(scene[number : number + 720, 2 * number : 2 * number + 1280])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))


def measure(path: Path, rounds: int) -> dict[str, object]:
    """Returns the median seconds of each method, and ratios of the medians."""
    spread, beginning = Sampling(frames=32), Sampling(every=1, end=10.0)
    ways = {
        "OpenCV, walking": ("opencv", spread, 10**9),
        "OpenCV, jumping": ("opencv", spread, walk.SEEK_MARGIN),
        "PyAV, walking": ("pyav", spread, 10**9),
        "PyAV, jumping": ("pyav", spread, walk.SEEK_MARGIN),
        "OpenCV, every frame": ("opencv", beginning, walk.SEEK_MARGIN),
        "PyAV, every frame": ("pyav", beginning, walk.SEEK_MARGIN),
    }
    seconds: dict[str, list[float]] = {}
    counters, indices = {}, {}
    for _ in range(rounds):
        for name, (backend, sampling, margin) in ways.items():
            walk.SEEK_MARGIN = margin
            started = time.perf_counter()
            with open_video(path, backend) as video:
                opened = time.perf_counter()
                indices[name] = [frame.index for frame in video.frames(sampling)]
                seconds.setdefault(name, []).append(time.perf_counter() - opened)
                seconds.setdefault(f"opening, {backend}", []).append(opened - started)
                counters[name] = f"{video.counters.read} of {video.frame_count} frames read"
    median = {name: round(float(np.median(values)), 4) for name, values in seconds.items()}
    if len({tuple(indices[name]) for name in list(ways)[:4]}) != 1:
        raise SystemExit("the ways sampled different frames")
    return {
        "rounds": rounds,
        "seconds": median,
        "frames": counters,
        "ratios": {
            "OpenCV, walking / jumping": round(median["OpenCV, walking"] / median["OpenCV, jumping"], 2),
            "PyAV, walking / jumping": round(median["PyAV, walking"] / median["PyAV, jumping"], 2),
            "jumping, OpenCV / PyAV": round(median["OpenCV, jumping"] / median["PyAV, jumping"], 2),
            "every frame, OpenCV / PyAV": round(median["OpenCV, every frame"] / median["PyAV, every frame"], 2),
        },
    }


def main() -> None:
    """Makes the long video, measures, and prints the result as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clip", type=Path, help="clip to repeat. If omitted, one is made")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fakeface-") as folder:
        clip = options.clip or Path(folder) / "clip.mp4"
        if not options.clip:
            make_clip(clip)
        long = Path(folder) / "long.mp4"
        repeat(clip, long, options.minutes * 60)
        print(json.dumps(measure(long, options.rounds), indent=2))


if __name__ == "__main__":
    main()

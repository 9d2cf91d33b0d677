"""Measures the peak memory of `fakeface score` for a video of one hour and one of ten seconds.

The pictures are small, so that they do not hide what grows with the number of frames. Measured with the default
sampling and with every 30th frame, of which an hour has 3,600.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.clips import FPS, make_clip, repeat
from benchmarks.results import ROOT, Goal, Row, Settings
from benchmarks.workers import environment

_TEN = "ten seconds"

# A minimal process starts the command: until it runs a program of its own, a child counts as large as its parent, and
# this process has just encoded a video.
_LAUNCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measure(settings: Settings) -> list[Row]:
    """Measures both samplings. An hour at every 30th frame takes minutes, and memory hardly varies: one round."""
    seconds, long = (10, 3600) if not settings.quick else (1, 3)
    short, hour = settings.folder / "short.mp4", settings.folder / "hour.mp4"
    settings.tell(f"making videos of {seconds} and {long} s")
    make_clip(short, width=640, height=360, frames=seconds * FPS, megabits=1)
    repeat(short, hour, long)
    found = []
    for what, words, rounds in (
        ("default sampling", (), settings.rounds),
        ("every 30th frame", ("--every", "30"), 1),
    ):
        values: dict[str, list[float]] = {"ours": [], _TEN: []}
        for number in range(rounds):
            order = [("ours", hour), (_TEN, short)]
            for name, video in order if number % 2 == 0 else reversed(order):
                settings.tell(f"{what}, round {number + 1} of {rounds}: {video.name}")
                values[name].append(peak(video, words))
        found.append(
            Row(
                what=f"peak memory of scoring a one-hour video, {what}",
                unit="MB",
                values=values,
                goals=(Goal(text="at most 1.1 x a ten-second one", peers=(_TEN,), at_most=1.1),),
                note=f"640 x 360, {FPS} fps; greatest resident memory of the whole command",
            )
        )
    return found


def peak(video: Path, words: Sequence[str]) -> float:
    """Returns the peak resident memory of `fakeface score`, in MB."""
    command = [sys.executable, "-m", "fakeface_jax.cli.main", "score", str(video), "--format", "json", *words]
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCH, *command], env=environment(), cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"fakeface score {video.name} failed: {done.stderr.strip().splitlines()[-1]}")
    # Linux counts in KiB, macOS in bytes.
    return int(done.stdout) / (2**20 if sys.platform == "darwin" else 2**10)

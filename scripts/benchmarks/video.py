"""Measures scoring of a 1080p H.264 video with one face against decoding it alone with the same decoder.

Every frame is compared with OpenCV reading every frame; two frames a second are compared with OpenCV grabbing all and
converting those. Also measured are our own reader, which reads the file once to index it, and scoring with the
report's network, which computes less.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.clips import FPS, make_clip, repeat
from benchmarks.results import Goal, Row, Settings
from benchmarks.workers import Program, Workers

_CONTENDERS = {
    "ours": ("score",),
    "ours, the report's network": ("score", "report-cnn"),
    "OpenCV alone": ("opencv",),
    "our reader alone": ("walk",),
}


def measure(settings: Settings) -> list[Row]:
    """Measures both rows."""
    width, height, frames, turns = (1920, 1080, 100, 3) if not settings.quick else (320, 180, 15, 1)
    part, clip = settings.folder / "part.mp4", settings.folder / "clip.mp4"
    settings.tell(f"making a clip of {frames * turns} frames, {width} x {height}")
    make_clip(part, width=width, height=height, frames=frames, megabits=8)
    repeat(part, clip, turns * frames / FPS)
    frames *= turns
    size = clip.stat().st_size * 8 / (frames / FPS) / 1e6
    note = f"{width} x {height}, {FPS} fps, {frames} frames, {size:.1f} Mbit/s, one face; in one process each"
    rows = []
    with Workers(settings.tell) as workers:
        for name, words in _CONTENDERS.items():
            workers.start(name, Program("reading.py", (str(clip), *words)), needed=True)
        every = workers.take_turns(settings.rounds, {"every": 1, "step": 1})
        told = _row("scoring every frame (`fakeface score --every 1`)", frames, every, 0.6, note, settings)
        rows.append(told)
        sparse = workers.take_turns(settings.rounds, {"fps": 2.0, "step": FPS // 2})
        told = _row("scoring two frames a second (`fakeface score --fps 2`)", frames, sparse, 0.9, note, settings)
        rows.append(told)
    return rows


def _row(
    what: str, frames: int, answers: dict[str, list[dict[str, Any]]], least: float, note: str, settings: Settings
) -> Row:
    stages = {
        stage: statistics.median(one["parts"].get(stage, 0.0) for one in answers["ours"])
        for stage in answers["ours"][0]["parts"]
    }
    seconds = ", ".join(f"{stage} {value:.3f}" for stage, value in stages.items())
    if settings.profile:
        settings.tell(f"{what}: seconds per stage: {seconds}")
    return Row(
        what=f"{what}, source frames",
        unit="frames/s",
        values={name: [frames / one["seconds"] for one in found] for name, found in answers.items()},
        goals=(Goal(text=f"at least {least} x decoding alone", peers=("OpenCV alone",), at_least=least),),
        note=f"{note}; median seconds of the stages: {seconds}",
        checks={
            "frames scored": answers["ours"][0]["frames"],
            "faces found": answers["ours"][0]["faces"],
            "frames decoded alone": answers["OpenCV alone"][0]["frames"],
        },
    )

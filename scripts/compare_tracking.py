"""Compares our face tracker with libraries and with plain overlap, on scenes in which every person is known.

    make compare-tracking
    python scripts/compare_tracking.py ../shared/data/videos.csv --also samples/real_collins_pan.mp4 --full

Scenes are made from clips that show one person each, so that every face's person is known by construction: alone,
beside each other, cut to another and back (as they are, and framed alike, so that the faces have the same position),
passing in front of each other, and lost for a while. Faces are detected once per scene, by
`fakeface_jax.video.faces.detection`; every tracker gets the same ones, at five samplings. Prints Markdown with the sums
of

- switches: faces whose number differs from that of the person's previous face,
- glued: people beyond the first under one number, which mixes their scores,
- fragments: numbers of a person beyond the first,
- without: faces without a number, for example in tracks that wait to be confirmed,
- IDF1: for the best assignment of numbers to people (Ristani et al. 2016, arXiv:1609.01775),
- again: people who came back, after a cut or a gap, under their previous number.

Libraries that are not installed are named and skipped.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib.util
import logging
import sys
import time as clock
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment
from tracking_scenes import NOT_ONE_PERSON, SAME_PERSON, Scene, Step, sampled, scenes

from fakeface_jax.detectors import create_detector
from fakeface_jax.faces import Box
from fakeface_jax.video.faces.tracking import Tracker, overlap

LIBRARIES = {"trackers": "trackers==2.6.1", "norfair": "norfair-enough==2.4.3"}
"""Module -> package to install. All are maintained, permissively licensed and accept given boxes without GPU and
PyTorch. motpy (2021) is not maintained, norfair itself (2025) needs NumPy 1, and supervision's ByteTrack has moved to
trackers."""

SAMPLINGS = {"25 per s": 25.0, "5 per s": 5.0, "2 per s": 2.0, "32 evenly": None, "1 in 2 s": 0.5}
"""Frames per second. One frame in two seconds corresponds to 32 frames of a minute."""

PATIENCE = 4.0
"""Seconds for which the adapted libraries wait for a lost face: longer than the longest gap."""


class Contender(Protocol):
    """A tracker for one scene."""

    def __call__(self, step: Step) -> list[int | None]:
        """Returns a number for each face."""
        ...


def ours(rate: float) -> Contender:
    """Creates `fakeface_jax.video.faces.tracking`, without any adaptation to the sampling."""
    tracker = Tracker()
    return lambda step: list(tracker.assign(step.time, [face.box for face in step.faces], step.looks))


def plain_overlap(rate: float) -> Contender:
    """Creates the baseline: the last box of a person, largest overlap first, at least .3; forgotten after a second."""
    people: dict[int, tuple[Box, float]] = {}
    count = 0

    def assign(step: Step) -> list[int | None]:
        nonlocal count
        pairs = sorted(
            (
                (overlap(box, face.box), number, place)
                for number, (box, seen) in people.items()
                for place, face in enumerate(step.faces)
                if step.time - seen <= 1.0
            ),
            reverse=True,
        )
        numbers: list[int | None] = [None] * len(step.faces)
        for shared, number, place in pairs:
            if shared >= 0.3 and numbers[place] is None and number not in numbers:
                numbers[place] = number
        for place, face in enumerate(step.faces):
            if numbers[place] is None:
                count += 1
                numbers[place] = count
            people[numbers[place]] = (face.box, step.time)
        return numbers

    return assign


def of_trackers(name: str, *, adapted: bool, **more: Any) -> Callable[[float], Contender]:
    """Returns a tracker of Roboflow's `trackers`, unchanged, or with our times and patience and immediate numbers."""

    def make(rate: float) -> Contender:
        import supervision
        import trackers

        # Its buffer is in frames of 1/30 s, whatever the rate.
        settings = {"frame_rate": rate, "lost_track_buffer": round(30 * PATIENCE), "minimum_consecutive_frames": 1}
        tracker = getattr(trackers, name)(**(settings if adapted else {}), **more)

        def assign(step: Step) -> list[int | None]:
            given = supervision.Detections(
                xyxy=np.array([face.box for face in step.faces], np.float64).reshape(-1, 4),
                confidence=np.array([face.confidence for face in step.faces], np.float64),
                class_id=np.zeros(len(step.faces), int),
                data={"place": np.arange(len(step.faces))},
            )
            timing = {"timestamp": step.time} if adapted else {}
            numbers: list[int | None] = [None] * len(step.faces)
            result = tracker.update(given, **timing)
            for place, number in zip(result.data.get("place", ()), result.tracker_id, strict=True):
                numbers[place] = int(number) if number >= 0 else None
            return numbers

        return assign

    return make


def of_norfair(*, adapted: bool, looks: bool = False) -> Callable[[float], Contender]:
    """Returns norfair with overlap, unchanged, or with patience and without delay; optionally with our appearances."""

    def make(rate: float) -> Contender:
        import norfair

        settings: dict[str, Any] = {}
        if adapted:
            # A hit adds two, so that anybody who was seen once is waited for.
            settings = {"hit_counter_max": max(2, round(PATIENCE * rate)), "initialization_delay": 0}
        if looks:
            settings |= {
                "initialization_delay": 1,
                "reid_distance_function": lambda new, old: (
                    1 - new.last_detection.embedding.colour_similarity(old.last_detection.embedding)
                ),
                "reid_distance_threshold": 0.07,
                "reid_hit_counter_max": round(60 * rate),
            }
        tracker = norfair.Tracker(distance_function="iou", distance_threshold=0.7, **settings)

        def assign(step: Step) -> list[int | None]:
            tracker.update(
                [
                    norfair.Detection(np.array(face.box).reshape(2, 2), data=(step.time, place), embedding=look)
                    for place, (face, look) in enumerate(zip(step.faces, step.looks, strict=True))
                ]
            )
            numbers: list[int | None] = [None] * len(step.faces)
            for tracked in tracker.tracked_objects:
                at, place = tracked.last_detection.data
                if at == step.time and tracked.id is not None:
                    numbers[place] = tracked.id
            return numbers

        return assign

    return make


CONTENDERS: dict[str, tuple[str | None, Callable[[float], Contender]]] = {
    "ours": (None, ours),
    "overlap alone": (None, plain_overlap),
    "ByteTrack": ("trackers", of_trackers("ByteTrackTracker", adapted=False)),
    "ByteTrack, adapted": ("trackers", of_trackers("ByteTrackTracker", adapted=True)),
    "C-BIoU": ("trackers", of_trackers("CBIoUTracker", adapted=False)),
    "C-BIoU, adapted": ("trackers", of_trackers("CBIoUTracker", adapted=True)),
    "norfair": ("norfair", of_norfair(adapted=False)),
    "norfair, adapted": ("norfair", of_norfair(adapted=True)),
    "norfair, adapted, our looks": ("norfair", of_norfair(adapted=True, looks=True)),
}


@dataclasses.dataclass
class Sums:
    """Sums over scenes; `returns` counts scenes in which somebody comes back and has a number before and after."""

    switches: int = 0
    glued: int = 0
    fragments: int = 0
    faces: int = 0
    numbered: int = 0
    matched: int = 0
    again: int = 0
    returns: int = 0
    frames: int = 0
    seconds: float = 0.0

    def add(self, other: Sums) -> None:
        """Adds the sums of more scenes."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def idf1(self) -> float:
        """Computes IDF1: faces with the number of their person, relative to all faces and all numbered faces."""
        return 2 * self.matched / max(1, self.faces + self.numbered)

    def cells(self) -> str:
        """Returns the last cells of a row of the table."""
        again = f"{self.again}/{self.returns}" if self.returns else "-"
        without = 1 - self.numbered / max(1, self.faces)
        return (
            f"{self.switches} | {self.glued} | {self.fragments} | {without:.1%} | {self.idf1:.3f} | {again} | "
            f"{1e3 * self.seconds / max(1, self.frames):.2f}"
        )


HEAD = "switches | glued | fragments | without | IDF1 | again | ms per frame |"


def measure(scene: Scene, steps: Sequence[Step], contender: Contender) -> Sums:
    """Measures one tracker on one scene."""
    start = clock.perf_counter()
    answers = [contender(step) for step in steps]
    sums = Sums(frames=len(steps), seconds=clock.perf_counter() - start)
    counts: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    last: dict[int, int] = {}
    before: set[int] = set()
    after: list[int] = []
    for step, numbers in zip(steps, answers, strict=True):
        for person, number in zip(step.people, numbers, strict=True):
            sums.faces += person is not None
            if person is None or number is None:
                continue
            sums.numbered += 1
            counts[person][number] += 1
            sums.switches += last.setdefault(person, number) != number
            last[person] = number
            if scene.back is not None and person == scene.back[0]:
                after.append(number) if step.time >= scene.back[1] - 1e-6 else before.add(number)
    numbers_seen = sorted({number for mine in counts.values() for number in mine})
    table = np.array([[mine.get(number, 0) for number in numbers_seen] for mine in counts.values()])
    if table.size:
        sums.matched = int(table[linear_sum_assignment(table, maximize=True)].sum())
        sums.glued = int(((table > 0).sum(axis=0) - 1).sum())
        sums.fragments = int(((table > 0).sum(axis=1) - 1).sum())
    if scene.back is not None and before and after:
        sums.returns, sums.again = 1, int(after[0] in before)
    return sums


Results = dict[tuple[str, str, str], Sums]
"""Scene, sampling, tracker -> sums."""


def compare(everything: Iterable[Scene], contenders: dict[str, Callable[[float], Contender]]) -> Results:
    """Measures every tracker on every scene at every sampling."""
    results: Results = defaultdict(Sums)
    for scene in everything:
        for sampling, rate in SAMPLINGS.items():
            steps = sampled(scene.steps, rate)
            per_second = rate or len(steps) / (scene.steps[-1].time - scene.steps[0].time)
            for name, make in contenders.items():
                results[scene.kind, sampling, name].add(measure(scene, steps, make(per_second)))
    return results


def print_table(title: str, results: Results, group: Callable[[str, str], str]) -> None:
    """Prints the sums of results with the same group, which is derived from scene and sampling."""
    rows: dict[tuple[str, str], Sums] = {}
    for (kind, sampling, name), sums in results.items():
        rows.setdefault((group(kind, sampling), name), Sums()).add(sums)
    print(f"| {title} | tracker | {HEAD}\n|{' --- |' * 9}")
    for (first, name), sums in rows.items():
        print(f"| {first} | {name} | {sums.cells()} |")
    print()


def main() -> None:
    """Prints tables: over everything, by sampling, by kind of scene, and with --full by both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("csv", type=Path)
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="more clips that show one person each")
    parser.add_argument("--clips", type=int, default=None, help="number of clips to use, at least three")
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    logging.getLogger("norfair").setLevel(logging.ERROR)  # it warns of every box that its filter inverts
    contenders = {}
    for name, (module, make) in CONTENDERS.items():
        if module is None or importlib.util.find_spec(module) is not None:
            contenders[name] = make
        else:
            print(f"{name} is not installed and was skipped: pip install {LIBRARIES[module]}", file=sys.stderr)
    with options.csv.open(newline="", encoding="utf-8") as file:
        paths = [options.csv.parent / row["path"] for row in csv.DictReader(file)]
    clips = [path for path in paths if path.stem not in NOT_ONE_PERSON | SAME_PERSON] + options.also
    clips = clips[: options.clips]
    results = compare(scenes(clips, create_detector()), contenders)
    print(f"{len(clips)} people\n")
    print_table("all", results, lambda kind, sampling: "all")
    print_table("sampling", results, lambda kind, sampling: sampling)
    print_table("scene", results, lambda kind, sampling: kind)
    if options.full:
        print_table("scene, sampling", results, lambda kind, sampling: f"{kind}, {sampling}")


if __name__ == "__main__":
    main()

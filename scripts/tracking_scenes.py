"""Makes scenes of known people for `compare_tracking`, from clips that show one person each.

Neighbours in the list of clips meet: beside each other, cut to another and back, passing each other, lost for a while.
Faces are detected once per scene, by `fakeface_jax.video.faces.detection` as in use, with 25 frames a second.

Example:
    >>> for scene in scenes(clips, create_detector()):
    ...     print(scene.kind, len(scene.steps))
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from fakeface_jax.faces import Box, Face, FaceDetector
from fakeface_jax.video.faces.detection import find_faces
from fakeface_jax.video.faces.tracking import Look
from fakeface_jax.video.reading.opencv import Frame, open_video
from fakeface_jax.video.reading.sampling import Sampling

NOT_ONE_PERSON = {"face_recognition_short_hamilton"}
SAME_PERSON = {"ffpp_NeuralTextures_004_982", "ffpp_Deepfakes_519_515", "ffpp-like_cyshih_fake"}
"""Fakes of another clip of the set: the same body in the same room, so that "the same person" is undefined."""

RATE = 25.0
HEIGHT, SECONDS, GAPS = 360, 10.0, (0.3, 1.0, 3.0)

Picture = np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A frame of a scene: its faces, and the person of each (None: a false detection, which is not counted)."""

    time: float
    faces: tuple[Face, ...]
    looks: tuple[Look, ...]
    people: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Steps at `RATE`, and the time from which on a person is back (`again` compares numbers before and after)."""

    kind: str
    steps: list[Step]
    back: tuple[int, float] | None = None


@functools.lru_cache(maxsize=4)
def pictures(path: Path) -> list[Picture]:
    """Reads the first `SECONDS` of a clip at `RATE`, `HEIGHT` pixels high."""
    with open_video(path) as video:
        frames = [
            (frame.time, cv2.resize(frame.image, (round(frame.image.shape[1] * HEIGHT / frame.image.shape[0]), HEIGHT)))
            for frame in video.frames(Sampling(every=1, end=SECONDS))
        ]
    times = np.array([time for time, _ in frames])
    due = np.arange(0, times[-1] + 1e-6, 1 / RATE)
    return [frames[place][1] for place in np.searchsorted(times, due + 1e-6, side="right") - 1]


def portraits(path: Path, detector: FaceDetector) -> list[Picture]:
    """Reads a clip cut to a square about its first face, so that people have the same position and size."""
    shots = pictures(path)
    x0, y0, x1, y1 = max(detector.detect(shots[0]), key=lambda face: face.size).box
    side = round(min(2.2 * (y1 - y0), *shots[0].shape[:2]))
    left = int(np.clip((x0 + x1 - side) / 2, 0, shots[0].shape[1] - side))
    top = int(np.clip((y0 + y1 - side) / 2, 0, shots[0].shape[0] - side))
    return [cv2.resize(shot[top : top + side, left : left + side], (HEIGHT, HEIGHT)) for shot in shots]


def find(
    kind: str,
    canvases: Sequence[tuple[Picture, list[tuple[int, Box]]]],
    detector: FaceDetector,
    back: tuple[int, float] | None = None,
) -> Scene:
    """Makes a scene from pictures and the positions of the people in them, those in front first."""
    frames = [Frame(image=image, index=index, time=index / RATE) for index, (image, _) in enumerate(canvases)]
    steps = []
    for found in find_faces(frames, detector, lambda image, face: np.zeros((1, 1, 3), np.uint8)):
        people: list[int | None] = [None] * len(found.faces)
        # The most confident first: other faces in a panel are pictures on a wall, or a person half hidden behind
        # another.
        for place in sorted(range(len(people)), key=lambda place: -found.faces[place].confidence):
            x0, y0, x1, y1 = found.faces[place].box
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            for who, box in canvases[found.index][1]:
                if box[0] <= x < box[2] and box[1] <= y < box[3] and who not in people:
                    people[place] = who
                    break
        steps.append(Step(time=found.time, faces=found.faces, looks=found.looks, people=tuple(people)))
    return Scene(kind=kind, steps=steps, back=back)


def beside(kind: str, people: Sequence[int], clips: Sequence[Path], detector: FaceDetector) -> Scene:
    """Makes a scene of people in panels next to each other."""
    shots = [pictures(clips[person]) for person in people]
    canvases = []
    for row in zip(*shots, strict=False):
        edges = np.cumsum([0] + [picture.shape[1] for picture in row]).tolist()
        canvases.append(
            (np.hstack(row), [(who, (edges[n], 0, edges[n + 1], HEIGHT)) for n, who in enumerate(people)]),
        )
    return find(kind, canvases, detector)


def cut(kind: str, one: int, other: int, shots: Sequence[list[Picture]], detector: FaceDetector) -> Scene:
    """Makes a scene of one person, cut to another, and back."""
    length = min(int(3 * RATE), len(shots[0]) // 2, len(shots[1]))
    parts = [(one, shots[0][:length]), (other, shots[1][:length]), (one, shots[0][length : 2 * length])]
    width = max(picture.shape[1] for _, part in parts for picture in part)
    canvases = []
    for who, part in parts:
        for picture in part:
            canvas = np.zeros((HEIGHT, width, 3), np.uint8)
            left = (width - picture.shape[1]) // 2
            canvas[:, left : left + picture.shape[1]] = picture
            canvases.append((canvas, [(who, (0, 0, width, HEIGHT))]))
    return find(kind, canvases, detector, back=(one, 2 * length / RATE))


def crossing(one: int, other: int, shots: Sequence[list[Picture]], detector: FaceDetector) -> Scene:
    """Makes a scene of two portraits that pass each other, one in front."""
    length, side, width = min(map(len, shots)), 240, 960
    canvases = []
    for number in range(length):
        canvas = np.full((HEIGHT, width, 3), 90, np.uint8)
        way = round((width - side) * number / max(1, length - 1))
        places = [(one, way, 60), (other, width - side - way, 40)]
        for who, left, top in reversed(places):
            canvas[top : top + side, left : left + side] = cv2.resize(shots[who == other][number], (side, side))
        boxes = [(who, (left, top, left + side, top + side)) for who, left, top in places]
        canvases.append((canvas, boxes))
    return find("crossing", canvases, detector)


def lost(scene: Scene, gap: float) -> Scene | None:
    """Makes a scene whose first person is not found for `gap` seconds."""
    begin, end = 2.0, 2.0 + gap
    if scene.steps[-1].time < end + 0.5:
        return None
    who = min(person for step in scene.steps for person in step.people if person is not None)
    steps = []
    for step in scene.steps:
        hidden = begin <= step.time < end
        keep = [n for n, person in enumerate(step.people) if not (hidden and person == who)]
        steps.append(
            Step(
                time=step.time,
                faces=tuple(step.faces[n] for n in keep),
                looks=tuple(step.looks[n] for n in keep),
                people=tuple(step.people[n] for n in keep),
            )
        )
    return Scene(kind=f"lost {gap:g} s", steps=steps, back=(who, end))


def scenes(clips: Sequence[Path], detector: FaceDetector) -> Iterator[Scene]:
    """Yields all scenes; needs at least three people."""
    for person in range(len(clips)):
        other, third = ((person + step) % len(clips) for step in (1, 2))
        yield beside("alone", [person], clips, detector)
        alike = [portraits(clips[n], detector) for n in (person, other)]
        yield cut("cut, alike", person, other, alike, detector)
        if person % 2:
            continue
        yield cut("cut", person, other, [pictures(clips[n]) for n in (person, other)], detector)
        yield crossing(person, other, alike, detector)
        pair = beside("two", [person, other], clips, detector)
        yield pair
        yield from filter(None, (lost(pair, gap) for gap in GAPS))
        yield beside("three", [person, other, third], clips, detector)


def sampled(steps: Sequence[Step], rate: float | None) -> list[Step]:
    """Returns the steps of a sampling: `rate` per second, or 32, evenly spread."""
    if rate is None:
        return [steps[int((n + 0.5) * len(steps) / 32)] for n in range(32)] if len(steps) > 32 else list(steps)
    return [steps[int(place)] for place in np.arange(0, len(steps), RATE / rate)]

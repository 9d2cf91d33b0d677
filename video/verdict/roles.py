"""From tracked faces to people: who counts for the video, and where somebody looks fake.

Example:
    >>> found = segments(scores_of_one_person, threshold=1.4)
    >>> [(start, end) for start, end, _ in found]
    [(27.0, 30.1)]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64

from fakeface_jax.faces import Box
from fakeface_jax.video.report.records import Role
from fakeface_jax.video.verdict.aggregation import Scores

MAIN_SIZE = 0.35
"""A face is main with at least this share of the largest person's face size: half a head further back still counts."""

MAIN_TIME = 0.1
"""A face is main when seen in at least this share of the frames that the most seen person is in."""

STILL = 0.01
"""A face whose box moves by less than this share of its size, as standard deviation, while another person's moves three
times as much, is a picture on a wall. Detectors jitter by about half of it on a still picture."""

SWITCH = 6.0
"""Logits of evidence that it takes to begin or to end a segment: what fewer faces than about three can say, a chance
face says too."""


STILL_SECONDS = 5.0
"""For so long it must be seen: people too hold still for a second or two."""

GAP_STEPS, GAP_SECONDS = 5.0, 1.0
"""A person who is out of sight for more than so many of the usual steps, and so many seconds, may have been exchanged:
segments end there."""


def roles(boxes: Mapping[int, Sequence[Box]], seconds: Mapping[int, float]) -> dict[int, Role]:
    """Whose score counts for the video.

    Args:
        boxes: of each person's scored faces, in order of time, by the person's number.
        seconds: from the first to the last sight of each.
    """
    if not boxes:
        return {}
    sizes = {number: float(np.median([_size(box) for box in mine])) for number, mine in boxes.items()}
    counts = {number: len(mine) for number, mine in boxes.items()}
    motion = {number: _motion(mine) for number, mine in boxes.items()}
    found = {}
    for number in boxes:
        others = [motion[other] for other in boxes if other != number and counts[other] >= 3]
        still = seconds[number] >= STILL_SECONDS and counts[number] >= 3 and motion[number] < STILL
        if still and any(3 * motion[number] < other for other in others):
            found[number] = Role.STILL
        elif sizes[number] < MAIN_SIZE * max(sizes.values()) or counts[number] < MAIN_TIME * max(counts.values()):
            found[number] = Role.BACKGROUND
        else:
            found[number] = Role.MAIN
    if Role.MAIN not in found.values():
        # A video of posters alone is about a poster.
        found[max(counts, key=lambda number: (counts[number], sizes[number]))] = Role.MAIN
    return found


def segments(scores: Scores, *, threshold: float) -> list[tuple[float, float, Bool[np.ndarray, " n"]]]:
    """Where one person looks fake: the two-state path (fake or not) with the most evidence, found by Viterbi.

    A face says `logit - threshold` for fake; every change of state costs `SWITCH`, so that a few odd faces neither
    begin nor interrupt a segment. Edges lie half way to the neighbouring face, but no more than half the usual distance
    away.

    Args:
        scores: of one person, in order of time.
        threshold: the logit from which a face speaks for fake.

    Returns:
        start and end in seconds, and which of the faces lie inside, in order of time.
    """
    times = scores.times
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    gaps = np.flatnonzero(np.diff(times) > max(GAP_STEPS * step, GAP_SECONDS)) + 1
    found = []
    for part in np.split(np.arange(len(times)), gaps):
        inside = _fake_faces(scores.logits[part] - threshold)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
        for first, behind in zip(edges[::2], edges[1::2], strict=True):
            rows = np.zeros(len(times), bool)
            rows[part[first:behind]] = True
            start, end = float(times[part[first]]), float(times[part[behind - 1]])
            found.append((max(0.0, start - 0.5 * step), end + 0.5 * step, rows))
    return found


def _fake_faces(evidence: Float64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Of the paths through the two states, the one with the most evidence minus the cost of its changes."""
    best = np.array([0.0, -SWITCH])
    came_from = np.zeros((len(evidence), 2), np.int8)
    for step, gain in enumerate(evidence):
        stay, change = best, best[::-1] - SWITCH
        came_from[step] = np.where(change > stay, [1, 0], [0, 1])
        best = np.maximum(stay, change) + np.array([0.0, gain])
    state = int(best[1] > best[0])
    path = np.zeros(len(evidence), bool)
    for step in range(len(evidence) - 1, -1, -1):
        path[step] = state == 1
        state = int(came_from[step, state])
    return path


def _size(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def _motion(boxes: Sequence[Box]) -> float:
    """Standard deviation of the box's centre and size, as a share of its size."""
    array = np.asarray(boxes, np.float64)
    sizes = np.maximum(array[:, 2] - array[:, 0], array[:, 3] - array[:, 1])
    centres = (array[:, :2] + array[:, 2:]) / 2
    spread = np.sqrt(np.sum(np.var(centres, axis=0)) + np.var(sizes))
    return float(spread / np.median(sizes))

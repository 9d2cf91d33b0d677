"""The most and the least suspicious faces of a scored video, cut out of it once more.

Example:
    >>> most, least = extremes(report, 6)
    >>> cuts = cut(report, [*most, *least], classifier, "clip.mp4")
    >>> cuts[0].crop.shape
    (160, 160, 3)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.faces import Face
from video.frames import VideoFile
from video.records import FaceRecord, FrameRecord
from video.render import annotate
from video.report import VideoReport, main_people

Sighting = tuple[FrameRecord, FaceRecord]
"""A face, and the frame that it is in."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """A face as the model saw it.

    Attributes:
        time: seconds from the first frame of the video; None in pictures.
        face: its record.
        crop: RGB, of the model's size.
    """

    time: float | None
    face: FaceRecord
    crop: UInt8[np.ndarray, "s s 3"]


def extremes(report: VideoReport, count: int) -> tuple[list[Sighting], list[Sighting]]:
    """The faces with the highest and with the lowest scores, of the people that count for the video.

    Args:
        report: of the video.
        count: of each at most; no face is in both, and the highest come first.

    Returns:
        Highest first, and lowest first; of equals the earlier one.
    """
    numbers = {person.number for person in main_people(report)} if report.people else None
    scored = [
        (frame, face)
        for frame, face in report.most_suspicious(sum(len(frame.faces) for frame in report.frames))
        if numbers is None or face.person in numbers
    ]
    most = scored[:count]
    return most, scored[len(most) :][::-1][:count]


def cut(
    report: VideoReport,
    sightings: Sequence[Sighting],
    classifier: FaceClassifier,
    source: str | os.PathLike[str] | None = None,
) -> list[Cut]:
    """The crops of some faces, in the order given; a frame that cannot be decoded any more is left out.

    Only the frames concerned are decoded, and one is held at a time.

    Args:
        report: of the video.
        sightings: faces of the report.
        classifier: says what a crop is.
        source: the video; `report.input` by default.

    Raises:
        MediaError: the video cannot be read any more.
    """
    found: dict[tuple[int, int], Cut] = {}
    wanted: dict[int, list[tuple[int, Sighting]]] = {}
    for place, (frame, face) in enumerate(sightings):
        wanted.setdefault(frame.index, []).append((place, (frame, face)))
    if not wanted:
        return []
    with VideoFile(source if source is not None else report.input) as video:
        for image in video.frames_at(sorted(wanted)):
            for place, (frame, face) in wanted[image.index]:
                crop = classifier.crop(image.image, Face(box=face.box, confidence=face.confidence))
                found[image.index, place] = Cut(time=frame.time, face=face, crop=crop)
    return [one for _, one in sorted(found.items(), key=lambda item: item[0][1])]


def annotated_frame(
    report: VideoReport, frame: FrameRecord, source: str | os.PathLike[str] | None = None
) -> UInt8[np.ndarray, "h w 3"] | None:
    """One sampled frame with what was found in it; None where it cannot be decoded any more.

    Raises:
        MediaError: the video cannot be read any more.
    """
    with VideoFile(source if source is not None else report.input) as video:
        for image in video.frames_at([frame.index]):
            return annotate(image.image, frame.faces, people=report.people)
    return None

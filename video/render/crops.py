"""The most and the least suspicious faces of a scored video, cut out of it once more, and where their scores come from.

Example:
    >>> most, least = extremes(report, 6)
    >>> cuts = cut(report, [*most, *least], classifier, "clip.mp4")
    >>> cuts[0].crop.shape
    (160, 160, 3)
    >>> suspicious_crops(report, classifier, "clip.mp4")[0]["heat"][:23]
    'data:image/jpeg;base64,'
"""

from __future__ import annotations

import base64
import dataclasses
import io
import os
from collections.abc import Sequence
from typing import Literal, TypedDict

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.explain import heatmap
from fakeface_jax.faces import Box, Face
from fakeface_jax.video.reading.opencv import FrameSource, reading
from fakeface_jax.video.render.annotate import annotate
from fakeface_jax.video.report.records import FaceRecord, FrameRecord
from fakeface_jax.video.report.video_report import ImageReport, VideoReport, main_people

CROPS = 6
"""How many of the most, and of the least suspicious faces are shown."""

PICTURE_CROPS = 12
"""How many faces of a picture are shown."""

_HEAT = np.array((255, 110, 0), np.float32)

Sighting = tuple[FrameRecord, FaceRecord]
"""A face, and the frame that it is in."""


class CropRecord(TypedDict):
    """A face as pages and programs get it.

    Attributes:
        kind: one of the `most` or the `least` suspicious of a video, or a `face` of a picture.
        frame: index in the video.
        time: seconds from the first frame of the video.
        person: their number in the report.
        box: in pixels of the frame.
        p_fake: of this face, in [0, 1].
        verdict: of this face.
        crop: what the model saw, as a `data:` URI of a JPEG.
        heat: the same in grey, with orange where the score comes from.
    """

    kind: Literal["most", "least", "face"]
    frame: int | None
    time: float | None
    person: int | None
    box: Box
    p_fake: float | None
    verdict: str
    crop: str
    heat: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """A face as the model saw it.

    Attributes:
        time: seconds from the first frame of the video; None in pictures.
        face: its record.
        crop: RGB, of the model's size.
        frame: index in the video; None in pictures.
    """

    time: float | None
    face: FaceRecord
    crop: UInt8[np.ndarray, "s s 3"]
    frame: int | None = None


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
    source: str | os.PathLike[str] | FrameSource | None = None,
) -> list[Cut]:
    """The crops of some faces, in the order given; a frame that cannot be decoded any more is left out.

    Only the frames concerned are decoded, and one is held at a time.

    Args:
        report: of the video.
        sightings: faces of the report.
        classifier: says what a crop is.
        source: the video, as a path or open; `report.input` by default.

    Raises:
        MediaError: the video cannot be read any more.
    """
    found: dict[tuple[int, int], Cut] = {}
    wanted: dict[int, list[tuple[int, Sighting]]] = {}
    for place, (frame, face) in enumerate(sightings):
        wanted.setdefault(frame.index, []).append((place, (frame, face)))
    if not wanted:
        return []
    with reading(source if source is not None else report.input) as video:
        for image in video.frames_at(sorted(wanted)):
            for place, (frame, face) in wanted[image.index]:
                crop = classifier.crop(image.image, Face(box=face.box, confidence=face.confidence))
                found[image.index, place] = Cut(time=frame.time, face=face, crop=crop, frame=frame.index)
    return [one for _, one in sorted(found.items(), key=lambda item: item[0][1])]


def annotated_frame(
    report: VideoReport, frame: FrameRecord, source: str | os.PathLike[str] | FrameSource | None = None
) -> UInt8[np.ndarray, "h w 3"] | None:
    """One sampled frame with what was found in it; None where it cannot be decoded any more.

    Raises:
        MediaError: the video cannot be read any more.
    """
    with reading(source if source is not None else report.input) as video:
        for image in video.frames_at([frame.index]):
            return annotate(image.image, frame.faces, people=report.people)
    return None


def suspicious_crops(
    report: VideoReport,
    classifier: FaceClassifier,
    source: str | os.PathLike[str] | FrameSource | None = None,
) -> list[CropRecord]:
    """The most and then the least suspicious faces of a video, with heat maps; at most `CROPS` of each.

    Args:
        report: of the video.
        classifier: that scored; the heat maps are of its gradients.
        source: the video, as a path or open; `report.input` by default. The frames concerned are decoded once more.

    Raises:
        MediaError: the video cannot be read any more.
    """
    most, least = extremes(report, CROPS)
    cuts = cut(report, [*most, *least], classifier, source)
    places = {id(face) for _, face in most}
    return _records(cuts, ["most" if id(one.face) in places else "least" for one in cuts], classifier)


def picture_crops(
    image: UInt8[np.ndarray, "h w 3"], report: ImageReport, classifier: FaceClassifier
) -> list[CropRecord]:
    """The scored faces of a picture, highest score first, with heat maps; at most `PICTURE_CROPS`.

    Args:
        image: the picture that was scored, RGB.
        report: from `score_image`.
        classifier: that scored.
    """
    scored = sorted((face for face in report.faces if face.p_fake is not None), key=lambda one: -(one.p_fake or 0))
    cuts = [
        Cut(time=None, face=face, crop=classifier.crop(image, Face(box=face.box, confidence=face.confidence)))
        for face in scored[:PICTURE_CROPS]
    ]
    return _records(cuts, ["face"] * len(cuts), classifier)


def jpeg_uri(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """An RGB picture as a `data:` URI."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _records(
    cuts: Sequence[Cut], kinds: Sequence[Literal["most", "least", "face"]], classifier: FaceClassifier
) -> list[CropRecord]:
    if not cuts:
        return []
    heats = heatmap(classifier, np.stack([one.crop for one in cuts]))
    return [
        CropRecord(
            kind=kind,
            frame=one.frame,
            time=one.time,
            person=one.face.person,
            box=one.face.box,
            p_fake=one.face.p_fake,
            verdict=str(one.face.verdict),
            crop=jpeg_uri(one.crop),
            heat=jpeg_uri(_heated(one.crop, heat)),
        )
        for one, kind, heat in zip(cuts, kinds, heats, strict=True)
    ]


def _heated(crop: UInt8[np.ndarray, "s s 3"], heat: Float32[np.ndarray, "s s"]) -> UInt8[np.ndarray, "s s 3"]:
    """The crop in grey, with orange as strong as the heat."""
    grey = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.float32)
    share = 0.85 * heat[..., None] ** 1.5  # weak places fade, so that strong ones stand out
    return np.asarray(np.clip((1 - share) * grey + share * _HEAT, 0, 255), np.float32).round().astype(np.uint8)

"""Scores over time, person by person: as data, and as the bar below an annotated video.

The bar is appended below the picture and not laid over it: what is judged must stay visible, and faces of people who
stand close to a camera reach its lower edge.

Example:
    >>> [lane.title for lane in lanes(report)]
    ['person 1', 'person 2']
    >>> bar = Timeline(report, width=640, height=480)
    >>> np.vstack([frame.image, bar.at(frame.time)])
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from fakeface_jax.video.render.drawing import BLACK, COLOURS, WHITE, Colour, font
from fakeface_jax.video.report.records import FaceRecord, PersonRecord, Segment
from fakeface_jax.video.report.video_report import VideoReport, main_people

MAX_LANES = 4
"""People that the bar shows; with more it would be higher than it is wide to read."""

_GROUND: Colour = (24, 24, 24)
_NOT_SEEN: Colour = (58, 58, 58)
_MARKED: Colour = (104, 52, 12)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """The time for which one sampled face stands: half way to the neighbouring samples.

    Attributes:
        start: seconds from the first frame.
        end: seconds.
        time: of the sample itself, seconds.
        face: what was found.
    """

    start: float
    end: float
    time: float
    face: FaceRecord


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lane:
    """One person's scores over time.

    Attributes:
        person: whose; None for all faces of a report that does not tell people apart.
        stretches: of scored faces, in order of time, with gaps where the person is not seen.
    """

    person: PersonRecord | None
    stretches: tuple[Stretch, ...]

    @property
    def title(self) -> str:
        """`person 1`, or `all faces`."""
        return "all faces" if self.person is None else f"person {self.person.number}"

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Where the person looks fake."""
        return () if self.person is None else self.person.segments


def length(report: VideoReport) -> float:
    """Seconds that a timeline spans: the video's length, and never less than its last sample; positive."""
    last = report.frames[-1].time if report.frames else 0.0
    return max(report.media.duration or 0.0, last, 1e-3)


def lane(report: VideoReport, person: PersonRecord | None) -> Lane:
    """The scored faces of one person, or with None of all, the most fake one of each frame."""
    edges = _edges(report)
    stretches = []
    for number, frame in enumerate(report.frames):
        faces = [
            face for face in frame.faces if face.p_fake is not None and (person is None or face.person == person.number)
        ]
        if faces:
            face = max(faces, key=lambda one: one.p_fake or 0.0)
            stretches.append(Stretch(start=edges[number], end=edges[number + 1], time=frame.time, face=face))
    return Lane(person=person, stretches=tuple(stretches))


def lanes(report: VideoReport, most: int = MAX_LANES) -> list[Lane]:
    """The lanes of the main people, by number; of the most suspicious ones where there are more than `most`."""
    if not report.people:
        return [lane(report, None)]
    suspicious = sorted(main_people(report), key=lambda one: -(one.p_fake or 0.0))[:most]
    return [lane(report, person) for person in sorted(suspicious, key=lambda one: one.number)]


class Timeline:
    """The bar of one report, drawn once; only its cursor moves.

    Each lane is as high as P(fake) at every moment and has the colour of that face's verdict; where it is empty nobody
    was seen. A white line above it marks the stretches in which the person looks fake.

    Args:
        report: of the video.
        width: of the picture in pixels.
        height: of the picture in pixels; lanes grow with the picture.
    """

    def __init__(self, report: VideoReport, *, width: int, height: int) -> None:
        shown = lanes(report)
        side = min(width, height)
        self._pad = max(2, side // 120)
        self._line = max(1, side // 240)
        self._lane = max(10, round(side / 26))
        self._seconds = length(report)
        rows = max(1, len(shown)) * (self._lane + self._pad) + self._pad
        self._size = (width, rows + rows % 2)
        self._left, self._right = self._pad, max(self._pad + 1, width - self._pad)
        picture = Image.new("RGB", self._size, _GROUND)
        draw = ImageDraw.Draw(picture)
        numbered = any(one.person is not None for one in shown)
        if numbered and width > 10 * self._lane:
            self._left += round(1.4 * self._lane)
        for row, one in enumerate(shown):
            self._draw_lane(draw, self._pad + row * (self._lane + self._pad), one)
        self._bar = np.asarray(picture)

    @property
    def height(self) -> int:
        """Pixels; even, as video encoders want it."""
        return self._size[1]

    def at(self, time: float) -> UInt8[np.ndarray, "h w 3"]:
        """The bar with its cursor at a time in seconds from the first frame."""
        bar = self._bar.copy()
        column = self._column(time)
        half = max(1, self._line)
        bar[:, max(0, column - half - 1) : column + half + 2] = BLACK
        bar[:, max(0, column - half // 2) : column + half // 2 + 1] = WHITE
        return bar

    def _column(self, time: float) -> int:
        share = min(max(time / self._seconds, 0.0), 1.0)
        return self._left + round(share * (self._right - 1 - self._left))

    def _draw_lane(self, draw: ImageDraw.ImageDraw, top: int, lane: Lane) -> None:
        bottom = top + self._lane - 1
        if lane.person is not None and self._left > self._pad:
            middle = (self._left // 2, top + self._lane // 2)
            draw.text(middle, str(lane.person.number), fill=WHITE, font=font(self._lane), anchor="mm")
        draw.rectangle((self._left, top, self._right - 1, bottom), fill=_NOT_SEEN)
        for segment in lane.segments:
            draw.rectangle((self._column(segment.start), top, self._column(segment.end), bottom), fill=_MARKED)
        for stretch in lane.stretches:
            # Never empty: a face that is surely real was seen nevertheless.
            high = max(self._lane // 5, round((stretch.face.p_fake or 0.0) * (self._lane - 1 - self._line)))
            columns = self._column(stretch.start), self._column(stretch.end)
            draw.rectangle((columns[0], bottom - high, columns[1], bottom), fill=COLOURS[stretch.face.verdict])
        for segment in lane.segments:
            columns = self._column(segment.start), self._column(segment.end)
            draw.rectangle((columns[0], top, columns[1], top + self._line), fill=WHITE)


def _edges(report: VideoReport) -> list[float]:
    """Between which times each sampled frame stands for its surroundings: one more than there are frames."""
    times = [frame.time for frame in report.frames]
    if not times:
        return []
    if len(times) == 1:
        return [times[0], times[0] + 1.0 / (report.media.fps or 25.0)]
    middles = [(one + other) / 2 for one, other in itertools.pairwise(times)]
    first, last = max(0.0, 2 * times[0] - middles[0]), min(2 * times[-1] - middles[-1], length(report))
    return [first, *middles, max(last, times[-1])]

"""Boxes, people, scores and verdicts, drawn on pictures and videos.

Line width and text grow with the picture. Colours and fonts: `fakeface_jax.video.render.drawing`; the bar below videos:
`fakeface_jax.video.render.timeline`.

Example:
    >>> save_annotated_image(read_image("portrait.jpg"), report, "portrait.annotated.png")
    >>> save_annotated_video(video_report, "clip.annotated.mp4")
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from fakeface_jax.atomic_files import whole_file
from fakeface_jax.decision import sigmoid
from fakeface_jax.errors import OpenError
from fakeface_jax.faces import Box
from fakeface_jax.labels import Verdict
from fakeface_jax.video.reading.opencv import FALLBACK_FPS, FrameSource, open_video, reading
from fakeface_jax.video.reading.sampling import TIME_TOLERANCE, Sampling
from fakeface_jax.video.render.drawing import (
    BLACK,
    COLOURS,
    UNSCORED,
    WHITE,
    Colour,
    fitting_font,
    font,
    ink,
    text_size,
    verdict_text,
)
from fakeface_jax.video.render.encoder import VIDEO_CODECS, Encoder
from fakeface_jax.video.render.timeline import Timeline
from fakeface_jax.video.report.records import FaceRecord, PersonRecord, Role
from fakeface_jax.video.report.video_report import ImageReport, VideoReport, main_people

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
"""What `save_annotated_image` writes."""

__all__ = [
    "COLOURS",
    "IMAGE_EXTENSIONS",
    "VIDEO_CODECS",
    "annotate",
    "annotated_frames",
    "save_annotated_image",
    "save_annotated_video",
]

RUNNING_EVERY = 0.25
"""Seconds of the video between updates of the running score, so that it can be read."""

MAX_HOLD = 1.0
"""Seconds that a box stays where it was seen, or moves from one sample to the next. Samples may be minutes apart, and
faces move."""


def annotate(
    image: UInt8[np.ndarray, "h w 3"],
    faces: Sequence[FaceRecord],
    *,
    banner: str = "",
    banner_verdict: Verdict = Verdict.NO_FACE,
    people: Sequence[PersonRecord] = (),
) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of an RGB picture with its faces drawn on it.

    Args:
        image: RGB, 0 to 255.
        faces: boxes in pixels of this picture.
        banner: one line along the upper edge; empty for none.
        banner_verdict: whose colour the banner has.
        people: of the video; those whose score does not count for it are drawn thin and grey.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    top = _draw_banner(draw, picture.size, banner, COLOURS[banner_verdict]) if banner else 0
    roles = {person.number: person.role for person in people}
    # Smallest first, so that the label of a large face is not hidden behind that of a small one.
    for face in reversed(faces):
        _draw_face(draw, picture.size, face, top, roles)
    return np.asarray(picture)


def save_annotated_image(image: UInt8[np.ndarray, "h w 3"], report: ImageReport, path: str | os.PathLike[str]) -> None:
    """Writes a picture with its faces, scores and verdicts; completely or not at all.

    Args:
        image: the picture that was scored, RGB.
        report: its report.
        path: ends in one of `IMAGE_EXTENSIONS`; an existing file is replaced.

    Raises:
        OpenError: the file cannot be written.
    """
    banner = "" if report.p_fake is not None else verdict_text(report.verdict, None)
    drawn = annotate(image, report.faces, banner=banner, banner_verdict=report.verdict)
    with whole_file(path, extensions=IMAGE_EXTENSIONS) as temporary:
        Image.fromarray(drawn).save(temporary, quality=95)


def save_annotated_video(
    report: VideoReport,
    path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    video: FrameSource | None = None,
) -> None:
    """Writes every frame of a scored video with boxes, people, the running score, the verdict and a timeline below.

    Completely or not at all. A second walk through the file, so memory stays flat. Between two samples at most
    `MAX_HOLD` seconds apart a person's box moves along; else it stays until the next sample is due, and as long at
    most. Frame rate and sound: see `fakeface_jax.video.render.encoder.Encoder`; the banner states the true time of each
    frame.

    Args:
        report: from `score_video`.
        path: ends in one of `VIDEO_CODECS`; an existing file is replaced, but never the source itself.
        source: the video; `report.input` by default.
        video: its frames, where it is open already; exact times and sound are still read from `source`.

    Raises:
        OpenError: the file cannot be written.
        MediaError: the source cannot be read any more.
    """
    source = Path(source if source is not None else report.input)
    path = Path(path)
    if path.exists() and source.exists() and path.samefile(source):
        raise OpenError(path, "is the video that was scored", "name another file to write")
    with whole_file(path, extensions=VIDEO_CODECS) as temporary, reading(video or source) as frames:
        drawn = _drawn_frames(frames, report)
        size = frames.width, frames.height + _timeline(frames, report).height
        with Encoder(temporary, path, size=size, fps=frames.fps or FALLBACK_FPS, source=source) as encoder:
            for image, time in drawn:
                encoder.write(image, time)
        if not encoder.complete():
            raise OpenError(path, "the annotated video was not written completely", "check the space on the disk")


def annotated_frames(
    report: VideoReport, *, source: str | os.PathLike[str] | None = None
) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], float]]:
    """The frames that `save_annotated_video` would write, one at a time, each with the frame rate in frames per second.

    Raises:
        MediaError: the source cannot be read any more.
    """
    with open_video(source if source is not None else report.input) as video:
        for drawn, _ in _drawn_frames(video, report):
            yield drawn, video.fps or FALLBACK_FPS


def _drawn_frames(video: FrameSource, report: VideoReport) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], float]]:
    """Frames with their times in seconds."""
    overlay, timeline = _Overlay(report), _timeline(video, report)
    for frame in video.frames(Sampling(every=1)):
        faces, banner = overlay.at(frame.time)
        drawn = annotate(frame.image, faces, banner=banner, banner_verdict=report.verdict, people=report.people)
        if drawn.shape[1] != video.width:  # some videos change their size midway
            timeline = Timeline(report, width=drawn.shape[1], height=drawn.shape[0])
        yield np.vstack([drawn, timeline.at(frame.time)]), frame.time


def _timeline(video: FrameSource, report: VideoReport) -> Timeline:
    return Timeline(report, width=video.width, height=video.height)


class _Overlay:
    """What a finished report says at each moment of its video."""

    def __init__(self, report: VideoReport) -> None:
        self._report = report
        self._times = [frame.time for frame in report.frames]
        gaps = np.diff(self._times)
        self._hold = min(float(np.median(gaps)), MAX_HOLD) if len(gaps) else MAX_HOLD
        self._main = {person.number for person in main_people(report)} if report.people else None
        self._sum, self._faces = 0.0, 0
        self._counted = 0
        self._running = "-"
        self._running_at = -math.inf

    def at(self, moment: float) -> tuple[tuple[FaceRecord, ...], str]:
        """Faces and banner at a time in seconds; times must not go back."""
        last = bisect.bisect_right(self._times, moment + TIME_TOLERANCE / 2) - 1
        while self._counted <= last:
            for face in self._report.frames[self._counted].faces:
                if face.logit is not None and (self._main is None or face.person in self._main):
                    self._sum, self._faces = self._sum + face.logit, self._faces + 1
            self._counted += 1
        if self._faces and moment - self._running_at >= RUNNING_EVERY:
            self._running, self._running_at = f"{self._so_far():.2f}", moment
        final = verdict_text(self._report.verdict, self._report.p_fake)
        return self._faces_at(moment, last), f"video: {final}   so far {self._running}   {moment:.2f} s"

    def _so_far(self) -> float:
        """P(fake) of the mean logit of the people that count, up to now."""
        mean = np.asarray([self._sum / self._faces])
        video = self._report.model.video
        fitted = video is not None and video.rule == self._report.aggregation
        return float((video.calibration(mean) if video is not None and fitted else sigmoid(mean))[0])

    def _faces_at(self, moment: float, last: int) -> tuple[FaceRecord, ...]:
        if last < 0:
            return ()
        faces = self._report.frames[last].faces
        elapsed = moment - self._times[last]
        # A gap longer than usual (a cut, dropped frames) is no licence to show an old box.
        fresh = elapsed <= self._hold + TIME_TOLERANCE
        gap = self._times[last + 1] - self._times[last] if last + 1 < len(self._times) else math.inf
        if gap > MAX_HOLD + TIME_TOLERANCE:
            return faces if fresh else ()
        following = {face.person: face for face in self._report.frames[last + 1].faces if face.person is not None}
        shown = []
        for face in faces:
            if face.person in following:
                box = _between(face.box, following[face.person].box, elapsed / gap)
                shown.append(dataclasses.replace(face, box=box))
            elif fresh:
                shown.append(face)
        return tuple(shown)


def _between(one: Box, other: Box, share: float) -> Box:
    """The box at a share of the way from one to the other."""
    x0, y0, x1, y1 = ((1.0 - share) * a + share * b for a, b in zip(one, other, strict=True))
    return x0, y0, x1, y1


def _draw_banner(draw: ImageDraw.ImageDraw, picture: tuple[int, int], text: str, colour: Colour) -> int:
    """Draws the banner and returns its height."""
    width = picture[0]
    wanted = text_size(picture)
    pad = max(2, wanted // 4)
    face = fitting_font(text, wanted, width - 3 * pad)
    box = face.getbbox(text)
    height = int(box[3] + 2 * pad)
    draw.rectangle((0, 0, width, height), fill=BLACK)
    draw.rectangle((0, 0, pad, height), fill=colour)
    draw.text((2 * pad, pad), text, fill=WHITE, font=face)
    return height


def _draw_face(
    draw: ImageDraw.ImageDraw, picture: tuple[int, int], face: FaceRecord, top: int, roles: Mapping[int, Role]
) -> None:
    width, height = picture
    counts = face.p_fake is not None and roles.get(face.person or 0, Role.MAIN) is Role.MAIN
    colour = COLOURS[face.verdict] if counts else UNSCORED
    line = max(2, round(min(picture) / 240)) if counts else max(1, round(min(picture) / 480))
    x0, y0, x1, y1 = _inside(face.box, width, height)
    # A dark rim keeps the box visible on a background of its own colour.
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=BLACK, width=line + 2)
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=line)
    wanted = text_size(picture) if counts else max(9, round(0.75 * text_size(picture)))
    # In a crowd, labels hide the neighbours.
    forms = _labels(face)
    text = next((form for form in forms if font(wanted).getlength(form) <= 1.7 * (x1 - x0)), forms[-1])
    chosen = fitting_font(text, wanted, width - 4)
    pad = max(2, wanted // 5)
    box = chosen.getbbox(text)
    text_width, text_height = box[2] + 2 * pad, box[3] + 2 * pad
    left = max(0, min(x0, width - text_width))
    # Above the box, or inside its upper edge where there is no room above.
    label_top = y0 - text_height if y0 - text_height >= top else max(y0, top)
    draw.rectangle((left, label_top, left + text_width, label_top + text_height), fill=colour)
    draw.text((left + pad, label_top + pad), text, fill=ink(colour), font=chosen)


def _labels(face: FaceRecord) -> list[str]:
    """What is written at a box, from the longest form to the shortest."""
    long, short = ("", "") if face.person is None else (f"person {face.person}  ", f"{face.person}: ")
    if face.p_fake is None:
        return [f"{long}too small", f"{short}too small"]
    brief = f"{str(face.verdict).upper()} {face.p_fake:.2f}"
    return [long + verdict_text(face.verdict, face.p_fake), long + brief, short + brief]


def _inside(box: Box, width: int, height: int) -> Box:
    """The box with corners that can be drawn: on the picture, and not inside out."""
    x0, y0, x1, y1 = box
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return x0, y0, max(x0, min(x1, width - 1)), max(y0, min(y1, height - 1))

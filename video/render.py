"""Boxes, scores and verdicts, drawn on pictures and videos.

Colours are those of Okabe and Ito (2008), which colour-blind people can tell apart, and the text always says the
verdict. Line width and text grow with the picture.

Example:
    >>> save_annotated_image(read_image("portrait.jpg"), report, "portrait.annotated.png")
    >>> save_annotated_video(video_report, "clip.annotated.mp4")
"""

from __future__ import annotations

import bisect
import functools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from fakeface_jax.errors import OpenError
from fakeface_jax.faces import Box
from fakeface_jax.labels import Verdict
from fakeface_jax.outputs import whole_file
from video.aggregation import aggregate
from video.frames import FALLBACK_FPS, VideoFile
from video.report import FaceRecord, ImageReport, VideoReport
from video.sampling import TIME_TOLERANCE, Sampling

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

COLOURS: dict[Verdict, Colour] = {
    Verdict.FAKE: (213, 94, 0),
    Verdict.REAL: (0, 114, 178),
    Verdict.INCONCLUSIVE: (240, 228, 66),
    Verdict.NO_FACE: (200, 200, 200),
}
"""Vermilion, blue, yellow (Okabe and Ito) and grey."""

_UNSCORED: Colour = (160, 160, 160)

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
"""What `save_annotated_image` writes."""

VIDEO_CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
"""What `save_annotated_video` writes: MPEG-4 part 2, because OpenCV's wheels cannot encode H.264."""

RUNNING_EVERY = 0.25
"""Seconds of the video between updates of the running score."""

MAX_HOLD = 1.0
"""Seconds that a box stays where it was seen. Samples may be minutes apart, and faces move."""


def annotate(
    image: UInt8[np.ndarray, "h w 3"],
    faces: Sequence[FaceRecord],
    *,
    banner: str = "",
    banner_verdict: Verdict = Verdict.NO_FACE,
) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of an RGB picture with its faces drawn on it.

    Args:
        image: RGB, 0 to 255.
        faces: boxes in pixels of this picture.
        banner: one line along the upper edge; empty for none.
        banner_verdict: whose colour the banner has.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    top = _draw_banner(draw, picture.size, banner, COLOURS[banner_verdict]) if banner else 0
    # Smallest first, so that the label of a large face is not hidden behind that of a small one.
    for face in reversed(faces):
        _draw_face(draw, picture.size, face, top)
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
    banner = "" if report.p_fake is not None else _verdict_text(report.verdict, None)
    drawn = annotate(image, report.faces, banner=banner, banner_verdict=report.verdict)
    with whole_file(path, extensions=IMAGE_EXTENSIONS) as temporary:
        Image.fromarray(drawn).save(temporary, quality=95)


def save_annotated_video(
    report: VideoReport, path: str | os.PathLike[str], *, source: str | os.PathLike[str] | None = None
) -> None:
    """Writes every frame of a scored video with boxes, the running score and the verdict; completely or not at all.

    A second walk through the file, so memory stays flat. The boxes of a sampled frame stay until the next sample is
    due, `MAX_HOLD` seconds at most. The frame rate is the source's; a video of variable rate gets its mean rate and
    keeps its length, and the banner states the true time of each frame. Sound is not copied.

    Args:
        report: from `score_video`.
        path: ends in one of `VIDEO_CODECS`; an existing file is replaced, but never the source itself.
        source: the video; `report.input` by default.

    Raises:
        OpenError: the file cannot be written.
        MediaError: the source cannot be read any more.
    """
    source = Path(source if source is not None else report.input)
    path = Path(path)
    if path.exists() and source.exists() and path.samefile(source):
        raise OpenError(path, "is the video that was scored", "name another file to write")
    with whole_file(path, extensions=VIDEO_CODECS) as temporary, VideoFile(source) as video:
        fps = video.fps or FALLBACK_FPS
        with _Encoder(temporary, path, fps, (video.width, video.height)) as encoder:
            for drawn in _drawn_frames(video, report):
                encoder.write(drawn)
        if not encoder.complete():
            raise OpenError(path, "the annotated video was not written completely", "check the space on the disk")


def annotated_frames(
    report: VideoReport, *, source: str | os.PathLike[str] | None = None
) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], float]]:
    """The frames that `save_annotated_video` would write, one at a time, each with the frame rate in frames per second.

    Raises:
        MediaError: the source cannot be read any more.
    """
    with VideoFile(source if source is not None else report.input) as video:
        for drawn in _drawn_frames(video, report):
            yield drawn, video.fps or FALLBACK_FPS


def _drawn_frames(video: VideoFile, report: VideoReport) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    overlay = _Overlay(report)
    for frame in video.frames(Sampling(every=1)):
        faces, banner = overlay.at(frame.time)
        yield annotate(frame.image, faces, banner=banner, banner_verdict=report.verdict)


class _Overlay:
    """What a finished report says at each moment of its video."""

    def __init__(self, report: VideoReport) -> None:
        self._report = report
        self._times = [frame.time for frame in report.frames]
        gaps = np.diff(self._times)
        self._hold = min(float(np.median(gaps)), MAX_HOLD) if len(gaps) else MAX_HOLD
        self._logits: list[float] = []
        self._counted = 0
        self._running = "-"
        self._running_at = -math.inf

    def at(self, moment: float) -> tuple[tuple[FaceRecord, ...], str]:
        """Faces and banner at a time in seconds; times must not go back."""
        last = bisect.bisect_right(self._times, moment + TIME_TOLERANCE / 2) - 1
        while self._counted <= last:
            faces = self._report.frames[self._counted].faces
            self._logits += [face.logit for face in faces if face.logit is not None]
            self._counted += 1
        # A gap longer than usual (a cut, dropped frames) is no licence to show an old box.
        fresh = last >= 0 and moment - self._times[last] <= self._hold + TIME_TOLERANCE
        # Not on each frame: aggregating all faces so far, every time, would take longer than drawing in long videos.
        if self._logits and moment - self._running_at >= RUNNING_EVERY:
            self._running = f"{aggregate(np.asarray(self._logits), self._report.aggregation):.2f}"
            self._running_at = moment
        final = _verdict_text(self._report.verdict, self._report.p_fake)
        return self._report.frames[
            last
        ].faces if fresh else (), f"video: {final}   so far {self._running}   {moment:.2f} s"


class _Encoder:
    """OpenCV's encoder, released whatever happens. BGR exists in here only."""

    def __init__(self, temporary: Path, target: Path, fps: float, size: tuple[int, int]) -> None:
        self._temporary = temporary
        self._size = size
        self._frames = 0
        code = cv2.VideoWriter.fourcc(*VIDEO_CODECS[temporary.suffix])
        self._writer = cv2.VideoWriter(str(temporary.absolute()), cv2.CAP_FFMPEG, code, fps, size)
        if not self._writer.isOpened():
            self._writer.release()
            raise OpenError(target, f"OpenCV cannot encode {size[0]} x {size[1]} at {fps:g} fps", "try .avi")

    def __enter__(self) -> _Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.release()

    def write(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        if (image.shape[1], image.shape[0]) != self._size:
            # The encoder drops frames of another size without a word.
            image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._frames += 1

    def complete(self) -> bool:
        """Whether the finished file holds all frames: the encoder reports no errors, a full disk included."""
        capture = cv2.VideoCapture(str(self._temporary.absolute()), cv2.CAP_FFMPEG)
        try:
            return capture.isOpened() and abs(capture.get(cv2.CAP_PROP_FRAME_COUNT) - self._frames) <= 1
        finally:
            capture.release()


def _verdict_text(verdict: Verdict, p_fake: float | None) -> str:
    words = str(verdict).replace("_", " ").upper()
    return words if p_fake is None else f"{words}  P(fake) {p_fake:.2f}"


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitting_font(text: str, wanted: int, room: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font at the wanted size, or smaller until the text fits into `room` pixels; never under 8 pixels."""
    size = wanted
    while size > 8 and _font(size).getlength(text) > room:
        size -= 1
    return _font(size)


def _text_size(picture: tuple[int, int]) -> int:
    return max(11, round(min(picture) / 28))


def _ink(background: Colour) -> Colour:
    """Black or white, whichever can be read on the background (its luma decides)."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def _draw_banner(draw: ImageDraw.ImageDraw, picture: tuple[int, int], text: str, colour: Colour) -> int:
    """Draws the banner and returns its height."""
    width = picture[0]
    wanted = _text_size(picture)
    pad = max(2, wanted // 4)
    font = _fitting_font(text, wanted, width - 3 * pad)
    box = font.getbbox(text)
    height = int(box[3] + 2 * pad)
    draw.rectangle((0, 0, width, height), fill=(0, 0, 0))
    draw.rectangle((0, 0, pad, height), fill=colour)
    draw.text((2 * pad, pad), text, fill=(255, 255, 255), font=font)
    return height


def _draw_face(draw: ImageDraw.ImageDraw, picture: tuple[int, int], face: FaceRecord, top: int) -> None:
    width, height = picture
    scored = face.p_fake is not None
    colour = COLOURS[face.verdict] if scored else _UNSCORED
    line = max(2, round(min(picture) / 240))
    x0, y0, x1, y1 = _inside(face.box, width, height)
    # A dark rim keeps the box visible on a background of its own colour.
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0), width=line + 2)
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=line)
    wanted = _text_size(picture)
    text = _verdict_text(face.verdict, face.p_fake) if scored else "too small"
    if scored and _font(wanted).getlength(text) > 1.7 * (x1 - x0):
        text = f"{str(face.verdict).upper()} {face.p_fake:.2f}"  # in a crowd, labels hide the neighbours
    font = _fitting_font(text, wanted, width - 4)
    pad = max(2, wanted // 5)
    box = font.getbbox(text)
    text_width, text_height = box[2] + 2 * pad, box[3] + 2 * pad
    left = max(0, min(x0, width - text_width))
    # Above the box, or inside its upper edge where there is no room above.
    label_top = y0 - text_height if y0 - text_height >= top else max(y0, top)
    draw.rectangle((left, label_top, left + text_width, label_top + text_height), fill=colour)
    draw.text((left + pad, label_top + pad), text, fill=_ink(colour), font=font)


def _inside(box: Box, width: int, height: int) -> Box:
    """The box with corners that can be drawn: on the picture, and not inside out."""
    x0, y0, x1, y1 = box
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return x0, y0, max(x0, min(x1, width - 1)), max(y0, min(y1, height - 1))

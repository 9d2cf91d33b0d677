"""RGB frames in, a video file out, by PyAV: H.264 that browsers play, with the times and the sound of the source.

Example:
    >>> with Encoder(temporary, "out.mp4", size=(640, 480), fps=video.fps, source="clip.mp4") as encoder:
    ...     for frame in video.frames(Sampling(every=1)):
    ...         encoder.write(frame.image, frame.time)
    >>> encoder.complete()
    True
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import OpenError

VIDEO_CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".avi": "mjpeg"}
"""What can be written, and with which encoder. H.264 in AVI is no standard; few players take it."""

_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}

_OPTIONS = {
    # Visually close to the source at about its size; `veryfast` keeps the encoder from being slower than the drawing.
    "libx264": {"crf": "20", "preset": "veryfast"},
    "mpeg4": {"qscale": "3"},
    "mjpeg": {"qscale": "3"},
}

_PLAYED = frozenset({"aac", "mp3", "opus", "flac"})
"""Sound that browsers play in MP4; other kinds become AAC there."""

CLOCK = 90_000
"""Ticks per second where frames have no constant rate."""

_BT709 = 1
"""Colours by ITU-T H.273; stated in the file, so that players show those that were drawn."""

_LEAD = 0.1
"""Seconds of sound before the first picture that are kept: decoders of AAC need a few hundredths to start."""

_MAX_RATE = 1001
"""Largest denominator of a frame rate that is given as a decimal: 30000/1001 is one."""


class Encoder:
    """A file being written: H.264 where browsers play it. A context manager, which finishes it; then ask `complete`.

    The frame rate is the source's as a fraction (30000/1001 stays that), and where the source has no constant rate each
    frame keeps its own time. Its sound is copied, or re-encoded to AAC where the container does not take it. Width and
    height that are odd, which H.264 cannot be, are made even by repeating the last column or row.

    Args:
        temporary: what is written; its ending, one of `VIDEO_CODECS` in lower case, says how.
        target: what error messages name.
        size: width and height of the frames in pixels.
        fps: mean frame rate, for where the source states none.
        source: the video that the frames are of, for its exact times and its sound; None for neither.

    Raises:
        OpenError: these frames cannot be encoded.
    """

    def __init__(
        self,
        temporary: Path,
        target: str | os.PathLike[str],
        *,
        size: tuple[int, int],
        fps: float,
        source: str | os.PathLike[str] | None = None,
    ) -> None:
        target, source = Path(target), None if source is None else Path(source)
        self._temporary, self._target, self._size = temporary, target, size
        self._frames, self._last = 0, -1
        # Closed in the opposite order, whatever happens.
        self._open = contextlib.ExitStack()
        try:
            rate, self._clock, origin = _timing(source, fps)
            if temporary.suffix == ".avi":
                self._clock = rate  # AVI has no times of single frames
            fast = {"movflags": "+faststart"} if temporary.suffix in (".mp4", ".mov") else {}
            name = f"file:{temporary.absolute()}"
            self._output = self._open.enter_context(av.open(name, "w", _FORMATS[temporary.suffix], options=fast))
            codec = _installed(VIDEO_CODECS[temporary.suffix])
            self._stream: Any = self._output.add_stream(codec, rate=rate, options=_OPTIONS[codec])
            context: Any = self._stream.codec_context
            context.width, context.height = size[0] + size[0] % 2, size[1] + size[1] % 2
            context.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            context.time_base = 1 / self._clock
            if codec == "libx264":
                context.colorspace = context.color_primaries = context.color_trc = context.color_range = _BT709
            self._tagged = codec == "libx264"
            self._sound = None if source is None else _Sound.of(source, self._output, origin, self._open)
        except (av.FFmpegError, ValueError) as error:
            self._open.close()
            problem = f"cannot be encoded at {size[0]} x {size[1]}, {fps:g} fps: {error}"
            raise OpenError(target, problem, "try .avi") from error
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._mux(None)
                if self._sound is not None:
                    self._sound.copy_until(None)
        finally:
            self._close(quiet=kind is not None)

    def write(self, image: UInt8[np.ndarray, "h w 3"], time: float) -> None:
        """Appends an RGB frame that is shown at a time in seconds from the first one."""

        image = _resized(image, self._size)
        image = np.pad(image, ((0, self._size[1] % 2), (0, self._size[0] % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if self._tagged:
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
            frame.colorspace = _BT709
        # Two frames at one time would be one frame.
        self._last = max(self._last + 1, round(time * self._clock))
        frame.pts, frame.time_base = self._last, 1 / self._clock
        if self._sound is not None:
            self._sound.copy_until(time)
        self._mux(frame)
        self._frames += 1

    def complete(self) -> bool:
        """Whether the finished file holds all frames. It is read back: a full disk is not always reported."""

        try:
            with av.open(f"file:{self._temporary.absolute()}") as written:
                return sum(packet.size > 0 for packet in written.demux(video=0)) == self._frames
        except av.FFmpegError:
            return False

    def _mux(self, frame: Any) -> None:

        try:
            self._output.mux(self._stream.encode(frame))
        except av.FFmpegError as error:
            raise OpenError(self._target, f"cannot be written: {error}", "check the space on the disk") from error

    def _close(self, *, quiet: bool) -> None:

        try:
            self._open.close()
        except av.FFmpegError as error:
            if not quiet:
                raise OpenError(self._target, f"cannot be written: {error}", "check the space on the disk") from error


class _Sound:
    """The first sound track of the source, moved into the output a stretch at a time, so that players can stream it.

    Damaged sound ends where it is damaged: the pictures matter more.
    """

    def __init__(self, container: Any, track: Any, output: Any, origin: float) -> None:
        self._output = output
        self._origin = origin
        self._packets: Iterator[Any] = container.demux(track)
        self._waiting: Any = None
        self._shift = round(origin / track.time_base)
        # What is heard before the first picture would delay the pictures, except where an edit list can hide it.
        self._earliest = round((-_LEAD if output.format.name in ("mp4", "mov") else 0.0) / track.time_base)
        name = track.codec_context.name
        allowed = _PLAYED if output.format.name == "mp4" else output.supported_codecs
        self._copied = name in allowed and name in output.supported_codecs
        self._stream: Any
        if self._copied:
            self._stream = output.add_stream_from_template(track)
        else:
            self._stream = output.add_stream("aac", rate=track.codec_context.sample_rate)

    @classmethod
    def of(cls, source: Path, output: Any, origin: float, opened: contextlib.ExitStack) -> _Sound | None:
        """The sound of a file; None where there is none, or none that can be moved.

        Args:
            origin: when the first picture is shown, in seconds by the source's clock.
            opened: closes the source.
        """

        try:
            container = opened.enter_context(_opened(source))
            track = next(iter(container.streams.audio), None)
            return None if track is None else cls(container, track, output, origin)
        except (av.FFmpegError, ValueError):
            return None

    def copy_until(self, time: float | None) -> None:
        """Moves what is heard up to a time in seconds from the first picture; all that is left for None."""

        while True:
            try:
                packet = self._waiting or next(self._packets, None)
                self._waiting = None
                if packet is None:
                    return
                if packet.pts is not None and time is not None and packet.pts * packet.time_base > time + self._origin:
                    self._waiting = packet
                    return
                self._move(packet)
            except (av.FFmpegError, ValueError):
                self._packets = iter(())

    def _move(self, packet: Any) -> None:
        if not self._copied:
            for sound in packet.decode():
                if sound.pts is None:
                    continue
                sound.pts -= round(self._origin / sound.time_base)
                if sound.pts >= 0:
                    self._output.mux(self._stream.encode(sound))
            if not packet.size:  # the last one
                self._output.mux(self._stream.encode(None))
        elif packet.dts is not None and packet.size and packet.dts - self._shift >= self._earliest:
            packet.stream = self._stream
            packet.pts, packet.dts = (packet.pts or packet.dts) - self._shift, packet.dts - self._shift
            self._output.mux(packet)


class _Nameless(io.FileIO):
    """A file whose name FFmpeg does not learn, and so cannot take for a pattern, a protocol or a format."""

    name = "video"


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[Any]:

    with _Nameless(source) as file, av.open(file, "r") as container:
        yield container


def _timing(source: Path | None, fps: float) -> tuple[Fraction, Fraction, float]:
    """Frame rate, ticks per second of the frames' times, and the time of the first frame in seconds.

    The ticks are the frame rate itself where it is constant, else `CLOCK`. The file is read through without decoding.
    """

    given = Fraction(fps).limit_denominator(_MAX_RATE)
    if source is None:
        return given, Fraction(CLOCK), 0.0
    try:
        with _opened(source) as container:
            stream = container.streams.video[0]
            base, rate = stream.time_base, stream.average_rate or stream.guessed_rate
            ticks = sorted({packet.pts for packet in container.demux(stream) if packet.pts is not None})
    except (av.FFmpegError, IndexError, OSError):
        return given, Fraction(CLOCK), 0.0
    rate = Fraction(rate) if rate and abs(float(rate) - fps) < 1e-2 * fps else given
    if len(ticks) < 2 or base is None:
        return rate, rate, 0.0
    times = (np.asarray(ticks, np.float64) - ticks[0]) * float(base)
    # Containers round times: to their own ticks, Matroska's being milliseconds.
    off = np.abs(times - np.arange(len(times)) / float(rate)).max()
    constant = off <= max(1e-3, 1.01 * float(base))
    return rate, rate if constant else Fraction(CLOCK), float(ticks[0] * base)


def _installed(codec: str) -> str:
    """The codec, or MPEG-4 part 2 where FFmpeg was built without it: x264's licence keeps it out of some builds."""

    try:
        av.Codec(codec, "w")
    except ValueError:  # UnknownCodecError
        return "mpeg4"
    return codec


def _resized(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "th tw 3"]:
    """The frame in the size of the file: videos may change theirs midway."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)

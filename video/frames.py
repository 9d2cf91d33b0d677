"""Video files in, upright RGB frames with their true times out.

OpenCV's FFmpeg decodes. Frames that are not sampled are grabbed and not converted, which costs half as much; nothing
is ever held but the frame being handed out, so memory does not grow with the length of the video.

Example:
    >>> with VideoFile("clip.mp4") as video:
    ...     for frame in video.frames(Sampling(fps=2.0)):
    ...         print(frame.index, frame.time, frame.image.shape)
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import DecodeError, LimitExceeded, OpenError
from fakeface_jax.images import MAX_PIXELS, MIN_SIDE
from video.containers import check_is_video, states_exact_frame_count
from video.sampling import Sampling

# FFmpeg and OpenCV write each damaged macroblock to the process's stderr, past Python. What of it matters is in the
# counters and in the errors raised here. Set before the first VideoCapture, which reads it once; a value that the user
# has set is left alone.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

FALLBACK_FPS = 25.0
"""What time is made of when a stream holds neither timestamps nor a frame rate (FFmpeg assumes the same)."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One decoded frame.

    Attributes:
        image: RGB, 0 to 255, upright.
        index: its number in the video, from 0, counting the frames that could not be decoded.
        time: seconds from the first frame, by the container's timestamps.
    """

    image: UInt8[np.ndarray, "h w 3"]
    index: int
    time: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameCounters:
    """What happened to the frames of the latest walk through a source.

    Attributes:
        read: frames that were grabbed, sampled or not.
        sampled: frames that were handed out.
        dropped: frames that the source states or holds and that did not come out: damaged, cut off at the end of a
            truncated file, or hidden by an edit list.
    """

    read: int = 0
    sampled: int = 0
    dropped: int = 0


@runtime_checkable
class FrameSource(Protocol):
    """Anything frames come from. All times are seconds from its first frame."""

    name: str
    width: int
    height: int
    fps: float | None

    @property
    def counters(self) -> FrameCounters:
        """Of the latest walk."""
        ...

    def frames(self, sampling: Sampling) -> Iterator[Frame]:
        """The sampled frames, in order."""
        ...

    def close(self) -> None:
        """Frees the decoder; twice is no error."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Packets:
    """What reading a file without decoding it tells.

    Attributes:
        count: frames it holds.
        in_window: of those, how many lie in the window of time asked for.
        first: time of the first in seconds, by the container's clock.
        last: time of the last.
        starts_at_zero: whether the container's clock starts at zero.
    """

    count: int
    in_window: int
    first: float
    last: float
    starts_at_zero: bool

    @property
    def timed(self) -> bool:
        """Whether there are timestamps at all; raw H.264 has none."""
        return self.count <= 1 or self.last > self.first


class VideoFile:
    """A video file, read from its beginning by each call of `frames`.

    Opening it reads the file through once without decoding (at the speed of the disk), because the frame count that
    containers state is missing, estimated or wrong often enough to misplace "32 frames, evenly spread".

    Attributes:
        path: as given.
        name: the path as text.
        width: pixels, of the upright picture (rotation metadata applied).
        height: pixels.
        fps: nominal (mean) frame rate; None where the file has none.
        frame_count: how many frames the file holds, counted.
        frame_count_stated: how many its header claims (Matroska: an estimate from its duration); None where it
            claims none.
        duration: seconds from the beginning of the first frame to the end of the last; None for streams without
            timestamps and rate.
        times_from: `container`, or `frame rate` where the stream has no timestamps.

    Raises:
        OpenError: missing, a directory, empty, unreadable, no video, a still image, a playlist, sound only.
        DecodeError: a video that holds no frame.
        LimitExceeded: frames of more than 100 megapixels, or too small to hold a face.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = str(path)
        check_is_video(self.path)
        # FFmpeg takes "http:..." for an address; an absolute path never looks like one.
        self._absolute = str(self.path.absolute())
        self._alias: tempfile.TemporaryDirectory[str] | None = None
        if "%" in self._absolute:
            # FFmpeg takes "a%03d.png" for a series of pictures and would decode other files than the one named.
            self._absolute = self._plain_name()
        self._capture: cv2.VideoCapture | None = None
        try:
            self._capture = self._open()
        except BaseException:
            self.close()
            raise
        self.width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else None
        stated = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_count_stated = int(stated) if 0 < stated < 1e9 else None
        try:
            self._check_size()
            self._packets = self._read_packets(Sampling())
            self.frame_count = self._packets.count
            if not self.frame_count:
                raise DecodeError(self.path, "zero frames could be read", "the file is truncated; get it again")
        except BaseException:
            self.close()
            raise
        self.times_from = "container" if self._packets.timed else "frame rate"
        self._counters = FrameCounters()
        self._fresh = True

    @property
    def duration(self) -> float | None:
        """Seconds from the beginning of the first frame to the end of the last."""
        if not self._packets.timed:
            return self.frame_count / self.fps if self.fps else None
        return self._packets.last - self._packets.first + (1.0 / self.fps if self.fps else 0.0)

    @property
    def counters(self) -> FrameCounters:
        """Of the latest call of `frames`."""
        return self._counters

    def expected_samples(self, sampling: Sampling) -> int:
        """How many frames `frames` will hand out, about: for progress bars."""
        inside = self._in_window(sampling)
        return sampling.expected(inside, inside * (self.duration or 0.0) / max(self.frame_count, 1))

    def frames(self, sampling: Sampling) -> Iterator[Frame]:
        """Walks through the file from its beginning and hands out the sampled frames, in order.

        The walk ends with the last sample that is due; nothing behind it is decoded.

        Raises:
            DecodeError: no frame could be decoded, or none lies in the window.
        """
        sampling = sampling.resolved()
        capture = self._from_beginning()
        inside = self._in_window(sampling)
        choose, due = sampling.chooser(inside), sampling.expected(inside, 0.0) if sampling.frames else None
        dropped_at_end = self._cut_off()
        read = failed = sampled = window_starts = 0
        first_time, time, seen_window, complete = None, -math.inf, False, True
        while True:
            if not capture.grab():
                # One damaged frame also ends OpenCV's grab(); the file has ended when all its packets are used up.
                if read + failed >= self.frame_count:
                    break
                failed += 1
                continue
            index, read = read + failed, read + 1
            stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
            first_time = stamp if first_time is None else first_time
            time = self._time(stamp - first_time, index, time)
            if sampling.before_window(time):
                continue
            if not seen_window:
                window_starts, seen_window = index, True
            complete = not (sampling.after_window(time) or (due is not None and sampled >= due))
            if not complete:
                break
            if choose(index - window_starts, time):
                image = _retrieve_rgb(capture)
                if image is None:
                    read, failed = read - 1, failed + 1
                    continue
                sampled += 1
                self._counters = FrameCounters(read=read, sampled=sampled, dropped=failed + dropped_at_end)
                yield Frame(image=image, index=index, time=time)
        # After a walk to the end it is known how many never came out; some are lost without a failed grab.
        missing = max(0, self.frame_count - read) if complete else failed
        self._counters = FrameCounters(read=read, sampled=sampled, dropped=missing + dropped_at_end)
        if not read:
            raise DecodeError(self.path, "zero frames could be decoded", "the file is damaged; get it again")
        if not sampled:
            length = f"it is {self.duration:.1f} s long" if self.duration else f"it has {self.frame_count} frames"
            window = f"from {sampling.start or 0:g} s" + (f" to {sampling.end:g} s" if sampling.end else "")
            raise DecodeError(self.path, f"no frame could be sampled {window}", f"{length}; choose another window")

    def close(self) -> None:
        """Frees the decoder; twice is no error."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None
        if self._alias is not None:
            self._alias.cleanup()
            self._alias = None

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _plain_name(self) -> str:
        """Another name of the file, without the sign that FFmpeg expands."""
        self._alias = tempfile.TemporaryDirectory(prefix="fakeface-")
        link = Path(self._alias.name) / f"video{self.path.suffix.replace('%', '')}"
        try:
            link.symlink_to(self.path.absolute())
        except OSError as error:
            self._alias.cleanup()
            raise OpenError(self.path, "its name holds a % sign, which FFmpeg would expand", "rename it") from error
        return str(link)

    def _open(self, *parameters: int) -> cv2.VideoCapture:
        # The backend is named, so that OpenCV does not try the path as a camera or as a pattern of picture names.
        try:
            capture = cv2.VideoCapture(self._absolute, cv2.CAP_FFMPEG, list(parameters))
        except UnicodeEncodeError:
            raise OpenError(self.path, "its name is not valid Unicode, which OpenCV needs", "rename it") from None
        if not capture.isOpened():
            raise OpenError(
                self.path, "not a video that can be read", "it is damaged, sound only, or needs converting to MP4"
            )
        return capture

    def _check_size(self) -> None:
        if self.width * self.height > MAX_PIXELS:
            raise LimitExceeded(
                self.path,
                f"{self.width} x {self.height} pixels, more than {MAX_PIXELS // 10**6} megapixels",
                "make it smaller",
            )
        if min(self.width, self.height) <= 0:
            raise OpenError(self.path, "a kind of video that this OpenCV cannot decode", "convert it to MP4")
        if min(self.width, self.height) < MIN_SIDE:
            raise LimitExceeded(
                self.path, f"{self.width} x {self.height} pixels, too small to hold a face", "use a larger video"
            )

    def _from_beginning(self) -> cv2.VideoCapture:
        # Opened anew instead of seeking to 0, which lands on the wrong frame in files whose first frame is no keyframe.
        if not self._fresh or self._capture is None:
            self.close()
            self._capture = self._open()
        self._fresh = False
        self._counters = FrameCounters()
        return self._capture

    def _read_packets(self, window: Sampling) -> _Packets:
        """Reads the file through without decoding: with FORMAT = -1, grab() returns encoded packets."""
        capture = self._open(cv2.CAP_PROP_FORMAT, -1)
        count = packets = inside = 0
        first = last = previous = math.nan
        starts_at_zero = True
        try:
            while capture.grab():
                packets += 1
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
                if packets == 1:
                    starts_at_zero = capture.get(cv2.CAP_PROP_PTS) <= 0
                    first = last = stamp
                if stamp == previous:
                    continue  # VP8 has packets that are never shown; they bear the time of the next one
                previous, last = stamp, max(last, stamp)
                count += 1
                inside += not (window.before_window(stamp - first) or window.after_window(stamp - first))
        finally:
            capture.release()
        if last == first:  # no timestamps
            count = packets
        return _Packets(count=count, in_window=inside, first=first, last=last, starts_at_zero=starts_at_zero)

    def _in_window(self, sampling: Sampling) -> int:
        """How many frames lie between the start and the end of the sampling."""
        if sampling.start is None and sampling.end is None:
            return self.frame_count
        if self._packets.timed:
            return self._read_packets(sampling).in_window
        rate = self.fps or FALLBACK_FPS
        first = math.ceil((sampling.start or 0.0) * rate)
        end = self.frame_count if sampling.end is None else min(self.frame_count, math.ceil(sampling.end * rate))
        return max(0, end - first)

    def _cut_off(self) -> int:
        """How many frames the header promises behind the end of the file."""
        if self.frame_count_stated is None or self.frame_count_stated <= self.frame_count:
            return 0
        if not states_exact_frame_count(self.path):
            # Matroska states a duration; the count is OpenCV's estimate from it, off by some per cent for variable
            # rates and by everything where the clock does not start at zero.
            stated = self.frame_count_stated / (self.fps or FALLBACK_FPS)
            if not self._packets.starts_at_zero or (self.duration or stated) > 0.9 * stated:
                return 0
        return self.frame_count_stated - self.frame_count

    def _time(self, stamp: float, index: int, previous: float) -> float:
        """Seconds from the first frame; made from the frame rate where the stream has no timestamps."""
        period = 1.0 / (self.fps or FALLBACK_FPS)
        if not self._packets.timed:
            return index * period
        # A clock that jumps back (joined recordings) would undo the order of the frames.
        return stamp if stamp > previous else previous + period


def _retrieve_rgb(capture: cv2.VideoCapture) -> UInt8[np.ndarray, "h w 3"] | None:
    """The frame that was grabbed; None when it cannot be decoded. BGR exists in here only."""
    try:
        found, bgr = capture.retrieve()
    except cv2.error:
        return None
    if not found or bgr is None or bgr.ndim != 3:
        return None
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

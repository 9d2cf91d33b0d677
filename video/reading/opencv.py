"""Video files in, upright RGB frames with their true times out: by PyAV, or by OpenCV where that is asked for.

OpenCV is not the default, as it (4.13, 4.14, 5.0) says of interlaced pictures that it has read them, and hands out
memory that was never written: its FFmpeg refuses to convert them, and it does not look. Whether a file holds any, it
does not tell either; one that begins with them is refused here. Whoever reads, frames that are not sampled are not
converted, which costs half as much, or jumped over; nothing is ever held but the frame being handed out, so that memory
does not grow with the length of the video.

Example:
    >>> with open_video("clip.mp4") as video:
    ...     for frame in video.frames(Sampling(fps=2.0)):
    ...         print(frame.index, frame.time, frame.image.shape)
"""

from __future__ import annotations

import contextlib
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import ConfigError, OpenError
from fakeface_jax.images import MAX_PIXELS
from fakeface_jax.video.reading.packet_index import PacketIndex
from fakeface_jax.video.reading.probe import (
    BinaryFile,
    check_is_video,
    has_seek_index,
    states_exact_frame_count,
)
from fakeface_jax.video.reading.pyav import PyAVFile
from fakeface_jax.video.reading.reader import FALLBACK_FPS, FileSource
from fakeface_jax.video.reading.source import Frame, FrameCounters, FrameSource

__all__ = ["FALLBACK_FPS", "FileSource", "Frame", "FrameCounters", "FrameSource", "VideoFile", "open_video", "reading"]

# FFmpeg and OpenCV write each damaged macroblock to the process's stderr, past Python. What of it matters is in the
# counters and in the errors raised here. Set before the first VideoCapture, which reads it once; a value that the user
# has set is left alone.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_PREROLL = 17
"""Frames. OpenCV jumps to the last key frame at least 16 frames before the one asked for, and decodes up to it."""

END_GRABS = 64
"""So many failures of OpenCV's grab() one after the other are the end of a file; fewer are damaged packets."""

_UNREADABLE = (av.FFmpegError, OSError, ValueError, IndexError, AttributeError, StopIteration)
"""Raised where there is no video, an unknown kind of it, or no frame."""

VideoInput = str | os.PathLike[str] | bytes | BinaryFile


def open_video(source: VideoInput, backend: Literal["opencv", "pyav"] = "pyav") -> FileSource:
    """Opens a video for reading.

    Args:
        source: a path, or the bytes of a video file, or a binary file that can be rewound.
        backend: `opencv` reads paths alone, no interlaced video, and no names that FFmpeg would expand. Of files that
            both read, they hand out the same frames; PyAV need not decode those of H.264 that no other frame refers
            to, where few are wanted.

    Raises:
        OpenError, DecodeError, LimitExceeded: see `FileSource`.
        ConfigError: unknown backend, or one that cannot read such a source.
    """
    if backend == "pyav":
        return PyAVFile(source)
    if backend != "opencv":
        raise ConfigError(f"unknown video backend {backend!r} (known: opencv, pyav)")
    if not isinstance(source, str | os.PathLike):
        raise ConfigError("OpenCV reads videos from paths only (use the backend pyav for bytes and streams)")
    return VideoFile(source)


@contextlib.contextmanager
def reading(source: VideoInput | FrameSource) -> Iterator[FrameSource]:
    """Frames of a file, which is opened and closed again, or of a source of frames that is open, and stays so.

    Raises:
        OpenError, DecodeError, LimitExceeded: see `FileSource`.
    """
    if isinstance(source, FrameSource):
        yield source
    else:
        with open_video(source) as video:
            yield video


class VideoFile(FileSource):
    """A video file, read by OpenCV. Not for files that turn interlaced behind the first frame: see above.

    Attributes: those of `FileSource`; `path` as given.

    Raises:
        OpenError: also for interlaced video, and for names that OpenCV cannot be given.
        DecodeError, LimitExceeded: as `FileSource` says.
    """

    package = "opencv-python"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = str(path)
        head = check_is_video(self.path)
        # FFmpeg takes "http:..." for an address; an absolute path never looks like one.
        self._absolute = str(self.path.absolute())
        if not _is_plain(self._absolute):
            raise OpenError(self.path, "its name holds a % sign or is no Unicode", "rename it or use the backend pyav")
        if is_interlaced(self.path):
            raise OpenError(self.path, "interlaced video, which OpenCV cannot convert", "use the backend pyav")
        self._counts_exactly, self._can_seek = states_exact_frame_count(head), has_seek_index(head)
        self._edited_out = count_edited_out(self.path) if self._counts_exactly else 0
        self._capture: cv2.VideoCapture | None = None
        try:
            self._capture = self._open()
            self.width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
            self.height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
            fps = self._capture.get(cv2.CAP_PROP_FPS)
            self.fps = float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else None
            stated = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
            self.frame_count_stated = int(stated) if 0 < stated < 1e9 else None
            self._check_size()
            self._describe(self._read_packets())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Frees the decoder; twice is no error."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _open(self, *parameters: int) -> cv2.VideoCapture:
        # The backend is named, so that OpenCV does not try the path as a camera or as a pattern of picture names.
        capture = cv2.VideoCapture(self._absolute, cv2.CAP_FFMPEG, list(parameters))
        if not capture.isOpened():
            raise OpenError(
                self.path, "not a video that can be read", "it is damaged, sound only, or needs converting to MP4"
            )
        return capture

    def _read_packets(self) -> PacketIndex:
        """Reads the file through without decoding: with FORMAT = -1, grab() returns encoded packets."""
        capture = self._open(cv2.CAP_PROP_FORMAT, -1)
        stamps, keys, starts_at_zero = array("d"), array("b"), True
        lost: dict[int, int] = {}
        failed = 0
        try:
            # A damaged packet looks like the end; behind the end, nothing more comes.
            while failed < END_GRABS:
                if not capture.grab():
                    failed += 1
                    continue
                if not stamps:
                    starts_at_zero = capture.get(cv2.CAP_PROP_PTS) <= 0
                if failed:
                    lost[len(stamps)] = failed
                    failed = 0
                stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0)
                keys.append(capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME) > 0)
        finally:
            capture.release()
        return PacketIndex.of(stamps, keys, starts_at_zero=starts_at_zero, lost=lost)

    def _opened(self) -> cv2.VideoCapture:
        if self._capture is None:
            raise self._closed_early()
        return self._capture

    def _restart(self) -> None:
        # Opened anew instead of seeking to 0, which lands on the wrong frame in files whose first frame is no keyframe.
        self.close()
        self._capture = self._open()

    def _grab(self) -> bool:
        return self._opened().grab()

    def _stamp(self) -> float:
        return self._opened().get(cv2.CAP_PROP_POS_MSEC) / 1000.0

    def _retrieve(self) -> UInt8[np.ndarray, "h w 3"] | None:
        bgr = _retrieve_bgr(self._opened())
        return None if bgr is None else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    def _seek_begin(self, rank: int) -> int:
        return self._packets.key_before(rank - _PREROLL) if self.fps and rank >= _PREROLL else -1

    def _seek(self, rank: int) -> None:
        # OpenCV counts frames by time at the mean rate, and stops before the frame with the number that it is given:
        # that of the one before the wanted one, as several frames may share a number, and many numbers have no frame.
        before = float(self._packets.stamps[rank - 1]) - float(self._packets.stamps[self._hidden])
        self._opened().set(cv2.CAP_PROP_POS_FRAMES, float(math.floor(before * (self.fps or FALLBACK_FPS) + 0.5)))


def _is_plain(name: str) -> bool:
    """Whether FFmpeg opens this name and no other: it takes "a%03d.png" for a series of pictures, and a name that is
    no Unicode ends the process inside OpenCV."""
    return "%" not in name and not any("\udc80" <= letter <= "\udcff" for letter in name)


def _retrieve_bgr(capture: cv2.VideoCapture) -> UInt8[np.ndarray, "h w 3"] | None:
    """The frame that was grabbed; None when it cannot be decoded."""
    try:
        found, bgr = capture.retrieve()
    except cv2.error:
        return None
    if not found or bgr is None or bgr.ndim != 3:
        return None
    return bgr


def is_interlaced(path: str | os.PathLike[str]) -> bool:
    """Says whether the lines of the first frame were taken at two moments. False for files that PyAV cannot read."""
    with contextlib.suppress(*_UNREADABLE), Path(path).open("rb") as file, av.open(file, mode="r") as container:
        stream = container.streams.video[0]
        if stream.width * stream.height > MAX_PIXELS:
            return False
        stream.thread_type = "NONE"  # several threads want several packets before the first frame
        return bool(next(container.decode(stream)).interlaced_frame)
    return False


def count_edited_out(path: str | os.PathLike[str]) -> int:
    """Counts the frames that an edit list hides, which OpenCV does not tell. 0 for files that PyAV cannot read."""
    with contextlib.suppress(*_UNREADABLE), Path(path).open("rb") as file, av.open(file, mode="r") as container:
        return sum(packet.is_discard for packet in container.demux(container.streams.video[0]))
    return 0

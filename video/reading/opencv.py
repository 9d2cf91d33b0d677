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
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import ConfigError, OpenError
from fakeface_jax.video.reading.packet_index import PacketIndex
from fakeface_jax.video.reading.probe import (
    BinaryFile,
    check_is_video,
    has_seek_index,
    states_exact_frame_count,
)
from fakeface_jax.video.reading.pyav import PyAVFile, count_edited_out, is_interlaced
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

VideoInput = str | os.PathLike[str] | bytes | BinaryFile


def open_video(source: VideoInput, backend: Literal["opencv", "pyav"] = "pyav") -> FileSource:
    """Opens a video for reading.

    Args:
        source: a path, or the bytes of a video file, or a binary file that can be rewound.
        backend: `opencv` reads paths alone, and no interlaced video. Of files that both read, they hand out the same
            frames; PyAV need not decode those of H.264 that no other frame refers to, where few are wanted.

    Raises:
        OpenError, DecodeError, LimitExceeded: see `VideoFile`.
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
        OpenError, DecodeError, LimitExceeded: see `VideoFile`.
    """
    if isinstance(source, FrameSource):
        yield source
    else:
        with open_video(source) as video:
            yield video


class VideoFile(FileSource):
    """A video file, read by OpenCV. Not for files that turn interlaced behind the first frame: see above.

    Opening it reads the file through once without decoding (at the speed of the disk); see
    `fakeface_jax.video.reading.packet_index`.

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

    package = "opencv-python"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = str(path)
        head = check_is_video(self.path)
        self._counts_exactly, self._can_seek = states_exact_frame_count(head), has_seek_index(head)
        self._edited_out = count_edited_out(self.path) if self._counts_exactly else 0
        # FFmpeg takes "http:..." for an address; an absolute path never looks like one.
        self._absolute = str(self.path.absolute())
        if is_interlaced(self.path):
            raise OpenError(self.path, "interlaced video, which OpenCV cannot convert", "use the backend pyav")
        self._alias: tempfile.TemporaryDirectory[str] | None = None
        if not _is_plain(self._absolute):
            self._absolute = self._plain_name()
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
        self._fresh = True

    def close(self) -> None:
        """Frees the decoder; twice is no error."""
        self._release()
        if self._alias is not None:
            self._alias.cleanup()
            self._alias = None

    def _plain_name(self) -> str:
        """Another name of the file, which FFmpeg and OpenCV take as it is."""
        self._alias = tempfile.TemporaryDirectory(prefix="fakeface-")
        suffix = self.path.suffix
        link = Path(self._alias.name) / f"video{suffix if _is_plain(suffix) else ''}"
        try:
            link.symlink_to(self.path.absolute())
        except OSError as error:
            self._alias.cleanup()
            raise OpenError(self.path, "its name holds a % sign or is no Unicode", "rename it") from error
        return str(link)

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

    def _release(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _opened(self) -> cv2.VideoCapture:
        if self._capture is None:
            raise self._closed_early()
        return self._capture

    def _restart(self) -> None:
        # Opened anew instead of seeking to 0, which lands on the wrong frame in files whose first frame is no keyframe.
        if not self._fresh or self._capture is None:
            self._release()
            if self._alias is None and not _is_plain(str(self.path.absolute())):
                self._absolute = self._plain_name()
            self._capture = self._open()
        self._fresh = False

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

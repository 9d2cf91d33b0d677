"""Video files in, upright RGB frames with their true times out: through OpenCV, or through PyAV where that is needed.

OpenCV's FFmpeg decodes. Frames that are not sampled are grabbed and not converted, which costs half as much, or jumped
over; nothing is ever held but the frame being handed out and the one before it, so memory does not grow with the length
of the video.

Example:
    >>> with VideoFile("clip.mp4") as video:
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
from video.containers import BinaryFile, check_is_video, edited_out, has_seek_index, states_exact_frame_count
from video.frame_source import Frame, FrameCounters, FrameSource, are_same
from video.packets import PacketIndex
from video.pyav import PyAVFile, is_interlaced
from video.sampling import Sampling
from video.walk import FALLBACK_FPS, FileSource

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


def open_video(
    source: VideoInput, backend: Literal["opencv", "pyav"] | None = None, *, sampling: Sampling | None = None
) -> FileSource:
    """Opens a video for reading.

    Args:
        source: a path, or the bytes of a video file, or a binary file that can be rewound.
        backend: `opencv` or `pyav`. By default OpenCV for paths, and PyAV for all else and for interlaced video, which
            OpenCV cannot read.
        sampling: what it will be read by. Unless that is every frame, PyAV is the default for paths of MP4 and Matroska
            too: it hands out the same frames, and need not decode those of H.264 that no other frame refers to.

    Raises:
        OpenError, DecodeError, LimitExceeded: see `VideoFile`.
        ConfigError: unknown backend, or one that cannot read such a source.
    """
    if backend not in (None, "opencv", "pyav"):
        raise ConfigError(f"unknown video backend {backend!r} (known: opencv, pyav)")
    few = backend is None and sampling is not None and sampling.every != 1
    # MP4 and Matroska alone: packets of an AVI bear no time of showing, by which PyAV would know the frames.
    if few and isinstance(source, str | os.PathLike) and has_seek_index(check_is_video(Path(source))):
        backend = "pyav"
    if isinstance(source, str | os.PathLike) and backend != "pyav":
        try:
            return VideoFile(source)
        except InterlacedVideo:
            if backend == "opencv":
                raise
    if backend == "opencv":
        raise ConfigError("OpenCV reads videos from paths only (use the backend pyav for bytes and streams)")
    return PyAVFile(source)


@contextlib.contextmanager
def reading(source: VideoInput | FrameSource, sampling: Sampling | None = None) -> Iterator[FrameSource]:
    """Frames of a file, which is opened and closed again, or of a source of frames that is open, and stays so.

    Args:
        source: the one or the other.
        sampling: what it will be read by; see `open_video`.

    Raises:
        OpenError, DecodeError, LimitExceeded: see `VideoFile`.
    """
    if isinstance(source, FrameSource):
        yield source
    else:
        with open_video(source, sampling=sampling) as video:
            yield video


class InterlacedVideo(OpenError):
    """Of such video OpenCV (4.13, 4.14, 5.0) says that it was read, and hands out memory that was never written.

    Its FFmpeg refuses to convert interlaced to progressive frames, and OpenCV does not look.
    """


class VideoFile(FileSource):
    """A video file, read by OpenCV.

    Opening it reads the file through once without decoding (at the speed of the disk); see `video.packets`.

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
        InterlacedVideo: an `OpenError`, for what `video.pyav.PyAVFile` can read.
        DecodeError: a video that holds no frame.
        LimitExceeded: frames of more than 100 megapixels, or too small to hold a face.
    """

    package = "opencv-python"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = str(path)
        head = check_is_video(self.path)
        self._counts_exactly, self._can_seek = states_exact_frame_count(head), has_seek_index(head)
        if self._counts_exactly:
            with self.path.open("rb") as file:
                self._edited_out = edited_out(file)
        # FFmpeg takes "http:..." for an address; an absolute path never looks like one.
        self._absolute = str(self.path.absolute())
        if is_interlaced(self.path):
            raise InterlacedVideo(self.path, "interlaced video, which OpenCV cannot convert", "use the backend pyav")
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
        self._before: UInt8[np.ndarray, "h w 3"] | None = None
        self._interlaced_later: bool | None = None

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
                self._saw_packet(len(stamps))
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
        self._fresh, self._before = False, None

    def _grab(self) -> bool:
        return self._opened().grab()

    def _stamp(self) -> float:
        return self._opened().get(cv2.CAP_PROP_POS_MSEC) / 1000.0

    def _retrieve(self) -> UInt8[np.ndarray, "h w 3"] | None:
        bgr = _retrieve_bgr(self._opened())
        if bgr is None or self._is_left_over(bgr):
            return None
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=self._room(bgr.shape))

    def _is_left_over(self, bgr: UInt8[np.ndarray, "h w 3"]) -> bool:
        """Whether OpenCV has handed out the picture before once more, as it cannot convert this one: see
        `InterlacedVideo`. The file is asked once; pictures that stand still are alike, too."""
        before, self._before = self._before, bgr
        if before is None or not are_same(before, bgr):
            return False
        if self._interlaced_later is None:
            self._interlaced_later = is_interlaced(self.path, self._stamp())
        return self._interlaced_later

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

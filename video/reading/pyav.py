"""Video files read by PyAV: paths, bytes and open files, without decoding what nobody needs.

The frames are those that OpenCV gives, to the pixel, but for interlaced video, which OpenCV cannot convert.

Example:
    >>> with PyAVFile(upload.read(), name="upload") as video:
    ...     for frame in video.frames(Sampling(fps=2.0)):
    ...         print(frame.index, frame.time, frame.image.shape)
"""

from __future__ import annotations

import collections
import contextlib
import io
import itertools
import math
import os
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from fakeface_jax.errors import OpenError
from fakeface_jax.video.reading.h264 import UnitReader
from fakeface_jax.video.reading.packet_index import PacketIndex
from fakeface_jax.video.reading.probe import (
    BinaryFile,
    check_bytes_are_video,
    check_is_video,
    has_seek_index,
    states_exact_frame_count,
)
from fakeface_jax.video.reading.reader import FileSource

_END_READS = 64
"""So many failures to read one after the other are the end of a file; fewer are damage."""


class PyAVFile(FileSource):
    """A video file, its bytes, or an open binary file, read by PyAV.

    Attributes: those of `FileSource`; `path` is None for bytes and open files.

    Args:
        source: a path, the bytes of a file, or a binary file that can be rewound; the latter stays open.
        name: what errors and reports call it; the path, or `<bytes>`, by default.

    Raises:
        OpenError, DecodeError, LimitExceeded: as `FileSource` says; also for streams that cannot be rewound.
    """

    package = "av"

    def __init__(self, source: str | os.PathLike[str] | bytes | BinaryFile, *, name: str | None = None) -> None:
        self.path: Path | None = None
        self._container: Any = None
        self._stream: Any
        self._frame: Any
        self._fields: Any
        self._reformatter: Any
        self._failed_reads = 0
        # Always through an open file: of a name, FFmpeg would expand "%03d" and take "http:..." for an address.
        if isinstance(source, str | os.PathLike):
            self.path, self.name = Path(source), name or str(source)
            head = check_is_video(self.path)
            self._file: Any = self.path.open("rb")
        else:
            self.name = name or "<bytes>"
            self._file = io.BytesIO(source) if isinstance(source, bytes) else source
            head = check_bytes_are_video(self._file, self.name)
        self._counts_exactly, self._can_seek = states_exact_frame_count(head), has_seek_index(head)
        try:
            self._restart()
            self._describe_stream()
            self._describe(self._read_packets())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Frees the decoder; twice is no error."""
        self._release()
        if self.path is not None:
            self._file.close()

    def _release(self) -> None:
        """Lets go of all that holds the decoder, whose threads and frames would stay until garbage is collected."""
        if self._container is not None:
            self._container.close()
        self._container = self._stream = self._frame = self._fields = self._reformatter = None
        self._packets_left: Iterator[Any] = iter(())
        self._decoded: collections.deque[Any] = collections.deque()

    def _describe_stream(self) -> None:
        context = self._stream.codec_context
        rates = (self._stream.average_rate, self._stream.guessed_rate)
        self.width, self.height = context.width, context.height
        self._check_size()
        if self._quarter_turns() % 2:
            self.width, self.height = self.height, self.width
        self.fps = next((float(rate) for rate in rates if rate and 0 < rate <= 1000), None)
        length = self._container.duration
        estimate = int(length / av.time_base * self.fps + 0.5) if length and self.fps else 0
        self.frame_count_stated = self._stream.frames or (estimate if estimate > 0 else None)

    def _quarter_turns(self) -> int:
        """Counterclockwise, that make the stored pictures upright."""
        sides = getattr(self._stream.codec_context, "coded_side_data", None)
        if sides is not None:
            return _quarter_turns(sides.get("display_matrix"))
        # PyAV before 19, which Python 3.11 has: only frames say it.
        turns = 0
        with contextlib.suppress(av.FFmpegError, StopIteration):
            turns = round(next(self._container.decode(self._stream)).rotation / 90)
        self._restart()
        return turns

    def _read_packets(self) -> PacketIndex:
        """Reads the file through without decoding."""
        stamps, keys = array("d"), array("b")
        lost: dict[int, int] = {}
        self._edited_out = 0
        for packet in self._demux():
            if packet is None or not packet.size:
                continue
            if self._failed_reads:
                lost[len(stamps)] = self._failed_reads
                self._failed_reads = 0
            stamps.append(_seconds(packet, self._stream))
            keys.append(packet.is_keyframe)
            self._edited_out += packet.is_discard
            self._saw_packet(len(stamps))
        # An AVI says when frames are decoded, and no more. Of H.264 that shows them in another order FFmpeg makes times
        # of showing that are in the order of decoding: the times are right, and name other frames.
        reorders = self._container.format.name == "avi" and self._stream.codec_context.has_b_frames
        self._by_count = bool(reorders) and all(before < after for before, after in itertools.pairwise(stamps))
        self._ends_at = max(stamps, default=math.inf)
        return PacketIndex.of(stamps, keys, starts_at_zero=not stamps or not stamps[0] > 0, lost=lost)

    def _saw_packet(self, count: int) -> None:
        """Called while the file is read through, with how many packets there were so far; may refuse more."""

    def _alive(self) -> None:
        """Called for every packet that is read."""

    def _room(self, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"] | None:
        """Where a frame of this shape is to be written; None for memory of its own."""
        return None

    def _restart(self) -> None:
        self._open("AUTO")

    def _open(self, threads: Literal["AUTO", "SLICE"]) -> None:
        """Makes the first frame the next to be grabbed.

        Args:
            threads: AUTO, which is faster, decodes several frames at once.
        """
        self._release()
        if self.path is not None and self._file.closed:
            self._file = self.path.open("rb")
        try:
            self._file.seek(0)
            self._container = av.open(self._file, mode="r")
        except (av.FFmpegError, ValueError, OSError) as error:
            raise self._unreadable() from error
        if not self._container.streams.video:
            raise self._unreadable()
        self._stream = self._container.streams.video[0]
        if self._stream.codec_context is None:
            raise OpenError(self.name, "a kind of video that this FFmpeg cannot decode", "convert it to MP4")
        self._stream.thread_type = threads
        self._fields, self._reformatter = _Fields(self._stream), VideoReformatter()
        self._kept: frozenset[float] | None = None
        self._not_given: list[float] = []
        self._failed_reads = 0
        self._packets_left = self._demux()
        self._last = self._after = -math.inf
        self._shown = -1

    def _unreadable(self) -> OpenError:
        return OpenError(
            self.name, "not a video that can be read", "it is damaged, sound only, or needs converting to MP4"
        )

    def _demux(self) -> Iterator[Any]:
        """The packets, and at last an empty one (or None where reading failed) that drains the decoder."""
        failed = 0
        while failed < _END_READS:
            try:
                for packet in self._container.demux(self._stream):
                    failed = 0
                    self._alive()
                    yield packet
                return
            except MemoryError:  # PyAV's is an FFmpegError, too
                raise
            except (av.FFmpegError, OSError):
                failed += 1
                self._failed_reads += 1
        yield None

    def _grab(self) -> bool:
        if self._container is None:
            raise self._closed_early()
        while not self._decoded:
            packet: Any = next(self._packets_left, self)
            if packet is self:
                if self._threads_lost_the_end():
                    continue
                return False
            if self._kept is not None and packet is not None and packet.size:
                stamp = _seconds(packet, self._stream)
                # Not left to FFmpeg (`skip_frame = "NONREF"`), under which H.264's decoder says nothing of a damaged
                # packet that others refer to: of the clip `damaged-h264`, 0 frames were counted as dropped and not
                # 3. Of AV1, dav1d takes what its first packet was given for all: `av1` lost wanted frames.
                if stamp not in self._kept and self._units.is_disposable(bytes(packet)):
                    self._not_given.append(stamp)
                    continue
            try:
                frames = self._stream.codec_context.decode(packet)
            except MemoryError:
                raise
            except (av.FFmpegError, EOFError):
                return False
            self._decoded.extend(frame for frame in frames if not _seconds(frame, self._stream) <= self._after)
        self._frame = self._decoded.popleft()
        self._shown += 1
        self._last = max(self._last, self._stamp())  # not a number leaves it as it is
        # Damage that the decoder has covered up is shown, as OpenCV does: which frames it marks depends on its threads.
        # Where some were not decoded it is a reason to decode them all.
        return self._kept is None or not self._frame.is_corrupt

    def _threads_lost_the_end(self) -> bool:
        """Whether the last frames come after all, without threads that decode several at once.

        Those hand out nothing behind a damaged packet when no more packets come to push it out.
        """
        packets, last = self._packets, self._last
        if self._after > -math.inf:
            self._ends_at = last  # what was expected behind it never comes
        if self._kept is not None or self._by_count or not packets.ordered or last >= self._ends_at:
            return False
        self._open("SLICE")
        rank = packets.rank(last)
        if rank and self._can_seek:
            self._seek(rank)
        self._after = max(last, -sys.float_info.max)
        return True

    def _stamp(self) -> float:
        if self._by_count:
            return float(self._packets.stamps[min(self._shown, self._packets.count - 1)])
        return _seconds(self._frame, self._stream)

    def _retrieve(self) -> UInt8[np.ndarray, "h w 3"] | None:
        self._check_pixels(self._frame.width, self._frame.height)  # videos may change their size midway
        try:
            frame = self._fields.upper(self._frame) if self._frame.interlaced_frame else self._frame
            # Through BGR, by the filter that OpenCV uses: 10-bit video would differ by a step or two otherwise.
            bgr = self._reformatter.reformat(
                frame, self._frame.width, self._frame.height, "bgr24", interpolation=Interpolation.BICUBIC
            )
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError):
            return None
        plane = bgr.planes[0]
        if plane.line_size > 0:
            # In place: a copy of each frame would cost a twentieth of the time that decoding takes.
            picture = np.ndarray((bgr.height, bgr.width, 3), np.uint8, plane, strides=(plane.line_size, 3, 1))
        else:  # stored upside down
            picture = bgr.to_ndarray()
        turns = round(self._frame.rotation / 90)
        upright = np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
        return cv2.cvtColor(upright, cv2.COLOR_BGR2RGB, dst=self._room(upright.shape))

    def _keep(self, stamps: Iterable[float]) -> bool:
        context = self._stream.codec_context
        if context.name == "h264" and not self._by_count:
            self._kept, self._units = frozenset(stamps), UnitReader.of(context.extradata)
        return self._kept is not None

    def _left_out(self, after: float, until: float) -> int:
        count = sum(after < stamp <= until for stamp in self._not_given)
        self._not_given = [stamp for stamp in self._not_given if stamp > until]
        return count

    def _seek_begin(self, rank: int) -> int:
        return self._packets.key_before(rank)

    def _seek(self, rank: int) -> None:
        if self._container is None:
            raise self._closed_early()
        key = float(self._packets.stamps[self._packets.key_before(rank)])
        ticks = round(key / float(self._stream.time_base))
        with contextlib.suppress(av.FFmpegError, OSError):  # wherever it stands then, its timestamps will tell
            self._container.seek(ticks, stream=self._stream, backward=True)
        self._decoded.clear()
        self._not_given.clear()  # whatever lies between is jumped over
        self._packets_left = self._demux()


class _Fields:
    """Of interlaced frames, the upper lines of each two: those of one moment.

    (HEVC codes each field as a picture of its own.)

    The lines of both moments together show a face that moves as a comb, which looks fake: 0.65 more in the logit, where
    half the lines are 0.10 away (scripts/compare_fields.py).
    """

    def __init__(self, stream: Any) -> None:
        self._time_base = stream.time_base
        self._are_apart = stream.codec_context.name == "hevc"
        self._graph: Any = None
        self._of: tuple[int, int, str] | None = None

    def upper(self, frame: Any) -> Any:
        """The picture of one moment."""
        if self._are_apart:
            return frame
        kind = frame.width, frame.height, frame.format.name
        if self._of != kind:
            graph = Graph()
            steps = [
                graph.add_buffer(width=kind[0], height=kind[1], format=kind[2], time_base=self._time_base),
                graph.add("field", "type=top"),
                graph.add("buffersink"),
            ]
            graph.link_nodes(*steps).configure()
            self._graph, self._of = graph, kind
        self._graph.push(frame)
        return self._graph.pull()


def _seconds(timed: Any, stream: Any) -> float:
    """Time of a packet or of a frame by the container's clock; not a number where it has none."""
    ticks = timed.pts if timed.pts is not None else timed.dts
    return math.nan if ticks is None else ticks * float(stream.time_base)


def _quarter_turns(display_matrix: bytes | None) -> int:
    """Counterclockwise; the matrix is nine native 32-bit numbers, the first two of them the cosine and the sine."""
    if not display_matrix:
        return 0
    cosine, sine = struct.unpack("=2i", display_matrix[:8])
    return round(-math.atan2(sine, cosine) / (math.pi / 2))

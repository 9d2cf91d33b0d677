"""What all readers of video files share: the frames by their true times, each with its number, sampled, counted.

A backend says how to open, grab, convert and jump; which frame it has come to is told by the timestamp alone. Between
samples that lie far apart the walk jumps to a key frame, and on any doubt about where that led it begins again and
walks: what comes out is the same as decoding everything and picking, only sooner. (In a damaged stretch, what a
decoder makes of the rest depends on where it began; there, and only there, the two may differ.) Where few
frames are wanted, a backend may also leave out those that no other refers to; the same holds.

Example:
    >>> with open_video("clip.mp4") as video:
    ...     for frame in video.frames(Sampling(fps=2.0)):
    ...         print(frame.index, frame.time, frame.image.shape)
"""

from __future__ import annotations

import abc
import collections
import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

import numpy as np
from jaxtyping import Float64, UInt8

from fakeface_jax.errors import DecodeError, LimitExceeded, OpenError
from fakeface_jax.images import MAX_PIXELS, MIN_SIDE
from fakeface_jax.video.reading.packet_index import PacketIndex
from fakeface_jax.video.reading.sampling import TIME_TOLERANCE, Chooser, Sampling, chooser_of
from fakeface_jax.video.reading.source import Frame, FrameCounters

FALLBACK_FPS = 25.0
"""What time is made of when a stream holds neither timestamps nor a frame rate (FFmpeg assumes the same)."""

SEEK_MARGIN = 20
"""Frames. A jump that saves fewer than that is not made: emptying and filling the decoder costs as much as decoding 5
(OpenCV) to 18 (PyAV) frames (720p, two cores; scripts/benchmark_decoding.py)."""


_Source = TypeVar("_Source", bound="FileSource")


class FileSource(abc.ABC):
    """A video file, read from its beginning by each call of `frames`. What differs between decoders is abstract.

    Opening one reads the file through once without decoding (at the speed of the disk); see
    `fakeface_jax.video.reading.packet_index`.

    Attributes: those of `fakeface_jax.video.reading.source.FrameSource`.

    Raises:
        OpenError: missing, a directory, empty, unreadable, no video, a still image, a playlist, sound only.
        DecodeError: a video that holds no frame.
        LimitExceeded: frames of more than 100 megapixels, or too small to hold a face.
    """

    package: str
    """The installed package that decodes."""
    name: str
    width: int
    height: int
    fps: float | None
    frame_count: int
    frame_count_stated: int | None
    times_from: str

    _packets: PacketIndex
    _counts_exactly: bool
    """Whether `frame_count_stated` was counted by whoever wrote the file."""
    _edited_out: int
    """Frames that the container's edit list hides: what a trimmed phone video still holds. They do not come out."""
    _can_seek: bool
    """Whether the container leads to key frames by its own index."""

    def _describe(self, packets: PacketIndex) -> None:
        """Fills in what follows from the packets; called once by the constructor of a backend."""
        self._packets = packets
        self.frame_count = packets.count
        if not self.frame_count:
            raise DecodeError(self.name, "zero frames could be read", "the file is truncated; get it again")
        self.times_from = "container" if packets.timed else "frame rate"
        self._counters = FrameCounters()
        self._origin: float | None = None
        self._hidden = 0

    @property
    def duration(self) -> float | None:
        """Seconds from the beginning of the first frame to the end of the last."""
        if not self._packets.timed:
            return self.frame_count / self.fps if self.fps else None
        return self._packets.span + (1.0 / self.fps if self.fps else 0.0)

    @property
    def counters(self) -> FrameCounters:
        """Of the latest call of `frames` or `frames_at`."""
        return self._counters

    def expected_samples(self, sampling: Sampling) -> int:
        """How many frames `frames` will hand out, about: for progress bars."""
        inside = len(self._window(sampling))
        return sampling.expected(inside, inside * (self.duration or 0.0) / max(self.frame_count, 1))

    def window(self, sampling: Sampling) -> range:
        """The indices of the frames between the sampling's start and end."""
        if self._origin is None:
            _Cursor(self).step()  # only the decoder knows which frame is the first that is shown
        return self._window(sampling)

    def passes(self, sampling: Sampling) -> tuple[tuple[int, ...], ...]:
        """The indices for `frames_at`, pass after pass, until enough frames have a face; see `Sampling.passes`."""
        return sampling.passes(self.window(sampling))

    def frames(self, sampling: Sampling) -> Iterator[Frame]:
        """Goes through the file from its beginning and hands out the sampled frames, in order.

        The walk ends with the last sample that is due; nothing behind it is decoded.

        Raises:
            DecodeError: no frame could be decoded, or none lies in the window.
        """
        yield from self._walk(sampling.resolved())
        if not self._counters.sampled:
            length = f"it is {self.duration:.1f} s long" if self.duration else f"it has {self.frame_count} frames"
            window = f"from {sampling.start or 0:g} s" + (f" to {sampling.end:g} s" if sampling.end else "")
            raise DecodeError(self.name, f"no frame could be sampled {window}", f"{length}; choose another window")

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Hands out the frames with these indices; those that cannot be decoded, and those past the end, are left out.

        Args:
            indices: ascending, none twice.

        Raises:
            ConfigError: they do not ascend, or begin below 0.
            DecodeError: no frame could be decoded.
        """
        return self._walk(Sampling(every=1), chooser_of(indices))

    def __enter__(self: _Source) -> _Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the decoder; twice is no error."""

    @abc.abstractmethod
    def _restart(self) -> None:
        """Makes the first frame the next to be grabbed."""

    @abc.abstractmethod
    def _grab(self) -> bool:
        """Goes to the next frame in the order of showing; False for one that cannot be decoded, and at the end."""

    @abc.abstractmethod
    def _stamp(self) -> float:
        """The time of the frame that was grabbed, exactly as the packets state it."""

    @abc.abstractmethod
    def _retrieve(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """The frame that was grabbed, upright; None when it cannot be decoded."""

    @abc.abstractmethod
    def _seek_begin(self, rank: int) -> int:
        """The frame from which on a jump to this one would decode; -1 where it is unknown."""

    @abc.abstractmethod
    def _seek(self, rank: int) -> None:
        """Jumps so that the next frame to be grabbed is this one or one before it, as far as can be known."""

    def _keep(self, stamps: Iterable[float]) -> bool:
        """Says that of the frames to come, until a restart, those with these times alone will be asked for.

        Returns:
            Whether others may not come out.
        """
        return False

    def _left_out(self, after: float, until: float) -> int:
        """How many frames between these times were not decoded as nobody needs them, since this was last asked."""
        return 0

    def _closed_early(self) -> OpenError:
        return OpenError(self.name, "was closed while its frames were being read", "read them first")

    def _check_size(self) -> None:
        self._check_pixels(self.width, self.height)
        if min(self.width, self.height) <= 0:
            raise OpenError(self.name, "a kind of video that this FFmpeg cannot decode", "convert it to MP4")
        if min(self.width, self.height) < MIN_SIDE:
            raise LimitExceeded(
                self.name, f"{self.width} x {self.height} pixels, too small to hold a face", "use a larger video"
            )

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            problem = f"{width} x {height} pixels, more than {MAX_PIXELS // 10**6} megapixels"
            raise LimitExceeded(self.name, problem, "make it smaller")

    def _walk(self, sampling: Sampling, choose: Chooser | None = None) -> Iterator[Frame]:
        self._counters = FrameCounters()
        # What is missing behind the window was not asked for.
        cursor, cut_off = _Cursor(self), self._cut_off() if sampling.end is None else 0
        sampled, more, due = 0, cursor.step(), -1.0
        window, ordered = self._window(sampling), self._packets.ordered
        # Where timestamps do not name the frames, the window begins with the first one that is found to be in it.
        starts = window.start if ordered else None
        choose = choose or sampling.chooser(len(window))
        times = self._times()[window.start : window.stop]
        if ordered and more:
            cursor.keep(_due_positions(choose, times), window.start)
        while more and not sampling.after_window(cursor.time):
            if starts is None and not sampling.before_window(cursor.time):
                starts = cursor.index
            taken = starts is not None and cursor.index >= starts and choose(cursor.index - starts, cursor.time)
            image = self._retrieve() if taken else None
            if image is not None:
                sampled += 1
                self._counters = cursor.counters(sampled, cut_off)
                yield Frame(image=image, index=cursor.index, time=cursor.time)
            elif taken:
                cursor.discard()
            if taken or due < 0:
                due = choose.next_position(lambda time: int(np.searchsorted(times, time)) if ordered else 0)
            if due >= (len(window) if ordered else math.inf):
                break
            more = cursor.step(window.start + int(due) if ordered else 0)
        self._counters = cursor.counters(sampled, cut_off)
        if not self._counters.read:
            raise DecodeError(self.name, "zero frames could be decoded", "the file is damaged; get it again")

    def _window(self, sampling: Sampling) -> range:
        start, end = sampling.start, sampling.end
        if self._packets.timed:
            times = self._times()
            first = 0 if start is None else int(np.searchsorted(times, start - TIME_TOLERANCE))
            stop = len(times) if end is None else int(np.searchsorted(times, end - TIME_TOLERANCE))
        else:
            rate = self.fps or FALLBACK_FPS
            first = math.ceil((start or 0.0) * rate)
            stop = self.frame_count if end is None else min(self.frame_count, math.ceil(end * rate))
        return range(first, max(first, stop))

    def _times(self) -> Float64[np.ndarray, " n"]:
        """Seconds of all frames from the first that is shown, ascending."""
        origin = self._packets.first if self._origin is None else self._origin
        return self._packets.stamps[self._hidden :] - origin

    def _cut_off(self) -> int:
        """How many frames the header promises behind the end of the file."""
        if self.frame_count_stated is None or self.frame_count_stated <= self.frame_count:
            return 0
        if not self._counts_exactly:
            # Matroska states a duration; the count is an estimate from it, off by some per cent for variable rates and
            # by everything where the clock does not start at zero.
            stated = self.frame_count_stated / (self.fps or FALLBACK_FPS)
            if not self._packets.starts_at_zero or (self.duration or stated) > 0.9 * stated:
                return 0
        return self.frame_count_stated - self.frame_count


class _Cursor:
    """Where a walk is, and what it has seen. Begins before the first frame."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._may_seek = source._can_seek and source._packets.ordered
        self._kept: collections.deque[int] | None = None
        self.index = -1
        self._begin()

    def keep(self, positions: Sequence[int], start: int) -> None:
        """Lets the decoder leave out frames that are not sampled, where that is most of them.

        Args:
            positions: the samples, if every frame can be decoded.
            start: which frame has position 0.
        """
        packets = self._source._packets
        if 2 * len(positions) <= packets.count:
            indices = start + np.asarray(positions, np.int64)
            if self._source._keep(packets.stamps[indices + self._source._hidden].tolist()):
                self._kept = collections.deque(indices[indices > self.index].tolist())

    def _begin(self) -> None:
        self._kept = None
        self.index = -1
        self.time = self._stamp = self._landed = -math.inf
        self._read = self._dropped = self._skipped = 0
        self._ended = False
        self._source._restart()

    def counters(self, sampled: int, cut_off: int) -> FrameCounters:
        """What is known by now. At the end, also what never came out without a failed grab is."""
        self._leave_out()
        count, dropped = self._source.frame_count, self._dropped
        if self._ended or self.index + 1 + self._source._hidden >= count:
            # What an edit list hides is missing on purpose.
            dropped = max(0, count - self._read - self._skipped - self._source._edited_out)
        return FrameCounters(read=self._read, sampled=sampled, dropped=dropped + cut_off, skipped=self._skipped)

    def discard(self) -> None:
        """The frame that was come to cannot be used."""
        self._read -= 1
        self._dropped += 1

    def step(self, target: int = 0) -> bool:
        """Goes to the next frame that can be decoded, or over those before `target`, if that is quicker.

        Returns:
            Whether there is one.
        """
        may_seek, before = self._may_seek and self.index >= 0, self.index
        begin = self._source._seek_begin(target + self._source._hidden) if may_seek else -1
        if begin - self._source._hidden - self.index > SEEK_MARGIN:
            arrived = self._jump(target)
        else:
            arrived = self._next()
            if self._kept is None:
                return arrived
        if arrived and self._misses_none():
            return True
        # It led somewhere else, or something is damaged: from the beginning, on foot, with every frame.
        target, self._may_seek = max(target, before + 1), False
        self._begin()
        while self._next():
            if self.index >= target:
                return True
        return False

    def _misses_none(self) -> bool:
        """Whether every frame that is to be sampled came out until now."""
        if self._kept and self._kept[0] == self.index:
            self._kept.popleft()
        return not self._kept or self._kept[0] > self.index

    def _next(self) -> bool:
        source, packets, index = self._source, self._source._packets, self.index + 1
        while True:
            if not source._grab():
                if self._kept is not None:
                    return False
                # One damaged frame also ends OpenCV's grab(); the file has ended when all its packets are used up.
                if index + source._hidden >= packets.count:
                    self._ended = True
                    return False
                index += 1
                continue
            stamp = source._stamp()
            rank = packets.rank(stamp)
            if rank is None or stamp > self._stamp:
                break
            # Behind damage, decoders hand out frames that were due before those that came out already: too late.
        if source._origin is None:
            source._origin = packets.first if math.isnan(stamp) else stamp
            source._hidden = max(0, rank - index) if rank is not None else 0
        if rank is None or rank - source._hidden <= self.index:
            self._may_seek = False
        else:
            index = rank - source._hidden
        self._arrive(index, stamp)
        return True

    def _jump(self, target: int) -> bool:
        """Whether a jump led to `target` as surely as walking would have."""
        source = self._source
        source._seek(target + source._hidden)
        rank = source._packets.rank(source._stamp()) if source._grab() else None
        if rank is None or not self.index < rank - source._hidden <= target:
            return False
        self._skipped += rank - source._hidden - self.index - 1
        self._dropped -= rank - source._hidden - self.index - 1
        # All before this one is counted, also what is coded behind it.
        self._landed = source._stamp()
        self._arrive(rank - source._hidden, self._landed)
        while self.index < target:
            expected = self.index + 1
            # What is missing here may be damaged, or may need what was jumped over.
            if not self._next() or (self._kept is None and self.index != expected):
                return False
        return True

    def _arrive(self, index: int, stamp: float) -> None:
        self._dropped += index - self.index - 1
        self._read += 1
        self.time = self._true_time(stamp, index)
        self.index, self._stamp = index, stamp
        self._leave_out()

    def _leave_out(self) -> None:
        """Counts frames as skipped that did not come out because the decoder was not given them."""
        if self._kept is not None:
            left_out = self._source._left_out(self._landed, self._stamp)
            self._skipped += left_out
            self._dropped -= left_out

    def _true_time(self, stamp: float, index: int) -> float:
        """Seconds from the first frame; made from the frame rate where the stream has no timestamps."""
        source, period = self._source, 1.0 / (self._source.fps or FALLBACK_FPS)
        if not source._packets.timed:
            return index * period
        # A clock that jumps back (joined recordings) would undo the order of the frames.
        time = stamp - (source._origin or 0.0)
        return time if time > self.time else max(self.time + period, 0.0)


def _due_positions(choose: Chooser, times: Float64[np.ndarray, " n"]) -> list[int]:
    """What will be sampled of a window whose frames, at these times, can all be decoded."""
    ahead, positions, position = copy.copy(choose), list[int](), 0
    while position < len(times):
        if ahead(position, float(times[position])):
            positions.append(position)
            due = ahead.next_position(lambda time: int(np.searchsorted(times, time)))
            if due >= len(times):
                break
            position = max(position + 1, int(due))
        else:
            position += 1
    return positions

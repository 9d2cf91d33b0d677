"""Which frames of a video are looked at.

Example:
    >>> Sampling(fps=2.0, start=10.0)      # two frames of every second, from second 10 on
    >>> Sampling()                         # 32 frames, evenly spread over the whole video
    >>> Sampling(faces=32).passes(range(9000))[0]      # where to look first until 32 frames have a face
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from fakeface_jax.errors import ConfigError

DEFAULT_FRAMES = 32
"""32 evenly spaced frames per video is what FaceForensics++ benchmarks, DeepfakeBench and GenD score."""

FINER_PASSES = 4
"""How often `Sampling(faces=n)` looks between the frames it has seen: 16 n frames at most, which even where a face is
seen in one frame of ten finds n of them, and bounds the work on a video that shows none."""

TIME_TOLERANCE = 1e-3
"""Seconds. Matroska rounds timestamps to milliseconds: a frame that is due at 0.5 s may be stamped 0.4995 s."""

_ROUNDING = 1e-6
"""Of floating-point positions."""


PositionAt = Callable[[float], int]
"""Seconds from the first frame of the video -> position of the first frame of the window at or after that time."""


@runtime_checkable
class Chooser(Protocol):
    """Says of the frames of a window, in order, which are sampled. Used for one walk."""

    def __call__(self, position: int, time: float) -> bool:
        """Whether this frame is sampled.

        Args:
            position: counts the container's frames from the first of the window, with those that could not be decoded.
            time: seconds from the first frame of the video.
        """
        ...

    def next_position(self, position_at: PositionAt) -> float:
        """The position before which nothing is sampled, so that a reader may jump there; inf when nothing more is due.

        Args:
            position_at: the position of the first frame at or after a time.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How frames are chosen: one of `fps`, `every`, `frames` and `faces`, within a window of time.

    Attributes:
        fps: frames per second of the video's own time; above its frame rate every frame is taken, none twice.
        every: every n-th frame; 1 takes all of them.
        frames: this many, evenly spread over the window (all of them where it holds fewer). The window is cut into
            that many equal parts and the middle frame of each is taken, so that the black frames with which many
            videos begin and end are not.
        faces: until this many frames have a face. Where to look, `passes` says; how many a frame has, the caller.
        start: seconds from the first frame; frames before it are not sampled.
        end: seconds from the first frame; frames from there on are not sampled.

    With none of `fps`, `every`, `frames` and `faces` given, 32 frames are taken: `resolved` says so.
    """

    fps: float | None = None
    every: int | None = None
    frames: int | None = None
    faces: int | None = None
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("fps", "every", "frames", "faces") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"sampling takes one of fps, every, frames and faces, not {' and '.join(given)} together")
        if self.fps is not None and not (_is_number(self.fps) and 0 < self.fps <= 1000):
            raise ConfigError(f"sampling fps {self.fps} is not between 0 and 1000")
        for name in ("every", "frames", "faces"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value == int(value) and value >= 1):
                raise ConfigError(f"sampling {name} {value} is not a whole number of at least 1")
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value >= 0):
                raise ConfigError(f"sampling {name} {value} is not a number of seconds of at least 0")
        if self.end is not None and self.end <= (self.start or 0.0):
            raise ConfigError(f"sampling end {self.end} s is not after start {self.start or 0.0} s")

    def resolved(self) -> Sampling:
        """The same with the default spelt out, as reports state it.

        Not filled in on construction: a command line that starts from `Sampling()` and sets `fps` would then have both.
        """
        if self.fps is None and self.every is None and self.frames is None and self.faces is None:
            return dataclasses.replace(self, frames=DEFAULT_FRAMES)
        return self

    def before_window(self, time: float) -> bool:
        """Whether a frame at this time is before `start`."""
        return self.start is not None and time < self.start - TIME_TOLERANCE

    def after_window(self, time: float) -> bool:
        """Whether a frame at this time is at or past `end`."""
        return self.end is not None and time >= self.end - TIME_TOLERANCE

    def expected(self, frames_in_window: int, seconds_in_window: float) -> int:
        """How many frames will be sampled, about: for progress bars.

        Args:
            frames_in_window: how many frames lie between `start` and `end`.
            seconds_in_window: how long that is.
        """
        if self.every is not None:
            return -(-frames_in_window // self.every)
        if self.fps is not None:
            return min(frames_in_window, math.ceil(seconds_in_window * self.fps))
        return min(frames_in_window, self._spread)

    def chooser(self, frames_in_window: int) -> Chooser:
        """What says of each frame of the window, in order, whether it is sampled.

        A frame that was due and could not be decoded is replaced by the next one that can.

        Args:
            frames_in_window: how many frames lie between `start` and `end`; used by `frames` and `faces` alone.
        """
        if self.every is not None:
            return _Due(step=float(self.every), by_time=False)
        if self.fps is not None:
            return _Due(step=1.0 / self.fps, by_time=True, origin=self.start or 0.0)
        wanted = min(frames_in_window, self._spread)
        step = frames_in_window / max(wanted, 1)
        return _Due(step=step, by_time=False, origin=(step - 1) / 2, limit=wanted)

    def passes(self, window: range) -> tuple[tuple[int, ...], ...]:
        """Where to look for faces: grids of frames, each finer than those before it, no frame twice.

        Looking is to go on from one to the next until enough frames have a face. The first is what `frames` of the
        same number gives; each further one halves the distances, so that whatever was looked at is evenly spread.

        Args:
            window: the indices of the frames between `start` and `end`, as `FrameSource.window` gives them.

        Returns:
            Ascending indices for each pass: at most 1 + FINER_PASSES passes, of about n, n, 2 n, 4 n and 8 n frames.
        """
        choose, total = self.chooser(len(window)), len(window)
        first = [position for position in range(total) if choose(position, 0.0)]
        step = total / max(len(first), 1)
        grids, seen = [first], set(first)
        for halving in range(1, FINER_PASSES + 1):
            parts = 2**halving
            # The odd multiples of step / parts lie in the middle between all those that were taken before.
            offsets = range(1 - parts, len(first) * parts, 2)
            points = {math.ceil((step - 1) / 2 + offset * step / parts - _ROUNDING) for offset in offsets}
            grids.append(sorted(point for point in points - seen if 0 <= point < total))
            seen.update(grids[-1])
        return tuple(tuple(window[position] for position in grid) for grid in grids if grid)

    @property
    def _spread(self) -> int:
        return self.frames or self.faces or DEFAULT_FRAMES


def chooser_of(positions: Sequence[int]) -> Chooser:
    """Exactly the frames at these positions, none in place of one that cannot be decoded.

    Args:
        positions: strictly ascending, from 0.

    Raises:
        ConfigError: they are not.
    """
    if any(after <= before for before, after in zip((-1, *positions), positions, strict=False)):
        raise ConfigError("indices of frames must be ascending, from 0, none twice")
    return _Listed(positions)


class _Listed:
    def __init__(self, positions: Sequence[int]) -> None:
        self._positions = positions
        self._next = 0

    def __call__(self, position: int, time: float) -> bool:
        while self._next < len(self._positions) and self._positions[self._next] < position:
            self._next += 1
        found = self._next < len(self._positions) and self._positions[self._next] == position
        self._next += found
        return found

    def next_position(self, position_at: PositionAt) -> float:
        return self._positions[self._next] if self._next < len(self._positions) else math.inf


class _Due:
    """Takes the first frame at or past each of `origin`, `origin + step`, `origin + 2 step`, ..., and no frame twice.

    Args:
        step: between samples, in frames or in seconds.
        by_time: whether it is seconds.
        origin: when the first sample is due.
        limit: how many samples at most.
    """

    def __init__(self, *, step: float, by_time: bool, origin: float = 0.0, limit: int | None = None) -> None:
        self._step = step
        self._by_time = by_time
        self._origin = origin
        self._limit = limit
        self._tolerance = TIME_TOLERANCE if by_time else _ROUNDING
        self._next = 0

    def __call__(self, position: int, time: float) -> bool:
        if self._limit is not None and self._next >= self._limit:
            return False
        now = (time if self._by_time else float(position)) + self._tolerance - self._origin
        if now < self._next * self._step:
            return False
        if self._by_time or self._limit is None:
            # After a gap one frame is taken, not one for each sample that was due in it: those would be neighbours.
            self._next = math.floor(now / self._step)
        self._next += 1
        return True

    def next_position(self, position_at: PositionAt) -> float:
        if self._limit is not None and self._next >= self._limit:
            return math.inf
        # A little early, whatever is rounded in here: the frames from there on are all asked about.
        due = self._next * self._step + self._origin - self._tolerance - _ROUNDING
        return position_at(due) if self._by_time else max(0, math.ceil(due))


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)

"""Which frames of a video are looked at.

Example:
    >>> Sampling(fps=2.0, start=10.0)      # two frames of every second, from second 10 on
    >>> Sampling()                         # 32 frames, evenly spread over the whole video
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from fakeface_jax.errors import ConfigError

DEFAULT_FRAMES = 32
"""32 evenly spaced frames per video is what FaceForensics++ benchmarks, DeepfakeBench and GenD score."""

TIME_TOLERANCE = 1e-3
"""Seconds. Matroska rounds timestamps to milliseconds: a frame that is due at 0.5 s may be stamped 0.4995 s."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How frames are chosen: one of `fps`, `every` and `frames`, within a window of time.

    Attributes:
        fps: frames per second of the video's own time; above its frame rate every frame is taken, none twice.
        every: every n-th frame; 1 takes all of them.
        frames: this many, evenly spread over the window (all of them where it holds fewer). The window is cut into
            that many equal parts and the middle frame of each is taken, so that the black frames with which many
            videos begin and end are not.
        start: seconds from the first frame; frames before it are not sampled.
        end: seconds from the first frame; frames from there on are not sampled.

    With none of `fps`, `every` and `frames` given, 32 frames are taken: `resolved` says so.
    """

    fps: float | None = None
    every: int | None = None
    frames: int | None = None
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("fps", "every", "frames") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"sampling takes one of fps, every and frames, not {' and '.join(given)} together")
        if self.fps is not None and not (math.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise ConfigError(f"sampling fps {self.fps} is not between 0 and 1000")
        for name in ("every", "frames"):
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < 1):
                raise ConfigError(f"sampling {name} {value} is not a whole number of at least 1")
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"sampling {name} {value} is not a number of seconds of at least 0")
        if self.end is not None and self.end <= (self.start or 0.0):
            raise ConfigError(f"sampling end {self.end} s is not after start {self.start or 0.0} s")

    def resolved(self) -> Sampling:
        """The same with the default spelt out, as reports state it.

        Not filled in on construction: a command line that starts from `Sampling()` and sets `fps` would then have both.
        """
        if self.fps is None and self.every is None and self.frames is None:
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
        return min(frames_in_window, self.frames or DEFAULT_FRAMES)

    def chooser(self, frames_in_window: int) -> Callable[[int, float], bool]:
        """A function that says of each frame of the window, in order, whether it is sampled.

        Args:
            frames_in_window: how many frames lie between `start` and `end`; used by `frames` alone.

        Returns:
            `(position, time) -> bool`, where position counts the container's frames from the first of the window, with
            those that could not be decoded, and time is in seconds from the first frame of the video. A frame that was
            due and could not be decoded is replaced by the next one that can. Each function is used for one walk.
        """
        if self.every is not None:
            return _Due(step=float(self.every), by_time=False)
        if self.fps is not None:
            return _Due(step=1.0 / self.fps, by_time=True, origin=self.start or 0.0)
        wanted = min(frames_in_window, self.frames or DEFAULT_FRAMES)
        step = frames_in_window / max(wanted, 1)
        return _Due(step=step, by_time=False, origin=(step - 1) / 2, limit=wanted)


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
        self._tolerance = TIME_TOLERANCE if by_time else 1e-6
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

"""Live pictures: a reader that never waits for the model, survives its source, and accounts for every picture.

One thread reads; whoever scores takes pictures from it. In the mode `latest` there is one slot, and a newer picture
replaces one that was not taken. In the mode `lossless` there is a bounded queue: a file waits for room in it, a live
source cannot be made to wait, so that what finds no room is counted as skipped. A second thread watches: it opens the
source again after a loss, with growing pauses, and gives up on a read that hangs. Such a read cannot be interrupted;
its thread is left behind, and what it may still deliver is counted and thrown away.

Example:
    >>> with Stream("rtsp://user:secret@camera.local/live") as stream:
    ...     while (frame := stream.take(timeout=1.0)) or stream.state is not State.ENDED:
    ...         if frame is not None:
    ...             score(frame.image)
    ...             stream.done(frame)
"""

from __future__ import annotations

import collections
import math
import random
import threading
from collections.abc import Callable
from types import TracebackType

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import ConfigError
from fakeface_jax.video.live.capture import OpenCapture, Picture, StreamSource, open_capture
from fakeface_jax.video.live.stream_config import StreamConfig
from fakeface_jax.video.live.stream_records import LiveFrame, Skip, State, StateChange, StreamCounters
from fakeface_jax.video.live.stream_threads import Clock, MonotonicClock, Reader, start_thread

__all__ = ["LiveFrame", "Skip", "State", "StateChange", "Stream", "StreamCounters"]

_HEALTHY = 5.0
"""Seconds that a connection must have delivered for the pauses to begin anew: one that breaks at once is not well."""

_GRACE = 0.5
"""Seconds that OpenCV, which has timeouts of its own, is given beyond them until its thread is left behind."""

_MAX_STUCK = 4
"""Threads that may hang in reads that were given up; with that many the source is not opened again until one ends."""

_MAX_CHANGES = 256
"""Changes of state that are kept for whoever asks; the oldest go first."""

_LEAVE = 0.5
"""Seconds that closing waits for the reading thread to free its decoder."""

_IDLE = 3600.0
"""Seconds to wait when nothing is due."""


class Stream:
    """A source that is read until it ends or is closed. Any thread may take pictures and ask.

    Args:
        source: a camera's number, an address, or a file; see `StreamSource.parse`.
        config: how.
        clock: time; for tests.
        open_source: opens it; for tests.
        start: calls a function in another thread, again and again until it answers False; for tests.
        rng: of the random part of the pauses.

    Attributes:
        name: the source as it may be shown, without its secrets.

    Raises:
        ConfigError: the source is none.
    """

    def __init__(
        self,
        source: str,
        config: StreamConfig = StreamConfig(),
        *,
        clock: Clock | None = None,
        open_source: OpenCapture = open_capture,
        start: Callable[[Callable[[], bool]], None] = start_thread,
        rng: random.Random | None = None,
    ) -> None:
        self.source = StreamSource.parse(source)
        self.name = str(self.source)
        self.config = config
        self.open_source = open_source
        self._clock = clock or MonotonicClock()
        self._start, self._rng = start, rng or random.Random()
        # All below is changed with this lock held, and nothing slow is done with it.
        self._changed = threading.Condition()
        self._state = State.CONNECTING
        self._error: Exception | None = None
        self._changes: collections.deque[StateChange] = collections.deque(maxlen=_MAX_CHANGES)
        self._waiting: collections.deque[LiveFrame] = collections.deque()
        self._taken: set[int] = set()
        self._read = self._scored = self._decode_errors = 0
        self._skipped: collections.Counter[Skip] = collections.Counter()
        self._newest: UInt8[np.ndarray, "h w 3"] | None = None
        self._frozen = False
        self._attempts = self._connections = self._stalls = self._failures = 0
        self._lag: float | None = None
        self._first_at: float | None = None
        self._last_time, self._last_at, self._retry_at = 0.0, self._clock.now(), 0.0
        # Of the connection: its number, since when it lives, since when it owes a picture, and how long it may.
        self._generation = 0
        self._live_at: float | None = None
        self._quiet_since: float | None = None
        self._limit = 0.0
        self._running: set[int] = set()
        self._stuck: set[int] = set()

    def open(self) -> Stream:
        """Begins to read; returns at once."""
        with self._changed:
            self._last_at = self._clock.now()
            self._connect()
        self._start(self._watch)
        return self

    @property
    def state(self) -> State:
        """Where it stands."""
        with self._changed:
            return self._state

    @property
    def counters(self) -> StreamCounters:
        """Of one moment."""
        with self._changed:
            return StreamCounters(
                read=self._read,
                scored=self._scored,
                skipped=dict(self._skipped),
                waiting=len(self._waiting) + len(self._taken),
                decode_errors=self._decode_errors,
                reconnects=max(0, self._connections - 1),
                attempts=self._attempts,
                stalls=self._stalls,
                stuck=len(self._stuck),
                lag=self._lag,
            )

    @property
    def seconds(self) -> float | None:
        """Since the first picture, by our clock; None before there was one."""
        with self._changed:
            return None if self._first_at is None else self._clock.now() - self._first_at

    @property
    def is_frozen(self) -> bool:
        """Whether what came last, live, was the newest picture once more."""
        with self._changed:
            return self._frozen

    def changes(self) -> list[StateChange]:
        """The changes of state since the last call, in order."""
        with self._changed:
            found = list(self._changes)
            self._changes.clear()
            return found

    def take(self, timeout: float) -> LiveFrame | None:
        """The next picture, for the caller alone; to be given back by `done`.

        Args:
            timeout: seconds to wait for one.

        Returns:
            None when none came in that time, or none will ever come.

        Raises:
            MediaError: the source cannot be read, now or later.
        """
        with self._changed:
            until = self._clock.now() + timeout
            while not self._waiting:
                if self._error is not None:
                    raise self._error
                left = until - self._clock.now()
                if left <= 0 or self._state is State.ENDED:
                    return None
                self._clock.wait(self._changed, left)
            frame = self._waiting.popleft()
            self._taken.add(frame.number)
            self._changed.notify_all()
            return frame

    def done(self, frame: LiveFrame, *, scored: bool = True) -> None:
        """Counts a picture that was taken, once.

        Raises:
            ConfigError: it was not taken, or was done before.
        """
        with self._changed:
            if frame.number not in self._taken:
                raise ConfigError(f"picture {frame.number} is not being scored: it was done before, or never taken")
            self._taken.remove(frame.number)
            if scored:
                self._scored += 1
                self._lag = self._clock.now() - frame.captured_at
            else:
                self._skipped[Skip.NOT_SCORED] += 1
                self._newest = None

    def close(self) -> None:
        """Ends it within a second; twice is no error. A picture that is being scored may still be done."""
        with self._changed:
            self._end("closed")
            if self._waiting:
                self._skipped[Skip.CLOSED] += len(self._waiting)
                self._waiting.clear()
            until = self._clock.now() + _LEAVE
            # A decoder that is freed while the process ends may crash it.
            while self._running - self._stuck and (left := until - self._clock.now()) > 0:
                self._clock.wait(self._changed, left)

    def __enter__(self) -> Stream:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def tick(self) -> float | None:
        """Does what is due by now. For the watching thread, and for tests in its place.

        Returns:
            Seconds until something may be due; None when the stream has ended.
        """
        with self._changed:
            now, give_up = self._clock.now(), self.config.give_up
            if self._state is State.ENDED:
                return None
            if self._state is State.LIVE and self._quiet_since is None:
                self._last_at = now  # a file that waits for its time, or for room, is not missing
            if give_up is not None and now - self._last_at >= give_up:
                self._end(f"no picture for {give_up:g} s")
                return None
            left = _IDLE if give_up is None else give_up - (now - self._last_at)
            return max(1e-3, min(left, self._next_step(now)))

    def _watch(self) -> bool:
        with self._changed:
            pause = self.tick()
            if pause is not None:
                self._clock.wait(self._changed, pause)
        return pause is not None

    def _next_step(self, now: float) -> float:
        if self._state is State.BACKOFF:
            if now < self._retry_at:
                return min(self._retry_at - now, _IDLE)
            if len(self._stuck) >= _MAX_STUCK:
                self._retry_at = math.inf
                self._enter(State.BACKOFF, f"{len(self._stuck)} reads hang; next attempt when one of them ends")
                return _IDLE
            self._connect()
        if self._quiet_since is None:
            return _IDLE
        quiet = now - self._quiet_since
        if quiet >= self._limit + _GRACE:
            # What its thread may still deliver is of an old generation.
            self._stuck.add(self._generation)
            self.lost(self._generation, f"nothing came for {self._limit:g} s")
            return self._retry_at - now
        if self._state is State.LIVE and quiet >= self.config.stall_after:
            self._stalls += 1
            self._enter(State.STALLED, f"no picture for {self.config.stall_after:g} s")
        stalls_in = self.config.stall_after - quiet if self._state is State.LIVE else _IDLE
        return min(stalls_in, self._limit + _GRACE - quiet)

    def _connect(self) -> None:
        self._generation += 1
        self._attempts += 1
        self._live_at, self._quiet_since, self._limit = None, self._clock.now(), self.config.open_timeout
        self._running.add(self._generation)
        self._enter(State.CONNECTING)
        self._start(Reader(self, self._generation).step)

    def _enter(self, state: State, reason: str = "") -> None:
        self._state = state
        seconds = None if self._first_at is None else self._clock.now() - self._first_at
        self._changes.append(StateChange(time=seconds, state=state, reason=reason))
        self._changed.notify_all()

    def _end(self, reason: str, error: Exception | None = None) -> None:
        if self._state is not State.ENDED:
            self._error, self._quiet_since = error, None
            self._enter(State.ENDED, reason)

    # ---- what the reading threads report, each with the number of its connection

    def is_current(self, generation: int) -> bool:
        """Whether that connection is still the one that counts."""
        with self._changed:
            return generation == self._generation and self._state not in (State.BACKOFF, State.ENDED)

    def begin_read(self, generation: int) -> bool:
        """From now on a picture is owed. Whether the connection still counts."""
        with self._changed:
            current = self.is_current(generation)
            if current and self._quiet_since is None:
                self._quiet_since = self._clock.now()
                self._changed.notify_all()
            return current

    def opened(self, generation: int) -> None:
        """The connection stands."""
        with self._changed:
            if self.is_current(generation):
                self._quiet_since, self._limit = self._clock.now(), self.config.read_timeout
                self._changed.notify_all()

    def damaged(self, generation: int) -> None:
        """A picture could not be decoded."""
        with self._changed:
            self._decode_errors += self.is_current(generation)

    def ended(self, generation: int, error: Exception | None = None) -> None:
        """There is no more of this source."""
        with self._changed:
            if self.is_current(generation):
                self._end("the source ended" if error is None else str(error), error)

    def lost(self, generation: int, reason: str) -> None:
        """The connection is gone; after a pause, another is made."""
        with self._changed:
            if not self.is_current(generation):
                return
            now = self._clock.now()
            if self._live_at is not None and now - self._live_at >= _HEALTHY:
                self._failures = 0
            # The exponent is bounded, for a source that is away for weeks.
            pause = min(self.config.backoff_max, self.config.backoff * 2.0 ** min(self._failures, 32))
            pause *= self._rng.uniform(0.5, 1.0)
            self._failures += 1
            self._quiet_since, self._retry_at = None, now + pause
            self._enter(State.BACKOFF, f"{reason}; next attempt in {pause:.1f} s")

    def left(self, generation: int) -> None:
        """The thread of that connection is about to end."""
        with self._changed:
            self._running.discard(generation)
            self._stuck.discard(generation)
            if self._retry_at == math.inf and len(self._stuck) < _MAX_STUCK:
                self._retry_at = self._clock.now()
            self._changed.notify_all()

    def deliver(self, generation: int, picture: Picture) -> bool:
        """A picture, when its time has come and there is room for it. Whether more are wanted."""
        # A feed that has frozen is no new evidence; nor is what OpenCV makes of interlaced video
        # (video/reading/opencv.py).
        newest = self._newest
        repeated = self.source.kind != "file" and newest is not None and _are_same(newest, picture.image)
        with self._changed:
            now = due = self._clock.now()
            if picture.time is not None:
                if self.is_current(generation):
                    self._quiet_since = None
                    due = picture.time + (self._first_at if self._first_at is not None else now)
                self._wait_for_turn(generation, due)
            number, self._read = self._read, self._read + 1
            if not self.is_current(generation):
                self._skipped[Skip.CLOSED if self._state is State.ENDED else Skip.LATE] += 1
                return False
            now = self._clock.now()
            if self._first_at is None:
                self._first_at = due
            seconds = now - self._first_at if picture.time is None else picture.time
            self._last_time = max(seconds, self._last_time)
            self._quiet_since, self._last_at = None, now
            if self._live_at is None:
                self._live_at, self._connections = now, self._connections + 1
            if self._state is not State.LIVE:
                self._enter(State.LIVE)
            self._frozen = repeated and picture.time is None
            if repeated:
                self._skipped[Skip.REPEATED] += 1
                return True
            self._add(LiveFrame(image=picture.image, number=number, time=self._last_time, captured_at=due))
            self._changed.notify_all()
            return True

    def _wait_for_turn(self, generation: int, due: float) -> None:
        """A finite source is played at its own speed, and waits for room where nothing may be lost."""
        while self.is_current(generation) and (left := due - self._clock.now()) > 0:
            self._clock.wait(self._changed, left)
        while self.is_current(generation) and self._is_full():
            self._clock.wait(self._changed, _IDLE)

    def _is_full(self) -> bool:
        return self.config.mode == "lossless" and len(self._waiting) >= self.config.queue

    def _add(self, frame: LiveFrame) -> None:
        if self._is_full():
            self._skipped[Skip.QUEUE_FULL] += 1
            return
        if self.config.mode == "latest" and self._waiting:
            self._waiting.clear()
            self._skipped[Skip.NEWER_FRAME] += 1
        self._waiting.append(frame)
        self._newest = frame.image


def _are_same(one: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "y x 3"]) -> bool:
    """Whether two pictures are the same to the pixel."""
    middle = len(one) // 2  # this row tells most pictures apart, at no cost
    return np.array_equal(one[middle : middle + 1], other[middle : middle + 1]) and np.array_equal(one, other)

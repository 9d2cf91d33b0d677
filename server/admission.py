"""How many pictures may be inside at once, so that the last one that is let in is answered in time.

Each picture that is done tells how fast pictures are done now. From that follows how many may wait: on a machine that
is slow, or busy with something else, fewer. Who finds no room is told so before the body of the request is read, and
costs next to nothing.

Example:
    >>> admission = Admission(at_once=8, waiting=32, within=4.0)
    >>> with admission.reserve():       # the head of a request is here
    ...     data = receive()
    >>> admission.enter()               # all of it is here
    >>> admission.leave(seconds=0.3)    # it is done
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType

from fakeface_jax.server.batching import Busy

_WEIGHT = 0.1
"""Of the newest picture in the running mean: some twenty pictures tell how fast it goes."""

_RESERVED = 1.0
"""Seconds that a picture which is still being received counts as one that is inside. Who sends more slowly than that
keeps nobody out by it, and is looked at again when the picture is there. Of those that are received at the same time,
half as many as are worked on at once count: a hundred heads of requests without a body take nobody's place."""

_LONGEST = 30
"""Seconds that anybody is asked to wait before another try."""


class Reservation:
    """Room for a picture that is being received.

    Args:
        release: called once, at the end.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Gives the room back; twice is no error."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Admission:
    """Lets pictures in as long as they can be answered in time. Any thread may call.

    Args:
        at_once: pictures that are worked on at the same time; so many may be inside in any case.
        waiting: more that may wait at most.
        within: seconds in which the last one that is let in is to be done.
        clock: seconds that only grow.
    """

    def __init__(
        self, *, at_once: int, waiting: int, within: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._at_once, self._most, self._within, self._clock = at_once, at_once + waiting, within, clock
        self._lock = threading.Lock()
        self._inside = 0
        self._each: float | None = None
        self._number = 0
        self._reserved: dict[int, float] = {}  # when, by number: in the order in which they came

    @property
    def inside(self) -> int:
        """Pictures that are worked on, or wait for that."""
        return self._inside

    @property
    def seconds_each(self) -> float | None:
        """Seconds from one picture done to the next where there is enough to do; None while nothing is known."""
        return self._each

    @property
    def allowed(self) -> int:
        """How many pictures may be inside at the moment."""
        if self._each is None:
            return self._most
        return max(self._at_once, min(self._most, int(self._within / self._each)))

    def reserve(self) -> Reservation:
        """Asks for room for a picture of which only the head of its request is here.

        Raises:
            Busy: there is none; it says when another try makes sense.
        """
        with self._lock:
            now = self._clock()
            for number in [number for number, since in self._reserved.items() if now - since > _RESERVED]:
                del self._reserved[number]
            coming = min(len(self._reserved), max(1, self._at_once // 2))
            if self._inside + coming >= self.allowed:
                raise self._busy()
            self._number += 1
            number = self._number
            self._reserved[number] = now
        return Reservation(lambda: self._forget(number))

    def enter(self) -> None:
        """Counts a picture that is here.

        Raises:
            Busy: there is no room for it.
        """
        with self._lock:
            if self._inside >= self.allowed:
                raise self._busy()
            self._inside += 1

    def leave(self, seconds: float | None = None) -> None:
        """Counts a picture no more.

        Args:
            seconds: that the work on it took, without waiting; None where it was not done, which tells nothing.
        """
        with self._lock:
            if seconds is not None:
                # Others were worked on at the same time.
                each = max(1e-6, seconds / max(1, min(self._inside, self._at_once)))
                self._each = each if self._each is None else self._each + _WEIGHT * (each - self._each)
            self._inside -= 1

    def _forget(self, number: int) -> None:
        with self._lock:
            self._reserved.pop(number, None)

    def _busy(self) -> Busy:
        wait = math.ceil(self._inside * (self._each or 0.0))
        return Busy("as many pictures wait as can be answered in time", retry_after=max(1, min(_LONGEST, wait)))

"""What the threads of a live stream do: wait for time, and read one connection from its opening to its end.

Example:
    >>> start_thread(Reader(stream, generation).step)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fakeface_jax.video.live.capture import Capture, ConnectionLost, DamagedPicture

if TYPE_CHECKING:
    from fakeface_jax.video.live.stream import Stream


@runtime_checkable
class Clock(Protocol):
    """Where time comes from, so that tests need not wait for it."""

    def now(self) -> float:
        """Seconds; never goes back."""
        ...

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Waits, without the condition's lock, until notified or for some seconds."""
        ...


class MonotonicClock:
    """The computer's."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Waits, without the condition's lock, until notified or for some seconds."""
        condition.wait(seconds)


def start_thread(step: Callable[[], bool]) -> None:
    """Calls a function in a thread of its own, again and again until it answers False."""

    def run() -> None:
        while step():
            pass

    # Daemons: one that hangs in a read must not keep the process alive.
    threading.Thread(target=run, name="fakeface-stream", daemon=True).start()


class Reader:
    """One connection: opens it, reads it, and frees it, all in one thread."""

    def __init__(self, stream: Stream, generation: int) -> None:
        self._stream, self._generation = stream, generation
        self._capture: Capture | None = None

    def step(self) -> bool:
        """Opens, or reads one picture; whether there is more to do."""
        more = False
        try:
            more = self._open() if self._capture is None else self._read_one(self._capture)
        except ConnectionLost as reason:
            self._stream.lost(self._generation, str(reason))
        except Exception as error:
            # A MediaError, or a bug: either is for whoever takes pictures, and not for the thread's own traceback.
            self._stream.ended(self._generation, error)
        finally:
            if not more:
                if self._capture is not None:
                    self._capture.release()
                self._stream.left(self._generation)
        return more

    def _open(self) -> bool:
        config = self._stream.config
        self._capture = self._stream.open_source(self._stream.source, config.open_timeout, config.read_timeout)
        self._stream.opened(self._generation)
        return self._stream.is_current(self._generation)

    def _read_one(self, capture: Capture) -> bool:
        if not self._stream.begin_read(self._generation):
            return False
        try:
            picture = capture.read()
        except DamagedPicture:
            self._stream.damaged(self._generation)
            return True
        if picture is None:
            self._stream.ended(self._generation)
            return False
        return self._stream.deliver(self._generation, picture)

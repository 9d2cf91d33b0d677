"""So many at once of something, and of these so many for one owner, so that no token takes the place of all others.

Example:
    >>> uploads = Places("uploads", 32)
    >>> with uploads.take("newsroom"):
    ...     receive()
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator

from fakeface_jax.server.batching import Busy
from fakeface_jax.server.storage.job_records import OPEN_OWNER


class Places:
    """A number of places, taken without waiting.

    Args:
        what: is refused, in words.
        total: places; an owner has half of them, at least one. `OPEN_OWNER`, who is everybody where nobody needs a
            token, has all.
        on_refused: called for each who found none.
    """

    def __init__(self, what: str, total: int, on_refused: Callable[[], object] = lambda: None) -> None:
        self._what, self._total, self._on_refused = what, total, on_refused
        self._lock = threading.Lock()
        self._owners: collections.Counter[str] = collections.Counter()

    @property
    def taken(self) -> int:
        """By all."""
        return sum(self._owners.values())

    @contextlib.contextmanager
    def take(self, owner: str) -> Iterator[None]:
        """A place until the end of the block.

        Raises:
            Busy: there is none.
        """
        self.enter(owner)
        try:
            yield
        finally:
            self.leave(owner)

    def enter(self, owner: str) -> None:
        """A place until `leave`; raises `Busy`."""
        mine = self._total if owner == OPEN_OWNER else max(1, self._total // 2)
        with self._lock:
            full = self.taken >= self._total
            free = not full and self._owners[owner] < mine
            if free:
                self._owners[owner] += 1
        if not free:
            self._on_refused()
            whose = "" if full else " with this token"
            raise Busy(f"too many {self._what} at once{whose}; try again later", retry_after=5, own=not full)

    def leave(self, owner: str) -> None:
        """Gives a place back."""
        with self._lock:
            self._owners[owner] -= 1
            self._owners += collections.Counter()  # those without one are forgotten

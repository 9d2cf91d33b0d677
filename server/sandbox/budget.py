"""How many decoders there may be, so that all of them together never take more memory than the operator gives them.

Example:
    >>> places = DecoderPlaces(8 * 2**30, each=2 * 2**30)
    >>> places.take("a.jpg", make_room=lambda: False)
    >>> places.give_back()
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fakeface_jax.server.sandbox.protocol import DecoderUnavailable

_FEWEST = 2
"""Decoders that there may be in any case: one for a picture and one for a video."""

_PATIENCE = 10.0
"""Seconds that a new decoder waits for others to end."""

_LOOK_AGAIN = 0.1
"""Seconds between two tries to make room: what was in use may be idle now."""

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def default_budget() -> int:
    """Three quarters of the bytes that the machine or its container has: for all decoders together by default."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUPS:
        try:
            sizes.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # there is none, or "max"
            continue
    return min(sizes) * 3 // 4


class DecoderPlaces:
    """Places for decoders, each of which may take a fixed amount of memory. Any thread may call.

    Args:
        total: bytes for all of them together; there are two places even where that is too little for two.
        each: bytes that one decoder may take.
        patience: seconds that a new one waits for a place.
    """

    def __init__(self, total: int, each: int, *, patience: float = _PATIENCE) -> None:
        self.most = max(_FEWEST, total // each)
        self._patience = patience
        self._taken = self._waiting = 0
        self._changed = threading.Condition()

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken

    def try_take(self) -> bool:
        """Takes a place, if there is one that nobody waits for."""
        with self._changed:
            free = self._taken + self._waiting < self.most
            self._taken += free
            return free

    def take(self, name: str, make_room: Callable[[], bool]) -> None:
        """Takes a place, and waits for one where there is none.

        Args:
            name: of the media, for errors.
            make_room: ends a decoder that nobody uses; whether there was one.

        Raises:
            DecoderUnavailable: none was given back in time.
        """
        until = time.monotonic() + self._patience
        with self._changed:
            self._waiting += 1
        try:
            while not self._take_now():
                if make_room():
                    continue
                if time.monotonic() >= until:
                    raise DecoderUnavailable(
                        f"{name}: {self.most} decoders are at work, as many as their memory allows; try again later"
                    )
                with self._changed:
                    if self._taken >= self.most:
                        self._changed.wait(_LOOK_AGAIN)
        finally:
            with self._changed:
                self._waiting -= 1

    def _take_now(self) -> bool:
        with self._changed:
            free = self._taken < self.most
            self._taken += free
            return free

    def give_back(self) -> None:
        """Gives a place back."""
        with self._changed:
            self._taken -= 1
            self._changed.notify()

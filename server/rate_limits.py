"""How often somebody may ask, and how many bytes they may send in a day.

Requests are counted in memory, where a restart forgives them. Bytes are counted in the store, where it does not.

Example:
    >>> limiter = RateLimiter()
    >>> limiter.take("newsroom", rate_per_minute=120, burst=20)      # 0.0: go; else seconds to wait
    0.0
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from fakeface_jax.server.storage.database import Database

_DAY = 86_400


class RateLimiter:
    """Token buckets: `burst` requests at once, then as many as the rate allows; one bucket for each key.

    Thread-safe. At most `keys` buckets are kept: one that was not used for the longest time makes room, and would be
    full again in most cases.

    Args:
        keys: buckets in memory.
        clock: seconds that only grow.
    """

    def __init__(self, *, keys: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was so

    def take(self, key: str, rate_per_minute: float, burst: float | None = None) -> float:
        """Takes one request out of the key's bucket, if it holds one.

        Args:
            key: who asks: a token's name, an address.
            rate_per_minute: how fast the bucket fills; more than 0.
            burst: what it holds, at least 1; a quarter of a minute's requests if not given.

        Returns:
            0 if the request may go on; else the seconds after which one may.
        """
        rate = rate_per_minute / 60.0
        size = max(1.0, rate_per_minute / 4 if burst is None else burst)
        with self._lock:
            now = self._clock()
            left, then = self._buckets.get(key, (size, now))
            left = min(size, left + (now - then) * rate)
            # Sums of small parts: what lacks a billionth is there.
            wait = 0.0 if left >= 1.0 - 1e-9 else (1.0 - left) / rate
            self._buckets[key] = (max(0.0, left - 1.0) if wait == 0.0 else left, now)
            self._buckets.move_to_end(key)
            while len(self._buckets) > self._keys:
                self._buckets.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._buckets)


class ReceivedBytes:
    """Bytes received from each owner on each day (UTC), in the store.

    Args:
        database: of the store.
        clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def add(self, owner: str, count: int, limit: int, *, day: int | None = None) -> int | None:
        """Counts bytes, if the owner's day has room for them; else nothing is counted and the answer is None.

        Args:
            owner: a token's name.
            count: bytes; less than 0 gives back what was counted and did not come.
            limit: bytes a day.
            day: on which they were counted first; today if not given.

        Returns:
            The day that they count for.
        """
        day = self._today() if day is None else day
        with self._database.writing() as connection:
            total = max(0, self._of(connection, owner, day) + count)
            if count > 0 and total > limit:
                return None
            connection.execute(
                "INSERT INTO received (owner, day, bytes) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET bytes = excluded.bytes",
                (owner, day, total),
            )
        return day

    def today(self, owner: str) -> int:
        """Bytes that were counted for the owner today."""
        with self._database.reading() as connection:
            return self._of(connection, owner, self._today())

    def forget(self) -> None:
        """Removes the counts of days that are over."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM received WHERE day < ?", (self._today(),))

    def seconds_left(self) -> float:
        """Seconds until the day ends and counting begins anew: what `Retry-After` says."""
        return _DAY - math.fmod(self._clock(), _DAY)

    def _today(self) -> int:
        return int(self._clock() // _DAY)

    @staticmethod
    def _of(connection: sqlite3.Connection, owner: str, day: int) -> int:
        found = connection.execute("SELECT bytes FROM received WHERE owner = ? AND day = ?", (owner, day)).fetchone()
        return 0 if found is None else found["bytes"]

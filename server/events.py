"""What happens in jobs and streams, told to any number of readers, from threads to coroutines.

Each job or stream has a channel. It keeps what was told, up to a bound, so that a reader who comes late or again misses
nothing that is still there. Numbers of events begin anew with each process; an event's id therefore names the process.

Example:
    >>> hub.channel(job.id).send("progress", {"done": 3, "total": 32})
    >>> async for event in hub.follow(job.id, last_id="f3a1-2"):
    ...     print(event.kind, event.data)
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import secrets
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any

KEPT = 4096
"""Events of a channel that are kept; of more, the oldest go. A reader that is slower than that misses some."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        number: from 1, in its channel.
        kind: the event's name.
        data: for JSON.
    """

    number: int
    kind: str
    data: Mapping[str, Any]


class Channel:
    """One job's or one stream's events. Any thread may send."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: collections.deque[Event] = collections.deque(maxlen=KEPT)
        self._sent = 0
        self._closed = False
        self._readers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def send(self, kind: str, data: Mapping[str, Any], *, last: bool = False) -> None:
        """Tells readers; after the last one, nothing more is told."""
        with self._lock:
            if self._closed:
                return
            self._sent += 1
            self._events.append(Event(number=self._sent, kind=kind, data=data))
            self._closed = last
            self._wake()

    @property
    def sent(self) -> int:
        """The number of the last event."""
        return self._sent

    def close(self) -> None:
        """Ends all readers, without another event."""
        with self._lock:
            self._closed = True
            self._wake()

    def _wake(self) -> None:
        for loop, wake in self._readers:
            with contextlib.suppress(RuntimeError):  # its loop is closed; the reader is gone
                loop.call_soon_threadsafe(wake.set)

    def _after(self, number: int) -> tuple[list[Event], bool]:
        with self._lock:
            first = self._events[0].number if self._events else 0
            skip = max(0, number + 1 - first)
            return [event for place, event in enumerate(self._events) if place >= skip], self._closed

    async def follow(self, number: int = 0) -> AsyncIterator[Event]:
        """The events after this number, as they come, until the channel is closed."""
        reader = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._readers.add(reader)
        try:
            while True:
                reader[1].clear()
                events, closed = self._after(number)
                for event in events:
                    yield event
                    number = event.number
                if not events:
                    if closed:
                        return
                    await reader[1].wait()
        finally:
            with self._lock:
                self._readers.discard(reader)


class EventHub:
    """The channels of a process, by the id of job or stream."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: dict[str, Channel] = {}
        self._process = secrets.token_hex(4)
        self._closed = False

    def channel(self, name: str) -> Channel:
        """The channel, which is there from now on."""
        with self._lock:
            found = self._channels.setdefault(name, Channel())
            if self._closed:
                found.close()
            return found

    def find(self, name: str) -> Channel | None:
        """The channel, if there is one: something runs, or waits to."""
        with self._lock:
            return self._channels.get(name)

    def drop(self, name: str) -> None:
        """Forgets a channel; readers that are still there get what it holds."""
        with self._lock:
            found = self._channels.pop(name, None)
        if found is not None:
            found.close()

    def close(self) -> None:
        """Ends all readers, now and in future: the service is being stopped."""
        with self._lock:
            self._closed = True
            channels = list(self._channels.values())
        for channel in channels:
            channel.close()

    def event_id(self, event: Event) -> str:
        """What a reader may come back with."""
        return f"{self._process}-{event.number}"

    def number_of(self, event_id: str | None, channel: Channel | None) -> int:
        """The number that an id stands for; 0, the beginning, for one of another process, none, or one never sent."""
        process, _, number = (event_id or "").partition("-")
        if process == self._process and number.isascii() and number.isdigit() and len(number) < 16:
            return int(number) if channel is None or int(number) <= channel.sent else 0
        return 0

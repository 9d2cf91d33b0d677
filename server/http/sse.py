"""Server-sent events of a channel: what was told so far, what is told from now on, and a sign of life in between.

Example:
    >>> return follow(state, state.hub.channel(job.id), [], request.headers.get("last-event-id"))
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from fakeface_jax.server.events import Channel, Event
from fakeface_jax.server.http.auth import STILL_ALLOWED, Asker, still_allowed
from fakeface_jax.server.http.service_state import State

HEARTBEAT = 15.0
"""Seconds without an event until a comment is sent, so that proxies keep the connection and a lost one is noticed."""


def follow(
    state: State,
    caller: Asker,
    channel: Channel | None,
    told: Sequence[tuple[str, Mapping[str, Any]]],
    last_id: str | None,
) -> StreamingResponse:
    """The events as an answer that lasts.

    Args:
        state: of the service.
        caller: who follows; once the token is revoked, the events end.
        channel: whose events; None where all is told already.
        told: events before those of the channel, without ids.
        last_id: what the client saw last.

    Raises:
        Busy: as many follow as may.
    """
    # Here, and not when the answer begins: many may ask in between.
    state.event_readers.enter(caller.owner)
    events = _lines(state, caller, channel, told, state.hub.number_of(last_id, channel))
    # no-transform, and no buffering in nginx: events are read as they come.
    headers = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
    leave = _Once(lambda: state.event_readers.leave(caller.owner))
    return _Following(events, leave, headers=headers)


class _Once:
    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class _Following(StreamingResponse):
    """Gives its place back however it ends, also when nobody ever reads it."""

    def __init__(self, events: AsyncIterator[str], leave: Callable[[], None], *, headers: Mapping[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


async def _lines(
    state: State,
    caller: Asker,
    channel: Channel | None,
    told: Sequence[tuple[str, Mapping[str, Any]]],
    number: int,
) -> AsyncIterator[str]:
    for kind, data in told:
        yield _event(kind, data)
    if channel is None:
        return
    events = channel.follow(number)
    waiting: asyncio.Task[Event | None] | None = None
    asked = heard = time.monotonic()
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(_next(events))
            done, _ = await asyncio.wait([waiting], timeout=STILL_ALLOWED)
            now = time.monotonic()
            if now - asked >= STILL_ALLOWED:
                asked = now
                if not await asyncio.to_thread(still_allowed, state, caller):
                    return
            if done:
                event, waiting, heard = waiting.result(), None, now
                if event is None:
                    return
                yield _event(event.kind, event.data, state.hub.event_id(event))
            elif now - heard >= HEARTBEAT:
                heard = now
                yield ": still here\n\n"
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


def _event(kind: str, data: Mapping[str, Any], event_id: str | None = None) -> str:
    # JSON has no line breaks of its own, so that one line of data is enough.
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, allow_nan=False)}\n\n"

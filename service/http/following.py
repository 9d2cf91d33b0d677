"""Server-sent events of a channel: what was told so far, what is told from now on, and a sign of life in between.

Example:
    >>> return follow(state, state.hub.channel(job.id), [], request.headers.get("last-event-id"))
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi.responses import StreamingResponse

from service.events import Channel, Event
from service.http.problems import Problem
from service.http.state import State

HEARTBEAT = 15.0
"""Seconds without an event until a comment is sent, so that proxies keep the connection and a lost one is noticed."""


def follow(
    state: State, channel: Channel | None, told: Sequence[tuple[str, Mapping[str, Any]]], last_id: str | None
) -> StreamingResponse:
    """The events as an answer that lasts.

    Args:
        state: of the service.
        channel: whose events; None where all is told already.
        told: events before those of the channel, without ids.
        last_id: what the client saw last.

    Raises:
        Problem: 503 where as many follow as may.
    """
    if state.event_readers >= state.config.limits.event_readers:
        state.metrics.refused.labels("events").inc()
        raise Problem(503, "too many connections follow events; ask for the job instead", {"Retry-After": "10"})
    events = _lines(state, channel, told, state.hub.number_of(last_id))
    # no-transform, and no buffering in nginx: events are read as they come.
    headers = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _lines(
    state: State, channel: Channel | None, told: Sequence[tuple[str, Mapping[str, Any]]], number: int
) -> AsyncIterator[str]:
    state.event_readers += 1
    try:
        for kind, data in told:
            yield _event(kind, data)
        if channel is None:
            return
        events = channel.follow(number)
        waiting: asyncio.Task[Event | None] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(_next(events))
                done, _ = await asyncio.wait([waiting], timeout=HEARTBEAT)
                if not done:
                    yield ": still here\n\n"
                    continue
                event, waiting = waiting.result(), None
                if event is None:
                    return
                yield _event(event.kind, event.data, state.hub.event_id(event))
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            await events.aclose()  # type: ignore[attr-defined]
    finally:
        state.event_readers -= 1


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


def _event(kind: str, data: Mapping[str, Any], event_id: str | None = None) -> str:
    # JSON has no line breaks of its own, so that one line of data is enough.
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, allow_nan=False)}\n\n"

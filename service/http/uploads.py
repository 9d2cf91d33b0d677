"""Files of clients, within what one may send, what all may send at once, and what the disk has room for.

Example:
    >>> upload = await take_in(request, state, caller, most=32 * 2**20)
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastapi import Request

from service.batching import Busy
from service.http.bodies import Upload, receive, stated_length
from service.http.callers import Asker
from service.http.problems import Problem
from service.http.state import State

_UNLIMITED = 2**62


def file_body(*kinds: str, fields: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """What OpenAPI says of a body that is a file, or a form with one.

    Args:
        kinds: media types of a body that is the file itself.
        fields: schemas of the form's other fields.
    """
    properties = {"file": {"type": "string", "format": "binary"}, **fields}
    form = {"type": "object", "required": ["file"], "properties": properties}
    itself = {"schema": {"type": "string", "format": "binary", "minLength": 1}}
    content = dict.fromkeys((*kinds, "application/octet-stream"), itself)
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}, **content}}}


async def take_in(
    request: Request,
    state: State,
    caller: Asker,
    *,
    most: int,
    total: float,
    target: Path | None = None,
    name: str | None = None,
) -> Upload:
    """Receives one file; see `bodies.receive`.

    Raises:
        Problem: also 429 where a token has sent too much today.
    """
    received = 0

    def count(size: int) -> None:
        nonlocal received
        received += size
        if target is None:
            state.upload_memory += size
            if state.upload_memory > state.config.limits.upload_memory:
                state.metrics.refused.labels("uploads").inc()
                raise Busy("too many pictures are being received; try again later", retry_after=5)

    stated = stated_length(request)
    # Booked before it comes, so that nobody sends in vain, and put right by what has come.
    await book(state, caller, stated)
    try:
        return await receive(
            request,
            most=most,
            idle=state.config.limits.idle,
            total=total,
            target=target,
            name=name,
            on_bytes=count,
        )
    finally:
        if target is None:
            state.upload_memory -= received
        await book(state, caller, received - stated, late=True)


@contextlib.asynccontextmanager
async def place(request: Request, state: State, caller: Asker, *, on_disk: bool) -> AsyncIterator[None]:
    """A place among the uploads, as long as one is received.

    Args:
        request: states how long it will be, or not.
        state: of the service.
        caller: who sends.
        on_disk: whether it goes to the disk.

    Raises:
        Busy: as many are received as may be.
        Problem: 507 where the disk has no room.
    """
    with state.uploads.take(caller.owner):
        if on_disk:
            usage = await asyncio.to_thread(shutil.disk_usage, state.store.directory)
            if usage.free < stated_length(request) + state.config.limits.free_bytes:
                raise Problem(507, "the disk of the service is full; try later", {"Retry-After": "300"})
        yield


async def book(state: State, caller: Asker, size: int, *, late: bool = False) -> None:
    """Counts bytes of a token's day.

    Args:
        state: of the service.
        caller: whoever has no token is not counted.
        size: bytes; less than 0 gives some back.
        late: they have come already and are counted whatever the limit.

    Raises:
        Problem: 429 where that is too much.
    """
    if caller.token is None or not size:
        return
    limit = caller.token.bytes_per_day
    if not await asyncio.to_thread(state.store.add_bytes, caller.owner, size, _UNLIMITED if late else limit):
        later = str(round(state.store.received.seconds_left()) + 1)
        raise Problem(429, f"more than {limit} bytes today with this token", {"Retry-After": later})

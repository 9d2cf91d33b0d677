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
from starlette.requests import HTTPConnection

from fakeface_jax.server.batching import Busy
from fakeface_jax.server.http.auth import Asker
from fakeface_jax.server.http.connections import address_key
from fakeface_jax.server.http.multipart import Upload, receive, refuse_longer, stated_length
from fakeface_jax.server.http.problems import Problem
from fakeface_jax.server.http.service_state import State

_UNLIMITED = 2**62

_STEP = 2**18
"""Bytes of an upload without a length that are booked at once."""

_LOOK_AGAIN = 8 * 2**20
"""Bytes after which the disk is asked again how much room it has."""


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
    """Receives one file; see `multipart.receive`.

    Raises:
        Problem: also 429 where a token has sent too much today, 507 where the disk has no more room.
    """
    received = 0
    stated = stated_length(request)
    # Booked before it comes, so that nobody sends in vain; in steps where it is not said how much that will be; and put
    # right by what has come.
    booked = max(stated, 1)
    day = await book(state, caller, booked)
    # What was promised and has not come yet is taken already, as far as others are concerned.
    promised = stated if target is not None else 0
    state.upload_disk += promised
    looked = 0

    async def count(size: int) -> None:
        nonlocal received, booked, promised, looked
        received += size
        if target is None:
            state.upload_memory += size
            if state.upload_memory > state.config.limits.upload_memory:
                state.metrics.refused.labels("uploads").inc()
                raise Busy("too many pictures are being received; try again later", retry_after=5)
        else:
            less = min(size, promised)
            promised -= less
            state.upload_disk -= less
            if received - looked >= _LOOK_AGAIN:
                looked = received
                await _room_on_disk(state, 0)
        while received > booked:
            await book(state, caller, _STEP, day=day)
            booked += _STEP

    try:
        return await receive(
            request,
            most=most,
            idle=state.config.limits.idle,
            total=total,
            rate=state.config.limits.body_rate,
            target=target,
            name=name,
            on_bytes=count,
        )
    finally:
        if target is None:
            state.upload_memory -= received
        state.upload_disk -= promised
        await book(state, caller, received - booked, late=True, day=day)


@contextlib.asynccontextmanager
async def place(request: Request, state: State, caller: Asker, *, most: int, on_disk: bool) -> AsyncIterator[None]:
    """A place among the uploads, as long as one is received; pictures and videos have places of their own.

    Args:
        request: states how long it will be, or not.
        state: of the service.
        caller: who sends.
        most: bytes of a file.
        on_disk: whether it goes to the disk.

    Raises:
        Busy: as many are received as may be, or this token or address has its share of them.
        Problem: 413 where it says that it is longer than that, 507 where the disk has no room.
    """
    refuse_longer(request, most)
    # Who has no token is known by the address, so that nobody takes the places of all others.
    who = caller.owner if caller.token is not None else client_key(request)
    places = state.uploads if on_disk else state.image_uploads
    with places.take(who):
        if on_disk:
            await _room_on_disk(state, stated_length(request))
        yield


def client_key(connection: HTTPConnection) -> str:
    """Whom places go to that has not said who it is: the client's address."""
    return f"address {address_key(connection.client.host if connection.client is not None else None)}"


async def room_on_disk(state: State) -> int:
    """Bytes that may still be written: free ones, less those that stay free and those that were promised."""
    usage = await asyncio.to_thread(shutil.disk_usage, state.store.directory)
    return usage.free - state.config.limits.free_bytes - state.upload_disk


async def _room_on_disk(state: State, size: int) -> None:
    if await room_on_disk(state) < size:
        raise no_room_on_disk()


def no_room_on_disk() -> Problem:
    """What is told to those whose file cannot be stored."""
    return Problem(507, "the disk of the service is full; try later", {"Retry-After": "300"})


async def book(state: State, caller: Asker, size: int, *, late: bool = False, day: int | None = None) -> int | None:
    """Counts bytes of a token's day.

    Args:
        state: of the service.
        caller: whoever has no token is not counted.
        size: bytes; less than 0 gives some back.
        late: they have come already and are counted whatever the limit.
        day: for which the same upload was counted first; today if not given.

    Returns:
        The day that they count for; None where nothing is counted.

    Raises:
        Problem: 429 where that is too much.
    """
    if caller.token is None or not size:
        return day
    limit = caller.token.bytes_per_day
    most = _UNLIMITED if late else limit
    counted = await asyncio.to_thread(state.store.received.add, caller.owner, size, most, day=day)
    if counted is None:
        later = str(round(state.store.received.seconds_left()) + 1)
        raise Problem(429, f"more than {limit} bytes today with this token", {"Retry-After": later})
    return counted


async def book_received(state: State, caller: Asker, size: int) -> None:
    """Counts bytes that have come, and refuses more of them.

    Raises:
        Problem: 429 where that was too much. They are counted all the same: else each request would bring some for
            nothing.
    """
    try:
        await book(state, caller, size)
    except Problem:
        await book(state, caller, size, late=True)
        raise

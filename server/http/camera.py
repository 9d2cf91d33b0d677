"""A browser's camera over a WebSocket: a picture in, scores out. Nothing is stored.

The token comes in the first message, as browsers cannot set headers here and addresses end up in logs.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import time
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from fakeface_jax.errors import FakeFaceError
from fakeface_jax.server.batching import Busy
from fakeface_jax.server.http.auth import STILL_ALLOWED, Asker, admit, still_allowed
from fakeface_jax.server.http.problems import Problem
from fakeface_jax.server.http.service_state import State, state_of
from fakeface_jax.server.http.uploads import book, book_received, client_key
from fakeface_jax.server.live_sources import LiveSession
from fakeface_jax.server.pictures import LimitedDetector

router = APIRouter()

_HELLO = 10.0
"""Seconds that a client has for its first message."""

_IDLE = 60.0
"""Seconds without a picture after which the session ends."""

_REFUSED, _TOO_LARGE, _LATER = 1008, 1009, 1013
"""Codes of RFC 6455 and its registry: policy violation, message too big, try again later."""


@router.websocket("/v1/live")
async def live(socket: WebSocket) -> None:
    """Scores pictures as they come; the newest alone where they come faster than they are scored."""
    state = state_of(socket)
    try:
        with state.hellos.take(client_key(socket)):
            await socket.accept()
            asker = await _hello(socket, state)
    except Busy:
        await socket.close(_LATER)  # before it is accepted: 403
        return
    if asker is None:
        return
    if not state.ready.is_set():
        await _refuse(socket, _LATER, "the model is being loaded; try again later")
        return
    try:
        with state.live_sessions.take(asker.owner):
            await _converse(socket, state, asker)
    except Busy as error:
        await _refuse(socket, _LATER, str(error))


async def _hello(socket: WebSocket, state: State) -> Asker | None:
    """Who it is, by the first message; None for one who was refused."""
    try:
        hello = await asyncio.wait_for(socket.receive_json(), _HELLO)
        secret = hello.get("token") if isinstance(hello, dict) else None
        if secret is not None and not isinstance(secret, str):
            raise Problem(401, "the token is no text")
        return await asyncio.to_thread(admit, socket, state, secret)
    except Problem as error:
        await _refuse(socket, _REFUSED, error.detail, status=error.status)
    except (WebSocketDisconnect, TimeoutError, ValueError, KeyError, RuntimeError):
        await _refuse(socket, _REFUSED, 'the first message is JSON: {"token": "..."}, or null for none')
    return None


async def _converse(socket: WebSocket, state: State, asker: Asker) -> None:
    limits = state.config.limits
    detector = LimitedDetector(await asyncio.to_thread(state.make_detector), limits.faces)
    session = LiveSession(state.classifier, detector, state.decoders.image_for(asker.owner))
    await socket.send_json({"type": "ready", "size_limit": limits.frame_bytes})
    arrivals = _Arrivals()
    asked = -STILL_ALLOWED
    reader = asyncio.create_task(_read(socket, arrivals, limits.frame_bytes))
    try:
        while not arrivals.gone.is_set():
            await arrivals.came.wait()
            arrivals.came.clear()
            for number in arrivals.skip():
                await socket.send_json({"type": "skipped", "number": number})
            if not arrivals.newest:
                continue
            number, data, received = arrivals.newest.popleft()
            if time.monotonic() - asked >= STILL_ALLOWED:
                asked = time.monotonic()
                if not await asyncio.to_thread(still_allowed, state, asker):
                    await _refuse(socket, _REFUSED, "this token is unknown or revoked", status=401)
                    return
                await book_received(state, asker, arrivals.taken())
            answer: dict[str, Any]
            try:
                answer = await asyncio.to_thread(session.score, data, number, received)
            except FakeFaceError as error:
                answer = {"type": "error", "number": number, "detail": str(error)}
            await socket.send_text(json.dumps(answer, allow_nan=False))
    except Problem as error:
        await _refuse(socket, _LATER, error.detail, status=error.status)
    except (WebSocketDisconnect, RuntimeError):
        pass  # it left while something was sent
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await book(state, asker, arrivals.taken(), late=True)


class _Arrivals:
    """What came over a connection.

    Attributes:
        newest: number, picture and time of the one that waits, if one does.
        came: set when something did.
        gone: set when nothing more will.
    """

    def __init__(self) -> None:
        self.newest: collections.deque[tuple[int, bytes, float]] = collections.deque()
        self.came, self.gone = asyncio.Event(), asyncio.Event()
        self._skipped: list[int] = []
        self._bytes = 0

    def add(self, number: int, data: bytes) -> bool:
        """One picture more; False where the client heeds no answers."""
        self._bytes += len(data)
        if self.newest:
            self._skipped.append(self.newest.pop()[0])
        self.newest.append((number, data, time.monotonic()))
        self.came.set()
        return len(self._skipped) <= _UNANSWERED

    def skip(self) -> list[int]:
        """Numbers of those that a newer one has taken the place of, and of which the client was not told yet."""
        found, self._skipped = self._skipped, []
        return found

    def end(self) -> None:
        """Nothing more comes."""
        self.gone.set()
        self.came.set()

    def taken(self) -> int:
        """Bytes that came since this was last asked."""
        found, self._bytes = self._bytes, 0
        return found


async def _read(socket: WebSocket, arrivals: _Arrivals, most: int) -> None:
    number = 0
    try:
        while True:
            message = await asyncio.wait_for(socket.receive(), _IDLE)
            data = message.get("bytes")
            if message["type"] != "websocket.receive":
                return
            if data is None:
                await _refuse(socket, _REFUSED, "pictures come as binary messages")
                return
            if len(data) > most:
                await _refuse(socket, _TOO_LARGE, "the picture is too large")
                return
            if not arrivals.add(number, data):
                await _refuse(socket, _LATER, "pictures come faster than they can be answered")
                return
            number += 1
    except (TimeoutError, WebSocketDisconnect, RuntimeError):
        return
    finally:
        arrivals.end()


_UNANSWERED = 1000
"""Pictures that may wait for the word `skipped`; a client that waits for answers has none."""


async def _refuse(socket: WebSocket, code: int, detail: str, *, status: int | None = None) -> None:
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await socket.send_json({"type": "error", "detail": detail} | ({"status": status} if status else {}))
        await socket.close(code)

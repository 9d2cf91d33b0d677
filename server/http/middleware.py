"""What happens to every request: an id, a line in the log, a count, headers that browsers heed.

Written for ASGI itself: a wrapper of FastAPI's kind would hold back answers that come in pieces.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fakeface_jax.server.http.problems import problem_response
from fakeface_jax.server.http.service_state import State
from fakeface_jax.server.logs import request_id

_log = logging.getLogger("fakeface.requests")

_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the page: nothing from elsewhere, no script but our files."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"})
"""Those that are counted by name; a client could make up any number of others."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Content-Security-Policy": CSP,
    "Cache-Control": "no-store",
}


class Edge:
    """The outermost layer.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        current = given if _ID.fullmatch(given) else secrets.token_hex(8)
        reset = request_id.set(current)
        began, status, sent = time.monotonic(), 0, 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = current
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            try:
                await self._app(scope, receive, send_with_headers)
            except asyncio.CancelledError:
                # The service ends, and has waited as long as it may.
                if status or scope["type"] == "websocket":
                    raise
                told = "the service is being stopped; send it again"
                answer = problem_response(503, told, headers={"Retry-After": "10", "Connection": "close"})
                await answer(scope, receive, send_with_headers)
            except Exception as error:
                # What no handler caught; nothing of it goes outside.
                _log.error("unexpected error", exc_info=error)
                if status or scope["type"] == "websocket":
                    raise
                answer = problem_response(500, "an error in the service; its log has it under the id of this request")
                await answer(scope, receive, send_with_headers)
        finally:
            self._note(scope, status, sent, time.monotonic() - began)
            request_id.reset(reset)

    def _note(self, scope: Scope, status: int, sent: int, seconds: float) -> None:
        # The route's pattern and not the path: few values, and none that a client chose.
        route = getattr(scope.get("route"), "path", "other")
        method = scope.get("method", "WEBSOCKET")
        method = method if method in _METHODS else "other"
        state: State | None = getattr(scope["app"].state, "service", None) if "app" in scope else None
        if state is not None:
            state.metrics.requests.labels(method, route, str(status)).inc()
            state.metrics.request_seconds.labels(route).observe(seconds)
        _log.info(
            "request",
            extra={"method": method, "route": route, "status": status, "seconds": round(seconds, 4), "bytes": sent},
        )

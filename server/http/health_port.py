"""Health and metrics on a port of their own, which answers also where the port for clients is crowded.

Example:
    >>> HealthOnly(app)
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from fakeface_jax.server.http.problems import problem_response

PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""What this port answers; who may ask for each is what it is on the other port."""

CONNECTIONS = 64
"""That the port keeps open at once; the oldest that asks nothing makes room."""


class HealthOnly:
    """The part of an application that says how it is.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and scope["path"] in PATHS:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            told = f"this port answers {', '.join(sorted(PATHS))}; everything else is on the other port"
            await problem_response(404, told)(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})

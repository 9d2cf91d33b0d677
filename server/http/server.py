"""The service's listeners: one for clients and, where the operator wants it, one for health and metrics.

Example:
    >>> server = HttpServer(app, ServiceConfig(), health=listening)
    >>> asyncio.run(server.serve([socket]))
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from fakeface_jax.server.http.connections import ConnectionGate
from fakeface_jax.server.http.health_port import CONNECTIONS, HealthOnly
from fakeface_jax.server.http.timeouts import protocol_of
from fakeface_jax.server.service_config import ServiceConfig


class HttpServer(uvicorn.Server):
    """Serves an application, says where it listens, and lets those go who follow events: they would be waited for.

    Args:
        app: made by `create_app`.
        config: what the operator set.
        health: a socket that listens for questions about health; None for no such port.
        tell: called with a line for the operator once it listens.
    """

    def __init__(
        self,
        app: FastAPI,
        config: ServiceConfig,
        *,
        health: socket.socket | None = None,
        tell: Callable[[str], object] = lambda line: None,
    ) -> None:
        super().__init__(_settings(app, config, app.state.connections))
        self._app, self._service, self._health, self._tell = app, config, health, tell

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end it in order; uvicorn would send them to itself again afterwards, and skip our cleaning up."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Begins to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if not self.started:
            return
        if self._health is not None:
            self.servers.append(await self._listen_for_health(self._health))
            self._tell(f"fakeface: {_address(self._health)}healthz, readyz, metrics")
        listening = (sockets or self.servers[0].sockets)[0]
        self._tell(f"fakeface: {_address(listening)}  (Ctrl-C ends it)")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come that ends it."""
        super().handle_exit(sig, frame)
        state = getattr(self._app.state, "service", None)
        if state is not None:
            # Not from here: a signal comes at any moment, also while its locks are held by this very thread.
            self._loop.call_soon_threadsafe(state.hub.close)

    async def _listen_for_health(self, listening: socket.socket) -> asyncio.Server:
        settings = _settings(HealthOnly(self._app), self._service, ConnectionGate(CONNECTIONS, CONNECTIONS))
        settings.load()
        protocol: Any = settings.http_protocol_class

        def connect() -> asyncio.Protocol:
            made: asyncio.Protocol = protocol(
                config=settings, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        # The connections of both ports are in one state of the server, which ends them all in order.
        return await asyncio.get_running_loop().create_server(connect, sock=listening)


def _settings(app: ASGIApp, config: ServiceConfig, gate: ConnectionGate) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=config.limits.frame_bytes,
        # Pictures are compressed already; zeros would be inflated before anybody is asked for a token.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=round(config.grace),
        h11_max_incomplete_event_size=32 * 1024,
        http=protocol_of(gate),
    )


def _address(listening: Any) -> str:
    host, port, *_ = listening.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

"""HTTP/1.1 as uvicorn speaks it, with patience that ends: a client that sends nothing, or no whole request, is let go.

uvicorn waits for ever for the rest of a request's head, and for a body that nobody reads any more. Bodies that are read
have limits of their own (`bodies`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""From the beginning of a connection, or the end of an answer, until the next request must be there."""

CONNECTIONS = 512
"""At once; more are closed as they come, which costs nothing. Answers to them would cost what they are refused for."""


class PatientProtocol(H11Protocol):
    """A connection with a timer that runs while no request is being answered."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
            return
        self._arm()

    def handle_events(self) -> None:
        """Something was received."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._arm()

    def on_response_complete(self) -> None:
        """An answer is out."""
        super().on_response_complete()
        self._arm()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """It is another protocol's from here on."""
        self._disarm()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering and not self.transport.is_closing():
            self.transport.close()

"""HTTP/1.1 as uvicorn speaks it, with patience that ends: a client that sends nothing, or no whole request, is let go.

uvicorn waits for ever for the rest of a request's head, and for a body that nobody reads any more. Bodies that are read
have limits of their own (`multipart`). How many connections there may be, `connections` decides.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from fakeface_jax.server.http.connections import ConnectionGate, address_key

HEADER_SECONDS = 10.0
"""From the beginning of a connection, or the end of an answer, until the next request must be there."""


class PatientProtocol(H11Protocol):
    """A connection with a timer that runs while no request is being answered.

    Attributes:
        gate: counts the connections of this listener; set by `protocol_of`.
        address: the key of the client's address.
        served: whether a request on this connection has been answered.
    """

    gate: ConnectionGate
    address = ""
    served = False
    _timer: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """Whether no request on this connection is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def drop(self) -> None:
        """Closes the connection at once, to make room for another one."""
        self._disarm()
        self.transport.abort()

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        super().connection_made(transport)
        self.address = address_key(self.client[0] if self.client is not None else None)
        if not self.gate.enter(self):
            # An answer would cost what the client is refused for.
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
        self.served = True
        super().on_response_complete()
        self._arm()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """It is another protocol's from here on, and cameras are counted by themselves."""
        self._disarm()
        self.gate.leave(self)
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._disarm()
        self.gate.leave(self)
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.waits and not self.transport.is_closing():
            self.transport.close()


def protocol_of(gate: ConnectionGate) -> type[PatientProtocol]:
    """The protocol of one listener, whose connections the gate counts."""
    return type("GatedProtocol", (PatientProtocol,), {"gate": gate})

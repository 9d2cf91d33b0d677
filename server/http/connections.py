"""How many connections may be open, in all and from one address, before anybody is asked who they are.

Where there is no room, the oldest connection on which no request is being answered makes room for the new one, so that
sockets that say nothing never keep out a client that asks something. A connection is refused only where all others are
at work.

Example:
    >>> gate = ConnectionGate(total=1024, per_address=512)
    >>> gate.enter(connection)
    True
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Protocol


class Connection(Protocol):
    """What the gate needs to know of a connection.

    Attributes:
        address: the key of the client's address; see `address_key`.
        served: whether a request on it has been answered.
        waits: whether no request on it is being answered.
    """

    address: str
    served: bool

    @property
    def waits(self) -> bool:
        """Whether no request on it is being answered."""

    def drop(self) -> None:
        """Closes it at once."""


class ConnectionGate:
    """Counts open connections and keeps them within limits. For the thread of one event loop.

    Args:
        total: connections that may be open at once.
        per_address: connections that one address may have open at once.

    Attributes:
        dropped: how many waiting connections made room for new ones.
        refused: how many connections found no room.
    """

    def __init__(self, total: int, per_address: int) -> None:
        self._total, self._per_address = total, per_address
        # Of each address, in the order in which they came.
        self._open: dict[str, dict[Connection, None]] = {}
        self._count = 0
        self.dropped = 0
        self.refused = 0

    @property
    def open(self) -> int:
        """How many connections are open."""
        return self._count

    def enter(self, one: Connection) -> bool:
        """Counts a new connection, if there is room for it or another one can make room.

        Returns:
            Whether it may stay.
        """
        own = self._open.get(one.address, {})
        room = len(own) < self._per_address or self._make_room([own])
        if room and self._count >= self._total:
            # Those who have most of them give up one first.
            room = self._make_room(sorted(self._open.values(), key=len, reverse=True))
        if not room:
            self.refused += 1
            return False
        self._open.setdefault(one.address, {})[one] = None
        self._count += 1
        return True

    def leave(self, one: Connection) -> None:
        """Forgets a connection; one that is not counted is no error."""
        own = self._open.get(one.address)
        if own is None or one not in own:
            return
        del own[one]
        self._count -= 1
        if not own:
            del self._open[one.address]

    def _make_room(self, groups: Iterable[dict[Connection, None]]) -> bool:
        for group in groups:
            waiting = [one for one in group if one.waits]
            if waiting:
                # A connection that has never asked anything goes before one that is kept alive between requests.
                victim = next((one for one in waiting if not one.served), waiting[0])
                self.leave(victim)
                victim.drop()
                self.dropped += 1
                return True
        return False


def address_key(host: str | None) -> str:
    """What counts as one address: an IPv4 address, or the 64-bit prefix that one IPv6 customer is given.

    Args:
        host: the client's address as text; None for a Unix socket.
    """
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return host or ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)

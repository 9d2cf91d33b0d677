"""Live streams as data: their states, pictures and counters.

Example:
    >>> stream.counters.to_dict()
    {'read': 250, 'scored': 40, 'skipped': {'newer_frame': 209}, 'waiting': 1, ...}
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8


class State(enum.StrEnum):
    """Where a stream stands."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    BACKOFF = "backoff"
    ENDED = "ended"


class Skip(enum.StrEnum):
    """Why a picture was read and not scored."""

    NEWER_FRAME = "newer_frame"
    QUEUE_FULL = "queue_full"
    LATE = "late"  # from a read that had been given up
    REPEATED = "repeated"  # the newest one once more, to the pixel
    NOT_SCORED = "not_scored"  # taken, and given back
    CLOSED = "closed"  # left over at the end


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LiveFrame:
    """One picture of a stream.

    Attributes:
        image: RGB, 0 to 255; its size may differ from that of the one before.
        number: from 0, in the order of reading, over all connections.
        time: seconds from the first picture of the stream: by our monotonic clock, and for a file by the container's.
        captured_at: our monotonic clock when it was read; for a file, when it was due.
    """

    image: UInt8[np.ndarray, "h w 3"]
    number: int
    time: float
    captured_at: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamCounters:
    """What happened to the pictures up to one moment: read = scored + skipped + waiting.

    Attributes:
        read: pictures that came out of the decoder.
        scored: of those, how many were taken and done.
        skipped: of those, how many were not, by reason.
        waiting: of those, how many are neither yet, those that were taken and are being scored included.
        decode_errors: pictures that did not come out of the decoder.
        reconnects: connections that delivered again after a loss.
        attempts: how often the source was opened or tried to be.
        stalls: how often the stream came to stand still.
        stuck: threads that hang in reads that were given up.
        lag: seconds from reading to the end of scoring, of the last picture that was scored; None before.
    """

    read: int = 0
    scored: int = 0
    skipped: Mapping[Skip, int] = dataclasses.field(default_factory=dict)
    waiting: int = 0
    decode_errors: int = 0
    reconnects: int = 0
    attempts: int = 0
    stalls: int = 0
    stuck: int = 0
    lag: float | None = None

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        lag = None if self.lag is None else round(self.lag, 3)
        return {**dataclasses.asdict(self), "skipped": {str(key): n for key, n in self.skipped.items()}, "lag": lag}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateChange:
    """A change of state.

    Attributes:
        time: seconds from the first picture, by our clock; None before there was one.
        state: the new one.
        reason: in words; empty where the state says it all.
    """

    time: float | None
    state: State
    reason: str = ""

    def to_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        seconds = None if self.time is None else round(self.time, 3)
        return {"type": "state", "time": seconds, "state": str(self.state), "reason": self.reason}

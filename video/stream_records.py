"""Live streams as data: their states, settings, pictures and counters.

Example:
    >>> StreamConfig(mode="lossless", queue=64)
    >>> stream.counters.to_dict()
    {'read': 250, 'scored': 40, 'skipped': {'newer_frame': 209}, 'waiting': 1, ...}
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import ConfigError


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
    NOT_SCORED = "not_scored"  # taken, and given back
    CLOSED = "closed"  # left over at the end


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How a stream is read.

    Attributes:
        mode: latest: the newest picture wins, for cameras; lossless: every picture is scored as far as the queue goes.
        queue: pictures that may wait in the mode lossless.
        open_timeout: seconds until an attempt to connect is given up.
        read_timeout: seconds without a picture until the connection is given up and made anew.
        stall_after: seconds without a picture until the stream counts as stalled.
        backoff: seconds of the first pause before connecting again; each further pause is twice as long.
        backoff_max: seconds of the longest pause. Pauses are cut by a random part of up to a half, so that many readers
            of one source do not all come back at once.
        give_up: seconds without any picture after which the stream ends; None for never.
    """

    mode: Literal["latest", "lossless"] = "latest"
    queue: int = 32
    open_timeout: float = 10.0
    read_timeout: float = 10.0
    stall_after: float = 2.0
    backoff: float = 0.5
    backoff_max: float = 30.0
    give_up: float | None = None

    def __post_init__(self) -> None:
        for name in ("open_timeout", "read_timeout", "stall_after", "backoff", "backoff_max", "give_up"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 86400:
                raise ConfigError(f"{name} {value} is not a number of seconds above 0 and up to a day")
        if not 1 <= self.queue <= 1024:
            raise ConfigError(f"a queue of {self.queue} pictures is not in 1 to 1024")
        if self.backoff > self.backoff_max:
            raise ConfigError(f"backoff {self.backoff} s is longer than backoff_max {self.backoff_max} s")


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

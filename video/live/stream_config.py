"""How a live stream is read and scored; light, so that the command line shows it without importing anything heavy.

Example:
    >>> StreamConfig(mode="lossless", queue=64)
    >>> LiveConfig(window=10.0)
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from fakeface_jax.errors import ConfigError
from fakeface_jax.video.verdict.thresholds import MIN_FRAMES, MIN_SECONDS


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """How scores over time become verdicts.

    Attributes:
        window: seconds that a person's score covers.
        hold: seconds that a new verdict must hold before it is the verdict.
        margin: logits by which the score must fall below the threshold of `fake` for that verdict to be left.
        min_frames: pictures with a sharp, scored face that a verdict needs; fewer are inconclusive.
    """

    window: float = 5.0
    hold: float = 2.0
    margin: float = 0.5
    min_frames: int = MIN_FRAMES

    def __post_init__(self) -> None:
        # A window that only just holds the evidence that a verdict needs would hold too little every other picture.
        if not 2 * MIN_SECONDS <= self.window <= 3600:
            raise ConfigError(f"a window of {self.window} s is not in {2 * MIN_SECONDS:g} s to an hour")
        if not 0 <= self.hold <= 3600 or not 0 <= self.margin <= 20:
            raise ConfigError(f"hold {self.hold} s is not in 0 to 3600, or margin {self.margin} not in 0 to 20 logits")
        if self.min_frames < 1:
            raise ConfigError(f"min_frames {self.min_frames} is not at least 1")

"""A live stream, watched: pictures from a reader to a scorer, and what happened as events, at least one a second.

Example:
    >>> with Stream("rtsp://camera.local/live") as stream:
    ...     for event in watch(stream, scorer, seconds=60.0):
    ...         print(event.to_dict())
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from fakeface_jax.labels import Verdict
from fakeface_jax.video.live.scorer import LiveScorer, PersonStatus, VerdictChange
from fakeface_jax.video.live.stream import Stream
from fakeface_jax.video.live.stream_records import LiveFrame, State, StateChange, StreamCounters
from fakeface_jax.video.live.stream_threads import Clock, MonotonicClock

_POLL = 0.2
"""Seconds after which a request to stop is noticed at the latest, while no picture comes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """How a stream stands, once a second and at its end.

    Attributes:
        final: whether this is the last word.
        time: seconds from the first picture, by our clock; None before there was one.
        state: of the connection.
        verdict: of the stream.
        p_fake: of the person that the verdict is about; None while nobody has enough evidence.
        reason: in words.
        people: those with a scored face in the window.
        counters: of the pictures.
        read_fps: pictures read per second, since the last status; at the end, over all.
        scored_fps: pictures scored per second.
    """

    final: bool = False
    time: float | None
    state: State
    verdict: Verdict
    p_fake: float | None
    reason: str
    people: tuple[PersonStatus, ...]
    counters: StreamCounters
    read_fps: float
    scored_fps: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "type": "summary" if self.final else "second",
            "time": _rounded(self.time),
            "state": str(self.state),
            "verdict": str(self.verdict),
            "p_fake": None if self.p_fake is None else round(self.p_fake, 4),
            "reason": self.reason,
            "people": [person.to_dict() for person in self.people],
            "read_fps": round(self.read_fps, 2),
            "scored_fps": round(self.scored_fps, 2),
            "counters": self.counters.to_dict(),
        }


Event = Status | StateChange | VerdictChange
"""What `watch` tells."""

OnFrame = Callable[[LiveFrame], None]
"""Called with each picture once it is scored; the scorer has its faces."""


def watch(
    stream: Stream,
    scorer: LiveScorer,
    *,
    seconds: float | None = None,
    every: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
    on_frame: OnFrame | None = None,
    clock: Clock | None = None,
) -> Iterator[Event]:
    """Scores a stream until it ends, and closes it.

    A status is due every second, and comes once the picture that is being scored is done. The last event is the final
    status.

    Args:
        stream: open.
        scorer: for this stream alone.
        seconds: until it is stopped; None for never.
        every: seconds between two statuses.
        stop: asked several times a second.
        on_frame: called after each picture.
        clock: time; for tests.

    Raises:
        MediaError: the source cannot be read.
    """
    clock = clock or MonotonicClock()
    began = clock.now()
    due, last = began + every, (began, stream.counters)
    try:
        while not stop() and (seconds is None or clock.now() - began < seconds):
            ended = stream.state is State.ENDED
            frame = stream.take(timeout=max(0.0, min(_POLL, due - clock.now())))
            yield from stream.changes()
            if frame is not None:
                yield from _score(stream, scorer, frame)
                if on_frame is not None:
                    on_frame(frame)
            elif ended:
                break
            elif (stream.state is not State.LIVE or stream.is_frozen) and stream.seconds is not None:
                yield from scorer.advance(stream.seconds)
            now = clock.now()
            if now >= due:
                # What happened while a picture was scored comes before the status that shows it.
                yield from stream.changes()
                status = _status(stream, scorer, now, last)
                yield status
                last, due = (now, status.counters), due + every if due + every > now else now + every
    finally:
        stream.close()
    yield from stream.changes()
    yield dataclasses.replace(_status(stream, scorer, clock.now(), (began, StreamCounters())), final=True)


def _score(stream: Stream, scorer: LiveScorer, frame: LiveFrame) -> list[VerdictChange]:
    scored = False
    try:
        changes = scorer.score(frame)
        scored = True
    finally:
        stream.done(frame, scored=scored)
    return changes


def _status(stream: Stream, scorer: LiveScorer, now: float, last: tuple[float, StreamCounters]) -> Status:
    counters, elapsed = stream.counters, max(now - last[0], 1e-6)
    return Status(
        time=stream.seconds,
        state=stream.state,
        verdict=scorer.verdict,
        p_fake=scorer.p_fake,
        reason=scorer.reason,
        people=scorer.people,
        counters=counters,
        read_fps=(counters.read - last[1].read) / elapsed,
        scored_fps=(counters.scored - last[1].scored) / elapsed,
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)

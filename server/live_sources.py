"""Live sources that an operator named, watched for clients, and pictures of a browser's camera.

Example:
    >>> watchers = Watchers(classifier, create_detector, decoders, hub, config)
    >>> watchers.start("entrance", owner="token:desk").id
    '5f0c...'
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.errors import ConfigError, FakeFaceError
from fakeface_jax.faces import FaceDetector
from fakeface_jax.server.batching import Busy
from fakeface_jax.server.events import EventHub
from fakeface_jax.server.logs import utc
from fakeface_jax.server.pictures import LimitedDetector
from fakeface_jax.server.sandbox.pool import Decoders
from fakeface_jax.server.service_config import ServiceConfig
from fakeface_jax.video.live.scorer import LiveScorer
from fakeface_jax.video.live.stream import Stream
from fakeface_jax.video.live.stream_records import LiveFrame, State
from fakeface_jax.video.live.watch import Status, watch
from fakeface_jax.video.report.video_report import plain
from fakeface_jax.video.scoring import Decode

_log = logging.getLogger("fakeface.streams")

_REMEMBERED = 50
"""Streams that have ended and are still listed."""


@dataclasses.dataclass(kw_only=True)
class Watched:
    """A live source being watched.

    Attributes:
        id: of this watching.
        owner: who started it.
        source: the operator's name of it.
        started: epoch seconds.
        ended: epoch seconds; None while it goes on.
        error: why it ended, where that was an error.
        status: the latest.
    """

    id: str
    owner: str
    source: str
    started: float
    ended: float | None = None
    error: str | None = None
    status: Status | None = None
    stop: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        status = self.status.to_dict() if self.status is not None else {}
        return {
            "id": self.id,
            "source": self.source,
            "state": str(State.ENDED) if self.ended is not None else status.get("state", str(State.CONNECTING)),
            "verdict": status.get("verdict", "inconclusive"),
            "p_fake": status.get("p_fake"),
            "reason": status.get("reason", "no picture yet"),
            "people": status.get("people", []),
            "counters": status.get("counters"),
            "started": utc(self.started),
            "ended": None if self.ended is None else utc(self.ended),
            "error": self.error,
        }


class Watchers:
    """The threads that watch live sources, one for each.

    Args:
        classifier: the model.
        make_detector: a detector for one thread.
        decoders: read the sources in processes of their own.
        hub: is told what happens.
        config: which sources there are, and how many may be watched at once.
    """

    def __init__(
        self,
        classifier: FaceClassifier,
        make_detector: Callable[[], FaceDetector],
        decoders: Decoders,
        hub: EventHub,
        config: ServiceConfig,
    ) -> None:
        self._classifier, self._make_detector, self._decoders, self._hub = classifier, make_detector, decoders, hub
        self._sources, self._most = config.named_streams(), config.limits.streams_at_once
        self._faces = config.limits.faces
        self._lock = threading.Lock()
        self._watched: dict[str, Watched] = {}
        self._threads: dict[str, threading.Thread] = {}

    @property
    def names(self) -> list[str]:
        """Of the sources that may be watched."""
        return sorted(self._sources)

    def states(self) -> dict[str, float]:
        """How many are in each state."""
        counts = {str(state): 0.0 for state in State}
        for one in self.list(None):
            counts[one.to_dict()["state"]] += 1
        return counts

    def start(self, source: str, owner: str) -> Watched:
        """Watches a source.

        Raises:
            ConfigError: no operator named it.
            Busy: as many are watched as may be.
        """
        if source not in self._sources:
            raise ConfigError(f"{source[:64]!r}: no such source; known: {', '.join(self.names) or 'none'}")
        with self._lock:
            # Those that were stopped count until their decoders are gone.
            if len(self._threads) >= self._most:
                raise Busy(f"{self._most} sources are being watched already", retry_after=10)
            one = Watched(id=secrets.token_hex(12), owner=owner, source=source, started=time.time())
            self._watched[one.id] = one
            ended = [old.id for old in self._watched.values() if old.ended is not None]
            for old in ended[: max(0, len(ended) - _REMEMBERED)]:
                del self._watched[old]
            thread = threading.Thread(target=self._watch, args=(one,), name=f"stream-{source}", daemon=True)
            self._threads[one.id] = thread
        self._hub.channel(one.id).send("state", {"state": str(State.CONNECTING), "reason": ""})
        thread.start()
        return one

    def list(self, owner: str | None) -> list[Watched]:
        """An owner's, the newest first; everybody's for None."""
        with self._lock:
            found = list(self._watched.values())
        return [one for one in reversed(found) if owner is None or one.owner == owner]

    def find(self, owner: str, stream_id: str) -> Watched | None:
        """One of an owner's."""
        with self._lock:
            found = self._watched.get(stream_id)
        return found if found is not None and found.owner == owner else None

    def forget(self, one: Watched) -> None:
        """Ends it, and lists it no more."""
        one.stop = True
        with self._lock:
            self._watched.pop(one.id, None)

    def close(self) -> None:
        """Ends all, and waits for them."""
        for one in self.list(None):
            one.stop = True
        for thread in list(self._threads.values()):
            thread.join(timeout=5.0)

    def _watch(self, one: Watched) -> None:
        channel = self._hub.channel(one.id)
        try:
            detector = LimitedDetector(self._make_detector(), self._faces)
            scorer = LiveScorer(self._classifier, detector)
            with Stream(self._sources[one.source], open_source=self._decoders.open_capture) as stream:
                for event in watch(stream, scorer, stop=lambda: one.stop):
                    if isinstance(event, Status):
                        one.status = event
                    data = event.to_dict()
                    if data.get("state") == str(State.ENDED):
                        data["reason"] = ""  # it may name the source's address, which is the operator's
                    channel.send(str(data.pop("type")), data)
        except FakeFaceError as error:
            # The message may hold the address, which clients have no need to know.
            one.error = f"{one.source}: the source cannot be read"
            _log.warning("stream ended", extra={"stream": one.id, "source": one.source, "kind": type(error).__name__})
        except Exception:
            one.error = f"{one.source}: an error in the service; its log has it under the id of this stream"
            _log.exception("unexpected error", extra={"stream": one.id})
        finally:
            one.ended = time.time()
            channel.send("end", one.to_dict(), last=True)
            self._hub.drop(one.id)
            self._threads.pop(one.id, None)


class LiveSession:
    """A browser's camera: one picture after the other, scored as a live stream is.

    Args:
        classifier: the model.
        detector: finds the faces; for this session alone.
        decode: makes RGB of bytes.
    """

    def __init__(self, classifier: FaceClassifier, detector: FaceDetector, decode: Decode) -> None:
        self._scorer = LiveScorer(classifier, detector)
        self._decode = decode
        self._began: float | None = None

    def score(self, data: bytes, number: int, received: float) -> dict[str, Any]:
        """What is known after one more picture, as JSON holds it.

        Args:
            data: an image file.
            number: of the picture, as the client counts.
            received: `time.monotonic` when it came.

        Raises:
            MediaError: it cannot be read; the session goes on.
        """
        image = self._decode(data, f"frame {number}")
        self._began = received if self._began is None else self._began
        frame = LiveFrame(image=image, number=number, time=received - self._began, captured_at=received)
        changes = self._scorer.score(frame)
        scorer = self._scorer
        return {
            "type": "frame",
            "number": number,
            "time": round(frame.time, 3),
            "verdict": str(scorer.verdict),
            "p_fake": scorer.p_fake,
            "reason": scorer.reason,
            "people": [person.to_dict() for person in scorer.people],
            "faces": plain(scorer.faces),
            "changes": [change.to_dict() for change in changes],
        }

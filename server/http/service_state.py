"""All that the service holds while it runs: made in one order, ended in the other.

Example:
    >>> with State.create(config, store, classifier, make_detector) as state:
    ...     state.pictures.submit(data, "portrait.jpg")
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
from starlette.requests import HTTPConnection

from fakeface_jax.classifier import BATCH_SIZES, FaceClassifier
from fakeface_jax.explain import heatmap
from fakeface_jax.faces import FaceDetector
from fakeface_jax.server.batching import Batcher
from fakeface_jax.server.events import EventHub
from fakeface_jax.server.http.connections import ConnectionGate
from fakeface_jax.server.http.schemas import describe_job
from fakeface_jax.server.jobs import JobRunner
from fakeface_jax.server.live_sources import Watchers
from fakeface_jax.server.pictures import PictureScorer
from fakeface_jax.server.prometheus_metrics import Metrics
from fakeface_jax.server.rate_limits import RateLimiter
from fakeface_jax.server.sandbox.isolation import in_words, missing
from fakeface_jax.server.sandbox.pool import DecodeLimits, Decoders
from fakeface_jax.server.service_config import ServiceConfig
from fakeface_jax.server.slots import Places
from fakeface_jax.server.storage.job_records import Job
from fakeface_jax.server.storage.store import Store

_log = logging.getLogger("fakeface.service")

_HELLOS = 32
"""Connections of cameras that have not said who they are."""


@dataclasses.dataclass(kw_only=True, eq=False)
class State:
    """What routes work with.

    Attributes:
        config: what the operator set.
        store: jobs, reports, tokens.
        classifier: scores pictures and live sources.
        video_classifier: scores videos.
        make_detector: a detector for one thread.
        decoders: processes that open media.
        batcher: the model for pictures.
        pictures: scores pictures.
        runner: scores videos.
        watchers: watch live sources.
        hub: events of jobs and streams.
        metrics: what is counted.
        rates: requests of tokens.
        ready: the model is loaded and has scored.
        uploads, image_uploads: places of videos and of pictures that are being received.
        live_sessions, event_readers: places of browser cameras and of followers of events.
        hellos: places of cameras that have not said who they are, by address.
        health: what is wrong, if anything.
        upload_memory: bytes of pictures that are being received; the event loop's alone.
        upload_disk: bytes of videos that were announced and have not come yet; the event loop's alone.
        isolation: what is enforced on decoders here, as `Decoders.isolation` has it; empty until it is known.
    """

    config: ServiceConfig
    store: Store
    classifier: FaceClassifier
    video_classifier: FaceClassifier
    make_detector: Callable[[], FaceDetector]
    decoders: Decoders
    batcher: Batcher
    pictures: PictureScorer
    runner: JobRunner
    watchers: Watchers
    hub: EventHub
    metrics: Metrics
    rates: RateLimiter
    uploads: Places
    image_uploads: Places
    live_sessions: Places
    event_readers: Places
    hellos: Places
    ready: threading.Event = dataclasses.field(default_factory=threading.Event)
    health: Health = dataclasses.field(init=False)
    upload_memory: int = 0
    upload_disk: int = 0
    isolation: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def create(
        cls,
        config: ServiceConfig,
        store: Store,
        classifier: FaceClassifier,
        make_detector: Callable[[], FaceDetector],
        *,
        video_classifier: FaceClassifier,
    ) -> Iterator[State]:
        """The state, with its threads and processes; ended with the block. The caller holds the store's directory."""
        limits = config.limits
        metrics = Metrics(model=classifier.spec.name, model_id=classifier.bundle.id)
        hub = EventHub()

        def on_batch(faces: int, seconds: float) -> None:
            metrics.batch_faces.observe(faces)
            metrics.batch_seconds.observe(seconds)

        with contextlib.ExitStack() as stack:
            store.recover(keep_failed=config.keep_failed * 86_400)
            decoders = stack.enter_context(
                contextlib.closing(
                    Decoders(
                        DecodeLimits(
                            max_pixels=limits.pixels,
                            max_seconds=limits.video_seconds,
                            image_bytes=limits.image_bytes,
                            image_seconds=limits.image_deadline,
                            memory_bytes=limits.decoder_memory,
                        ),
                        memory=limits.decoders_memory or None,
                    )
                )
            )
            batcher = stack.enter_context(Batcher(classifier, max_wait=limits.batch_wait, on_batch=on_batch))
            pictures = stack.enter_context(
                contextlib.closing(PictureScorer(batcher, classifier, make_detector(), decoders.image_for, limits))
            )
            watchers = stack.enter_context(
                contextlib.closing(Watchers(classifier, make_detector, decoders, hub, config))
            )
            runner = JobRunner(
                store,
                video_classifier,
                make_detector(),
                decoders,
                hub,
                metrics,
                config,
                describe=lambda job: cast(State, state).job_data(job),
            )
            state = cls(
                config=config,
                store=store,
                classifier=classifier,
                video_classifier=video_classifier,
                make_detector=make_detector,
                decoders=decoders,
                batcher=batcher,
                pictures=pictures,
                runner=runner,
                watchers=watchers,
                hub=hub,
                metrics=metrics,
                rates=RateLimiter(),
                uploads=Places("uploads", limits.uploads, metrics.refused.labels("uploads").inc),
                image_uploads=Places("uploads", limits.image_uploads, metrics.refused.labels("uploads").inc),
                live_sessions=Places("cameras", limits.live_sessions, metrics.refused.labels("live").inc),
                event_readers=Places("followers of events", limits.event_readers, metrics.refused.labels("events").inc),
                hellos=Places("cameras that have not said who they are", _HELLOS, metrics.refused.labels("live").inc),
            )
            state._register()
            state.health = Health(state.problems)
            stack.callback(hub.close)
            stack.enter_context(runner)
            yield state

    def warm_up(self) -> None:
        """Scores nothing in particular, in each size of batch, so that no client waits for what the first one costs."""
        size = self.classifier.spec.crop.size
        for batch in BATCH_SIZES:
            self.classifier.calibrated_logits(np.zeros((batch, size, size, 3), np.uint8))
        self.make_detector().detect(np.zeros((480, 640, 3), np.uint8))
        self.ready.set()
        # The gradient behind heat maps takes longer to compile than anything else, and is needed later if at all.
        heatmap(self.classifier, np.zeros((1, size, size, 3), np.uint8))

    def note_isolation(self) -> None:
        """Finds out what isolates decoders here, and tells the log."""
        self.isolation = found = self.decoders.isolation
        facts = {name: int(value) for name, value in found.items()}
        if words := in_words(found):
            _log.warning("decoders are not isolated: they %s", words, extra=facts)
        else:
            _log.info("decoders are isolated", extra=facts)

    @property
    def detector(self) -> str:
        """What finds faces."""
        return self.runner.detector

    def needs_token(self) -> bool:
        """Whether somebody without a token is refused: beyond this machine, or once there are tokens."""
        return not self.config.on_loopback or self.store.has_tokens()

    def job_data(self, job: Job) -> dict[str, object]:
        """A job as clients see it."""
        return describe_job(
            job,
            progress=self.runner.progress(job.id),
            position=self.store.position(job),
            has=self.store.has(job),
        )

    def problems(self) -> list[str]:
        """Why it cannot work at the moment; empty when it can."""
        found = []
        if not self.ready.is_set():
            found.append("the model is being loaded")
        if not self.batcher.alive:
            found.append("the thread that scores pictures has ended")
        if not self.runner.alive:
            found.append("the thread that scores videos has ended")
        try:
            self.isolation = self.decoders.isolation
        except Exception as error:
            found.append(f"no decoder can be started: {type(error).__name__}")
        if self.config.require_isolation and (words := in_words(self.isolation)):
            found.append(f"decoders are not isolated: they {words}")
        try:
            self.store.check_writable()
        except Exception as error:
            found.append(f"the store cannot be written: {type(error).__name__}")
        return found

    def register_connections(self, gate: ConnectionGate) -> None:
        """Shows in the metrics how many connections are open, and how many had to go."""
        self.metrics.gauge("connections", "Connections that are open.", lambda: gate.open)
        self.metrics.states(
            "connections_ended",
            "Connections that were closed to keep within the limits: dropped made room, refused found none.",
            "reason",
            lambda: {"dropped": gate.dropped, "refused": gate.refused},
            total=True,
        )

    def _register(self) -> None:
        metrics, queue = self.metrics, self.store.queue
        metrics.gauge("queue_jobs", "Videos that wait.", lambda: queue().depth)
        metrics.gauge("queue_oldest_seconds", "How long the oldest of them waits.", lambda: queue().oldest_age)
        metrics.gauge("jobs_running", "Videos that are being scored.", lambda: queue().running)
        metrics.gauge("queue_images", "Pictures that wait.", lambda: self.pictures.waiting)
        metrics.gauge("images_running", "Pictures that are being scored.", lambda: self.pictures.running)
        metrics.gauge("images_allowed", "Pictures that may be inside now.", lambda: self.pictures.admission.allowed)
        metrics.gauge("queue_faces", "Faces that wait for the model.", lambda: self.batcher.waiting)
        metrics.gauge("live_sessions", "Browser cameras that are being scored.", lambda: self.live_sessions.taken)
        metrics.gauge("event_readers", "Connections that follow events.", lambda: self.event_readers.taken)
        metrics.states(
            "decoder_kills",
            "Decoders that were killed or died.",
            "reason",
            lambda: dict(self.decoders.kills),
            total=True,
        )
        metrics.gauge("decoders", "Processes that decode, or wait to.", lambda: self.decoders.places.taken)
        metrics.gauge("decoder_places", "Decoders that there may be at once.", lambda: self.decoders.places.most)
        metrics.states(
            "isolation",
            "What isolates decoders: 1 where it is enforced; landlock_abi is a version, 0 for none.",
            "what",
            lambda: dict(self.isolation),
            total=False,
        )
        metrics.gauge(
            "isolation_missing",
            "What should isolate decoders and does not; NaN until it is known.",
            lambda: len(missing(self.isolation)) if self.isolation else float("nan"),
        )
        metrics.states("streams", "Live sources by state.", "state", self.watchers.states, total=False)


class Health:
    """What is wrong, asked for once a second at most: asking writes to the disk, and anybody may ask.

    Args:
        find: says what is wrong.
    """

    def __init__(self, find: Callable[[], list[str]]) -> None:
        self._find = find
        self._lock = asyncio.Lock()
        self._known: tuple[float, list[str]] | None = None

    async def problems(self) -> list[str]:
        """Of this second."""
        async with self._lock:
            if self._known is None or time.monotonic() - self._known[0] >= 1.0:
                self._known = time.monotonic(), await asyncio.to_thread(self._find)
            return self._known[1]


def state_of(connection: HTTPConnection) -> State:
    """The state behind a request."""
    return cast(State, connection.app.state.service)

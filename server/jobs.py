"""Videos, one after the other: claimed from the store, decoded outside, scored here, finished all at once or not.

A job ends in one transaction. Whatever dies before it, the job is claimed again by the next process; whatever comes
after it finds the job done. So there is one result, or none yet. What counts against a job that ended without one:
`setbacks` for what happened in this process, `storage.retention` for the death of the process.

Example:
    >>> with JobRunner(store, classifier, detector, decoders, hub, metrics, config) as runner:
    ...     job, created = store.create_job(...)
    ...     runner.wake()
"""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.errors import Cancelled, FakeFaceError, LimitExceeded
from fakeface_jax.faces import FaceDetector
from fakeface_jax.server.events import EventHub
from fakeface_jax.server.pictures import LimitedDetector
from fakeface_jax.server.prometheus_metrics import Metrics
from fakeface_jax.server.sandbox.pool import Decoders
from fakeface_jax.server.service_config import ServiceConfig
from fakeface_jax.server.setbacks import Setback, after
from fakeface_jax.server.storage.job_records import Job
from fakeface_jax.server.storage.store import Store
from fakeface_jax.video.reading.opencv import FrameSource
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.render.crops import suspicious_crops
from fakeface_jax.video.render.page import save_video_html
from fakeface_jax.video.report.records import FrameRecord
from fakeface_jax.video.report.video_report import VideoReport, plain
from fakeface_jax.video.scoring import score_video

_log = logging.getLogger("fakeface.jobs")

_POLL = 5.0
"""Seconds after which the queue is looked at although nobody said that there is something in it."""

_SWEEP = 600.0
"""Seconds between two looks for what has expired."""

_DAY = 86_400.0
"""Seconds."""

_PROGRESS = 0.2
"""Seconds between two events of progress."""

SAMPLING_FIELDS = ("fps", "every", "frames", "faces", "start", "end")


class JobRunner:
    """The thread that scores videos.

    Args:
        store: has the jobs; under its exclusive lock.
        classifier: the model.
        detector: finds the faces.
        decoders: open media in processes of their own.
        hub: is told what happens.
        metrics: count it.
        config: limits and retention.
        describe: a job as clients see it, for the last event.
    """

    def __init__(
        self,
        store: Store,
        classifier: FaceClassifier,
        detector: FaceDetector,
        decoders: Decoders,
        hub: EventHub,
        metrics: Metrics,
        config: ServiceConfig,
        *,
        describe: Callable[[Job], dict[str, Any]],
    ) -> None:
        self._store, self._classifier, self._decoders = store, classifier, decoders
        self._detector = LimitedDetector(detector, config.limits.faces)
        self._hub, self._metrics, self._config, self._describe = hub, metrics, config, describe
        self._changed = threading.Condition()
        self._waking = self._stopping = False
        self._running: str | None = None
        # The latest: one may be deleted between being claimed and being begun.
        self._deleted: collections.deque[str] = collections.deque(maxlen=64)
        self._progress: dict[str, tuple[int, int]] = {}
        # Jobs that ended without a result.
        self._unsettled: collections.deque[tuple[Job, Setback]] = collections.deque()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def __enter__(self) -> JobRunner:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def detector(self) -> str:
        """Its name."""
        return self._detector.name

    @property
    def alive(self) -> bool:
        """Whether videos are being scored, now or when there are some."""
        return self._thread.is_alive()

    def progress(self, job_id: str) -> tuple[int, int] | None:
        """Frames done and to be done, about, of a job that runs."""
        return self._progress.get(job_id)

    def wake(self) -> None:
        """There is something in the queue."""
        with self._changed:
            self._waking = True
            self._changed.notify_all()

    def cancel(self, job_id: str) -> None:
        """Stops a job that runs, before its next frame; it has been deleted."""
        self._deleted.append(job_id)

    def stop(self) -> None:
        """Ends after the frame that is being scored; its job goes back into the queue."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        sweep_at = time.monotonic()
        while not self._stopping:
            try:
                self._settle()
                if time.monotonic() >= sweep_at:
                    sweep_at = time.monotonic() + _SWEEP
                    self._store.sweep()
                job = self._store.claim()
                if job is not None and self._work(job):
                    continue
            except Exception:
                # A full disk, say: the store comes back or the operator does; readiness tells.
                _log.exception("the store cannot be used")
            with self._changed:
                if not self._waking and not self._stopping:
                    self._changed.wait(_POLL)
                self._waking = False

    @property
    def _cancelled(self) -> bool:
        return self._running in self._deleted

    def _should_stop(self) -> bool:
        return self._stopping or self._cancelled

    def _work(self, job: Job) -> bool:
        """Whether the next one may be begun at once; not where this one ended for want of something."""
        setback = Setback()
        self._running = job.id
        channel = self._hub.channel(job.id)
        channel.send("state", {"state": "running", "attempt": job.attempt})
        _log.info("job started", extra={"job": job.id, "attempt": job.attempt, "bytes": job.media_bytes})
        began = time.monotonic()
        try:
            # Alone among videos the store sees to; pictures and live sources go on, their decoders being small.
            with self._decoders.with_room() if job.apart is not None else contextlib.nullcontext():
                self._score(job)
        except Cancelled:
            if not self._cancelled:
                self._unsettled.append((job, setback))
        except Exception as error:
            setback = after(error, job, self._config.attempts)
            if setback.wanting:
                _log.warning("no space, memory or descriptors", extra={"job": job.id, "kind": type(error).__name__})
                self._unsettled.append((job, setback))
            elif isinstance(error, FakeFaceError):
                self._unsettled.append((job, setback))
            elif self._is_there(job):  # the files of a job that was deleted are gone under its feet
                _log.exception("unexpected error", extra={"job": job.id})
                self._unsettled.append((job, setback))
        finally:
            self._progress.pop(job.id, None)
            self._running = None
            self._settle()
            self._tell_end(job)
            _log.info("job ended", extra={"job": job.id, "seconds": round(time.monotonic() - began, 3)})
        return not setback.wanting

    def _is_there(self, job: Job) -> bool:
        try:
            return self._store.job(job.owner, job.id) is not None
        except Exception:  # what is wrong with the store is told elsewhere
            return True

    def _settle(self) -> None:
        """Writes how jobs ended that have no result. What the store does not take now is tried again, before any other
        job: without that, they would be running for ever."""
        while self._unsettled:
            job, setback = self._unsettled[0]
            if setback.error is None:
                self._store.requeue(
                    job.id, job.attempt, failures=setback.failures, wants=setback.wants, apart=setback.apart
                )
            elif self._store.fail(job.id, job.attempt, setback.error, keep_failed=self._config.keep_failed * _DAY):
                self._metrics.jobs.labels("failed").inc()
            self._unsettled.popleft()
            if setback.error is not None:
                self._tell_end(job)

    def _tell_end(self, job: Job) -> None:
        ended = None
        with contextlib.suppress(Exception):
            ended = self._store.job(job.owner, job.id)
        if ended is not None and str(ended.state) in ("done", "failed"):
            channel = self._hub.channel(job.id)
            channel.send("state", {"state": str(ended.state), "attempt": ended.attempt})
            channel.send("end", self._describe(ended), last=True)
            self._hub.drop(job.id)
        elif ended is None:
            self._hub.drop(job.id)

    def _score(self, job: Job) -> None:
        settings, channel = job.settings, self._hub.channel(job.id)
        sampling = Sampling(**{name: settings[name] for name in SAMPLING_FIELDS if settings.get(name) is not None})
        told = 0.0

        def progress(done: int, total: int | None) -> None:
            nonlocal told
            self._progress[job.id] = done, total or done
            if done > self._config.limits.video_frames:
                raise LimitExceeded(job.name, f"more than {self._config.limits.video_frames} frames", "sample fewer")
            if time.monotonic() - told >= _PROGRESS or done == total:
                told = time.monotonic()
                channel.send("progress", {"done": done, "total": total or done})

        def on_frame(frame: FrameRecord) -> None:
            channel.send("frame", plain(frame))

        ends = time.monotonic() + self._config.limits.job_seconds

        def stop() -> bool:
            if time.monotonic() > ends:
                most = f"more than {self._config.limits.job_seconds:g} s of work"
                raise LimitExceeded(job.name, most, "sample fewer frames, or send a part of it")
            return self._should_stop()

        media = self._store.artefact(job.id, "media")
        with self._decoders.open_video(media, job.name, stop=stop) as video:
            report = score_video(
                self._classifier,
                self._detector,
                video,
                sampling,
                rule=settings.get("rule"),
                progress=progress,
                on_frame=on_frame,
                name=job.name,
                sha256=job.media_sha256,
                stop=stop,
            )
            channel.send("verdict", {"verdict": str(report.verdict), "p_fake": report.p_fake, "reason": report.reason})
            if settings.get("crops"):
                self._draw(job, report, video)
        if settings.get("annotate"):
            target = self._store.artefact(job.id, "annotated.mp4")
            self._decoders.annotate(report, media, target, name=job.name, stop=stop)
        self._check_stop(job)
        stored = self._store.finish(
            job.id,
            job.attempt,
            report_json=json.dumps(report.to_dict(), allow_nan=False),
            model_id=self._classifier.bundle.id,
            verdict=str(report.verdict),
            p_fake=report.p_fake,
            reason=report.reason,
            expires=time.time() + self._config.keep_reports * _DAY,
        )
        if stored:
            self._metrics.jobs.labels("done").inc()
            self._metrics.scored_video(report)

    def _check_stop(self, job: Job) -> None:
        if self._should_stop():
            raise Cancelled(f"{job.id}: stopped")

    def _draw(self, job: Job, report: VideoReport, video: FrameSource) -> None:
        """The crops and the page. The verdict is known by now."""
        crops = suspicious_crops(report, self._classifier, video)
        self._check_stop(job)
        path = self._store.artefact(job.id, "crops.json")
        path.write_text(json.dumps({"crops": crops}, allow_nan=False), encoding="utf-8")
        save_video_html(report, self._store.artefact(job.id, "page.html"), self._classifier, video, crops=crops)

"""What an operator watches, for Prometheus: requests, queues, batches, stages, frames, scores as they are distributed.

The distribution of scores is there so that drift is seen: a model that meets new fakes or a new camera answers
otherwise than before, long before anybody labels anything. `docs/service.md` has alert rules.

Example:
    >>> metrics = Metrics(model="lite0", model_id="3f5a...")
    >>> metrics.requests.labels("POST", "/v1/images", "200").inc()
    >>> metrics.text()
    b'# HELP fakeface_requests_total ...'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fakeface_jax import __version__
from fakeface_jax.video.report.video_report import ImageReport, VideoReport

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SCORES = tuple(step / 20 for step in range(1, 20))
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one process, in a registry of their own.

    Args:
        model: name of the model.
        model_id: its hash.
    """

    def __init__(self, *, model: str, model_id: str) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(f"fakeface_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: Iterable[float], labels: Iterable[str] = ()) -> Histogram:
            return Histogram(f"fakeface_{name}", text, labels, buckets=tuple(buckets), registry=self.registry)

        self.requests = counter("requests", "Requests by route and status code.", ("method", "route", "code"))
        self.request_seconds = histogram(
            "request_seconds", "From the first byte of a request to the last of its answer.", _SECONDS, ("route",)
        )
        self.batch_faces = histogram("batch_faces", "Faces that were scored together.", _BATCHES)
        self.batch_seconds = histogram("batch_seconds", "Seconds of the model for a batch.", _SECONDS)
        self.stage_seconds = counter("stage_seconds", "Seconds spent in each stage.", ("kind", "stage"))
        self.frames = counter("frames", "Frames of videos by what became of them.", ("what",))
        self.faces = counter("faces", "Faces that were scored.", ("kind",))
        self.jobs = counter("jobs", "Videos by how they ended.", ("state",))
        self.verdicts = counter("verdicts", "Verdicts.", ("kind", "verdict"))
        self.scores = histogram("score", "P(fake) of pictures and videos, for drift.", _SCORES, ("kind",))
        self.refused = counter("refused", "Requests that found no room, by queue.", ("queue",))
        Info("fakeface_model", "The model that scores.", registry=self.registry).info(
            {"name": model, "id": model_id, "version": __version__}
        )
        # A label is there from the beginning, so that an alert on its rate works before it first happens.
        for state in ("done", "failed"):
            self.jobs.labels(state)
        for queue in ("images", "jobs", "live", "streams", "events", "uploads"):
            self.refused.labels(queue)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is asked for whenever somebody looks."""
        Gauge(f"fakeface_{name}", text, registry=self.registry).set_function(value)

    def states(
        self, name: str, text: str, label: str, values: Callable[[], Mapping[str, float]], *, total: bool
    ) -> None:
        """Numbers by a label that are kept elsewhere; `total` where they only grow."""
        self.registry.register(_Elsewhere(f"fakeface_{name}", text, label, values, total=total))

    def scored_image(self, report: ImageReport) -> None:
        """Counts a picture."""
        self._scored("image", report)
        self.faces.labels("image").inc(sum(face.p_fake is not None for face in report.faces))

    def scored_video(self, report: VideoReport) -> None:
        """Counts a video."""
        self._scored("video", report)
        self.faces.labels("video").inc(report.evidence.faces_scored)
        for what, count in (
            ("read", report.frames_read),
            ("scored", report.evidence.frames_with_face),
            ("sampled", report.evidence.frames_sampled),
            ("skipped", report.frames_skipped),
            ("dropped", report.evidence.frames_dropped),
        ):
            self.frames.labels(what).inc(count)

    def _scored(self, kind: str, report: ImageReport | VideoReport) -> None:
        self.verdicts.labels(kind, str(report.verdict)).inc()
        if report.p_fake is not None:
            self.scores.labels(kind).observe(report.p_fake)
        for stage in ("open", "decode", "detect", "classify", "track", "aggregate"):
            self.stage_seconds.labels(kind, stage).inc(getattr(report.seconds, stage))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


class _Elsewhere(Collector):
    def __init__(
        self, name: str, text: str, label: str, values: Callable[[], Mapping[str, float]], *, total: bool
    ) -> None:
        self._name, self._text, self._label, self._values, self._total = name, text, label, values, total

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily if self._total else GaugeMetricFamily
        metric = family(self._name, self._text, labels=[self._label])
        for value, number in self._values().items():
            metric.add_metric([value], number)
        return [metric]

"""`fakeface stream`: scores a camera, a network stream or a file at its own speed; prints lines, events and alerts.

Example:
    >>> Streaming(source=("rtsp://camera.local/live",), format="jsonl").run()
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fakeface_jax.cli.output import Records, tell
from fakeface_jax.cli.score import NONE_READ, Common
from fakeface_jax.errors import ConfigError, OpenError, printable
from fakeface_jax.video.live.stream_config import LiveConfig, StreamConfig

if TYPE_CHECKING:
    from fakeface_jax.cli.stream_alerts import Webhook
    from fakeface_jax.video.live.scorer import LiveScorer, VerdictChange
    from fakeface_jax.video.live.stream_records import LiveFrame
    from fakeface_jax.video.live.watch import Event, Status

_KEPT_CROPS = 5
"""Crops of each person that an alert saves: those with the highest score in the window."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Streaming:
    """Scores a live stream until it ends or is stopped, and says who looked fake in the last seconds.

    Attributes:
        source: a camera's number (0), an address (rtsp, rtsps, http, https), or a video file, played at its own speed.
        model: bundle directory, or the name of a bundled model: lite0 (default), clip-lite0 or report-cnn.
        format: text prints a line per second for people; jsonl prints a record per second and one per event, for
            programs.
        reading: how the source is read.
        scoring: how scores over time become verdicts.
        seconds: stop after this many seconds. If omitted: run until the stream ends.
        alert_url: http or https address that receives a JSON record whenever a verdict turns fake.
        save_evidence: directory in which the faces are saved whenever a verdict turns fake.
        show: show the scored pictures in a window; q or Esc ends.
    """

    source: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    model: Path | None = None
    format: Literal["text", "jsonl"] = "text"
    reading: StreamConfig = StreamConfig()
    scoring: LiveConfig = LiveConfig()
    seconds: float | None = None
    alert_url: str | None = dataclasses.field(default=None, repr=False)
    save_evidence: Path | None = None
    show: bool = False

    def run(self) -> int:
        """Scores the stream and returns the exit code."""
        from fakeface_jax.atomic_files import make_directory
        from fakeface_jax.cli.stream_alerts import Webhook
        from fakeface_jax.video.live.scorer import LiveScorer
        from fakeface_jax.video.live.stream import Stream
        from fakeface_jax.video.live.watch import watch

        if len(self.source) != 1:
            # The parser would print a second address as it is, with its password.
            raise ConfigError(
                f"{len(self.source)} sources were named; fakeface stream reads one, start one command for each"
            )
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(f"--seconds {self.seconds}: must be above 0")
        stream = Stream(self.source[0], self.reading)
        if self.save_evidence is not None:
            try:
                make_directory(self.save_evidence)
            except OpenError as error:
                raise ConfigError(f"--save-evidence {error}") from error
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(_signals_that_stop())
            hook = stack.enter_context(Webhook(self.alert_url, tell=tell)) if self.alert_url is not None else None
            classifier, detector = Common(model=self.model, show=self.show).load()
            scorer = LiveScorer(classifier, detector, self.scoring, keep_crops=_KEPT_CROPS if self.save_evidence else 0)
            scorer.warm_up()
            records = stack.enter_context(Records(self.format, output=None, columns=()))
            alerts = _Alerts(stream.name, scorer, hook, self.save_evidence)
            window = stack.enter_context(_Window(stream.name, scorer)) if self.show else None
            stack.enter_context(stream)
            events = watch(
                stream,
                scorer,
                seconds=self.seconds,
                stop=lambda: bool(stop.signum) or (window is not None and window.closed),
                on_frame=window,
            )
            read = self._tell(events, records, alerts, classifier.bundle.id)
        if stop.signum:
            return 128 + stop.signum
        return 0 if read else NONE_READ

    def _tell(self, events: Iterator[Event], records: Records, alerts: _Alerts, model: str) -> int:
        """Prints the events and returns how many pictures were read."""
        from fakeface_jax.video.live.scorer import VerdictChange
        from fakeface_jax.video.live.watch import Status

        read = 0
        for event in events:
            record = _Record(input=alerts.input, event=event)
            if isinstance(event, Status):
                read = event.counters.read
                if event.final:
                    record.values |= {"model": {"id": model}, "mode": self.reading.mode, **alerts.summary()}
                records.add(record, _status_text(event, alerts))
            else:
                records.add(record, _event_text(event))
            if isinstance(event, VerdictChange):
                alert = alerts.of(event)
                if alert is not None:
                    records.add(_Record.of(alert), _alert_text(alert))
        if not read:
            tell(f"fakeface: {printable(alerts.input)}: no picture was received; check that the source is on")
        return read


class _Record:
    """A record for `Records` that holds a dictionary."""

    def __init__(self, *, input: str, event: Event) -> None:
        kind = event.to_dict()
        self.values: dict[str, Any] = {"type": kind.pop("type"), "input": input, "utc": _utc(), **kind}

    @classmethod
    def of(cls, values: dict[str, Any]) -> _Record:
        record = cls.__new__(cls)
        record.values = values
        return record

    def to_dict(self) -> dict[str, object]:
        return self.values

    def summary_row(self) -> dict[str, object]:
        return self.values


class _Alerts:
    """The actions taken when a verdict turns fake; failures are counted and printed, and do not end the stream."""

    def __init__(self, input: str, scorer: LiveScorer, hook: Webhook | None, directory: Path | None) -> None:
        self.input = input
        self._scorer, self._hook, self._directory = scorer, hook, directory
        self._count = self._saved = self._not_saved = 0
        self._last: float | None = None

    def of(self, change: VerdictChange) -> dict[str, Any] | None:
        """Saves and sends the alert that a change deserves and returns it; returns None if it deserves none.

        If a person's verdict and the stream's turn fake with the same picture, they are one alert.
        """
        from fakeface_jax.labels import Verdict

        unwanted = self._hook is None and self._directory is None
        if unwanted or change.verdict is not Verdict.FAKE or change.time == self._last:
            return None
        self._count, self._last = self._count + 1, change.time
        alert = {"type": "alert", "input": self.input, "utc": _utc(), **change.to_dict(), "number": self._count}
        alert["type"] = "alert"
        if self._directory is not None:
            alert["evidence"] = self._save(self._directory, alert)
        if self._hook is not None:
            self._hook.send(alert)
        return alert

    def summary(self) -> dict[str, Any]:
        """Returns counts for the last record. Alerts that are still being sent are neither delivered nor failed."""
        if self._hook is None and self._directory is None:
            return {}
        hook = self._hook
        counts = {"sent": self._count, "evidence_saved": self._saved, "evidence_failed": self._not_saved}
        return {"alerts": counts | ({"delivered": hook.delivered, "failed": hook.failed} if hook is not None else {})}

    def _save(self, directory: Path, alert: dict[str, Any]) -> str | None:
        from fakeface_jax.cli.stream_alerts import save_evidence
        from fakeface_jax.labels import Verdict

        people = self._scorer.people
        # If the stream's verdict came from several people in turn, no single person's verdict is fake.
        fakes = [person for person in people if person.verdict is Verdict.FAKE] or people
        faces = {person.number: self._scorer.evidence(person.number) for person in fakes}
        try:
            folder = save_evidence(directory, alert, faces)
        except (OpenError, OSError) as error:
            self._not_saved += 1
            tell(f"fakeface: the evidence was not saved: {printable(str(error))}")
            return None
        self._saved += 1
        return str(folder)


class _Window:
    """A window that shows each scored picture."""

    def __init__(self, title: str, scorer: LiveScorer) -> None:
        self.closed = False
        self._title, self._scorer = printable(title), scorer

    def __enter__(self) -> _Window:
        return self

    def __exit__(self, *_: object) -> None:
        import cv2

        cv2.destroyAllWindows()

    def __call__(self, frame: LiveFrame) -> None:
        import cv2

        from fakeface_jax.video.render.annotate import annotate

        banner = f"{self._scorer.verdict}  {frame.time:.1f} s"
        image = annotate(frame.image, self._scorer.faces, banner=banner, banner_verdict=self._scorer.verdict)
        cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self.closed = self.closed or cv2.waitKey(1) in (27, ord("q"))


class _Stop:
    """The signal that asked the stream to stop; 0 if none did."""

    signum = 0


@contextlib.contextmanager
def _signals_that_stop() -> Iterator[_Stop]:
    """Lets Ctrl-C, SIGTERM and SIGHUP end the stream with its summary; a second signal ends it at once."""
    stop, previous = _Stop(), dict[int, Any]()

    def handle(signum: int, _: FrameType | None) -> None:
        if stop.signum:
            raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)
        stop.signum = signum

    try:
        for wanted in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
            # An ignored signal stays ignored, as nohup wants.
            if signal.getsignal(wanted) is not signal.SIG_IGN:
                previous[wanted] = signal.signal(wanted, handle)
    except ValueError:
        pass  # not the main thread: whoever owns the process handles its signals
    try:
        yield stop
    finally:
        for wanted, handler in previous.items():
            signal.signal(wanted, handler)


def _utc() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _clock_text(seconds: float | None) -> str:
    return "       -" if seconds is None else f"{seconds:6.1f} s"


def _status_text(status: Status, alerts: _Alerts) -> str:
    counters = status.counters
    lag = "-" if counters.lag is None else f"{counters.lag:.2f} s"
    score = "" if status.p_fake is None else f" {status.p_fake:.3f}"
    people = "  ".join(
        f"person {person.number} P(fake) {person.p_fake:.3f} {person.verdict}" for person in status.people
    )
    counts = f"read {counters.read}  scored {counters.scored}  skipped {sum(counters.skipped.values())}"
    waiting = f"waiting {counters.waiting}"
    if not status.final:
        line = (
            f"{_clock_text(status.time)}  {status.state:<10}  {counts}  {waiting}  {status.read_fps:.1f} fps  lag {lag}"
        )
        return f"{line}  {status.verdict}{score}" + (f"  [{people}]" if people else f"  ({status.reason})")
    reasons = ", ".join(f"{reason} {count}" for reason, count in counters.skipped.items() if count)
    lines = [
        f"{printable(alerts.input)}: {status.verdict}{score}  ({status.reason})",
        f"  pictures  {counts}" + (f" ({reasons})" if reasons else "") + f"  {waiting}",
        f"  source    attempts {counters.attempts}  reconnects {counters.reconnects}  stalls {counters.stalls}  "
        f"decode errors {counters.decode_errors}",
        f"  speed     {status.read_fps:.1f} read, {status.scored_fps:.1f} scored per second  lag {lag}",
    ]
    if counted := alerts.summary().get("alerts"):
        lines.append("  alerts    " + "  ".join(f"{name.replace('_', ' ')} {n}" for name, n in counted.items()))
    return "\n".join(lines)


def _event_text(event: Event) -> str:
    from fakeface_jax.video.live.scorer import VerdictChange
    from fakeface_jax.video.live.stream_records import StateChange

    if isinstance(event, StateChange):
        return f"{_clock_text(event.time)}  -- {event.state}" + (f": {printable(event.reason)}" if event.reason else "")
    assert isinstance(event, VerdictChange)
    who = "the stream" if event.person is None else f"person {event.person}"
    score = "" if event.p_fake is None else f"  P(fake) {event.p_fake:.3f}"
    return f"{_clock_text(event.time)}  -- {who}: {event.before} -> {event.verdict}{score}"


def _alert_text(alert: dict[str, Any]) -> str:
    saved = f", evidence in {printable(alert['evidence'])}" if alert.get("evidence") else ""
    return f"{_clock_text(alert['time'])}  -- alert {alert['number']}{saved}"

"""Scores of a live stream: per person over the last seconds, and a verdict that does not flicker.

A person's score is the model's rule for videos (by default the mean of the calibrated logits) over a rolling window. A
verdict changes only when the new one has held for some seconds; `fake` is left only when the score has also fallen
below its threshold by a margin. The stream's verdict is that of its most fake person with enough evidence.

Example:
    >>> scorer = LiveScorer(FaceClassifier.load(), create_detector())
    >>> for change in scorer.score(frame):
    ...     print(change.to_dict())
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.classifier import BATCH_SIZES, FaceClassifier
from fakeface_jax.decision import sigmoid
from fakeface_jax.faces import Box, FaceDetector, sharpness
from fakeface_jax.labels import Verdict
from fakeface_jax.video.faces.detection import MIN_FACE
from fakeface_jax.video.faces.tracking import Tracker, TrackingConfig
from fakeface_jax.video.live.stream_config import LiveConfig
from fakeface_jax.video.live.stream_records import LiveFrame
from fakeface_jax.video.report.records import FaceRecord
from fakeface_jax.video.verdict.aggregation import DEFAULT_RULE, Scores, aggregate
from fakeface_jax.video.verdict.roles import MAIN_SIZE
from fakeface_jax.video.verdict.thresholds import MIN_SECONDS, MIN_SHARPNESS
from fakeface_jax.video.verdict.verdicts import Decision

_RANK = {Verdict.REAL: 0, Verdict.INCONCLUSIVE: 1, Verdict.FAKE: 2}


class SteadyVerdict:
    """A verdict that follows another one only when that has held.

    Where others have taken turns for that long, and none has held, it is left for `inconclusive`.

    Args:
        hold: seconds.
        verdict: to begin with.
    """

    def __init__(self, hold: float, verdict: Verdict = Verdict.INCONCLUSIVE) -> None:
        self.verdict = verdict
        self._hold = hold
        self._next = verdict
        self._since = 0.0
        self._others_since: float | None = None

    def update(self, time: float, wanted: Verdict) -> bool:
        """What is wanted at a time, in seconds that do not go back. Whether the verdict has changed."""
        if wanted is not self._next:
            self._next, self._since = wanted, time
        if wanted is self.verdict:
            self._others_since = None
            return False
        if self._others_since is None:
            self._others_since = time
        held = time - self._since >= self._hold
        if not held and (time - self._others_since < 2 * self._hold or self.verdict is Verdict.INCONCLUSIVE):
            return False
        self.verdict = wanted if held else Verdict.INCONCLUSIVE
        self._others_since = None
        return True


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """A face that a verdict rests on.

    Attributes:
        crop: what the model saw, RGB.
        logit: calibrated, of this face alone.
        time: seconds from the first picture of the stream.
        frame: the picture's number.
        box: in pixels of that picture.
    """

    crop: UInt8[np.ndarray, "s s 3"]
    logit: float
    time: float
    frame: int
    box: Box


@dataclasses.dataclass(frozen=True, kw_only=True)
class PersonStatus:
    """What is known about one person in the window.

    Attributes:
        number: from 1, in order of appearance.
        verdict: steady.
        p_fake: over the window.
        frames: pictures in the window with a scored face of this person.
        seconds: that these cover.
        reason: why the evidence is too little; empty where it is enough.
    """

    number: int
    verdict: Verdict
    p_fake: float
    frames: int
    seconds: float
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        rounded = {"p_fake": round(self.p_fake, 4), "seconds": round(self.seconds, 2)}
        return {**dataclasses.asdict(self), "verdict": str(self.verdict), **rounded}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerdictChange:
    """A verdict that has changed.

    Attributes:
        time: seconds from the first picture of the stream.
        person: whose; None for the stream's.
        before: the verdict until now.
        verdict: from now on.
        p_fake: over the window; None without a scored face in it.
    """

    time: float
    person: int | None
    before: Verdict
    verdict: Verdict
    p_fake: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "type": "verdict",
            "time": round(self.time, 3),
            "person": self.person,
            "before": str(self.before),
            "verdict": str(self.verdict),
            "p_fake": None if self.p_fake is None else round(self.p_fake, 4),
        }


class _Person:
    """The faces of one person in the window."""

    def __init__(self, number: int, config: LiveConfig) -> None:
        self.number = number
        self.steady = SteadyVerdict(config.hold)
        self.evidence: list[Evidence] = []
        self._config = config
        self._seen: collections.deque[tuple[float, float, bool, float]] = collections.deque()

    def add(self, time: float, logit: float, *, sharp: bool, size: float) -> None:
        self._seen.append((time, logit, sharp, size))

    @property
    def size(self) -> float:
        """Median of the longer side of the face, in pixels."""
        return float(np.median([size for *_, size in self._seen]))

    def keep(self, evidence: Evidence, most: int) -> None:
        """The most fake faces of the window."""
        self.evidence = sorted([*self.evidence, evidence], key=lambda one: -one.logit)[:most]

    def expire(self, before: float) -> bool:
        """Drops what is older; whether anything is left."""
        while self._seen and self._seen[0][0] < before:
            self._seen.popleft()
        self.evidence = [one for one in self.evidence if one.time >= before]
        return bool(self._seen)

    def logit(self, decision: Decision) -> float:
        times, logits, *_ = zip(*self._seen, strict=True)
        scores = Scores.of(logits, times=times)
        return float(decision.calibration.logit(np.array([aggregate(scores, decision.rule)]))[0])

    def status(self, logit: float) -> PersonStatus:
        seconds, sharp = self._seen[-1][0] - self._seen[0][0], sum(sharp for _, _, sharp, _ in self._seen)
        reason = ""
        if sharp < self._config.min_frames:
            reason = f"sharp faces in {sharp} pictures, a verdict needs {self._config.min_frames}"
        elif seconds < MIN_SECONDS - 1e-3:
            reason = f"faces over {seconds:.1f} s, a verdict needs {MIN_SECONDS:g} s"
        return PersonStatus(
            number=self.number,
            verdict=self.steady.verdict,
            p_fake=float(sigmoid(np.asarray(logit))),
            frames=len(self._seen),
            seconds=seconds,
            reason=reason,
        )


class LiveScorer:
    """Scores pictures as they come, in one thread. Memory is bounded: crops and scores of the window, no pictures.

    Args:
        classifier: the model.
        detector: finds the faces.
        config: how scores become verdicts.
        keep_crops: how many of each person's most fake crops in the window are kept, as evidence.
        tracking: when a face continues a person.

    Attributes:
        verdict: the stream's, steady.
        p_fake: of the person that the verdict is about; None while nobody has enough evidence.
        reason: in words, of the verdict that is wanted at the moment.
        people: those with a scored face in the window.
        faces: of the last picture.
    """

    def __init__(
        self,
        classifier: FaceClassifier,
        detector: FaceDetector,
        config: LiveConfig = LiveConfig(),
        *,
        keep_crops: int = 0,
        tracking: TrackingConfig = TrackingConfig(),
    ) -> None:
        spec = classifier.spec
        self.classifier, self.detector, self.config = classifier, detector, config
        # As a video of the last seconds is scored.
        self.decision = Decision.of(spec, spec.video.rule if spec.video is not None else DEFAULT_RULE)
        self.p_fake: float | None = None
        self.reason = "no picture yet"
        self.people: tuple[PersonStatus, ...] = ()
        self.faces: tuple[FaceRecord, ...] = ()
        self._keep_crops = keep_crops
        self._tracker = Tracker(tracking)
        self._persons: dict[int, _Person] = {}
        self._steady = SteadyVerdict(config.hold)
        self._began: float | None = None
        self._last = self._now = 0.0

    @property
    def verdict(self) -> Verdict:
        """The stream's."""
        return self._steady.verdict

    def warm_up(self) -> None:
        """Compiles the model and loads the detector, which would take the first picture's time."""
        self.detector.detect(np.zeros((480, 640, 3), np.uint8))
        size = self.classifier.spec.crop.size
        for batch in BATCH_SIZES[:2]:
            self.classifier.calibrated_logits(np.zeros((batch, size, size, 3), np.uint8))

    def evidence(self, person: int) -> tuple[Evidence, ...]:
        """The most fake faces of a person in the window, most fake first."""
        return tuple(self._persons[person].evidence) if person in self._persons else ()

    def score(self, frame: LiveFrame) -> list[VerdictChange]:
        """Scores one picture; the verdicts that change by it. Times do not go back."""
        time = max(frame.time, self._now)
        self._began = time if self._began is None else self._began
        faces = self.detector.detect(frame.image)
        numbers = self._tracker.update(time, frame.image, faces)
        large = [row for row, face in enumerate(faces) if face.size >= MIN_FACE]
        crops = [self.classifier.crop(frame.image, faces[row]) for row in large]
        scores = self.classifier.scores([faces[row] for row in large], np.stack(crops)) if large else []
        found = {}
        for row, crop, score in zip(large, crops, scores, strict=True):
            person = self._persons.setdefault(numbers[row], _Person(numbers[row], self.config))
            person.add(time, score.logit, sharp=sharpness(crop) >= MIN_SHARPNESS, size=score.face.size)
            if self._keep_crops:
                kept = Evidence(crop=crop, logit=score.logit, time=time, frame=frame.number, box=score.face.box)
                person.keep(kept, self._keep_crops)
            found[row] = score
        self.faces = tuple(
            FaceRecord(
                box=face.box,
                p_fake=found[row].p_fake if row in found else None,
                verdict=found[row].verdict if row in found else Verdict.INCONCLUSIVE,
                confidence=face.confidence,
                logit=found[row].logit if row in found else None,
                person=numbers[row],
            )
            for row, face in enumerate(faces)
        )
        self._last = time
        return self.advance(time)

    def advance(self, time: float) -> list[VerdictChange]:
        """What a time without a picture changes: windows empty themselves, and a verdict may have held long enough."""
        time = self._now = max(time, self._now)
        self._persons = {
            number: person for number, person in self._persons.items() if person.expire(time - self.config.window)
        }
        changes, people, wanted = [], [], []
        largest = max((person.size for person in self._persons.values()), default=0.0)
        for person in self._persons.values():
            logit = person.logit(self.decision)
            status = person.status(logit)
            before = person.steady.verdict
            if person.steady.update(time, self._judge(logit, status, before)):
                status = dataclasses.replace(status, verdict=person.steady.verdict)
                changes.append(self._change(time, status.number, before, status.verdict, status.p_fake))
            people.append(status)
            # As in videos, small faces in the background do not decide.
            if not status.reason and person.size >= MAIN_SIZE * largest:
                verdict = self._judge(logit, status, self.verdict)
                wanted.append((_RANK[verdict], logit, verdict, status))
        self.people = tuple(people)
        before = self.verdict
        if self._steady.update(time, self._wanted(time, wanted)):
            changes.append(self._change(time, None, before, self.verdict, self.p_fake))
        return changes

    def _wanted(self, time: float, candidates: list[tuple[int, float, Verdict, PersonStatus]]) -> Verdict:
        """The stream's verdict at this moment, without patience; also what is said about it."""
        self.p_fake = None
        if self._began is None:
            return Verdict.INCONCLUSIVE
        if time - self._last > self.config.window:
            self.reason = f"no new picture for {time - self._last:.0f} s"
            return Verdict.INCONCLUSIVE
        if candidates:
            _, _, verdict, status = max(candidates, key=lambda one: one[:2])
            self.p_fake, self.reason = status.p_fake, f"person {status.number}"
            return verdict
        if self.people:
            self.reason = self.people[0].reason
            return Verdict.INCONCLUSIVE
        if time - self._began < self.config.window:
            self.reason = "no face yet"
            return Verdict.INCONCLUSIVE
        self.reason = f"no face of at least {MIN_FACE} pixels for {self.config.window:g} s"
        return Verdict.NO_FACE

    def _judge(self, logit: float, status: PersonStatus, now: Verdict) -> Verdict:
        if status.reason:
            return Verdict.INCONCLUSIVE
        bands = self.decision.bands
        # The margin is added where it holds the verdict back; the score that is shown stays what it is.
        if now is Verdict.FAKE and bands.decide(float(sigmoid(np.asarray(logit + self.config.margin)))) is now:
            return now
        return bands.decide(status.p_fake)

    def _change(
        self, time: float, person: int | None, before: Verdict, verdict: Verdict, p_fake: float | None
    ) -> VerdictChange:
        return VerdictChange(time=time, person=person, before=before, verdict=verdict, p_fake=p_fake)

"""From scored faces to people, evidence and a verdict with its reasons in words.

Example:
    >>> decide(records, classifier.spec, rule="worst_person", fps=25.0, dropped=0, walked=255).reason
    'P(fake) 0.970 reaches 0.930; 31 faces over 10.2 s of person 2; 2 of 3 people count'
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fakeface_jax.bundle import BundleSpec
from fakeface_jax.decision import Calibration, VerdictBands, log_odds
from fakeface_jax.labels import Verdict
from fakeface_jax.video.faces.detection import MIN_FACE
from fakeface_jax.video.report.records import Evidence, FaceRecord, FrameRecord, PersonRecord, Role, Segment
from fakeface_jax.video.verdict.aggregation import Scores, aggregate
from fakeface_jax.video.verdict.roles import roles, segments
from fakeface_jax.video.verdict.thresholds import MAX_UNREAD, MIN_FRAMES, MIN_SECONDS, MIN_SHARPNESS

SEGMENT_RATE = 0.05
"""Faces speak for a suspicious segment from the threshold that this share of single real faces reaches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """How a logit of a person or a video becomes P(fake) and a verdict.

    Attributes:
        calibration: of the aggregated logit.
        bands: of P(fake).
        rule: of the aggregation.
        of_videos: whether these were fitted on scores of videos, by this rule.
    """

    calibration: Calibration
    bands: VerdictBands
    rule: str
    of_videos: bool

    @classmethod
    def of(cls, spec: BundleSpec, rule: str) -> Decision:
        """The bundle's for videos where it was fitted for this rule; else that for single faces."""
        if spec.video is not None and spec.video.rule == rule:
            return cls(calibration=spec.video.calibration, bands=spec.video.bands, rule=rule, of_videos=True)
        return cls(calibration=Calibration(), bands=spec.bands, rule=rule, of_videos=False)

    def p_fake(self, scores: Scores) -> float:
        """P(fake) of a person or a video, in [0, 1]."""
        return float(self.calibration(np.array([aggregate(scores, self.rule)]))[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a video comes to.

    Attributes:
        people: in order of appearance.
        p_fake: of the video; None without a scored face.
        verdict: of the video.
        reason: in words.
        evidence: of everybody.
    """

    people: tuple[PersonRecord, ...]
    p_fake: float | None
    verdict: Verdict
    reason: str
    evidence: Evidence


def decide(
    records: Sequence[FrameRecord],
    spec: BundleSpec,
    *,
    rule: str,
    fps: float | None,
    dropped: int,
    walked: int,
) -> Outcome:
    """People, score, verdict and reason of a video.

    Args:
        records: its sampled frames, in order of time.
        spec: of the model that scored.
        rule: of the aggregation.
        fps: nominal frame rate; None where unknown.
        dropped: frames that could not be read: damaged, or cut off.
        walked: frames that were come by, these among them.
    """
    decision = Decision.of(spec, rule)
    threshold = _face_threshold(spec)
    seen: dict[int, list[tuple[FrameRecord, FaceRecord]]] = defaultdict(list)
    for record in records:
        for face in record.faces:
            seen[face.person or 0].append((record, face))
    shown = {number: [face.box for _, face in mine if face.logit is not None] for number, mine in seen.items()}
    parts = roles(
        {number: boxes or [seen[number][0][1].box] for number, boxes in shown.items()},
        {number: mine[-1][0].time - mine[0][0].time for number, mine in seen.items()},
    )
    everybody = evidence_of(records, fps, dropped=dropped)
    unread = f"{dropped} of {walked} frames could not be read"
    much_unread = dropped > MAX_UNREAD * walked
    people = tuple(_person(number, seen[number], parts[number], decision, threshold, fps) for number in sorted(seen))
    if much_unread:
        people = tuple(
            dataclasses.replace(
                person, verdict=Verdict.INCONCLUSIVE, reason=f"{unread}; of the others: {person.reason}"
            )
            if person.verdict is Verdict.REAL
            else person
            for person in people
        )
    scored = [person for person in people if person.p_fake is not None]
    main = [person for person in scored if person.role is Role.MAIN] or scored
    if not main:
        return Outcome(
            people=people,
            p_fake=None,
            verdict=Verdict.NO_FACE,
            reason=without_score(everybody.faces_too_small),
            evidence=everybody,
        )
    # Somebody seen for a moment has a score that chance made: it decides nothing, nor do many of them together.
    counted = [person for person in main if not _too_little(person.evidence)]
    numbers = {person.number for person in counted or main}
    p_fake = decision.p_fake(
        _scores([(record, face) for record in records for face in record.faces if face.person in numbers])
    )
    if not counted:
        longest = max(main, key=lambda person: person.evidence.frames_with_face)
        return Outcome(
            people=people,
            p_fake=p_fake,
            verdict=Verdict.INCONCLUSIVE,
            reason=longest.reason
            if len(people) == 1
            else f"nobody is seen enough; person {longest.number}: {longest.reason}",
            evidence=everybody,
        )
    worst = max(counted, key=lambda person: person.p_fake or 0.0)
    verdict, reason = verdict_of(p_fake, worst.evidence, decision)
    unjudged = [
        person
        for person in main
        if person not in counted and decision.bands.decide(person.p_fake or 0.0) is not Verdict.REAL
    ]
    if verdict is Verdict.REAL and unjudged:
        verdict = Verdict.INCONCLUSIVE
        most = max(unjudged, key=lambda person: person.p_fake or 0.0)
        looks = "looks fake" if decision.bands.decide(most.p_fake or 0.0) is Verdict.FAKE else "may be fake"
        reason = f"person {most.number} {looks} and is seen too little: {most.reason}; others: {reason}"
    if len(people) > 1:
        reason += f" of person {worst.number}; {len(counted)} of {len(people)} people count"
    if verdict is Verdict.REAL and much_unread:
        verdict, reason = Verdict.INCONCLUSIVE, f"{unread}; of the others: {reason}"
    elif dropped:
        reason += f"; {unread}"
    return Outcome(people=people, p_fake=p_fake, verdict=verdict, reason=reason, evidence=everybody)


def verdict_of(p_fake: float | None, evidence: Evidence, decision: Decision) -> tuple[Verdict, str]:
    """A verdict and its reason, from a score and what it rests on."""
    if p_fake is None:
        return Verdict.NO_FACE, without_score(evidence.faces_too_small)
    little = _too_little(evidence)
    if little:
        return Verdict.INCONCLUSIVE, little
    bands = decision.bands
    verdict = bands.decide(p_fake)
    score = f"P(fake) {p_fake:.3f}"
    says = {
        Verdict.FAKE: f"{score} reaches {bands.fake_from:.3f}",
        Verdict.REAL: f"{score} is below {bands.real_below:.3f}",
        Verdict.INCONCLUSIVE: f"{score} is between {bands.real_below:.3f} and {bands.fake_from:.3f}",
    }[verdict]
    source = "" if decision.of_videos else ", thresholds of single faces"
    return verdict, f"{says}{source}; {evidence.faces_scored} faces over {evidence.seconds:.1f} s"


def evidence_of(records: Iterable[FrameRecord], fps: float | None, *, dropped: int = 0) -> Evidence:
    """How much some frames' faces say."""
    records = list(records)
    faces = [face for record in records for face in record.faces]
    scored = sum(face.p_fake is not None for face in faces)
    with_face = [record for record in records if any(face.p_fake is not None for face in record.faces)]
    # The last frame is shown for a while too: 24 frames at 24 per second are one second, not 23/24.
    seconds = with_face[-1].time - with_face[0].time + (1.0 / fps if fps else 0.0) if with_face else 0.0
    return Evidence(
        faces_scored=scored,
        frames_sampled=len(records),
        frames_with_face=len(with_face),
        seconds=seconds,
        faces_too_small=len(faces) - scored,
        frames_dropped=dropped,
        frames_sharp=sum(
            any((face.sharpness or 0.0) >= MIN_SHARPNESS for face in record.faces) for record in with_face
        ),
    )


def without_score(found: int) -> str:
    """Why there is no score."""
    if not found:
        return "no face was found"
    return f"{found} found, with a longer side under {MIN_FACE} pixels: too small to be scored"


def _person(
    number: int,
    mine: list[tuple[FrameRecord, FaceRecord]],
    role: Role,
    decision: Decision,
    threshold: float,
    fps: float | None,
) -> PersonRecord:
    evidence = evidence_of(_frames_of(mine), fps)
    scored = [(record, face) for record, face in mine if face.logit is not None]
    scores = _scores(scored) if scored else None
    p_fake = decision.p_fake(scores) if scores else None
    verdict, reason = verdict_of(p_fake, evidence, decision)
    return PersonRecord(
        number=number,
        role=role,
        p_fake=p_fake,
        verdict=verdict,
        reason=reason,
        start=mine[0][0].time,
        end=mine[-1][0].time,
        evidence=evidence,
        face_pixels=float(np.median([max(face.box[2] - face.box[0], face.box[3] - face.box[1]) for _, face in mine])),
        segments=_segments(scores, decision, threshold) if scores and not _too_little(evidence) else (),
    )


def _segments(scores: Scores, decision: Decision, threshold: float) -> tuple[Segment, ...]:
    found = []
    for start, end, rows in segments(scores, threshold=threshold):
        p_fake = decision.p_fake(scores.only(rows))
        found.append(Segment(start=start, end=end, p_fake=p_fake, verdict=decision.bands.decide(p_fake)))
    return tuple(found)


def _too_little(evidence: Evidence) -> str:
    """Why the evidence carries no verdict; empty where it does."""
    if evidence.frames_with_face < MIN_FRAMES:
        found = f"{evidence.frames_with_face} frame{'s' if evidence.frames_with_face != 1 else ''}"
        return f"faces scored in {found}, a verdict needs {MIN_FRAMES}"
    if evidence.seconds < MIN_SECONDS - 1e-3:
        return f"faces over {evidence.seconds:.2f} s, a verdict needs {MIN_SECONDS:g} s"
    if evidence.frames_sharp < MIN_FRAMES:
        found = f"{evidence.frames_sharp} of {evidence.frames_with_face} frames"
        return f"sharp faces in {found}, a verdict needs {MIN_FRAMES}"
    return ""


def _face_threshold(spec: BundleSpec) -> float:
    """The logit from which a single face is suspicious."""
    points = [point for point in spec.operating_points if point.kind == "fpr" and point.rate == SEGMENT_RATE]
    return log_odds(points[0].threshold if points else spec.bands.fake_from)


def _scores(mine: Sequence[tuple[FrameRecord, FaceRecord]]) -> Scores:
    scored = [(face.logit, face.person or 0, record.time) for record, face in mine if face.logit is not None]
    logits, people, times = zip(*scored, strict=True)
    return Scores.of(logits, people, times)


def _frames_of(mine: Iterable[tuple[FrameRecord, FaceRecord]]) -> list[FrameRecord]:
    """Frames with the given faces alone."""
    faces: Mapping[int, list[FaceRecord]] = defaultdict(list)
    frames = {}
    for record, face in mine:
        frames[record.index] = record
        faces[record.index].append(face)
    return [dataclasses.replace(record, faces=tuple(faces[index])) for index, record in frames.items()]

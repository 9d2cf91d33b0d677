"""Verdicts and their reasons, on records whose scores are known."""

import dataclasses

import numpy as np
import pytest

from fakeface_jax.bundle import BundleSpec
from fakeface_jax.decision import Calibration, OperatingPoint, VerdictBands, VideoDecision, sigmoid
from fakeface_jax.faces import CropSpec
from fakeface_jax.labels import Verdict
from fakeface_jax.video.report.records import FaceRecord, FrameRecord, Role
from fakeface_jax.video.verdict.verdicts import decide

POINT = OperatingPoint(kind="fpr", rate=0.05, threshold=0.7, rate_low=0, rate_high=0.1, split="calibration", samples=99)
SPEC = BundleSpec(
    name="made",
    model={},
    crop=CropSpec(),
    detector="centerface",
    bands=VerdictBands(real_below=0.2, fake_from=0.9),
    operating_points=(POINT,),
)
VIDEO = VideoDecision(
    rule="worst_person",
    calibration=Calibration(scale=2.0, bias=-1.0, method="platt"),
    bands=VerdictBands(real_below=0.1, fake_from=0.6),
)


def record(index, *faces, fps=10.0):
    """A frame with faces given as (person, logit), with (left, size) or as None for too small a one."""
    made = []
    for person, logit, *place in faces:
        left, size = place[0] if place else (100.0 + 10 * np.sin(index), 100.0)
        made.append(
            FaceRecord(
                box=(left, 50.0, left + size, 50.0 + size),
                p_fake=None if logit is None else float(sigmoid(np.array([logit]))[0]),
                verdict=Verdict.INCONCLUSIVE,
                confidence=0.9,
                logit=logit,
                person=person,
                sharpness=None if logit is None else 0.1,
            )
        )
    return FrameRecord(index=index, time=index / fps, faces=tuple(made))


def outcome(records, spec=SPEC, rule="worst_person", dropped=0):
    return decide(records, spec, rule=rule, fps=10.0, dropped=dropped, walked=len(records) + dropped)


@pytest.mark.parametrize(("logit", "verdict"), [(3.0, Verdict.FAKE), (0.0, Verdict.INCONCLUSIVE), (-3.0, Verdict.REAL)])
def test_the_verdict_is_the_band_of_the_score_and_says_so(logit, verdict):
    found = outcome([record(index, (1, logit)) for index in range(20)])
    assert found.verdict is verdict
    assert found.p_fake == pytest.approx(float(sigmoid(np.array([logit]))[0]))
    assert f"P(fake) {found.p_fake:.3f}" in found.reason
    assert "thresholds of single faces" in found.reason
    assert "20 faces over 2.0 s" in found.reason


def test_videos_have_a_calibration_and_thresholds_of_their_own():
    spec = dataclasses.replace(SPEC, video=VIDEO)
    records = [record(index, (1, 1.0)) for index in range(20)]
    found = outcome(records, spec)
    assert found.p_fake == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert (found.verdict, found.people[0].verdict) == (Verdict.FAKE, Verdict.FAKE)
    assert "single faces" not in found.reason
    # They were fitted for one rule.
    other = outcome(records, spec, rule="worst_window")
    assert other.verdict is Verdict.INCONCLUSIVE
    assert "single faces" in other.reason


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([record(index, (1, 5.0)) for index in (0, 10, 20, 30)], "faces scored in 4 frames, a verdict needs 5"),
        ([record(index, (1, 5.0), fps=25.0) for index in range(10)], "a verdict needs 1 s"),
    ],
)
def test_little_evidence_is_inconclusive_however_sure_the_score(records, says):
    found = outcome(records)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.p_fake > 0.99
    assert says in found.reason


def test_blurred_faces_are_little_evidence():
    records = [record(index, (1, 5.0)) for index in range(20)]
    blurred = [
        dataclasses.replace(one, faces=tuple(dataclasses.replace(face, sharpness=0.001) for face in one.faces))
        for one in records
    ]
    found = outcome(records[:4] + blurred[4:])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "sharp faces in 4 of 20 frames" in found.reason


def test_no_face_is_no_score():
    found = outcome([record(index) for index in range(20)])
    assert (found.verdict, found.p_fake, found.people) == (Verdict.NO_FACE, None, ())
    small = outcome([record(index, (1, None)) for index in range(20)])
    assert (small.verdict, small.p_fake) == (Verdict.NO_FACE, None)
    assert small.people[0].verdict is Verdict.NO_FACE
    assert "too small" in small.reason


def test_background_faces_and_passers_by_decide_nothing():
    records = [
        record(
            index,
            (1, -3.0, (100.0 + 20 * np.sin(index), 120.0)),
            (2, 6.0, (300.0 + 3 * np.sin(index), 35.0)),
            *([(3, 6.0, (500.0, 120.0))] if index < 2 else []),
        )
        for index in range(30)
    ]
    found = outcome(records)
    assert found.verdict is Verdict.REAL
    assert [person.role for person in found.people][:2] == [Role.MAIN, Role.BACKGROUND]
    assert found.people[1].verdict is Verdict.FAKE  # and the report still says it
    assert "of person 1; 1 of 3 people count" in found.reason


def test_of_two_people_the_fake_one_decides():
    records = [
        record(index, (1, -3.0, (100 + 9 * np.sin(index), 100.0)), (2, 3.0, (300 + 9 * np.cos(index), 90.0)))
        for index in range(20)
    ]
    found = outcome(records)
    assert found.verdict is Verdict.FAKE
    assert [person.verdict for person in found.people] == [Verdict.REAL, Verdict.FAKE]
    assert "of person 2; 2 of 2 people count" in found.reason


def test_many_people_who_are_seen_too_little_make_no_verdict():
    """An edited film: one of its many faces has a score by chance."""
    records = [record(index, (index + 1, 6.0 if index == 7 else -6.0), fps=0.5) for index in range(32)]
    found = outcome(records)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "nobody is seen enough" in found.reason
    assert "faces scored in 1 frame" in found.reason


def test_real_is_not_said_beside_somebody_who_looks_fake_and_is_seen_too_little():
    records = [
        record(
            index,
            (1, -3.0, (100 + 9 * np.sin(index), 100.0)),
            *([(2, 8.0, (300 + 9 * np.cos(index), 100.0))] if index < 4 else []),
        )
        for index in range(30)
    ]
    found = outcome(records)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "person 2 looks fake and is seen too little" in found.reason


def test_a_partial_fake_is_a_segment_of_its_person():
    records = [record(index, (1, 4.0 if 270 <= index < 300 else -3.0)) for index in range(600)]
    found = outcome(records)
    (part,) = found.people[0].segments
    assert (part.start, part.end) == (pytest.approx(27.0, abs=0.1), pytest.approx(30.0, abs=0.1))
    assert part.verdict is Verdict.FAKE
    assert found.verdict is Verdict.REAL  # of the whole minute, by the mean
    assert outcome(records, rule="worst_window").verdict is Verdict.FAKE


@pytest.mark.parametrize(
    ("logit", "dropped", "verdict"),
    [
        (-3.0, 2, Verdict.REAL),
        (-3.0, 3, Verdict.INCONCLUSIVE),
        (3.0, 100, Verdict.FAKE),
        (0.0, 100, Verdict.INCONCLUSIVE),
    ],
)
def test_what_could_not_be_read_may_be_fake(logit, dropped, verdict):
    found = outcome([record(index, (1, logit)) for index in range(20)], dropped=dropped)
    assert found.verdict is verdict
    assert f"{dropped} of {20 + dropped} frames could not be read" in found.reason
    assert [person.verdict for person in found.people] == [verdict]


@pytest.mark.parametrize(("logit", "verdict"), [(-3.0, Verdict.REAL), (0.0, Verdict.INCONCLUSIVE)])
def test_somebody_seen_too_little_stops_real_unless_real_too(logit, verdict):
    frames = [record(index, (1, -3.0)) for index in range(20)] + [record(20 + n, (2, logit)) for n in range(4)]
    found = outcome(frames)
    assert found.verdict is verdict
    assert ("person 2 may be fake and is seen too little" in found.reason) == (verdict is Verdict.INCONCLUSIVE)

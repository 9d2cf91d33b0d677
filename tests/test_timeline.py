"""The bar below videos, read back by its pixels."""

import dataclasses

import numpy as np
import pytest

from fakeface_jax.decision import VerdictBands, sigmoid
from fakeface_jax.labels import Verdict
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.render.drawing import COLOURS
from fakeface_jax.video.render.timeline import Timeline, lane, lanes, length
from fakeface_jax.video.report.records import (
    Evidence,
    FaceRecord,
    FrameRecord,
    Media,
    Model,
    PersonRecord,
    Role,
    Segment,
    StageSeconds,
)
from fakeface_jax.video.report.video_report import VideoReport

BANDS = VerdictBands(real_below=0.3, fake_from=0.7, reason="chosen by hand for tests")
EVIDENCE = Evidence(
    faces_scored=9, frames_sampled=10, frames_with_face=9, seconds=9.0, faces_too_small=0, frames_dropped=0
)


def a_face(person, logit, left=10.0):
    p_fake = float(sigmoid(np.asarray(logit)))
    box = (left, 20.0, left + 40.0, 70.0)
    return FaceRecord(
        box=box, p_fake=p_fake, verdict=BANDS.decide(p_fake), confidence=0.9, logit=logit, person=person, sharpness=0.1
    )


def a_person(number, p_fake, role=Role.MAIN, segments=()):
    return PersonRecord(
        number=number,
        role=role,
        p_fake=p_fake,
        verdict=BANDS.decide(p_fake),
        reason=f"P(fake) {p_fake:.3f} by hand",
        start=0.0,
        end=9.0,
        evidence=EVIDENCE,
        face_pixels=50.0,
        segments=segments,
    )


def people_report(name="clip.avi"):
    """Ten seconds, a frame each. Person 1 is real, person 2 turns fake at 5 s and was not seen before 3 s, person 3 is
    in the background and looks fake."""
    frames = []
    for second in range(10):
        faces = [a_face(1, -3.0, left=10.0 + second), a_face(3, 4.0, left=180.0)]
        if second >= 3:
            faces.insert(1, a_face(2, 3.0 if second >= 5 else 0.0, left=100.0))
        frames.append(FrameRecord(index=second * 10, time=float(second), faces=tuple(faces)))
    segments = (Segment(start=4.5, end=9.5, p_fake=0.95, verdict=Verdict.FAKE),)
    return VideoReport(
        input=str(name),
        verdict=Verdict.FAKE,
        p_fake=0.8,
        reason="P(fake) 0.800 reaches 0.700",
        people=(a_person(1, 0.05), a_person(2, 0.8, segments=segments), a_person(3, 0.98, Role.BACKGROUND)),
        frames=tuple(frames),
        evidence=EVIDENCE,
        media=Media(sha256="ab" * 32, width=240, height=180, fps=10.0, frames=100, duration=10.0),
        sampling=Sampling(fps=1.0),
        model=Model(
            name="tiny", id="cd" * 32, calibration="none", detector="x", trained_with_detector="x", bands=BANDS
        ),
        aggregation="mean_of_logits",
        seconds=StageSeconds(decode=1.0),
        frames_read=100,
        settings={"tracking": {"iou": 0.3}},
    )


def test_lanes_are_of_main_people_with_gaps_where_nobody_was_seen():
    first, second = lanes(people_report())
    assert (first.title, second.title) == ("person 1", "person 2")
    assert (first.stretches[0].start, first.stretches[-1].end) == (0.0, 9.5)
    assert second.stretches[0].start == 2.5  # half way from the frame that did not have this person
    ends = [stretch.end for stretch in second.stretches[:-1]]
    assert ends == [stretch.start for stretch in second.stretches[1:]]


def test_with_many_people_the_most_suspicious_are_shown_by_number():
    report = people_report()
    crowd = tuple(a_person(number, (number * 37 % 10) / 10) for number in range(1, 9))
    shown = lanes(dataclasses.replace(report, people=crowd))
    worst = sorted(crowd, key=lambda person: -person.p_fake)[:4]
    assert [one.person.number for one in shown] == sorted(person.number for person in worst)


def test_a_report_without_people_has_one_lane_of_the_most_fake_faces():
    report = dataclasses.replace(people_report(), people=())
    (only,) = lanes(report)
    assert only.person is None
    assert [stretch.face.person for stretch in only.stretches] == [3] * 10


def column(timeline, report, time):
    """Colours of the bar at a time, with the cursor elsewhere."""
    bar = timeline.at(0.0 if time > length(report) / 2 else length(report))
    left = timeline._column(time)
    return {tuple(pixel) for pixel in bar[:, left]}, bar[:, left]


def test_bar_has_the_colours_of_the_scores_and_their_height():
    report = people_report()
    timeline = Timeline(report, width=1200, height=900)
    early, late = column(timeline, report, 1.0)[0], column(timeline, report, 8.0)[0]
    assert COLOURS[Verdict.REAL] in early
    assert COLOURS[Verdict.REAL] in late
    assert COLOURS[Verdict.FAKE] not in early
    assert COLOURS[Verdict.FAKE] in late
    assert COLOURS[Verdict.INCONCLUSIVE] in column(timeline, report, 3.5)[0]

    def filled(time, verdict):
        return (column(timeline, report, time)[1] == COLOURS[verdict]).all(axis=1).sum()

    assert filled(8.0, Verdict.FAKE) > 3 * filled(8.0, Verdict.REAL)


def test_a_suspicious_stretch_is_marked_from_its_beginning_to_its_end():
    report = people_report()
    marked = Timeline(report, width=1200, height=900)
    plain = Timeline(
        dataclasses.replace(report, people=(report.people[0], a_person(2, 0.8), report.people[2])),
        width=1200,
        height=900,
    )
    changed = (marked.at(0.0) != plain.at(0.0)).any(axis=(0, 2)).nonzero()[0]
    assert changed.min() == pytest.approx(marked._column(4.5), abs=1)
    assert changed.max() == pytest.approx(marked._column(9.5), abs=1)


def test_only_the_cursor_moves():
    timeline = Timeline(people_report(), width=1200, height=900)
    one, other = timeline.at(2.0), timeline.at(7.0)
    changed = set((one != other).any(axis=(0, 2)).nonzero()[0].tolist())
    near = {timeline._column(time) + step for time in (2.0, 7.0) for step in range(-8, 9)}
    assert changed
    assert changed <= near
    assert (one[:, timeline._column(2.0)] == 255).all()
    np.testing.assert_array_equal(timeline.at(2.0), one)


@pytest.mark.parametrize("size", [(16, 16), (40, 300), (300, 41), (1920, 1080)])
def test_bar_fits_any_picture(size):
    width, height = size
    bar = Timeline(people_report(), width=width, height=height)
    for time in (-1.0, 0.0, 5.0, 99.0):
        assert bar.at(time).shape == (bar.height, width, 3)
    assert bar.height % 2 == 0
    if min(size) >= 1000:
        assert bar.height < 0.12 * height  # of two lanes


def test_no_frame_and_no_length_are_no_error():
    report = people_report()
    empty = dataclasses.replace(
        report, frames=(), people=(), media=dataclasses.replace(report.media, duration=None), p_fake=None
    )
    assert lane(empty, None).stretches == ()
    assert Timeline(empty, width=100, height=100).at(0.0).shape[1:] == (100, 3)
    single = dataclasses.replace(report, frames=report.frames[:1])
    assert lanes(single)[0].stretches[0].end == pytest.approx(0.1)

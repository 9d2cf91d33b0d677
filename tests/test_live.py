"""Rolling scores and steady verdicts, on scores that the test chooses; and half an hour in simulated time."""

import dataclasses
import itertools
import json
import random
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from simulated_stream import Simulation, agrees

from fakeface_jax.bundle import BundleSpec
from fakeface_jax.classifier import FaceClassifier, FaceScore
from fakeface_jax.decision import Calibration, VerdictBands, VideoDecision
from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import CropSpec, Face, crop_face
from fakeface_jax.labels import Verdict
from fakeface_jax.video.live.capture import ConnectionLost, DamagedPicture, Picture
from fakeface_jax.video.live.scorer import LiveScorer, SteadyVerdict, VerdictChange
from fakeface_jax.video.live.stream_config import LiveConfig
from fakeface_jax.video.live.stream_records import LiveFrame, Skip, State, StateChange
from fakeface_jax.video.live.watch import Status, watch

FAKE_FROM, REAL_BELOW = 2.0, -2.0
"""Logits of the bands below."""

LEFT, RIGHT = (10.0, 10.0, 60.0, 60.0), (90.0, 30.0, 140.0, 80.0)
TINY = (5.0, 5.0, 20.0, 20.0)


def sigmoid(logit):
    return float(1 / (1 + np.exp(-logit)))


class ChosenScores(FaceClassifier):
    """Gives each face the logit that the test has put at its place."""

    def __init__(self, video=None):
        bands = VerdictBands(real_below=sigmoid(REAL_BELOW), fake_from=sigmoid(FAKE_FROM))
        self.spec = BundleSpec(
            name="chosen", model={}, crop=CropSpec(size=32), detector="chosen", bands=bands, video=video
        )
        self.at = {}
        self.calls = 0

    def crop(self, image, face):
        return crop_face(image, face.box, self.spec.crop)

    def scores(self, faces, crops):
        self.calls += 1
        assert len(faces) == len(crops)
        logits = [self.at[face.box] for face in faces]
        return [
            FaceScore(face=face, logit=logit, p_fake=sigmoid(logit), verdict=self.spec.bands.decide(sigmoid(logit)))
            for face, logit in zip(faces, logits, strict=True)
        ]


class ChosenFaces:
    name = "chosen"

    def __init__(self, *boxes):
        self.boxes = boxes

    def detect(self, image):
        return [Face(box=box, confidence=0.9) for box in self.boxes]


NOISE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
NOISE[:, 80:] //= 3  # two people do not look alike


class Bench:
    """A scorer that is fed ten pictures a second."""

    def __init__(self, *boxes, video=None, **settings):
        self.classifier, self.detector = ChosenScores(video), ChosenFaces(*boxes)
        self.scorer = LiveScorer(self.classifier, self.detector, LiveConfig(**settings), keep_crops=3)
        self.time, self.number = 0.0, 0

    def play(self, seconds, *logits, image=NOISE):
        """Everything that changed while each face had its logit."""
        changes = []
        for _ in range(round(seconds * 10)):
            self.classifier.at = dict(zip(self.detector.boxes, logits, strict=False))
            frame = LiveFrame(image=image, number=self.number, time=self.time, captured_at=self.time)
            changes += self.scorer.score(frame)
            self.number, self.time = self.number + 1, self.number / 10 + 0.1
        return changes


def of_stream(changes):
    return [(change.before, change.verdict) for change in changes if change.person is None]


def test_a_verdict_must_hold():
    steady = SteadyVerdict(2.0)
    assert not steady.update(0.0, Verdict.FAKE)
    assert not steady.update(1.9, Verdict.FAKE)
    assert not steady.update(1.95, Verdict.REAL)  # the patience begins anew
    assert not steady.update(2.0, Verdict.FAKE)
    assert not steady.update(3.9, Verdict.FAKE)
    assert steady.update(4.0, Verdict.FAKE)
    assert steady.verdict is Verdict.FAKE
    assert not steady.update(9.0, Verdict.FAKE)


def test_a_fake_person_is_told_once_after_evidence_and_patience():
    bench = Bench(LEFT)
    changes = bench.play(10, 4.0)
    assert [(change.person, change.verdict) for change in changes] == [(1, Verdict.FAKE), (None, Verdict.FAKE)]
    # A second of evidence, two of patience.
    assert changes[0].time == pytest.approx(3.0)
    assert bench.scorer.verdict is Verdict.FAKE
    status = bench.scorer.people[0]
    assert (status.frames, status.p_fake) == (pytest.approx(50, abs=1), pytest.approx(sigmoid(4.0)))
    assert json.loads(json.dumps(changes[0].to_dict()))["before"] == "inconclusive"


def test_the_score_is_the_mean_logit_of_the_window():
    bench = Bench(LEFT, window=5.0)
    bench.play(4, -4.0)
    bench.play(3, 1.0)
    # 50 or 51 pictures from 1.9 s to 6.9 s: 20 or 21 of the first kind, 30 of the second
    old = bench.scorer.people[0].frames - 30
    assert 20 <= old <= 21
    assert bench.scorer.people[0].p_fake == pytest.approx(sigmoid((old * -4.0 + 30 * 1.0) / (old + 30)))
    assert bench.scorer.faces[0].p_fake == pytest.approx(sigmoid(1.0))


def test_a_score_around_the_threshold_does_not_flicker():
    """Short windows, so that the score follows: it crosses the threshold every 2.5 s, and the verdict stays."""
    bench = Bench(LEFT, window=2.0, margin=0.5)
    bench.play(5, FAKE_FROM + 0.3)
    assert bench.scorer.verdict is Verdict.FAKE
    changes = [change for _ in range(4) for logit in (-0.3, 0.3) for change in bench.play(2.5, FAKE_FROM + logit)]
    assert changes == []
    assert bench.play(8, FAKE_FROM - 0.3) == []  # below the threshold, and within the margin
    left = bench.play(10, FAKE_FROM - 0.8)
    assert of_stream(left) == [(Verdict.FAKE, Verdict.INCONCLUSIVE)]
    back = bench.play(10, FAKE_FROM - 0.3)  # the margin does not help to come back
    assert back == []


def test_without_hysteresis_it_would_flicker():
    bench = Bench(LEFT, window=2.0, margin=0.0, hold=0.0)
    bench.play(5, FAKE_FROM + 0.3)
    changes = [change for _ in range(4) for logit in (-0.3, 0.3) for change in bench.play(2.5, FAKE_FROM + logit)]
    assert len(of_stream(changes)) == 8


def test_the_stream_is_what_its_most_fake_person_is():
    bench = Bench(LEFT, RIGHT)
    bench.play(8, -4.0, 4.0)
    scorer = bench.scorer
    verdicts = {person.number: person.verdict for person in scorer.people}
    assert verdicts == {1: Verdict.REAL, 2: Verdict.FAKE}
    assert (scorer.verdict, scorer.reason) == (Verdict.FAKE, "person 2")
    bench.detector.boxes = (LEFT,)
    changes = bench.play(10, -4.0)
    assert of_stream(changes) == [(Verdict.FAKE, Verdict.REAL)]
    # Once less than a second of whoever left is in the window, the patience begins.
    assert changes[-1].time == pytest.approx(7.9 + 5.0 - 1.0 + 2.0, abs=0.15)


def test_little_evidence_is_inconclusive_and_says_so():
    bench = Bench(LEFT, hold=0.0)
    bench.play(0.4, 4.0)
    assert bench.scorer.verdict is Verdict.INCONCLUSIVE
    assert "4 pictures" in bench.scorer.people[0].reason
    bench.play(0.4, 4.0)
    assert "a verdict needs 1 s" in bench.scorer.people[0].reason
    bench.play(0.4, 4.0)
    assert bench.scorer.verdict is Verdict.FAKE


def test_blurred_faces_are_no_evidence():
    bench = Bench(LEFT, hold=0.0)
    bench.play(5, 4.0, image=np.full((120, 160, 3), 90, np.uint8))
    assert bench.scorer.verdict is Verdict.INCONCLUSIVE
    assert "sharp faces in 0 pictures" in bench.scorer.reason


def test_no_face_is_its_own_verdict_and_so_is_no_picture():
    bench = Bench()
    changes = bench.play(10)
    assert of_stream(changes) == [(Verdict.INCONCLUSIVE, Verdict.NO_FACE)]
    assert changes[0].time == pytest.approx(7.0)  # the window, and the patience
    bench.detector.boxes = (TINY,)
    assert bench.play(5) == []
    assert bench.classifier.calls == 0
    changes = [change for second in range(10) for change in bench.scorer.advance(bench.time + second)]
    assert of_stream(changes) == [(Verdict.NO_FACE, Verdict.INCONCLUSIVE)]
    assert "no new picture for" in bench.scorer.reason


def test_thresholds_for_videos_are_used_where_the_model_has_them():
    video = VideoDecision(
        rule="worst_window",
        calibration=Calibration(scale=2.0, bias=1.0),
        bands=VerdictBands(real_below=0.1, fake_from=0.99),
    )
    bench = Bench(LEFT, video=video)
    bench.play(5, -1.0)
    bench.play(1, 1.0)  # the worst two seconds begin here; the mean of the window is lower
    assert bench.scorer.people[0].p_fake == pytest.approx(sigmoid(3.0))
    assert bench.scorer.verdict is Verdict.INCONCLUSIVE


def test_the_most_fake_crops_of_the_window_are_the_evidence():
    bench = Bench(LEFT)
    for logit in (1.0, 5.0, 3.0, 9.0, 2.0):
        bench.play(0.1, logit)
    kept = bench.scorer.evidence(1)
    assert [(one.logit, one.frame) for one in kept] == [(9.0, 3), (5.0, 1), (3.0, 2)]
    assert np.array_equal(kept[0].crop, bench.classifier.crop(NOISE, Face(box=LEFT, confidence=1.0)))
    bench.play(6, 0.0)
    assert {one.logit for one in bench.scorer.evidence(1)} == {0.0}
    assert bench.scorer.evidence(77) == ()


@pytest.mark.parametrize("settings", [{"window": 0.5}, {"hold": -1.0}, {"margin": float("nan")}, {"min_frames": 0}])
def test_settings_are_checked(settings):
    with pytest.raises(ConfigError):
        LiveConfig(**settings)


# ---- a reader and a scorer together, in simulated time


class Driver:
    """Moves a simulated stream while `watch` waits for pictures: every wait is 100 ms, and the camera's turn."""

    def __init__(self, run, fail=None):
        self.run, self.fail = run, fail
        self.clock = run.clock
        run.clock.wait = self.wait
        self.steps = 0

    def wait(self, condition, seconds):
        self.clock.time += min(seconds, 0.1)
        self.run.stream.tick()
        self.steps += 1
        if self.run.stream.state in (State.BACKOFF, State.ENDED):
            return
        answer = self.fail(self.steps) if self.fail is not None else None
        if answer == "hang":
            self.run.stream.begin_read(self.run.stream.counters.attempts)
            return
        # Threads that hung come back, and find that they are not wanted any more.
        for late in self.run.readers[:-1]:
            late()
        self.run.readers = self.run.readers[-1:]
        if self.run.captures and not self.run.answers:
            self.run.answers.append(answer or Picture(image=np.roll(NOISE, self.steps % 2, axis=0)))
        self.run.readers[-1]()


def test_watching_tells_each_second_and_every_change():
    run = Simulation(stall_after=1.0, read_timeout=2.0)
    driver = Driver(run, fail=lambda step: "hang" if 100 < step < 160 else None)
    bench = Bench(LEFT)
    bench.classifier.at = {LEFT: 4.0}
    events = list(watch(run.stream, bench.scorer, seconds=20.0, clock=driver.clock))
    statuses = [event for event in events if isinstance(event, Status)]
    assert 19 <= len(statuses) <= 21
    assert [event.final for event in statuses] == [False] * (len(statuses) - 1) + [True]
    assert all(agrees(event.counters) for event in statuses)
    states = [event.state for event in events if isinstance(event, StateChange)]
    lost = [State.STALLED, State.BACKOFF, State.CONNECTING, State.LIVE]
    assert states == [State.CONNECTING, State.LIVE, *lost, State.ENDED]
    fakes = [event for event in events if isinstance(event, VerdictChange)]
    assert [(event.person, event.verdict) for event in fakes] == [(1, Verdict.FAKE), (None, Verdict.FAKE)]
    final = statuses[-1].to_dict()
    assert (final["type"], final["verdict"], final["counters"]["reconnects"]) == ("summary", "fake", 1)
    assert statuses[5].to_dict()["people"][0]["number"] == 1
    assert statuses[5].read_fps == pytest.approx(10, rel=0.15)
    json.dumps([event.to_dict() for event in events], allow_nan=False)


def test_the_verdict_of_a_feed_that_has_frozen_expires():
    run = Simulation(stall_after=2.0)
    driver = Driver(run, fail=lambda step: Picture(image=NOISE.copy()) if step > 100 else None)
    bench = Bench(LEFT)
    bench.classifier.at = {LEFT: 4.0}
    events = list(watch(run.stream, bench.scorer, seconds=25.0, clock=driver.clock))
    statuses = [event for event in events if isinstance(event, Status)]
    assert {status.verdict for status in statuses[5:10]} == {Verdict.FAKE}
    assert [event.state for event in events if isinstance(event, StateChange)][:2] == [State.CONNECTING, State.LIVE]
    last = statuses[-2]
    assert (last.state, last.verdict, last.people) == (State.LIVE, Verdict.INCONCLUSIVE, ())
    assert last.reason.startswith("no new picture for")
    assert last.counters.skipped[Skip.REPEATED] > 100


def test_a_request_to_stop_is_heeded_and_a_failure_counts_its_picture():
    run = Simulation()
    driver = Driver(run)
    bench = Bench(LEFT)
    bench.classifier.at = {LEFT: 0.0}
    asked = itertools.count()
    events = list(watch(run.stream, bench.scorer, stop=lambda: next(asked) > 10, clock=driver.clock))
    assert events[-1].final
    assert run.stream.state is State.ENDED
    assert run.captures[0].released <= 1

    run = Simulation()
    driver = Driver(run)
    bench.classifier.at = {}
    with pytest.raises(KeyError):
        list(watch(run.stream, bench.scorer, clock=driver.clock))
    counters = run.stream.counters
    assert agrees(counters)
    assert (counters.scored, counters.waiting, run.stream.state) == (0, 0, State.ENDED)


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's account of memory")


def _memory():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def half_an_hour(minutes):
    """Memory in MiB after each minute of a camera that is lost every minute, hangs, and sends damaged pictures."""
    rng = random.Random(3)

    def fail(step):
        if step % 600 == 599:
            return ConnectionLost("gone")
        if step % 1800 > 1740:
            return "hang"
        return DamagedPicture() if rng.random() < 0.03 else None

    run = Simulation(stall_after=1.0, read_timeout=3.0)
    driver = Driver(run, fail=fail)
    bench = Bench(LEFT)
    bench.classifier.at = {LEFT: 4.0}
    memory, last = [], None
    for event in watch(run.stream, bench.scorer, seconds=minutes * 60.0, clock=driver.clock):
        if isinstance(event, Status):
            assert agrees(event.counters)
            last = event
            if event.final or int(event.time or 0) // 60 > len(memory):
                memory.append(_memory())
    return memory, last


@needs_proc
def test_a_quarter_of_a_minute():
    memory, last = half_an_hour(0.25)
    assert last.counters.read > 130
    assert last.counters.decode_errors > 0
    assert memory[-1] > 0


@needs_proc
@pytest.mark.long
def test_memory_is_flat_over_half_an_hour():
    began, before = time.monotonic(), _peak()
    memory, last = half_an_hour(30)
    growth = memory[-1] - memory[4]
    counters = dataclasses.asdict(last.counters)
    print(
        f"\n30 min in {time.monotonic() - began:.0f} s: RSS MiB by minute {[round(one) for one in memory]}; {counters}"
    )
    assert last.counters.read > 16000
    assert last.counters.reconnects > 20
    assert (last.counters.stalls, last.counters.stuck) == (10, 0)
    assert growth < 8
    # Tests before this one may have used more.
    assert _peak() < max(before + 1, memory[4] + 40)


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

"""The reader of live streams: every state in simulated time, and the counters under threads."""

import random
import threading
import time

import numpy as np
import pytest
from simulated_stream import Simulation, agrees

from fakeface_jax.errors import ConfigError
from fakeface_jax.video.live.capture import ConnectionLost, DamagedPicture, Picture
from fakeface_jax.video.live.stream import Skip, State, Stream
from fakeface_jax.video.live.stream_config import StreamConfig


@pytest.mark.parametrize(
    "settings",
    [{"queue": 0}, {"read_timeout": 0.0}, {"backoff": 60.0}, {"give_up": -1.0}, {"stall_after": float("nan")}],
)
def test_settings_are_checked(settings):
    with pytest.raises(ConfigError):
        StreamConfig(**settings)


def test_the_newest_picture_wins_and_none_is_scored_twice():
    run = Simulation()
    run.connect()
    for _ in range(4):
        run.clock.time += 0.04
        assert run.readers[0]()
    counters = run.stream.counters
    assert (counters.read, counters.waiting, counters.skipped) == (5, 1, {Skip.NEWER_FRAME: 4})
    frame = run.stream.take(timeout=0.0)
    assert (frame.number, frame.time) == (4, pytest.approx(0.16))
    assert run.stream.take(timeout=0.0) is None
    assert run.stream.counters.waiting == 1  # it is being scored
    run.clock.time += 0.5
    run.stream.done(frame)
    counters = run.stream.counters
    assert (counters.scored, counters.waiting, counters.lag) == (1, 0, pytest.approx(0.5))
    with pytest.raises(ConfigError, match="done before"):
        run.stream.done(frame)
    run.readers[0]()
    given_back = run.stream.take(timeout=0.0)
    run.stream.done(given_back, scored=False)
    assert run.stream.counters.skipped[Skip.NOT_SCORED] == 1
    assert agrees(run.stream.counters)


def test_lossless_keeps_the_order_and_counts_what_a_live_source_loses():
    run = Simulation(mode="lossless", queue=3)
    run.connect()
    for _ in range(4):
        assert run.readers[0]()
    assert run.stream.counters.skipped == {Skip.QUEUE_FULL: 2}
    assert [run.stream.take(timeout=0.0).number for _ in range(3)] == [0, 1, 2]
    assert agrees(run.stream.counters)


def test_times_count_from_the_first_picture_and_sizes_may_change():
    run = Simulation()
    run.answers += [Picture(image=np.zeros((4, 4, 3), np.uint8)), Picture(image=np.zeros((9, 16, 3), np.uint8))]
    assert run.stream.seconds is None
    run.after(3.0)
    run.connect()
    first = run.stream.take(timeout=0.0)
    run.after(1.5)
    run.readers[0]()
    second = run.stream.take(timeout=0.0)
    assert (first.time, second.time) == (0.0, 1.5)
    assert (first.image.shape, second.image.shape) == ((4, 4, 3), (9, 16, 3))
    changes = run.stream.changes()
    assert [(change.state, change.time) for change in changes] == [(State.CONNECTING, None), (State.LIVE, 0.0)]


def test_pauses_grow_are_jittered_and_bounded_and_begin_anew_after_health():
    run = Simulation(backoff=1.0, backoff_max=10.0)
    run.refuse = True
    pauses = []
    for attempt in range(1, 9):
        assert not run.readers[-1]()
        assert run.stream.state is State.BACKOFF
        pauses.append(run.stream.tick())
        run.after(pauses[-1])
        assert (run.stream.state, len(run.readers)) == (State.CONNECTING, attempt + 1)
    for number, pause in enumerate(pauses):
        most = min(10.0, 2.0**number)
        assert 0.5 * most <= pause <= most
    assert len({pause / min(10.0, 2.0**number) for number, pause in enumerate(pauses)}) == len(pauses)
    run.refuse = False
    run.connect()
    run.answers.append(ConnectionLost("gone"))
    assert not run.readers[-1]()  # broke at once: it is not well
    assert run.stream.tick() >= 5.0
    run.after(10.0)
    run.connect()
    run.after(6.0)
    run.answers.append(ConnectionLost("gone"))
    run.readers[-1]()
    assert run.stream.tick() <= 1.0
    counters = run.stream.counters
    assert (counters.reconnects, counters.attempts) == (1, 10)
    assert [capture.released for capture in run.captures] == [1, 1]


def test_a_stalled_source_is_told_given_up_and_opened_anew_and_its_late_picture_never_arrives():
    run = Simulation(stall_after=2.0, read_timeout=5.0)
    run.connect()
    run.stream.done(run.stream.take(timeout=0.0))
    assert run.stream.begin_read(1)  # the thread hangs in a read from here on
    run.after(1.9)
    assert run.stream.state is State.LIVE
    run.after(0.1)
    assert run.stream.state is State.STALLED
    run.after(3.6)
    assert run.stream.state is State.BACKOFF
    assert run.stream.counters.stuck == 1
    run.after(0.5)
    run.readers[1]()
    assert not run.readers[0]()  # the hanging thread comes back
    assert run.captures[0].released == 1
    run.readers[1]()
    counters = run.stream.counters
    assert run.stream.state is State.LIVE
    assert (counters.stalls, counters.reconnects, counters.stuck) == (1, 1, 0)
    assert agrees(counters)
    assert [run.stream.take(timeout=0.0).number, counters.read] == [1, 2]


def test_a_late_picture_is_counted_and_thrown_away():
    run = Simulation(read_timeout=5.0)
    run.connect()
    run.stream.done(run.stream.take(timeout=0.0))
    run.stream.begin_read(1)
    run.after(5.6)
    assert not run.stream.deliver(1, Picture(image=np.zeros((4, 4, 3), np.uint8)))
    assert run.stream.counters.skipped == {Skip.LATE: 1}
    assert run.stream.take(timeout=0.0) is None
    assert agrees(run.stream.counters)


def test_a_stall_may_pass():
    run = Simulation(stall_after=2.0)
    run.connect()
    run.stream.begin_read(1)
    run.after(3.0)
    assert run.stream.state is State.STALLED
    run.readers[0]()
    assert run.stream.state is State.LIVE
    assert run.states() == [State.CONNECTING, State.LIVE, State.STALLED, State.LIVE]
    assert run.stream.counters.reconnects == 0


def test_pictures_that_cannot_be_decoded_are_counted_and_are_a_stall():
    run = Simulation(stall_after=2.0, read_timeout=5.0)
    run.connect()
    for _ in range(10):
        run.answers.append(DamagedPicture())
        assert run.readers[0]()
        run.after(0.25)
    assert run.stream.state is State.STALLED
    counters = run.stream.counters
    assert (counters.decode_errors, counters.read) == (10, 1)


def test_hanging_threads_do_not_pile_up():
    run = Simulation(read_timeout=1.0, backoff_max=0.5)
    for _ in range(20):
        run.after(20.0)  # none of the threads ever comes back from opening
    assert (run.stream.counters.stuck, len(run.readers)) == (4, 4)
    hanging = [change for change in run.stream.changes() if "4 reads hang" in change.reason]
    assert len(hanging) == 1
    run.stream.left(2)
    run.after(1.0)
    assert len(run.readers) == 5


def test_a_source_that_stays_away_ends_the_stream_where_that_is_asked_for():
    run = Simulation(give_up=60.0)
    run.refuse = True
    while run.stream.tick() is not None and run.clock.time < 1000:
        run.readers[-1]() if run.stream.state is State.CONNECTING else None
        run.clock.time += run.stream.tick() or 0
    assert run.stream.state is State.ENDED
    assert run.clock.time == pytest.approx(160.0, abs=0.1)
    assert run.stream.changes()[-1].reason == "no picture for 60 s"


def test_a_feed_that_has_frozen_is_read_and_not_scored():
    run = Simulation(mode="lossless", stall_after=2.0)
    run.connect()
    run.stream.done(run.stream.take(0.0))
    frozen = np.full((4, 4, 3), 77, np.uint8)
    run.answers += [Picture(image=frozen.copy()) for _ in range(5)]
    for _ in range(6):
        assert run.readers[-1]()
        run.after(1.0)
    numbers = [run.stream.take(0.0).number for _ in range(2)]
    assert numbers == [1, 6]
    counters = run.stream.counters
    assert counters.skipped == {Skip.REPEATED: 4}
    assert (counters.read, counters.decode_errors) == (7, 0)
    assert agrees(counters)
    assert run.stream.state is State.LIVE


def test_what_is_left_over_at_the_end_is_accounted_for():
    run = Simulation(mode="lossless")
    run.connect()
    run.readers[0]()
    taken = run.stream.take(timeout=0.0)
    run.stream.close()
    run.stream.done(taken)
    assert not run.readers[0]()
    counters = run.stream.counters
    assert (counters.read, counters.scored, counters.skipped) == (2, 1, {Skip.CLOSED: 1})
    assert counters.waiting == 0
    assert run.captures[0].released == 1
    assert run.stream.tick() is None


def test_a_bug_in_a_thread_reaches_whoever_takes():
    run = Simulation()
    run.answers.append(ZeroDivisionError("a bug"))
    run.readers[0]()
    run.readers[0]()
    assert run.stream.state is State.ENDED
    with pytest.raises(ZeroDivisionError):
        run.stream.take(timeout=0.0)


# ---- threads


class Torrent:
    """Pictures as fast as they can be made, damage now and then, and a loss every 97."""

    finite = False

    def __init__(self, rng):
        self._rng = rng
        self._count = 0

    def read(self):
        self._count += 1
        if self._count % 97 == 0:
            raise ConnectionLost("gone")
        if self._rng.random() < 0.1:
            raise DamagedPicture
        return Picture(image=np.full((2, 2, 3), self._count % 256, np.uint8))

    def release(self):
        pass


@pytest.mark.parametrize("mode", ["latest", "lossless"])
def test_counters_agree_at_every_moment(mode):
    rng = random.Random(7)
    config = StreamConfig(mode=mode, queue=4, backoff=0.001, backoff_max=0.002)
    stream = Stream("0", config, open_source=lambda *_: Torrent(rng), rng=rng)
    seen, disagreeing, stop = [], [], threading.Event()

    def score():
        while not stop.is_set():
            frame = stream.take(timeout=0.01)
            if frame is not None:
                seen.append(frame.number)
                stream.done(frame, scored=frame.number % 5 != 0)

    with stream:
        scorers = [threading.Thread(target=score) for _ in range(3)]
        for scorer in scorers:
            scorer.start()
        last = stream.counters
        snapshots, until = 0, time.monotonic() + 20
        while (snapshots < 4000 or last.reconnects < 5) and time.monotonic() < until:
            now = stream.counters
            snapshots += 1
            if not agrees(now) or now.read < last.read or now.scored < last.scored:
                disagreeing.append(now)
            last = now
        stop.set()
        for scorer in scorers:
            scorer.join()
    assert not disagreeing
    assert snapshots >= 4000
    assert len(seen) == len(set(seen))
    end = stream.counters
    assert agrees(end)
    assert end.waiting == 0
    assert end.reconnects >= 5
    assert min(end.scored, end.decode_errors, end.skipped[Skip.NOT_SCORED]) > 0


def test_closing_does_not_wait_for_a_read_that_hangs():
    hang = threading.Event()

    class Hanging(Torrent):
        def read(self):
            hang.wait(30)
            raise ConnectionLost("at last")

    stream = Stream("0", open_source=lambda *_: Hanging(random.Random())).open()
    assert stream.take(timeout=0.05) is None
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 2.0
    assert stream.take(timeout=5.0) is None
    hang.set()

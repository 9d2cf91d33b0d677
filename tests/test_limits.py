"""Rates in memory and bytes a day in the store."""

import threading

import pytest

from fakeface_jax.server.rate_limits import RateLimiter
from fakeface_jax.server.storage.store import Store

DAY = 86_400


class Clock:
    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def test_a_burst_goes_at_once_and_then_the_rate_counts():
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    assert [limiter.take("a", 60, burst=3) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limiter.take("a", 60, burst=3) == pytest.approx(1.0)
    clock.now += 0.25
    assert limiter.take("a", 60, burst=3) == pytest.approx(0.75)  # to ask in vain costs nothing
    clock.now += 0.75
    assert limiter.take("a", 60, burst=3) == 0.0
    assert limiter.take("a", 60, burst=3) > 0.0
    clock.now += 1000  # no more than a burst is saved up
    assert [limiter.take("a", 60, burst=3) == 0.0 for _ in range(4)] == [True, True, True, False]


def test_who_waits_as_told_gets_through():
    clock = Clock(12345.678)
    limiter = RateLimiter(clock=clock)
    for _ in range(200):
        while (wait := limiter.take("a", 7, burst=2)) > 0.0:
            clock.now += wait
    assert clock.now - 12345.678 == pytest.approx(198 * 60 / 7, rel=1e-3)


def test_keys_have_buckets_of_their_own():
    limiter = RateLimiter(clock=Clock())
    assert limiter.take("a", 60, burst=1) == 0.0
    assert limiter.take("b", 60, burst=1) == 0.0
    assert limiter.take("a", 60, burst=1) > 0.0


def test_the_burst_follows_from_the_rate_if_not_given():
    limiter = RateLimiter(clock=Clock())
    assert sum(limiter.take("a", 120) == 0.0 for _ in range(100)) == 30
    assert sum(limiter.take("b", 1) == 0.0 for _ in range(100)) == 1


def test_memory_is_bounded_and_those_who_ask_now_are_not_forgotten():
    clock = Clock()
    limiter = RateLimiter(keys=100, clock=clock)
    limiter.take("busy", 1, burst=1)
    for number in range(1000):
        limiter.take(f"key-{number}", 60, burst=1)
        assert limiter.take("busy", 1, burst=1) > 0.0
    assert len(limiter) == 100


def test_threads_take_no_more_than_there_is():
    limiter = RateLimiter(clock=Clock())
    went = []

    def ask():
        went.extend(limiter.take("a", 60, burst=50) == 0.0 for _ in range(40))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(went) == 50


def test_bytes_of_a_day_survive_a_restart_and_end_with_the_day(tmp_path):
    clock = Clock(20_000.0 * DAY + 100)
    with Store(tmp_path / "state", clock=clock) as store:
        assert store.received.add("a", 600, 1000)
        assert not store.received.add("a", 401, 1000)  # and nothing was counted
        assert store.received.add("b", 1000, 1000)
    with Store(tmp_path / "state", clock=clock) as store:
        assert store.received.today("a") == 600
        assert store.received.add("a", 400, 1000)
        assert not store.received.add("a", 1, 1000)
        assert store.received.seconds_left() == DAY - 100
        clock.now += store.received.seconds_left()
        assert store.received.add("a", 1000, 1000)
        assert store.sweep() == 0
        with store._database.reading() as connection:
            assert connection.execute("SELECT count(*) FROM received").fetchone()[0] == 1


def test_bytes_that_did_not_come_are_given_back(tmp_path):
    with Store(tmp_path / "state") as store:
        assert store.received.add("a", 900, 1000)
        assert store.received.add("a", -800, 1000)
        assert store.received.today("a") == 100
        assert store.received.add("a", -800, 1000)
        assert store.received.today("a") == 0


def test_bytes_are_given_back_to_the_day_they_were_counted_on(tmp_path):
    clock = Clock(20_000.0 * DAY - 1)
    with Store(tmp_path / "state", clock=clock) as store:
        day = store.received.add("a", 900, 1000)
        clock.now += 2
        assert store.received.add("a", 500, 1000) == day + 1
        assert store.received.add("a", -899, 1000, day=day) == day
        assert store.received.today("a") == 500


def test_bytes_counted_at_the_same_time_are_all_counted(tmp_path):
    with Store(tmp_path / "one") as store, Store(tmp_path / "one") as other:

        def add(which):
            for _ in range(20):
                which.received.add("a", 1, 10**9)

        threads = [threading.Thread(target=add, args=(which,)) for which in (store, other, store)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.received.today("a") == 60

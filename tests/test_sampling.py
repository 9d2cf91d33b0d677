"""Where sampling looks: the passes of `faces`, exact lists, and how far ahead nothing is due."""

import dataclasses
import math

import numpy as np
import pytest

from fakeface_jax.errors import ConfigError
from fakeface_jax.video.reading.sampling import FINER_PASSES, Sampling, chooser_of


def test_first_pass_is_what_frames_gives():
    for total in (32, 33, 100, 9001):
        choose = Sampling(frames=32).chooser(total)
        expected = tuple(position for position in range(total) if choose(position, 0.0))
        assert Sampling(faces=32).passes(range(total))[0] == expected
        choose = Sampling(faces=32).chooser(total)
        assert tuple(position for position in range(total) if choose(position, 0.0)) == expected


@pytest.mark.parametrize("window", [range(9000), range(100, 1000), range(37, 80), range(500, 532), range(3), range(1)])
@pytest.mark.parametrize("faces", [1, 5, 32])
def test_passes_are_ever_finer_and_repeat_nothing(window, faces):
    passes = Sampling(faces=faces).passes(window)
    assert 1 <= len(passes) <= 1 + FINER_PASSES
    assert Sampling(faces=faces).passes(window) == passes
    seen = [index for grid in passes for index in grid]
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(window)
    assert all(grid == tuple(sorted(grid)) for grid in passes)
    assert all(grid for grid in passes)
    for upto in range(1, len(passes) + 1):
        looked = sorted(index for grid in passes[:upto] for index in grid)
        distance = len(window) / (min(faces, len(window)) * 2 ** (upto - 1))
        assert np.diff([window.start - 1, *looked, window.stop]).max() <= distance + 2


def test_passes_of_a_long_window_are_about_twice_as_many_each_time():
    assert [len(grid) for grid in Sampling(faces=32).passes(range(100_000))] == [32, 32, 64, 128, 256]
    assert Sampling(faces=4).passes(range(16))[:2] == ((2, 6, 10, 14), (0, 4, 8, 12))
    assert Sampling(faces=32).passes(range(20)) == (tuple(range(20)),)
    assert Sampling(faces=32).passes(range(0)) == ()


def test_faces_is_one_of_the_modes():
    assert Sampling(faces=32).resolved() == Sampling(faces=32)
    assert Sampling(faces=8).expected(100, 4.0) == 8
    for other in ({"fps": 2.0}, {"every": 3}, {"frames": 3}):
        with pytest.raises(ConfigError, match="together"):
            Sampling(faces=3, **other)
    with pytest.raises(ConfigError, match="sampling faces 0"):
        Sampling(faces=0)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(every=7), Sampling(frames=9), Sampling(frames=1000), Sampling(fps=2.3), Sampling(fps=2.3, start=1)],
)
def test_nothing_is_due_before_the_next_position(sampling):
    """Whoever leaps to the next position takes the frames that whoever walks takes."""
    random = np.random.default_rng(0)
    times = np.cumsum(random.choice([0.01, 0.04, 0.4], 300)) + (sampling.start or 0.0)
    walked = sampling.chooser(len(times))
    leaping = sampling.chooser(len(times))
    expected = [position for position, time in enumerate(times) if walked(position, time)]
    taken, position = [], 0
    while position < len(times):
        if leaping(position, times[position]):
            taken.append(position)
        due = leaping.next_position(lambda time: int(np.searchsorted(times, time)))
        position = max(position + 1, int(min(due, len(times))))
    assert taken == expected


def test_listed_positions_are_taken_and_no_others():
    choose = chooser_of((2, 3, 7))
    assert choose.next_position(len) == 2
    assert [position for position in (0, 1, 2, 4, 5, 7, 8) if choose(position, 0.0)] == [2, 7]
    assert choose.next_position(len) == math.inf
    for wrong in ((1, 1), (4, 2), (-1,)):
        with pytest.raises(ConfigError, match="ascending"):
            chooser_of(wrong)


@pytest.mark.parametrize("settings", [{"every": True}, {"fps": True}, {"fps": math.nan}, {"end": math.inf}])
def test_what_is_no_number_is_a_config_error(settings):
    with pytest.raises(ConfigError):
        Sampling(**settings)


def test_the_default_is_32_evenly_spread_frames():
    assert Sampling().resolved() == Sampling(frames=32)
    assert Sampling(fps=2).resolved() == Sampling(fps=2)
    assert dataclasses.replace(Sampling(), fps=2.0).fps == 2.0  # what a command line does
    choose = Sampling().resolved().chooser(100)
    positions = [position for position in range(100) if choose(position, position / 25)]
    assert len(positions) == 32
    assert set(np.diff(positions)) == {3, 4}


def test_after_a_gap_sampling_does_not_catch_up():
    choose = Sampling(fps=10).chooser(100)
    times = [0.0, 2.0, 2.04, 2.08, 2.12, 2.16, 2.20, 2.24]
    assert [time for time in times if choose(0, time)] == [0.0, 2.0, 2.12, 2.20]


@pytest.mark.parametrize(
    "settings",
    [
        {"fps": 2, "every": 3},
        {"frames": 3, "every": 3},
        {"fps": 0},
        {"fps": -1},
        {"every": 0},
        {"frames": 0},
        {"frames": 2.5},
        {"start": -1},
        {"end": 0},
        {"start": 5, "end": 5},
    ],
)
def test_contradictory_sampling_is_refused(unchecked_types, settings):
    with pytest.raises(ConfigError, match="sampling"):
        Sampling(**settings)

"""Who counts for a video, and where somebody looks fake, on scores and boxes with known truth."""

import itertools

import numpy as np
import pytest

from fakeface_jax.video.report.records import Role
from fakeface_jax.video.verdict.aggregation import Scores
from fakeface_jax.video.verdict.roles import SWITCH, roles, segments


def walk(size, steps, *, left=100.0, seed=0, amount=0.1):
    generator = np.random.default_rng(seed)
    at = left + np.cumsum(generator.normal(0, amount * size / 3, steps))
    return [(float(x), 50.0, float(x) + size, 50.0 + size) for x in at]


def of(boxes, fps=5.0):
    return roles(boxes, {number: len(mine) / fps for number, mine in boxes.items()})


def test_somebody_alone_is_main():
    assert of({1: walk(100, 30)}) == {1: Role.MAIN}
    assert of({1: walk(100, 1)}) == {1: Role.MAIN}
    assert roles({}, {}) == {}


def test_two_people_side_by_side_are_both_main():
    assert of({1: walk(100, 30), 2: walk(70, 25, left=300, seed=1)}) == {1: Role.MAIN, 2: Role.MAIN}


def test_small_faces_in_the_background_and_passers_by_are_not():
    found = of({1: walk(100, 40), 2: walk(30, 40, seed=1), 3: walk(100, 3, seed=2)})
    assert found == {1: Role.MAIN, 2: Role.BACKGROUND, 3: Role.BACKGROUND}


def test_a_poster_does_not_decide():
    generator = np.random.default_rng(3)
    poster = [tuple(np.array([300.0, 50, 420, 170]) + generator.normal(0, 0.3, 4)) for _ in range(30)]
    assert of({1: walk(100, 30), 2: poster}) == {1: Role.MAIN, 2: Role.STILL}
    assert of({2: poster}) == {2: Role.MAIN}
    # Somebody who holds still for two seconds is no poster.
    assert of({1: walk(100, 30), 2: poster}, fps=15.0) == {1: Role.MAIN, 2: Role.MAIN}


def test_the_path_is_the_best_of_all_paths():
    """Against trying every path of 10 steps."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        logits = generator.normal(0, 6, 10)

        def worth(path, logits=logits):
            changes = np.count_nonzero(np.diff([0, *path]))
            return float(logits @ np.array(path)) - SWITCH * changes

        best = max(itertools.product([0, 1], repeat=10), key=worth)
        inside = np.zeros(10, bool)
        for _, _, rows in segments(Scores.of(logits.tolist()), threshold=0.0):
            inside |= rows
        assert worth(inside.astype(int)) == pytest.approx(worth(best))


@pytest.mark.parametrize("fps", [5.0, 10.0, 25.0])
def test_a_partial_fake_is_localised_within_half_a_second(fps):
    times = np.arange(0, 60, 1 / fps)
    generator = np.random.default_rng(1)
    logits = np.where((times >= 27.3) & (times < 30.3), 2.5, -1.5) + generator.normal(0, 1.2, len(times))
    found = segments(Scores.of(logits.tolist(), times=times.tolist()), threshold=0.5)
    assert len(found) == 1
    start, end, rows = found[0]
    assert start == pytest.approx(27.3, abs=0.5)
    assert end == pytest.approx(30.3, abs=0.5)
    assert rows.sum() == pytest.approx(3 * fps, abs=fps)


def test_odd_faces_make_no_segment():
    logits = [-1.0] * 40
    logits[10], logits[20] = 3.0, 5.0
    assert segments(Scores.of(logits), threshold=0.0) == []


def test_segments_end_where_a_person_is_out_of_sight():
    times = [n / 5 for n in range(25)] + [55 + n / 5 for n in range(25)]
    found = segments(Scores.of([4.0] * 50, times=times), threshold=0.0)
    assert [(start, end) for start, end, _ in found] == [
        (0.0, pytest.approx(4.9)),
        (pytest.approx(54.9), pytest.approx(59.9)),
    ]
    assert [rows.sum() for *_, rows in found] == [25, 25]


def test_a_fake_from_end_to_end_is_one_segment():
    ((start, end, rows),) = segments(Scores.of([4.0] * 10), threshold=0.0)
    assert (start, end) == (0.0, 9.5)
    assert rows.all()

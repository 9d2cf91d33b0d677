"""What packets that cannot be read do to the numbers of the others."""

import numpy as np
import pytest

from fakeface_jax.video.reading.packet_index import PacketIndex

COUNT, RATE = 60, 25


def coded(reordered):
    """Times of packets as coded: with B-frames, each fourth comes before the three that are shown first."""
    if not reordered:
        return [number / RATE for number in range(COUNT)]
    order = [0]
    for last in range(4, COUNT, 4):
        order += [last, last - 2, last - 3, last - 1]
    return [number / RATE for number in order]


@pytest.mark.parametrize("reordered", [False, True])
@pytest.mark.parametrize("lost", [(14,), (14, 15), (13, 14, 15), (20, 40), (30, 31, 32, 33, 34)])
def test_those_behind_lost_packets_keep_their_numbers(reordered, lost):
    times = coded(reordered)
    kept = [time for place, time in enumerate(times) if place not in lost]
    before = {}
    for place in lost:
        here = sum(other not in lost for other in range(place))
        before[here] = before.get(here, 0) + 1
    index = PacketIndex.of(kept, [place == 0 for place in range(len(kept))], lost=before)
    assert index.count == len(times)
    np.testing.assert_allclose(index.stamps, np.sort(times), atol=1e-9)
    assert [index.rank(time) for time in sorted(kept)] == [round(time * RATE) for time in sorted(kept)]


def test_a_pause_is_no_gap_for_what_was_lost_elsewhere():
    times = [number / RATE + (0.2 if number > 25 else 0.0) for number in range(COUNT)]
    index = PacketIndex.of(times[:28] + times[29:], [n % 12 == 0 for n in range(COUNT - 1)], lost={28: 1})
    np.testing.assert_allclose(index.stamps, times, atol=1e-9)


def test_lost_packets_without_a_gap_are_not_made_up():
    times = [number / RATE for number in range(COUNT)]
    index = PacketIndex.of(times, [n == 0 for n in range(COUNT)], lost={30: 3})
    assert index.count == COUNT
    assert PacketIndex.of([0.0, 1.0], [1, 0], lost={1: 1}).count == 2  # too few to know the step

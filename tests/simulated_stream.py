"""A stream in simulated time, for tests: nothing runs in parallel, and waiting advances the clock.

Example:
    >>> run = Simulation(stall_after=2.0)
    >>> run.connect()
    >>> run.after(3.0)
    >>> run.stream.state
    <State.LIVE: 'live'>
"""

import itertools
import random

import numpy as np

from fakeface_jax.video.live.capture import ConnectionLost, Picture
from fakeface_jax.video.live.stream import Stream
from fakeface_jax.video.live.stream_config import StreamConfig

_NUMBERS = itertools.count()


class SimulatedClock:
    def __init__(self):
        self.time = 100.0

    def now(self):
        return self.time

    def wait(self, condition, seconds):
        self.time += seconds


class Script:
    """A capture that answers what the test prescribes: a picture, None, or an exception."""

    finite = False

    def __init__(self, answers):
        self.answers = answers
        self.released = 0

    def read(self):
        other_each_time = np.full((4, 4, 3), next(_NUMBERS) % 256, np.uint8)
        answer = self.answers.pop(0) if self.answers else Picture(image=other_each_time)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def release(self):
        self.released += 1


class Simulation:
    """A stream whose threads the test advances: `readers[n]` does one step of the n-th connection."""

    def __init__(self, source="0", **settings):
        self.clock = SimulatedClock()
        self.readers = []
        self.captures = []
        self.answers = []
        self.refuse = False
        self.stream = Stream(
            source,
            StreamConfig(**settings),
            clock=self.clock,
            open_source=self._open,
            start=self._start,
            rng=random.Random(1),
        ).open()

    def _start(self, step):
        # The other thread watches the connection; tests call tick() instead.
        if step.__name__ == "step":
            self.readers.append(step)

    def _open(self, source, open_timeout, read_timeout):
        if self.refuse:
            raise ConnectionLost("could not be opened")
        self.captures.append(Script(self.answers))
        return self.captures[-1]

    def connect(self):
        """Opens the next connection and reads its first picture."""
        assert self.readers[-1]()
        assert self.readers[-1]()

    def after(self, seconds):
        self.clock.time += seconds
        self.stream.tick()

    def states(self):
        return [change.state for change in self.stream.changes()]


def agrees(counters):
    return counters.read == counters.scored + sum(counters.skipped.values()) + counters.waiting

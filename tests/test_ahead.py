"""Decoding ahead: the same frames in the same order, a bounded number at a time, and a thread that ends."""

import threading

import cv2
import numpy as np
import pytest

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.errors import Cancelled, DecodeError
from fakeface_jax.video.reading import prefetch as ahead
from fakeface_jax.video.reading.prefetch import decode_ahead
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.reading.source import Frame
from fakeface_jax.video.scoring import score_video


def frame(index, side=64):
    return Frame(image=np.full((side, side, 3), index, np.uint8), index=index, time=index / 10)


class Walk:
    """Frames that are made one by one; notes how far it has come, in which thread, and whether it was closed."""

    def __init__(self, count, *, side=64, error=None):
        self.made, self.closed, self.threads = 0, False, set()
        self._count, self._side, self._error = count, side, error
        self.changed = threading.Condition()

    def frames(self):
        try:
            for index in range(self._count):
                with self.changed:
                    self.made = index + 1
                    self.changed.notify_all()
                self.threads.add(threading.current_thread().name)
                yield frame(index, self._side)
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True

    def wait_until_made(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: self.made >= count, timeout=10)


def running():
    return [thread for thread in threading.enumerate() if thread.name == "decode"]


def test_the_frames_are_the_same_in_the_same_order():
    walk = Walk(50)
    taken = list(decode_ahead(walk.frames()))
    assert [one.index for one in taken] == list(range(50))
    for one in taken:
        np.testing.assert_array_equal(one.image, frame(one.index).image)
    assert walk.threads == {"decode"}
    assert walk.closed
    assert running() == []


def test_of_no_frames_there_are_none():
    assert list(decode_ahead(iter(()))) == []


def test_it_is_ahead_by_a_few_frames_and_no_more():
    walk = Walk(50)
    with_thread = decode_ahead(walk.frames())
    next(with_thread)
    walk.wait_until_made(1 + ahead._MOST + 1)  # one is taken, these wait, and one is made and has no room
    next(with_thread)
    walk.wait_until_made(2 + ahead._MOST + 1)
    assert walk.made == 2 + ahead._MOST + 1
    with_thread.close()


def test_frames_that_are_large_wait_one_at_a_time(monkeypatch):
    monkeypatch.setattr(ahead, "_MOST_BYTES", 3 * 64 * 64)
    walk = Walk(50)
    with_thread = decode_ahead(walk.frames())
    next(with_thread)
    walk.wait_until_made(3)  # taken, waiting, made
    next(with_thread)
    walk.wait_until_made(4)
    assert walk.made == 4
    with_thread.close()


def test_an_error_comes_after_the_frames_before_it():
    walk = Walk(5, error=DecodeError("clip.mp4", "broke", "get it again"))
    taken = []
    with pytest.raises(DecodeError, match="broke"):
        taken.extend(one.index for one in decode_ahead(walk.frames()))
    walk = Walk(5, error=DecodeError("clip.mp4", "broke", "get it again"))
    coming = decode_ahead(walk.frames())
    assert [next(coming).index for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(DecodeError):
        next(coming)
    assert running() == []


def test_closing_it_ends_the_thread_and_the_walk():
    walk = Walk(10_000)
    coming = decode_ahead(walk.frames())
    assert next(coming).index == 0
    coming.close()
    assert walk.closed
    assert running() == []
    assert walk.made <= 2 + ahead._MOST + 1


class Failing:
    name = "failing"

    def __init__(self, error):
        self._error = error

    def detect(self, image):
        raise self._error


def test_a_video_that_fails_or_is_stopped_in_the_middle_leaves_no_thread(tiny_bundle, tmp_path):
    """Closing the file while its thread decodes would crash the process."""
    clip, model = tmp_path / "clip.mp4", FaceClassifier.load(tiny_bundle)
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 64))
    for index in range(40):
        writer.write(frame(index).image)
    writer.release()
    with pytest.raises(RuntimeError, match="no detector"):
        score_video(model, Failing(RuntimeError("no detector")), clip, Sampling(every=1))
    assert running() == []
    asked = []
    with pytest.raises(Cancelled):
        score_video(model, Failing(None), clip, Sampling(every=1), stop=lambda: asked.append(1) or True)
    assert asked
    assert running() == []

"""Faces of several requests in one batch: together, in order, bounded, and not for those who have left."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fakeface_jax.server.batching import Batcher, Busy, GivenUp, Ticket


class SlowModel:
    """Answers with the mean of each crop, when it is let."""

    def __init__(self, *, held: bool = False) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.bundle, self.spec, self.backend = SimpleNamespace(id="x"), SimpleNamespace(name="x"), None
        if not held:
            self.go.set()

    def logits(self, crops: np.ndarray) -> np.ndarray:
        assert self.go.wait(10)
        self.sizes.append(len(crops))
        if crops.max() == 255:
            raise ValueError("a crop that breaks it")
        return crops.reshape(len(crops), -1).mean(axis=1).astype(np.float32)


def crops_of(*values: int) -> np.ndarray:
    return np.stack([np.full((4, 4, 3), value, np.uint8) for value in values])


def patient(seconds: float = 30.0) -> Ticket:
    return Ticket(time.monotonic() + seconds)


def batcher_of(model: Any, **settings: Any) -> Batcher:
    return Batcher(model, **settings)


def test_requests_that_come_together_share_a_batch_and_get_their_own_scores() -> None:
    model = SlowModel()
    with batcher_of(model, max_wait=0.5) as batcher, ThreadPoolExecutor(8) as threads:
        futures = [
            threads.submit(batcher.classifier(patient()).logits, crops_of(*range(n, n + 4))) for n in range(0, 32, 4)
        ]
        found = [future.result(10) for future in futures]
    assert model.sizes == [32]
    assert [list(one) for one in found] == [list(range(n, n + 4)) for n in range(0, 32, 4)]


def test_a_lone_request_waits_no_longer_than_it_has_to() -> None:
    with batcher_of(SlowModel(), max_wait=0.01) as batcher:
        began = time.monotonic()
        assert batcher.classifier(patient()).logits(crops_of(7)).tolist() == [7.0]
        assert time.monotonic() - began < 1.0


def test_more_faces_than_a_batch_holds_are_split_between_requests_and_never_within_one() -> None:
    model = SlowModel(held=True)
    with batcher_of(model) as batcher:
        futures = [batcher.submit(crops_of(*[n] * 20), patient()) for n in range(3)]
        model.go.set()
        assert [future.result(10)[0] for future in futures] == [0.0, 1.0, 2.0]
    assert model.sizes == [20, 20, 20]


def test_what_finds_no_room_is_refused_at_once_and_a_large_picture_alone_is_let_in() -> None:
    model = SlowModel(held=True)
    with batcher_of(model, max_waiting=8, max_wait=0.0) as batcher:
        first = batcher.submit(crops_of(*[1] * 20), patient())
        while batcher.waiting:  # being scored now
            time.sleep(0.001)
        second = batcher.submit(crops_of(*[2] * 8), patient())
        began = time.monotonic()
        with pytest.raises(Busy) as refused:
            batcher.submit(crops_of(3), patient())
        assert time.monotonic() - began < 0.5
        assert refused.value.retry_after >= 1
        model.go.set()
        assert len(first.result(10)) == 20
        assert len(second.result(10)) == 8


def test_who_has_left_or_waited_too_long_is_not_scored() -> None:
    model = SlowModel(held=True)
    with batcher_of(model, max_wait=0.0) as batcher:
        running = batcher.submit(crops_of(1), patient())
        while batcher.waiting:
            time.sleep(0.001)
        gone, late, stays = patient(), patient(0.01), patient()
        futures = [batcher.submit(crops_of(n), ticket) for n, ticket in ((2, gone), (3, late), (4, stays))]
        gone.cancel()
        time.sleep(0.02)
        model.go.set()
        assert running.result(10).tolist() == [1.0]
        assert futures[2].result(10).tolist() == [4.0]
        for future in futures[:2]:
            with pytest.raises(GivenUp):
                future.result(10)
    assert model.sizes == [1, 1]


def test_an_error_of_the_model_is_the_requests_alone() -> None:
    with batcher_of(SlowModel(), max_wait=0.0) as batcher:
        with pytest.raises(ValueError, match="breaks it"):
            batcher.classifier(patient()).logits(crops_of(255))
        assert batcher.alive
        assert batcher.classifier(patient()).logits(crops_of(9)).tolist() == [9.0]


def test_closing_scores_what_waits_and_then_refuses() -> None:
    model = SlowModel(held=True)
    batcher = batcher_of(model)
    with batcher:
        future = batcher.submit(crops_of(5), patient())
        model.go.set()
    assert future.result(1).tolist() == [5.0]
    with pytest.raises(Busy):
        batcher.submit(crops_of(6), patient())


def test_no_faces_need_no_model() -> None:
    model = SlowModel()
    with batcher_of(model) as batcher:
        assert batcher.classifier(patient()).logits(np.zeros((0, 4, 4, 3), np.uint8)).shape == (0,)
    assert model.sizes == []

"""Faces of concurrent requests, scored together: one thread owns the model and takes what waits in batches.

A request waits a few milliseconds for others at most. The queue is bounded; what finds no room is refused at once, and
what nobody waits for any more is thrown away unscored.

Example:
    >>> with Batcher(FaceClassifier.load()) as batcher:
    ...     classifier = batcher.classifier(Ticket(deadline=time.monotonic() + 30))
    ...     score_image(classifier, detector, data)
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from fakeface_jax.classifier import BATCH_SIZES, FaceClassifier
from fakeface_jax.errors import FakeFaceError

MAX_BATCH = BATCH_SIZES[-1]


class Busy(FakeFaceError):
    """There is no room to wait in.

    Attributes:
        retry_after: seconds after which another try makes sense.
        own: the one who asks has as much as is theirs; False where there is no room for anybody.
    """

    def __init__(self, message: str, retry_after: int = 1, *, own: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.own = retry_after, own


class GivenUp(FakeFaceError):
    """Nobody waits for the result any more, or it came too late."""


class Ticket:
    """One request's patience.

    Args:
        deadline: by `time.monotonic`; what is not begun by then is given up.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """The client has left."""
        self._cancelled.set()

    def check(self) -> None:
        """Raises `GivenUp` once the work would be for nobody."""
        if self._cancelled.is_set():
            raise GivenUp("the client has left")
        if time.monotonic() > self.deadline:
            raise GivenUp("it took too long; the service is busy")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Waiting:
    crops: UInt8[np.ndarray, "n s s 3"]
    ticket: Ticket
    result: Future[Float32[np.ndarray, " n"]]


class Batcher:
    """The thread that scores faces of many requests.

    Args:
        classifier: the model.
        max_wait: seconds that the first face of a batch waits for others.
        max_waiting: faces that may wait.
        on_batch: called with the number of faces of each batch, and the seconds that it took.
    """

    def __init__(
        self,
        classifier: FaceClassifier,
        *,
        max_wait: float = 0.004,
        max_waiting: int = 512,
        on_batch: Callable[[int, float], None] = lambda faces, seconds: None,
    ) -> None:
        self._inner, self._max_wait, self._max_waiting = classifier, max_wait, max_waiting
        self._on_batch = on_batch
        self._changed = threading.Condition()
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._faces = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)

    def __enter__(self) -> Batcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether faces are being scored."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many faces wait."""
        return self._faces

    def close(self) -> None:
        """Scores what waits, and ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def classifier(self, ticket: Ticket) -> FaceClassifier:
        """The model as one request sees it: its faces go into batches with those of others."""
        return _Shared(self, self._inner, ticket)

    def submit(self, crops: UInt8[np.ndarray, "n s s 3"], ticket: Ticket) -> Future[Float32[np.ndarray, " n"]]:
        """Queues faces; the future holds their uncalibrated logits.

        Raises:
            Busy: too many wait already.
        """
        one = _Waiting(crops=crops, ticket=ticket, result=Future())
        with self._changed:
            # One picture of many faces is let in where nothing waits: it would never find room otherwise.
            if self._closed or (self._faces and self._faces + len(crops) > self._max_waiting):
                raise Busy("the model is busy with other pictures")
            self._queue.append(one)
            self._faces += len(crops)
            self._changed.notify_all()
        return one.result

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            wanted = []
            for one in batch:
                try:
                    one.ticket.check()
                    wanted.append(one)
                except GivenUp as error:
                    one.result.set_exception(error)
            if wanted:
                self._score(wanted)

    def _take(self) -> list[_Waiting] | None:
        """What is scored next: as much as fits a batch, or one request that is larger. None when all is done."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            if not self._queue:
                return None
            until = time.monotonic() + self._max_wait
            while self._faces < MAX_BATCH and not self._closed and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            batch, faces = [self._queue.popleft()], 0
            faces = len(batch[0].crops)
            while self._queue and faces + len(self._queue[0].crops) <= MAX_BATCH:
                batch.append(self._queue.popleft())
                faces += len(batch[-1].crops)
            self._faces -= faces
            return batch

    def _score(self, batch: list[_Waiting]) -> None:
        began = time.monotonic()
        try:
            logits = self._inner.logits(np.concatenate([one.crops for one in batch]))
        except Exception as error:  # each request answers for itself; the thread lives on
            for one in batch:
                one.result.set_exception(error)
            return
        self._on_batch(len(logits), time.monotonic() - began)
        start = 0
        for one in batch:
            one.result.set_result(logits[start : start + len(one.crops)])
            start += len(one.crops)


class _Shared(FaceClassifier):
    """A classifier whose logits come from a batcher; everything else is the model's own."""

    def __init__(self, batcher: Batcher, inner: FaceClassifier, ticket: Ticket) -> None:
        # Not the base class's: the model is loaded already.
        self.bundle, self.spec, self.backend = inner.bundle, inner.spec, inner.backend
        self._batcher, self._inner, self._ticket = batcher, inner, ticket

    def logits(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, " n"]:
        if not len(crops):
            return np.zeros(0, np.float32)
        self._ticket.check()
        return self._batcher.submit(crops, self._ticket).result()

    def logits_function(self) -> tuple[Callable[[Any, Any], Any], Any]:
        return self._inner.logits_function()

    def explained_function(self) -> tuple[Callable[[Any, Any], Any], Any]:
        return self._inner.explained_function()

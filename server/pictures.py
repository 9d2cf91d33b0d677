"""Pictures of many clients: decoded outside, scored in shared batches, refused at once where there is no room.

Example:
    >>> work = scorer.submit(data, "portrait.jpg", owner="newsroom")
    >>> work.result.result().report.verdict
    <Verdict.REAL: 'real'>
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.errors import LimitExceeded
from fakeface_jax.faces import Face, FaceDetector
from fakeface_jax.server.admission import Admission
from fakeface_jax.server.batching import Batcher, Busy, GivenUp, Ticket
from fakeface_jax.server.service_config import Limits
from fakeface_jax.video.render.crops import CropRecord, picture_crops
from fakeface_jax.video.render.page import save_image_html
from fakeface_jax.video.report.video_report import ImageReport
from fakeface_jax.video.scoring import Decode, score_image


class LimitedDetector:
    """A detector that refuses pictures of too many faces, and ends when nobody waits for it any more.

    Args:
        inner: finds the faces.
        most: faces in one picture.
        check: raises when the work is to end.
    """

    def __init__(self, inner: FaceDetector, most: int, check: Callable[[], object] = lambda: None) -> None:
        self.name = inner.name
        self._inner, self._most, self._check = inner, most, check

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """All faces of an RGB picture, the largest first."""
        self._check()
        faces = self._inner.detect(image)
        if len(faces) > self._most:
            raise LimitExceeded("the picture", f"holds {len(faces)} faces, more than {self._most}", "cut it up")
        return faces


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """A scored picture.

    Attributes:
        report: what was found.
        crops: the faces with their heat maps, where they were asked for.
        page: HTML, where it was asked for.
    """

    report: ImageReport
    crops: list[CropRecord] | None = None
    page: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """A picture on its way.

    Attributes:
        result: what becomes of it.
        ticket: cancel it when the client has left.
    """

    result: Future[Scored]
    ticket: Ticket


class PictureScorer:
    """Scores pictures in threads of its own.

    Args:
        batcher: the model, shared.
        classifier: the model alone, for heat maps.
        detector: finds the faces; safe to call from several threads.
        decode_for: what makes RGB of the bytes of one owner.
        limits: how many at once, how many waiting, how long.

    Attributes:
        admission: lets pictures in as long as they can be answered in time.
    """

    def __init__(
        self,
        batcher: Batcher,
        classifier: FaceClassifier,
        detector: FaceDetector,
        decode_for: Callable[[str], Decode],
        limits: Limits,
    ) -> None:
        self._batcher, self._classifier, self._detector = batcher, classifier, detector
        self._decode_for, self._limits = decode_for, limits
        self._threads = ThreadPoolExecutor(limits.images_at_once, thread_name_prefix="picture")
        self._heat = threading.Lock()
        self.admission = Admission(
            at_once=limits.images_at_once, waiting=limits.images_waiting, within=limits.image_wait
        )

    @property
    def waiting(self) -> int:
        """Pictures that wait for a thread."""
        return max(0, self.admission.inside - self._limits.images_at_once)

    @property
    def running(self) -> int:
        """Pictures that are being worked on."""
        return min(self.admission.inside, self._limits.images_at_once)

    def submit(
        self,
        data: bytes,
        name: str,
        *,
        owner: str,
        whole_image: bool = False,
        crops: bool = False,
        page: bool = False,
    ) -> Work:
        """Queues a picture.

        Args:
            data: an image file.
            name: what report and errors call it.
            owner: who sent it; no decoder sees pictures of two owners.
            whole_image: it is a face crop already.
            crops: make the faces with heat maps too.
            page: make the HTML page too.

        Raises:
            Busy: as many wait as may.
        """
        self.admission.enter()
        ticket = Ticket(time.monotonic() + self._limits.image_deadline)
        took: list[float] = []

        def score() -> Scored:
            return self._score(data, name, owner, whole_image, crops, page, ticket, took.append)

        try:
            result = self._threads.submit(score)
        except RuntimeError as error:  # shut down
            self.admission.leave()
            raise Busy("the service is being stopped") from error
        result.add_done_callback(lambda _: self.admission.leave(took[0] if took else None))
        return Work(result=result, ticket=ticket)

    def close(self) -> None:
        """Waits for what is being scored; what waits is given up."""
        self._threads.shutdown(cancel_futures=True)

    def _score(
        self,
        data: bytes,
        name: str,
        owner: str,
        whole_image: bool,
        crops: bool,
        page: bool,
        ticket: Ticket,
        took: Callable[[float], None],
    ) -> Scored:
        began = time.monotonic()
        images: list[UInt8[np.ndarray, "h w 3"]] = []
        decode_picture = self._decode_for(owner)

        def decode(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
            ticket.check()
            images.append(decode_picture(data, name))
            return images[-1]

        try:
            report = score_image(
                self._batcher.classifier(ticket),
                LimitedDetector(self._detector, self._limits.faces, ticket.check),
                data,
                whole_image=whole_image,
                name=name,
                decode=decode,
            )
        except LimitExceeded as error:
            raise LimitExceeded(name, error.problem, error.remedy) from error
        # Without the maps, which few ask for and which take many times as long: how fast pictures go is to be known.
        took(time.monotonic() - began)
        if not crops and not page:
            return Scored(report=report)
        # The gradient of a picture takes as long as many scores: one at a time.
        if not self._heat.acquire(timeout=max(0.0, ticket.deadline - time.monotonic())):
            raise GivenUp("it took too long; the service is busy")
        try:
            ticket.check()
            found = picture_crops(images[0], report, self._classifier)
            text = None
            if page:
                with tempfile.TemporaryDirectory(prefix="fakeface-") as folder:
                    path = Path(folder) / "page.html"
                    save_image_html(images[0], report, path, self._classifier, crops=found)
                    text = path.read_text(encoding="utf-8")
            return Scored(report=report, crops=found, page=text)
        finally:
            self._heat.release()

"""The pipeline: an image or a video in, a report out.

Example:
    >>> classifier, detector = FaceClassifier.load(), create_detector()
    >>> score_image(classifier, detector, "portrait.jpg").verdict
    <Verdict.REAL: 'real'>
    >>> score_video(classifier, detector, "clip.mp4", Sampling(fps=2.0)).p_fake
    0.91
"""

from __future__ import annotations

import collections
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.classifier import BATCH_SIZES, FaceClassifier, FaceScore
from fakeface_jax.errors import OpenError
from fakeface_jax.faces import Face, FaceDetector, whole_image_box
from fakeface_jax.images import decode_image, read_image_file
from fakeface_jax.labels import Verdict
from video.aggregation import DEFAULT_RULE, RULES, aggregate
from video.frames import Frame, VideoFile
from video.report import Evidence, FaceRecord, FrameRecord, ImageReport, Media, Model, StageSeconds, VideoReport
from video.sampling import Sampling

MIN_FACE = 32
"""Pixels. A face whose longer side is shorter is found and counted and not scored: what is left of it is the scaling
filter, on which training said nothing."""

MIN_FRAMES = 5
"""With scored faces in fewer frames a video is `inconclusive`: averaging that few leaves most of one frame's error (on
DFDC, log loss .490 for one frame against .254 for 32). Many faces in one frame are no substitute: they share its light,
its blur and its compression."""

MIN_SECONDS = 1.0
"""The same for faces seen over a shorter time: neighbouring frames are one observation, however many they are."""

Progress = Callable[[int, int | None], None]
"""Called with how many frames are done, and how many there will be (about), or None."""

ImageInput = str | os.PathLike[str] | bytes | UInt8[np.ndarray, "h w 3"]


def score_image(
    classifier: FaceClassifier,
    detector: FaceDetector,
    source: ImageInput,
    *,
    whole_image: bool = False,
    name: str | None = None,
) -> ImageReport:
    """Scores every face of one picture.

    Args:
        classifier: the model.
        detector: finds the faces; not called with `whole_image`.
        source: a path, the bytes of an image file, or an RGB array.
        whole_image: take the picture itself for a face crop.
        name: what the report calls it; the path by default.

    Raises:
        MediaError: the picture cannot be read; see `fakeface_jax.images.read_image`.
    """
    clock = _Clock()
    name, image, sha256 = _load_image(source, name)
    clock.lap("open")
    if whole_image:
        faces = [Face(box=whole_image_box(image), confidence=1.0)]
    else:
        faces = detector.detect(image)
    clock.lap("detect")
    # A crop given as such is scored at any size: that it is a face is the user's word.
    large = [face for face in faces if whole_image or face.size >= MIN_FACE]
    scored = {id(score.face): score for score in classifier.score_faces(image, large)}
    records = tuple(_face_record(face, scored.get(id(face))) for face in faces)
    clock.lap("classify")
    probabilities = [record.p_fake for record in records if record.p_fake is not None]
    p_fake = max(probabilities, default=None)
    verdict = Verdict.NO_FACE if p_fake is None else classifier.spec.bands.decide(p_fake)
    return ImageReport(
        input=name,
        verdict=verdict,
        p_fake=p_fake,
        reason=_without_score(len(faces)) if p_fake is None else "",
        faces=records,
        media=Media(sha256=sha256, width=image.shape[1], height=image.shape[0]),
        model=_model(classifier, "none (whole image)" if whole_image else detector.name),
        seconds=clock.lap("aggregate"),
        whole_image=whole_image,
    )


def score_video(
    classifier: FaceClassifier,
    detector: FaceDetector,
    path: str | os.PathLike[str],
    sampling: Sampling | None = None,
    *,
    rule: str = DEFAULT_RULE,
    progress: Progress | None = None,
    on_frame: Callable[[FrameRecord], None] | None = None,
) -> VideoReport:
    """Scores every face of the sampled frames of a video file, and the video.

    Faces are classified in batches across frames. Only their crops wait for that, at most a batch of them beyond one
    frame's; frames do not, so memory does not grow with the length of the video.

    Args:
        classifier: the model.
        detector: finds the faces in each sampled frame.
        path: the video.
        sampling: which frames; 32, evenly spread, by default.
        rule: how scores become one, a key of `video.aggregation.RULES`.
        progress: called after each sampled frame.
        on_frame: called with each frame's record, in order, once all its faces are scored.

    Raises:
        MediaError: the video cannot be read; see `video.frames.VideoFile`.
        ConfigError: unknown rule.
    """
    sampling = (sampling or Sampling()).resolved()
    if rule not in RULES:
        aggregate(np.zeros(0), rule)  # raises, before minutes of work
    clock = _Clock()
    with VideoFile(path) as video:
        sha256 = _sha256(video.path)
        total = video.expected_samples(sampling)
        clock.lap("open")
        batcher = _Batcher(classifier, on_frame)
        for done, frame in enumerate(_timed(video.frames(sampling), clock), start=1):
            faces = detector.detect(frame.image)
            clock.lap("detect")
            batcher.add(frame, faces)
            clock.lap("classify")
            if progress is not None:
                progress(done, max(done, total))
        records = batcher.finish()
        clock.lap("classify")
        media = Media(
            sha256=sha256,
            width=video.width,
            height=video.height,
            fps=video.fps,
            frames=video.frame_count,
            frames_stated=video.frame_count_stated,
            duration=video.duration,
            times_from=video.times_from,
        )
        counters = video.counters
    evidence = _evidence(records, media, counters.dropped)
    logits = [face.logit for record in records for face in record.faces if face.logit is not None]
    p_fake = aggregate(np.asarray(logits, np.float64), rule) if logits else None
    verdict, reason = _video_verdict(classifier, p_fake, evidence)
    return VideoReport(
        input=os.fspath(path),
        verdict=verdict,
        p_fake=p_fake,
        reason=reason,
        frames=records,
        evidence=evidence,
        media=media,
        sampling=sampling,
        model=_model(classifier, detector.name),
        aggregation=rule,
        seconds=clock.lap("aggregate"),
        frames_read=counters.read,
    )


class _Clock:
    """Wall-clock time since the last lap, added to the stage that the lap is named after."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> StageSeconds:
        now = time.perf_counter()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._last
        self._last = now
        return StageSeconds(**self._seconds)


def _timed(frames: Iterator[Frame], clock: _Clock) -> Iterator[Frame]:
    for frame in frames:
        clock.lap("decode")
        yield frame
    clock.lap("decode")


class _Batcher:
    """Collects crops over frames, classifies them in full batches, and hands out frame records in order."""

    def __init__(self, classifier: FaceClassifier, on_frame: Callable[[FrameRecord], None] | None) -> None:
        self._classifier = classifier
        self._on_frame = on_frame
        self._crops: list[UInt8[np.ndarray, "s s 3"]] = []
        self._cropped: list[Face] = []
        self._scores: dict[int, FaceScore] = {}  # by id() of the face, which `_waiting` keeps alive
        self._waiting: collections.deque[tuple[int, float, list[Face]]] = collections.deque()
        self._records: list[FrameRecord] = []

    def add(self, frame: Frame, faces: list[Face]) -> None:
        self._waiting.append((frame.index, frame.time, faces))
        for face in faces:
            if face.size >= MIN_FACE:
                self._crops.append(self._classifier.crop(frame.image, face))
                self._cropped.append(face)
        while len(self._crops) >= BATCH_SIZES[-1]:
            self._classify(BATCH_SIZES[-1])
        self._hand_out()

    def finish(self) -> tuple[FrameRecord, ...]:
        if self._crops:
            self._classify(len(self._crops))
        self._hand_out()
        return tuple(self._records)

    def _classify(self, count: int) -> None:
        scores = self._classifier.scores(self._cropped[:count], np.stack(self._crops[:count]))
        self._scores.update((id(score.face), score) for score in scores)
        del self._crops[:count], self._cropped[:count]

    def _hand_out(self) -> None:
        """Records of the frames, from the oldest on, whose faces are all scored."""
        pending = {id(face) for face in self._cropped}
        while self._waiting and pending.isdisjoint(map(id, self._waiting[0][2])):
            index, moment, faces = self._waiting.popleft()
            records = tuple(_face_record(face, self._scores.pop(id(face), None)) for face in faces)
            self._records.append(FrameRecord(index=index, time=moment, faces=records))
            if self._on_frame is not None:
                self._on_frame(self._records[-1])


def _face_record(face: Face, score: FaceScore | None) -> FaceRecord:
    return FaceRecord(
        box=face.box,
        p_fake=score.p_fake if score else None,
        verdict=score.verdict if score else Verdict.INCONCLUSIVE,
        confidence=face.confidence,
        logit=score.logit if score else None,
    )


def _evidence(records: tuple[FrameRecord, ...], media: Media, dropped: int) -> Evidence:
    faces = [face for record in records for face in record.faces]
    scored = sum(face.p_fake is not None for face in faces)
    times = [record.time for record in records if any(face.p_fake is not None for face in record.faces)]
    # The last frame is shown for a while too: 24 frames at 24 per second are one second, not 23/24.
    seconds = times[-1] - times[0] + (1.0 / media.fps if media.fps else 0.0) if times else 0.0
    return Evidence(
        faces_scored=scored,
        frames_sampled=len(records),
        frames_with_face=len(times),
        seconds=seconds,
        faces_too_small=len(faces) - scored,
        frames_dropped=dropped,
    )


def _video_verdict(classifier: FaceClassifier, p_fake: float | None, evidence: Evidence) -> tuple[Verdict, str]:
    if p_fake is None:
        return Verdict.NO_FACE, _without_score(evidence.faces_too_small)
    if evidence.frames_with_face < MIN_FRAMES:
        found = f"{evidence.frames_with_face} frame{'s' if evidence.frames_with_face != 1 else ''}"
        return Verdict.INCONCLUSIVE, f"faces scored in {found}, a verdict needs {MIN_FRAMES}"
    if evidence.seconds < MIN_SECONDS - 1e-3:
        return Verdict.INCONCLUSIVE, f"faces over {evidence.seconds:.2f} s, a verdict needs {MIN_SECONDS:g} s"
    return classifier.spec.bands.decide(p_fake), ""


def _without_score(found: int) -> str:
    if not found:
        return "no face was found"
    return f"{found} found, with a longer side under {MIN_FACE} pixels: too small to be scored"


def _load_image(source: ImageInput, name: str | None) -> tuple[str, UInt8[np.ndarray, "h w 3"], str | None]:
    if isinstance(source, np.ndarray):
        name = name or "<array>"
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise OpenError(name, f"an array of {source.dtype} {source.shape}", "give uint8 RGB, height x width x 3")
        return name, source, None
    if isinstance(source, bytes):
        name = name or "<bytes>"
        return name, decode_image(source, source=name), hashlib.sha256(source).hexdigest()
    # Read once: the hash is of the bytes that were decoded, also when the file is replaced meanwhile.
    data = read_image_file(source)
    return name or os.fspath(source), decode_image(data, source=source), hashlib.sha256(data).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OpenError(path, f"cannot be read: {error.strerror or error}", "check its permissions") from error


def _model(classifier: FaceClassifier, detector: str) -> Model:
    spec = classifier.spec
    return Model(
        name=spec.name,
        id=classifier.bundle.id,
        calibration=spec.calibration.method,
        detector=detector,
        trained_with_detector=spec.detector,
        bands=spec.bands,
        operating_points=spec.operating_points,
    )

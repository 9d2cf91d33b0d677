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
import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.classifier import BATCH_SIZES, FaceClassifier, FaceScore
from fakeface_jax.errors import Cancelled, OpenError, printable
from fakeface_jax.faces import Face, FaceDetector, sharpness, whole_image_box
from fakeface_jax.images import decode_image, read_image_file
from fakeface_jax.labels import Verdict
from fakeface_jax.video.faces.detection import DETECT_EVERY, MIN_FACE, Found, find_faces
from fakeface_jax.video.faces.tracking import Tracker, TrackingConfig
from fakeface_jax.video.reading.opencv import Frame, FrameCounters, FrameSource, VideoInput, reading
from fakeface_jax.video.reading.prefetch import decode_ahead
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.report.records import FaceRecord, FrameRecord, Media, Model, StageSeconds
from fakeface_jax.video.report.video_report import ImageReport, VideoReport
from fakeface_jax.video.verdict.aggregation import DEFAULT_RULE, check_rule
from fakeface_jax.video.verdict.thresholds import MAX_UNREAD, MIN_FRAMES, MIN_SECONDS, MIN_SHARPNESS
from fakeface_jax.video.verdict.verdicts import decide, without_score

Progress = Callable[[int, int | None], None]
"""Called with how many frames are done, and how many there will be (about), or None."""

Walk = Callable[[Iterator[Frame]], Iterator[Frame]]
"""Hands on the frames of one walk through a video."""

Decode = Callable[[bytes, str], UInt8[np.ndarray, "h w 3"]]
"""Bytes of an image file, and what errors call it, to RGB; raises a `MediaError`."""

ImageInput = str | os.PathLike[str] | bytes | UInt8[np.ndarray, "h w 3"]


def score_image(
    classifier: FaceClassifier,
    detector: FaceDetector,
    source: ImageInput,
    *,
    whole_image: bool = False,
    name: str | None = None,
    decode: Decode | None = None,
) -> ImageReport:
    """Scores every face of one picture.

    Args:
        classifier: the model.
        detector: finds the faces; not called with `whole_image`.
        source: a path, the bytes of an image file, or an RGB array.
        whole_image: take the picture itself for a face crop.
        name: what the report calls it; the path by default.
        decode: decodes files and bytes; by default `fakeface_jax.images.decode_image`, in this process.

    Raises:
        MediaError: the picture cannot be read; see `fakeface_jax.images.read_image`.
    """
    clock = _Clock()
    name, image, sha256 = _load_image(source, name, decode or _decode_here)
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
        reason=without_score(len(faces)) if p_fake is None else "",
        faces=records,
        media=Media(sha256=sha256, width=image.shape[1], height=image.shape[0]),
        model=_model(classifier, "none (whole image)" if whole_image else detector.name),
        seconds=clock.lap("aggregate"),
        whole_image=whole_image,
    )


def score_video(
    classifier: FaceClassifier,
    detector: FaceDetector,
    source: VideoInput | FrameSource,
    sampling: Sampling | None = None,
    *,
    rule: str | None = None,
    progress: Progress | None = None,
    on_frame: Callable[[FrameRecord], None] | None = None,
    name: str | None = None,
    sha256: str | None = None,
    stop: Callable[[], bool] | None = None,
) -> VideoReport:
    """Scores every face of the sampled frames of a video, the people in it, and the video.

    Faces are classified in batches across frames. Only their crops wait for that, at most a batch of them beyond one
    frame's; frames wait for the next detection at most, so memory does not grow with the length of the video. With
    `Sampling(faces=n)`, the crops of all passes wait: of 16 n frames at most.

    Args:
        classifier: the model.
        detector: finds the faces.
        source: the path of the video, its bytes, a binary file that can be rewound, or a source of frames; the latter
            two stay open.
        sampling: which frames; 32, evenly spread, by default.
        rule: how scores become one, a key of `fakeface_jax.video.verdict.aggregation.RULES`; by default the one the
        model was calibrated
            for.
        progress: called after each sampled frame.
        on_frame: called with each frame's record, in order, once all its faces are scored.
        name: what the report calls it; by default the path, or the source's name.
        sha256: of the file, for the report; by default computed of paths, bytes and binary files, and unknown for a
            source of frames.
        stop: asked before each frame; when it answers True, the work ends.

    Raises:
        MediaError: the video cannot be read; see `fakeface_jax.video.reading.opencv.VideoFile`.
        Cancelled: `stop` answered True.
        ConfigError: unknown rule.
    """
    sampling = (sampling or Sampling()).resolved()
    spec = classifier.spec
    rule = rule_of(classifier, rule)  # raises before minutes of work
    clock = _Clock()
    with reading(source) as video, contextlib.ExitStack() as stack:
        walk: Walk = iter
        if not isinstance(source, FrameSource):
            sha256 = sha256 or _sha256(source)

            def walk(frames: Iterator[Frame]) -> Iterator[Frame]:
                # The video stays open until the thread that walks through it has ended. A source of frames that was
                # given may belong to the caller's thread.
                return stack.enter_context(contextlib.closing(decode_ahead(frames)))

        name = name or video.name
        total = video.expected_samples(sampling)
        clock.lap("open")
        timed = _Timed(clock, stop, name, walk)
        batcher, tracker, counted = _Batcher(classifier, on_frame), Tracker(), _Counted(video)
        for done, found in enumerate(_look(video, sampling, detector, classifier, timed, counted), start=1):
            clock.lap("detect")
            people = tracker.assign(found.time, [face.box for face in found.faces], found.looks)
            clock.lap("track")
            batcher.add(found, people)
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
        counters = counted.total()
        packages = {"fakeface-jax", classifier.backend.name, "opencv-python"}
        packages |= {package} if (package := getattr(video, "package", "")) else set()
    walked = counters.read + counters.skipped + counters.dropped
    outcome = decide(records, spec, rule=rule, fps=media.fps, dropped=counters.dropped, walked=walked)
    return VideoReport(
        input=name,
        verdict=outcome.verdict,
        p_fake=outcome.p_fake,
        reason=outcome.reason,
        people=outcome.people,
        frames=records,
        evidence=outcome.evidence,
        media=media,
        sampling=sampling,
        model=_model(classifier, detector.name),
        aggregation=rule,
        settings={
            **score_settings(),
            "versions": {name: version(name) for name in sorted(packages)},
        },
        seconds=clock.lap("aggregate"),
        frames_read=counters.read,
        frames_skipped=counters.skipped,
    )


def rule_of(classifier: FaceClassifier, rule: str | None) -> str:
    """The rule that a video is scored by: the one asked for, else the model's.

    Raises:
        ConfigError: unknown rule.
    """
    spec = classifier.spec
    rule = rule or (spec.video.rule if spec.video is not None else DEFAULT_RULE)
    check_rule(rule)
    return rule


def score_settings() -> dict[str, Any]:
    """What a score and its verdict depend on besides model, sampling and rule."""
    return {
        "detect_every": DETECT_EVERY,
        "tracking": dataclasses.asdict(TrackingConfig()),
        "evidence": {
            "min_frames": MIN_FRAMES,
            "min_seconds": MIN_SECONDS,
            "min_sharpness": MIN_SHARPNESS,
            "max_unread": MAX_UNREAD,
        },
    }


def _look(
    video: FrameSource,
    sampling: Sampling,
    detector: FaceDetector,
    classifier: FaceClassifier,
    timed: _Timed,
    counted: _Counted,
) -> Iterator[Found]:
    """The sampled frames with their faces, in order of time."""
    if sampling.faces is None:
        yield from find_faces(timed(video.frames(sampling)), detector, classifier.crop)
        return
    # Passes over ever finer grids come out of order, and people are told apart in order.
    found: list[Found] = []
    for indices in video.passes(sampling):
        frames = timed(video.frames_at(indices))
        found += find_faces(frames, detector, classifier.crop, spacing=0.0)
        counted.end_walk()
        timed.clock.lap("detect")
        if sum(one.has_usable_face for one in found) >= sampling.faces:
            break
    if not found:
        # Says why there is none, as for any other sampling.
        yield from find_faces(
            video.frames(dataclasses.replace(sampling, faces=None, frames=1)), detector, classifier.crop
        )
    yield from sorted(found, key=lambda one: one.index)


class _Counted:
    """What happened to a video's frames, over several walks."""

    def __init__(self, video: FrameSource) -> None:
        self._video = video
        self._before: list[FrameCounters] = []

    def end_walk(self) -> None:
        self._before.append(self._video.counters)

    def total(self) -> FrameCounters:
        walks = self._before or [self._video.counters]
        return FrameCounters(
            # What is missing is missing in each walk, and frames that were read twice are the same frames.
            dropped=max(walk.dropped for walk in walks),
            skipped=min(walk.skipped for walk in walks),
            read=max(walk.read for walk in walks),
            sampled=sum(walk.sampled for walk in walks),
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


class _Timed:
    """Hands frames on; what happens between two of them is finding faces. Between two of them, it may end."""

    def __init__(self, clock: _Clock, stop: Callable[[], bool] | None, name: str, walk: Walk) -> None:
        self.clock = clock
        self._stop, self._name, self._walk = stop, name, walk

    def __call__(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        self._check()
        for frame in self._walk(frames):
            self.clock.lap("decode")
            yield frame
            self.clock.lap("detect")
            self._check()
        self.clock.lap("decode")

    def _check(self) -> None:
        if self._stop is not None and self._stop():
            raise Cancelled(printable(f"{self._name}: stopped before the end"))


class _Batcher:
    """Collects crops over frames, classifies them in full batches, and hands out frame records in order."""

    def __init__(self, classifier: FaceClassifier, on_frame: Callable[[FrameRecord], None] | None) -> None:
        self._classifier = classifier
        self._on_frame = on_frame
        self._crops: list[UInt8[np.ndarray, "s s 3"]] = []
        self._cropped: list[Face] = []
        self._scores: dict[int, FaceScore] = {}  # by id() of the face, which `_waiting` keeps alive
        self._waiting: collections.deque[tuple[Found, list[int], list[float | None]]] = collections.deque()
        self._records: list[FrameRecord] = []

    def add(self, found: Found, people: list[int]) -> None:
        sharp = [None if crop is None else sharpness(crop) for crop in found.crops]
        # Crops go to the batch alone: a frame that waits for its scores holds none.
        self._waiting.append((dataclasses.replace(found, crops=(), looks=()), people, sharp))
        for face, crop in zip(found.faces, found.crops, strict=True):
            if crop is not None:
                self._crops.append(crop)
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
        while self._waiting and pending.isdisjoint(map(id, self._waiting[0][0].faces)):
            found, people, sharp = self._waiting.popleft()
            records = tuple(
                dataclasses.replace(
                    _face_record(face, self._scores.pop(id(face), None)),
                    person=person,
                    sharpness=detail,
                    carried=found.carried,
                )
                for face, person, detail in zip(found.faces, people, sharp, strict=True)
            )
            self._records.append(FrameRecord(index=found.index, time=found.time, faces=records))
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


def _decode_here(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    return decode_image(data, source=name)


def _load_image(
    source: ImageInput, name: str | None, decode: Decode
) -> tuple[str, UInt8[np.ndarray, "h w 3"], str | None]:
    if isinstance(source, np.ndarray):
        name = name or "<array>"
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise OpenError(name, f"an array of {source.dtype} {source.shape}", "give uint8 RGB, height x width x 3")
        return name, source, None
    if isinstance(source, bytes):
        name = name or "<bytes>"
        return name, decode(source, name), hashlib.sha256(source).hexdigest()
    # Read once: the hash is of the bytes that were decoded, also when the file is replaced meanwhile.
    data = read_image_file(source)
    return name or os.fspath(source), decode(data, os.fspath(source)), hashlib.sha256(data).hexdigest()


def _sha256(source: VideoInput) -> str:
    if isinstance(source, str | os.PathLike):
        return file_sha256(Path(source))
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    digest, place = hashlib.sha256(), source.seek(0, os.SEEK_CUR)
    source.seek(0)
    while block := source.read(1 << 20):
        digest.update(block)
    source.seek(place)  # where the decoder goes on
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file's bytes; raises `OpenError`."""
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
        video=spec.video,
    )

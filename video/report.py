"""What was found in one input, in a form that another person can re-check: dataclasses, their JSON, their CSV rows.

Every record has the keys `input`, `verdict`, `p_fake` and `faces`, or `input` and `error`.

Example:
    >>> report = score_video(classifier, detector, "clip.mp4")
    >>> json.dumps(report.to_dict())
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from fakeface_jax.decision import OperatingPoint, VerdictBands
from fakeface_jax.faces import Box
from fakeface_jax.labels import Verdict
from video.sampling import Sampling

REPORT_FORMAT = 1
"""Raised when a key changes its meaning or goes away; new keys do not raise it."""

FITTED_ON = "single faces"
"""What the operating points were fitted on. A video's score is an average and its errors are not those of one face."""

MOST_SUSPICIOUS = 5
"""How many faces a video's record lists in `faces`; all are in `frames`."""

SUMMARY_COLUMNS = (
    "input",
    "verdict",
    "p_fake",
    "reason",
    "faces",
    "faces_scored",
    "frames_sampled",
    "frames_with_face",
    "seconds_covered",
    "frames_dropped",
    "width",
    "height",
    "duration",
    "sha256",
    "model",
    "model_id",
    "error",
)
"""Columns of `summary_row`, for csv.DictWriter."""

FRAME_COLUMNS = ("input", "index", "time", "face", "x0", "y0", "x1", "y1", "confidence", "p_fake", "verdict")
"""Columns of `VideoReport.frame_rows`, for csv.DictWriter."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FaceRecord:
    """One face.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the original frame.
        p_fake: calibrated probability in [0, 1]; None for a face too small to be scored.
        verdict: by the bundle's bands; `inconclusive` for a face too small to be scored.
        confidence: the detector's, in [0, 1]: that it is a face at all.
        logit: calibrated; `p_fake` is its sigmoid. What videos average.
    """

    box: Box
    p_fake: float | None
    verdict: Verdict
    confidence: float
    logit: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FrameRecord:
    """One sampled frame of a video.

    Attributes:
        index: number of the frame in the video, from 0.
        time: seconds from the first frame, by the container's timestamps.
        faces: largest first; empty when none was found.
    """

    index: int
    time: float
    faces: tuple[FaceRecord, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Media:
    """The file that was scored.

    Attributes:
        sha256: of the file's bytes; None for arrays.
        width: pixels, upright.
        height: pixels.
        fps: nominal frame rate; None for images and where unknown.
        frames: how many frames the file holds, counted; 1 for images.
        frames_stated: how many its header claims.
        duration: seconds; None for images and where unknown.
        times_from: `container` timestamps, or the `frame rate` where there are none.
    """

    sha256: str | None
    width: int
    height: int
    fps: float | None = None
    frames: int = 1
    frames_stated: int | None = None
    duration: float | None = None
    times_from: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """What scored, and by which thresholds.

    Attributes:
        name: of the bundle.
        id: sha256 over the bundle's specification and weights.
        calibration: `none`, `temperature` or `platt`.
        detector: the face detector used.
        trained_with_detector: the face detector the model's training crops were found with.
        bands: what turns P(fake) into a verdict.
        operating_points: the thresholds behind the bands, with the error rates they were chosen for.
    """

    name: str
    id: str
    calibration: str
    detector: str
    trained_with_detector: str
    bands: VerdictBands
    operating_points: tuple[OperatingPoint, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """How much a video's verdict rests on.

    Attributes:
        faces_scored: how many faces.
        frames_sampled: how many frames were looked at.
        frames_with_face: of those, how many have a scored face.
        seconds: from the first to the last of these, the latter's own duration included.
        faces_too_small: found and not scored.
        frames_dropped: frames that the file states or holds and that could not be decoded.
    """

    faces_scored: int
    frames_sampled: int
    frames_with_face: int
    seconds: float
    faces_too_small: int
    frames_dropped: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Wall-clock seconds of each stage.

    Attributes:
        open: checking, counting and hashing the file.
        decode: grabbing, and decoding and converting what is sampled.
        detect: finding faces.
        classify: cutting crops and scoring them, compilation included.
        aggregate: from face scores to the verdict.
    """

    open: float = 0.0
    decode: float = 0.0
    detect: float = 0.0
    classify: float = 0.0
    aggregate: float = 0.0

    @property
    def total(self) -> float:
        """Of all stages."""
        return self.open + self.decode + self.detect + self.classify + self.aggregate


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageReport:
    """One scored picture.

    Attributes:
        input: as the user named it.
        verdict: of the most fake face; `no_face` when no face was found that is large enough to be scored.
        p_fake: of the most fake face, in [0, 1]; None without a scored face.
        reason: in words, where the verdict is not simply the band of the score; else empty.
        faces: largest first.
        media: the file.
        model: what scored.
        seconds: wall-clock time of each stage.
        whole_image: whether the picture itself was taken for a face crop.
    """

    input: str
    verdict: Verdict
    p_fake: float | None
    reason: str
    faces: tuple[FaceRecord, ...]
    media: Media
    model: Model
    seconds: StageSeconds
    whole_image: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **_head(self, "image"),
            "faces": _plain(self.faces),
            **_scored_by(self.model),
            "media": _plain(self.media),
            "whole_image": self.whole_image,
            "seconds": _seconds(self.seconds),
        }

    def summary_row(self) -> dict[str, Any]:
        """One CSV row; the keys are `SUMMARY_COLUMNS`."""
        scored = sum(face.p_fake is not None for face in self.faces)
        return _row(
            **_summary(self),
            faces=len(self.faces),
            faces_scored=scored,
            frames_sampled=1,
            frames_with_face=int(scored > 0),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoReport:
    """One scored video.

    Attributes:
        input: as the user named it.
        verdict: `no_face` without a scored face, `inconclusive` on little evidence, else the band of `p_fake`.
        p_fake: of the video, in [0, 1]; None without a scored face.
        reason: in words, where the verdict is not simply the band of the score; else empty.
        frames: one record per sampled frame, in order.
        evidence: what the verdict rests on.
        media: the file.
        sampling: which frames were looked at.
        model: what scored. Its operating points were fitted on single faces, which the JSON says.
        aggregation: the rule that made one score of many.
        seconds: wall-clock time of each stage.
        frames_read: frames of the file that were walked through, sampled or not.
    """

    input: str
    verdict: Verdict
    p_fake: float | None
    reason: str
    frames: tuple[FrameRecord, ...]
    evidence: Evidence
    media: Media
    sampling: Sampling
    model: Model
    aggregation: str
    seconds: StageSeconds
    frames_read: int

    @property
    def fps(self) -> float:
        """Speed: frames of the file walked through per second of wall-clock time, all stages."""
        return self.frames_read / max(self.seconds.total, 1e-9)

    def most_suspicious(self, count: int = MOST_SUSPICIOUS) -> list[tuple[FrameRecord, FaceRecord]]:
        """The faces with the highest scores, highest first; the earlier one of equals."""
        scored = [(frame, face) for frame in self.frames for face in frame.faces if face.logit is not None]
        return sorted(scored, key=lambda pair: -(pair[1].logit or 0.0))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        suspicious = [
            {**_plain(face), "frame": frame.index, "time": frame.time} for frame, face in self.most_suspicious()
        ]
        return {
            **_head(self, "video"),
            "faces": suspicious,
            "evidence": _plain(self.evidence),
            "aggregation": self.aggregation,
            **_scored_by(self.model),
            "media": _plain(self.media),
            "sampling": _plain(self.sampling),
            "seconds": _seconds(self.seconds),
            "fps": self.fps,
            "frames": _plain(self.frames),
        }

    def summary_row(self) -> dict[str, Any]:
        """One CSV row; the keys are `SUMMARY_COLUMNS`."""
        evidence = self.evidence
        return _row(
            **_summary(self),
            faces=evidence.faces_scored + evidence.faces_too_small,
            faces_scored=evidence.faces_scored,
            frames_sampled=evidence.frames_sampled,
            frames_with_face=evidence.frames_with_face,
            seconds_covered=evidence.seconds,
            frames_dropped=evidence.frames_dropped,
            duration=self.media.duration,
        )

    def frame_rows(self) -> list[dict[str, Any]]:
        """The per-frame table: a row per face, and one without a face for frames without; keys are `FRAME_COLUMNS`."""
        rows = []
        for frame in self.frames:
            place = {"input": self.input, "index": frame.index, "time": frame.time}
            for number, face in enumerate(frame.faces):
                corners = dict(zip(("x0", "y0", "x1", "y1"), face.box, strict=True))
                score = {"confidence": face.confidence, "p_fake": face.p_fake, "verdict": str(face.verdict)}
                rows.append({**place, "face": number, **corners, **score})
            if not frame.faces:
                rows.append({**dict.fromkeys(FRAME_COLUMNS), **place, "verdict": str(Verdict.NO_FACE)})
        return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorRecord:
    """An input that could not be scored; the others go on.

    Attributes:
        input: as the user named it.
        error: one line that says what happened and what to do.
    """

    input: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"input": self.input, "error": self.error}

    def summary_row(self) -> dict[str, Any]:
        """One CSV row; the keys are `SUMMARY_COLUMNS`."""
        return _row(input=self.input, error=self.error)


def _head(report: ImageReport | VideoReport, kind: str) -> dict[str, Any]:
    return {
        "input": report.input,
        "kind": kind,
        "format": REPORT_FORMAT,
        "verdict": str(report.verdict),
        "p_fake": report.p_fake,
        "reason": report.reason,
    }


def _scored_by(model: Model) -> dict[str, Any]:
    return {
        "model": {
            "name": model.name,
            "id": model.id,
            "calibration": model.calibration,
            "trained_with_detector": model.trained_with_detector,
        },
        "detector": model.detector,
        "bands": _plain(model.bands),
        "operating_points": _plain(model.operating_points),
        "operating_points_fitted_on": FITTED_ON,
    }


def _seconds(seconds: StageSeconds) -> dict[str, float]:
    return {**dataclasses.asdict(seconds), "total": seconds.total}


def _summary(report: ImageReport | VideoReport) -> dict[str, Any]:
    return {
        "input": report.input,
        "verdict": str(report.verdict),
        "p_fake": report.p_fake,
        "reason": report.reason,
        "width": report.media.width,
        "height": report.media.height,
        "sha256": report.media.sha256,
        "model": report.model.name,
        "model_id": report.model.id,
    }


def _row(**cells: Any) -> dict[str, Any]:
    return {**dict.fromkeys(SUMMARY_COLUMNS), **cells}


def _plain(value: Any) -> Any:
    """Dataclasses, enums and tuples as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, enum.StrEnum) else value

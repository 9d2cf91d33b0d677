"""What was found in one input, in a form that another person can re-check: dataclasses, their JSON, their CSV rows.

Every record has the keys `input`, `verdict`, `p_fake` and `faces`, or `input` and `error`.

Example:
    >>> report = score_video(classifier, detector, "clip.mp4")
    >>> json.dumps(report.to_dict())
"""

from __future__ import annotations

import dataclasses
import enum
import html
from collections.abc import Mapping
from typing import Any

from fakeface_jax.labels import Verdict
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.report.records import (
    Evidence,
    FaceRecord,
    FrameRecord,
    Media,
    Model,
    PersonRecord,
    Role,
    StageSeconds,
)

REPORT_FORMAT = 2
"""Raised when a key changes its meaning or goes away; new keys do not raise it. The JSON Schema beside this file
(`report.schema.json`) is of this format."""

SINGLE_FACES = "single faces"
"""What operating points were fitted on where the model has none for videos. A video's score is an average, and its
errors are not those of one face."""

MOST_SUSPICIOUS = 5
"""How many faces a video's record lists in `faces`; all are in `frames`."""

SUMMARY_COLUMNS = (
    "input",
    "verdict",
    "p_fake",
    "reason",
    "people",
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

FRAME_COLUMNS = (
    "input",
    "index",
    "time",
    "face",
    "person",
    "x0",
    "y0",
    "x1",
    "y1",
    "confidence",
    "carried",
    "sharpness",
    "logit",
    "p_fake",
    "verdict",
)
"""Columns of `VideoReport.frame_rows`, for csv.DictWriter."""

_FACE_CELLS = ("person", "confidence", "carried", "sharpness", "logit", "p_fake", "verdict")


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.input}: {_in_brief(self)}>"

    def _repr_html_(self) -> str:
        """Renders the answer in a notebook."""
        return f"<p><b>{self.verdict}</b> {html.escape(self.input)}<br>{html.escape(_in_brief(self))}</p>"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **_head(self, "image"),
            "faces": plain(self.faces),
            **_scored_by(self.model),
            "media": plain(self.media),
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


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class VideoReport:
    """One scored video.

    Attributes:
        input: as the user named it.
        verdict: `no_face` without a scored face, `inconclusive` on little evidence, else the band of `p_fake`.
        p_fake: of the video, in [0, 1]; None without a scored face.
        reason: the verdict in words.
        people: who is in it, in order of appearance.
        frames: one record per sampled frame, in order.
        evidence: what the verdict rests on, of everybody.
        media: the file.
        sampling: which frames were looked at.
        model: what scored.
        aggregation: the rule that made one score of many.
        seconds: wall-clock time of each stage.
        frames_read: frames of the file that came out of the decoder, sampled or not.
        frames_skipped: frames that were jumped over: of them nothing is known.
        settings: whatever else a score depends on: of tracking, of detection between frames, versions.
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
    frames_skipped: int = 0
    people: tuple[PersonRecord, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.input}: {_in_brief(self)}>"

    def _repr_html_(self) -> str:
        """Renders the answer in a notebook."""
        return f"<p><b>{self.verdict}</b> {html.escape(self.input)}<br>{html.escape(_in_brief(self))}</p>"

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
            {**plain(face), "frame": frame.index, "time": frame.time} for frame, face in self.most_suspicious()
        ]
        return {
            **_head(self, "video"),
            "faces": suspicious,
            "people": plain(self.people),
            "evidence": plain(self.evidence),
            "aggregation": self.aggregation,
            **_scored_by(self.model),
            "media": plain(self.media),
            "sampling": plain(self.sampling),
            "settings": plain(self.settings),
            "frames_read": self.frames_read,
            "frames_skipped": self.frames_skipped,
            "seconds": _seconds(self.seconds),
            "fps": self.fps,
            "frames": plain(self.frames),
        }

    def summary_row(self) -> dict[str, Any]:
        """One CSV row; the keys are `SUMMARY_COLUMNS`."""
        return summary_row(self.to_dict())

    def frame_rows(self) -> list[dict[str, Any]]:
        """The per-frame table: a row per face, and one without a face for frames without; keys are `FRAME_COLUMNS`."""
        return frame_rows(self.to_dict())


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


def summary_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """One CSV row of a video's record; the keys are `SUMMARY_COLUMNS`."""
    evidence, media, model = record["evidence"], record["media"], record["model"]
    return _row(
        **{name: record[name] for name in ("input", "verdict", "p_fake", "reason")},
        **{name: media[name] for name in ("width", "height", "sha256", "duration")},
        **{name: evidence[name] for name in ("faces_scored", "frames_sampled", "frames_with_face", "frames_dropped")},
        model=model["name"],
        model_id=model["id"],
        people=len(record["people"]),
        faces=evidence["faces_scored"] + evidence["faces_too_small"],
        seconds_covered=evidence["seconds"],
    )


def frame_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per face of a video's record, and one without a face for frames without; keys are `FRAME_COLUMNS`."""
    rows = []
    for frame in record["frames"]:
        place = {"input": record["input"], "index": frame["index"], "time": frame["time"]}
        for number, face in enumerate(frame["faces"]):
            corners = dict(zip(("x0", "y0", "x1", "y1"), face["box"], strict=True))
            rows.append({**place, "face": number, **corners, **{name: face[name] for name in _FACE_CELLS}})
        if not frame["faces"]:
            rows.append({**dict.fromkeys(FRAME_COLUMNS), **place, "verdict": str(Verdict.NO_FACE)})
    return rows


def main_people(report: VideoReport) -> list[PersonRecord]:
    """Those whose scores count for the video."""
    return [person for person in report.people if person.role is Role.MAIN]


def _in_brief(report: ImageReport | VideoReport) -> str:
    """Says verdict and score in a few words, with the reason where there is one."""
    score = "no score" if report.p_fake is None else f"P(fake) {report.p_fake:.3f}"
    return f"{report.verdict}, {score}" + (f" ({report.reason})" if report.reason else "")


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
        "bands": plain(model.bands),
        "operating_points": plain(model.operating_points),
        "operating_points_fitted_on": SINGLE_FACES,
        "video_decision": plain(model.video),
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


def plain(value: Any) -> Any:
    """Dataclasses, enums and tuples of records as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, enum.StrEnum) else value

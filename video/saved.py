"""Reports that were saved as JSON: read again, compared with a new one, and not done twice.

Example:
    >>> saved = read_reports("report.json")[0]
    >>> compare(saved, score_video(classifier, detector, "clip.mp4", saved.sampling)).reproduced
    True
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fakeface_jax.errors import ConfigError, DataError, OpenError
from video.report import REPORT_FORMAT, VideoReport, frame_rows, summary_row
from video.sampling import Sampling

LOGIT_TOLERANCE = 0.02
"""Between machines, batch sizes and releases of XLA the same face's logit differs in the last bits of its arithmetic,
and the last bits of decoding and of a box's rounding move a crop by less than a pixel's worth."""

BOX_TOLERANCE = 1.0
"""Pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedReport:
    """A video's report, as its JSON says.

    Attributes:
        record: the JSON.
        path: where it was read.
    """

    record: Mapping[str, Any]
    path: Path

    @property
    def sampling(self) -> Sampling:
        """Which frames were looked at."""
        return Sampling(**self.record["sampling"])

    @property
    def sha256(self) -> str | None:
        """Of the video's bytes."""
        sha256: str | None = self.record["media"]["sha256"]
        return sha256

    def made_with(self, *, model_id: str, detector: str, sampling: Sampling, rule: str | None) -> bool:
        """Whether scoring with these settings would say the same.

        Args:
            model_id: of the bundle.
            detector: its name.
            sampling: resolved.
            rule: of the aggregation; None for whichever the model names.
        """
        record = self.record
        return (
            record["model"]["id"] == model_id
            and record["detector"] == detector
            and self.sampling == sampling
            and rule in (None, record["aggregation"])
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON."""
        return dict(self.record)

    def summary_row(self) -> dict[str, Any]:
        """As `VideoReport.summary_row`."""
        return summary_row(self.record)

    def frame_rows(self) -> list[dict[str, Any]]:
        """As `VideoReport.frame_rows`."""
        return frame_rows(self.record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """An old report against a new one of the same settings.

    Attributes:
        differences: what is not as it was, in words; empty where the report is reproduced.
        notes: what differs without changing the answer, such as the place of the file or a version.
        faces: faces compared.
        largest_logit_difference: among them.
        largest_box_difference: in pixels.
    """

    differences: tuple[str, ...]
    notes: tuple[str, ...]
    faces: int
    largest_logit_difference: float
    largest_box_difference: float

    @property
    def reproduced(self) -> bool:
        """Whether the new report says what the old one does."""
        return not self.differences


def read_reports(path: str | os.PathLike[str]) -> list[SavedReport]:
    """The reports of videos in a file: of one (a JSON object), of several (a JSON array, or JSON lines).

    Raises:
        OpenError: the file cannot be read.
        DataError: it holds no report of a video, or one of another format.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise OpenError(path, f"cannot be read: {reason}", "name a report that fakeface score wrote") from error
    records = [record for record in _records(text, path) if record.get("kind") == "video"]
    if not records:
        raise DataError(f"{path}: holds no report of a video; name one that fakeface score --format json wrote")
    for record in records:
        _check(record, path)
    return [SavedReport(record=record, path=path) for record in records]


def compare(saved: SavedReport, new: VideoReport) -> Comparison:
    """What of a saved report a new one does not reproduce.

    Args:
        saved: the old one.
        new: of the same video, with the same model, detector, sampling and rule.
    """
    old, fresh = saved.record, new.to_dict()
    differences: list[str] = []
    notes: list[str] = []
    for name, where in (("video", ("media", "sha256")), ("model", ("model", "id"))):
        was, now = old[where[0]][where[1]], fresh[where[0]][where[1]]
        if was != now:
            differences.append(f"another {name}: sha256 {_short(was)} was scored, this one is {_short(now)}")
    for key in ("detector", "aggregation", "settings"):
        was, now = old.get(key), fresh[key]
        if was != now:
            notes.append(f"{key} was {was}, is {now}")
    # Thresholds move between releases only with the model; where they do, verdicts do.
    differences += [
        f"other {key}" for key in ("bands", "video_decision") if old.get(key) != json.loads(json.dumps(fresh[key]))
    ]
    logits, boxes, faces = _faces(old["frames"], fresh["frames"], differences)
    if logits > LOGIT_TOLERANCE:
        differences.append(f"a face's logit differs by {logits:.3f}, more than {LOGIT_TOLERANCE}")
    if boxes > BOX_TOLERANCE:
        differences.append(f"a face's box differs by {boxes:.1f} pixels, more than {BOX_TOLERANCE}")
    if old["verdict"] != fresh["verdict"]:
        differences.append(f"the verdict was {old['verdict']}, is {fresh['verdict']}")
    if not _near(old["p_fake"], fresh["p_fake"]):
        differences.append(f"P(fake) was {old['p_fake']}, is {fresh['p_fake']}")
    return Comparison(
        differences=tuple(differences),
        notes=tuple(notes),
        faces=faces,
        largest_logit_difference=logits,
        largest_box_difference=boxes,
    )


def _faces(old: list[Any], fresh: list[Any], differences: list[str]) -> tuple[float, float, int]:
    if [frame["index"] for frame in old] != [frame["index"] for frame in fresh]:
        differences.append(f"other frames: {len(old)} were looked at, now {len(fresh)}")
        return 0.0, 0.0, 0
    logits = boxes = 0.0
    faces = 0
    for was, now in zip(old, fresh, strict=True):
        if len(was["faces"]) != len(now["faces"]):
            differences.append(f"frame {was['index']}: {len(was['faces'])} faces were found, now {len(now['faces'])}")
            continue
        for one, other in zip(was["faces"], now["faces"], strict=True):
            faces += 1
            boxes = max(boxes, *(abs(a - b) for a, b in zip(one["box"], other["box"], strict=True)))
            if (one["logit"] is None) != (other["logit"] is None):
                differences.append(f"frame {was['index']}: a face was scored and another was not")
            elif one["logit"] is not None:
                logits = max(logits, abs(one["logit"] - other["logit"]))
    return logits, boxes, faces


def _near(was: float | None, now: float | None) -> bool:
    if was is None or now is None:
        return was is now
    return abs(was - now) <= LOGIT_TOLERANCE


def _short(sha256: str | None) -> str:
    return "none" if sha256 is None else f"{sha256[:12]}..."


def _records(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is no JSON ({error}); name a report that fakeface score wrote") from error
    found = found if isinstance(found, list) else [found]
    return [record for record in found if isinstance(record, dict)]


def _check(record: Mapping[str, Any], path: Path) -> None:
    if record.get("format") != REPORT_FORMAT:
        raise DataError(
            f"{path}: report format {record.get('format')}, this release reads {REPORT_FORMAT}; "
            "score the video again, or install the release that wrote it"
        )
    try:
        Sampling(**record["sampling"])
        for name in ("sha256",):
            record["media"][name]
        for name in ("verdict", "p_fake", "aggregation", "detector", "bands"):
            record[name]
        record["model"]["id"]
        for frame in record["frames"]:
            for face in frame["faces"]:
                if len([float(corner) for corner in face["box"]]) != 4 or frame["index"] < 0:
                    raise ValueError("a face without a box")
                if face["logit"] is not None:
                    float(face["logit"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise DataError(f"{path}: is not a whole report ({type(error).__name__}: {error}); get it again") from error

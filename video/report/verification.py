"""Reports that were saved as JSON: read again, compared with a new one, and not done twice.

Example:
    >>> saved = read_reports("report.json")[0]
    >>> compare(saved, score_video(classifier, detector, "clip.mp4", saved.sampling)).reproduced
    True
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fakeface_jax.errors import ConfigError, DataError, OpenError
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.report.video_report import REPORT_FORMAT, VideoReport, frame_rows, summary_row

TOLERANCES = {"logit": 0.02, "p_fake": 0.01, "box": 1.0, "face_pixels": 1.0, "sharpness": 0.01, "confidence": 0.02}
"""By how much a number may differ, by its key; boxes in pixels. Between machines, batch sizes and releases the same
face's logit differs in the last bits of its arithmetic, and the last bits of decoding move a box by less than a pixel.
Times of segments may differ by `SEGMENT_TOLERANCE`, all other numbers in their last digits."""

SEGMENT_TOLERANCE = 0.5
"""Seconds."""

_NOT_COMPARED = frozenset(
    {
        *("input", "seconds", "fps", "frames_read", "frames_skipped"),
        *("settings", "detector", "aggregation", "operating_points_fitted_on"),
    }
)
"""Where the file lay, how fast and by which decoder it was read, and what `compare` looks at by itself."""

_MOST_DIFFERENCES = 12


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

    def made_with(
        self, *, model_id: str, detector: str, sampling: Sampling, rule: str, settings: Mapping[str, Any]
    ) -> bool:
        """Whether scoring with these settings would say the same.

        Args:
            model_id: of the bundle.
            detector: its name.
            sampling: resolved.
            rule: of the aggregation.
            settings: from `fakeface_jax.video.scoring.score_settings`; versions may differ.
        """
        record = self.record
        return bool(
            record["model"]["id"] == model_id
            and record["detector"] == detector
            and self.sampling == sampling
            and record["aggregation"] == rule
            and settings.items() <= record["settings"].items()
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
    old, fresh = saved.record, json.loads(json.dumps(new.to_dict()))
    differences: list[str] = []
    for name, where in (("video", ("media", "sha256")), ("model", ("model", "id"))):
        was, now = old[where[0]][where[1]], fresh[where[0]][where[1]]
        if was != now:
            differences.append(f"another {name}: sha256 {_short(was)} was scored, this one is {_short(now)}")
    found = _Differences(differences)
    settings = dict(old.get("settings") or {})
    versions, now_versions = settings.pop("versions", {}), fresh["settings"].pop("versions")
    notes = [
        f"{name} was {versions.get(name)}, is {version}"
        for name, version in now_versions.items()
        if versions.get(name) != version
    ]
    found.look("settings", "settings", settings, fresh["settings"])
    for key in fresh:
        if key not in _NOT_COMPARED:
            found.look(key, key, old.get(key), fresh[key])
    if len(differences) > _MOST_DIFFERENCES:
        more = len(differences) - _MOST_DIFFERENCES
        differences[_MOST_DIFFERENCES:] = [f"and {more} more"]
    return Comparison(
        differences=tuple(differences),
        notes=tuple(notes),
        faces=sum(len(frame["faces"]) for frame in fresh["frames"]),
        largest_logit_difference=found.largest["logit"],
        largest_box_difference=found.largest["box"],
    )


class _Differences:
    """Walks through two reports side by side."""

    def __init__(self, found: list[str]) -> None:
        self._found = found
        self.largest = {"logit": 0.0, "box": 0.0}

    def look(self, place: str, key: str, was: Any, now: Any) -> None:
        if isinstance(now, dict) and isinstance(was, dict):
            for name in sorted(now.keys() | was.keys()):
                self.look(f"{place}.{name}", name, was.get(name), now.get(name))
        elif isinstance(now, list) and isinstance(was, list) and len(now) == len(was):
            for number, (one, other) in enumerate(zip(was, now, strict=True)):
                self.look(f"{place}[{number}]", key, one, other)
        elif _is_number(was) and _is_number(now):
            self._look_at_numbers(place, key, float(was), float(now))
        elif key == "reason" and isinstance(was, str):
            if not _says_the_same(was, str(now)):
                self._found.append(f"{place} was {was!r}, is {now!r}")
        elif was != now:
            self._found.append(f"{place} was {_brief(was)}, is {_brief(now)}")

    def _look_at_numbers(self, place: str, key: str, was: float, now: float) -> None:
        difference = abs(was - now)
        segment = ".segments[" in place and key in ("start", "end")
        allowed = SEGMENT_TOLERANCE if segment else TOLERANCES.get(key, 1e-6 * max(1.0, abs(now)))
        # Not `>`: whatever is no number differs.
        if not difference <= allowed:
            self._found.append(f"{place} was {was:g}, is {now:g}")
        if key in self.largest and difference > self.largest[key]:
            self.largest[key] = difference


_NUMBER = re.compile(r"(?:P\(fake\) )?\d+(?:\.\d+)?")


def _says_the_same(was: str, now: str) -> bool:
    """Whether two sentences agree in their words, and in their numbers to the last printed digit but one."""
    if _NUMBER.sub("0", was) != _NUMBER.sub("0", now):
        return False
    pairs = zip(_NUMBER.findall(was), _NUMBER.findall(now), strict=True)
    return all(abs(float(a.split()[-1]) - float(b.split()[-1])) <= _allowed(b) for a, b in pairs)


def _allowed(number: str) -> float:
    """What rounding, and for P(fake) another machine, may change; a count is a count."""
    decimals = len(number.partition(".")[2])
    rounding = 1.01 * 10.0**-decimals if decimals else 0.0
    return rounding + (TOLERANCES["p_fake"] if number.startswith("P(fake)") else 0.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _brief(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{len(value)} {'entries' if isinstance(value, list) else 'keys'}"
    return repr(value)


def _short(sha256: str | None) -> str:
    return "none" if sha256 is None else f"{sha256[:12]}..."


def _records(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        found = _parsed(text)
    except (ValueError, RecursionError):
        try:
            found = [_parsed(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is no JSON ({error}); name a report that fakeface score wrote") from error
    found = found if isinstance(found, list) else [found]
    return [record for record in found if isinstance(record, dict)]


def _parsed(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")

    return json.loads(text, parse_constant=refuse)


def _check(record: Mapping[str, Any], path: Path) -> None:
    """What a report says is used in many places: nothing that does not fit the schema gets there."""
    if record.get("format") != REPORT_FORMAT:
        raise DataError(
            f"{path}: report format {record.get('format')!r}, this release reads {REPORT_FORMAT}; "
            "score the video again, or install the release that wrote it"
        )
    error = next(_validator().iter_errors(record), None)
    if error is not None:
        raise DataError(f"{path}: is not a whole report: {error.json_path}: {error.message[:200]}; get it again")
    try:
        Sampling(**record["sampling"])
    except ConfigError as problem:
        raise DataError(f"{path}: is not a whole report: {problem}; get it again") from problem


@functools.cache
def _validator() -> Any:
    """Of the schema's part about videos."""
    from jsonschema import Draft202012Validator

    schema = json.loads(Path(__file__).with_name("report.schema.json").read_text(encoding="utf-8"))
    return Draft202012Validator({"$ref": "#/$defs/video", "$defs": schema["$defs"]})

"""What was found in a video or a picture, as one HTML file that needs nothing else: no script, no other host.

Everything from outside is escaped: names of files are chosen by others, and the page's own policy forbids scripts and
the network in case something was missed. It is light or dark as the reader's system is, and readable on a phone.

Example:
    >>> save_video_html(report, "clip.html", classifier)
    >>> save_image_html(image, image_report, "portrait.html", classifier)
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.resources
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fakeface_jax.atomic_files import whole_file
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.errors import ConfigError, printable
from fakeface_jax.video.reading.opencv import FrameSource
from fakeface_jax.video.render.annotate import annotate
from fakeface_jax.video.render.crops import (
    CropRecord,
    annotated_frame,
    extremes,
    jpeg_uri,
    picture_crops,
    suspicious_crops,
)
from fakeface_jax.video.render.timeline import Lane, lane, length
from fakeface_jax.video.report.explanations import in_force, percent, wording
from fakeface_jax.video.report.records import PersonRecord, Role, Segment
from fakeface_jax.video.report.video_report import ImageReport, VideoReport

EXTENSIONS = (".html", ".htm")
"""What the page's name may end in."""

MAX_LANES = 12
"""People with a timeline; more are in the table alone."""

_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_MAX_TICKS = 6
_SHOWN_SIDE = 960
"""Pixels of the longer side of the picture that is shown."""


def save_video_html(
    report: VideoReport,
    path: str | os.PathLike[str],
    classifier: FaceClassifier,
    source: str | os.PathLike[str] | FrameSource | None = None,
    *,
    crops: Sequence[CropRecord] | None = None,
) -> None:
    """Writes the page of a video; completely or not at all. The frames shown are decoded once more.

    Args:
        report: from `score_video`.
        path: ends in one of `EXTENSIONS`; an existing file is replaced.
        classifier: that scored; the heat maps are of its gradients.
        source: the video, as a path or open; `report.input` by default.
        crops: from `fakeface_jax.video.render.crops.suspicious_crops`, where they are made already.

    Raises:
        OpenError: the file cannot be written.
        MediaError: the video cannot be read any more.
        ConfigError: the page needs jinja2, which is not installed.
    """
    with whole_file(path, extensions=EXTENSIONS) as temporary:
        if crops is None:
            crops = suspicious_crops(report, classifier, source)
        cards = [
            (title, _cards([one for one in crops if one["kind"] == kind], classifier))
            for title, kind in (("Most suspicious", "most"), ("Least suspicious", "least"))
        ]
        most, _ = extremes(report, 1)
        picture = None
        if most and (image := annotated_frame(report, most[0][0], source)) is not None:
            picture = _picture(image, f"The most suspicious moment, at {_clock(most[0][0].time)}")
        # Background and still people come last; the order of the numbers else.
        people = sorted(report.people, key=lambda one: (one.role is not Role.MAIN, one.number))
        drawn = [lane(report, person) for person in people] if people else [lane(report, None)]
        drawn = [one for one in drawn if one.stretches]
        page = _page(
            report,
            length=_clock(report.media.duration) if report.media.duration else "",
            evidence=_evidence(report),
            picture=picture,
            lanes=[_lane(one, length(report)) for one in drawn[:MAX_LANES]],
            lanes_left_out=max(0, len(drawn) - MAX_LANES),
            ticks=_ticks(length(report)),
            table=_people(people) if people else None,
            crops=[(title, some) for title, some in cards if some],
        )
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def save_image_html(
    image: UInt8[np.ndarray, "h w 3"],
    report: ImageReport,
    path: str | os.PathLike[str],
    classifier: FaceClassifier,
    *,
    crops: Sequence[CropRecord] | None = None,
) -> None:
    """Writes the page of a picture; completely or not at all.

    Args:
        image: the picture that was scored, RGB.
        report: from `score_image`.
        path: ends in one of `EXTENSIONS`; an existing file is replaced.
        classifier: that scored.
        crops: from `fakeface_jax.video.render.crops.picture_crops`, where they are made already.

    Raises:
        OpenError: the file cannot be written.
        ConfigError: the page needs jinja2, which is not installed.
    """
    with whole_file(path, extensions=EXTENSIONS) as temporary:
        if crops is None:
            crops = picture_crops(image, report, classifier)
        scored = sum(face.p_fake is not None for face in report.faces)
        page = _page(
            report,
            length="",
            evidence=[("Faces scored", str(scored)), ("Faces too small to score", str(len(report.faces) - scored))],
            picture=_picture(annotate(image, report.faces), "The picture with the faces that were found"),
            lanes=[],
            lanes_left_out=0,
            ticks=[],
            table=None,
            crops=[("", _cards(crops, classifier))] if crops else [],
        )
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _page(report: ImageReport | VideoReport, **parts: Any) -> str:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise ConfigError("HTML reports need jinja2: pip install jinja2") from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    template = (
        importlib.resources.files("fakeface_jax.video.render").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    bands = report.model.bands
    limits = [("fake", bands.fake_from, "fake from"), ("real", bands.real_below, "real below")]
    is_video = isinstance(report, VideoReport)
    return environment.from_string(template).render(
        kind="Video" if is_video else "Picture",
        name=Path(report.input).name or report.input,
        verdict=str(report.verdict),
        p_fake=report.p_fake,
        reason=report.reason,
        words=wording(report),
        size=(report.media.width, report.media.height),
        limits=[{"y": _y(value), "text": f"{text} {value:.2f}"} for _, value, text in limits],
        crops_title="The most and the least suspicious faces" if is_video else "The faces",
        settings=_settings(report),
        **parts,
    )


def _shown(value: Any) -> Any:
    """Nothing in a text from outside may turn the direction of writing or hide."""
    from markupsafe import Markup

    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _cards(crops: Sequence[CropRecord], classifier: FaceClassifier) -> list[dict[str, Any]]:
    return [
        {
            "source": one["crop"],
            "heat": one["heat"],
            "size": classifier.spec.crop.size,
            "verdict": one["verdict"],
            "p_fake": f"{one['p_fake']:.3f}",
            "says": ", ".join(_says(one)),
        }
        for one in crops
    ]


def _says(one: CropRecord) -> list[str]:
    says = [one["verdict"]]
    if one["person"] is not None:
        says.append(f"person {one['person']}")
    if one["time"] is not None:
        says.append(f"at {_clock(one['time'])}")
    x0, y0, x1, y1 = one["box"]
    return [*says, f"{max(x1 - x0, y1 - y0):.0f} pixels"]


def _picture(image: UInt8[np.ndarray, "h w 3"], caption: str) -> dict[str, Any]:
    picture = Image.fromarray(image)
    picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    return {"source": jpeg_uri(np.asarray(picture)), "size": picture.size, "caption": caption}


def _evidence(report: VideoReport) -> list[tuple[str, str]]:
    evidence = report.evidence
    return [
        ("Faces scored", f"{evidence.faces_scored}, over {evidence.seconds:.1f} s"),
        ("Frames with a scored face", f"{evidence.frames_with_face} of {evidence.frames_sampled} sampled"),
        ("Of these, sharp", str(evidence.frames_sharp)),
        ("Faces too small to score", str(evidence.faces_too_small)),
        ("Frames that could not be read", str(evidence.frames_dropped)),
        ("People", str(len(report.people)) if report.people else "not told apart"),
    ]


def _lane(one: Lane, seconds: float) -> dict[str, Any]:
    runs: list[list[Any]] = []
    for stretch in one.stretches:
        if not runs or stretch.start - runs[-1][-1].end > 1e-6:
            runs.append([])
        runs[-1].append(stretch)

    def x(time: float) -> float:
        return round(1000 * min(max(time / seconds, 0.0), 1.0), 2)

    def span(start: float, end: float) -> dict[str, Any]:
        return {"x": x(start), "width": round(max(2.0, x(end) - x(start)), 2)}

    scores = [stretch.face.p_fake or 0.0 for stretch in one.stretches]
    person = one.person
    says = "" if person is None else f"{person.role}: {_answer(person)}"
    return {
        "title": one.title.capitalize(),
        "says": says,
        "alt": f"P(fake) of {len(scores)} faces from {_clock(one.stretches[0].time)} to "
        f"{_clock(one.stretches[-1].time)}, from {min(scores):.2f} to {max(scores):.2f}",
        "runs": [
            {
                **span(run[0].start, run[-1].end),
                "points": " ".join(f"{x(stretch.time)},{_y(stretch.face.p_fake)}" for stretch in run),
            }
            for run in runs
        ],
        "segments": [span(segment.start, segment.end) for segment in one.segments],
        "dots": [
            {"x": x(stretch.time), "y": _y(stretch.face.p_fake), "verdict": str(stretch.face.verdict)}
            for stretch in one.stretches
        ],
    }


def _y(p_fake: float | None) -> float:
    """Height in the plot, in per cent from its upper edge; its margins keep dots inside."""
    return round(5 + 90 * (1 - (p_fake or 0.0)), 2)


def _ticks(seconds: float) -> list[dict[str, Any]]:
    step = next((one for one in _TICKS if seconds / one <= _MAX_TICKS), seconds / _MAX_TICKS)
    count = int(seconds / step + 1e-6) + 1
    return [{"left": round(100 * i * step / seconds, 2), "text": _clock(i * step)} for i in range(count)]


def _people(people: Sequence[PersonRecord]) -> dict[str, Any]:
    rows = [
        {
            "verdict": str(person.verdict),
            "cells": (
                str(person.number),
                str(person.role),
                str(person.verdict).replace("_", " "),
                "–" if person.p_fake is None else f"{person.p_fake:.3f}",
                f"{_clock(person.start)} – {_clock(person.end)}",
                str(person.evidence.faces_scored),
                f"{person.face_pixels:.0f}",
                "; ".join(_segment(segment) for segment in person.segments) or "–",
                person.reason or "–",
            ),
        }
        for person in people
    ]
    header = ("Person", "role", "verdict", "P(fake)", "seen", "faces", "pixels", "suspicious stretches", "why")
    return {"title": "People", "header": header, "rows": rows, "verdict": header.index("verdict")}


def _segment(segment: Segment) -> str:
    return f"{_clock(segment.start)} – {_clock(segment.end)} ({segment.p_fake:.2f} {segment.verdict})"


def _answer(person: PersonRecord) -> str:
    score = "" if person.p_fake is None else f", P(fake) {person.p_fake:.2f}"
    return f"{str(person.verdict).replace('_', ' ')}{score}"


def _settings(report: ImageReport | VideoReport) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titles and facts of all that the result depends on."""
    model, media, rules = report.model, report.media, in_force(report)
    bands = rules.bands
    hashes = [
        ("File, sha256", media.sha256 or "unknown: it was no file"),
        ("Model", model.name),
        ("Model, sha256", model.id),
    ]
    what = "videos" if rules.of_videos else "single faces"
    limits = [
        ("Real below, fake from", f"{bands.real_below:.4f}, {bands.fake_from:.4f}, of {what}; {bands.reason}"),
        *(
            (
                "False positives" if point.kind == "fpr" else "False negatives",
                f"{percent(point.rate)} ({percent(point.rate_low)} to {percent(point.rate_high)}) at "
                f"{point.threshold:.4f}, from {point.samples} of {point.split}",
            )
            for point in rules.points
        ),
        ("Calibration", model.calibration),
    ]
    how = [("Detector", model.detector), ("Trained with detector", model.trained_with_detector)]
    if isinstance(report, VideoReport):
        chosen = {key: value for key, value in dataclasses.asdict(report.sampling).items() if value is not None}
        how += [
            ("Sampling", ", ".join(f"{key} {value}" for key, value in chosen.items()) or "default"),
            ("Aggregation", report.aggregation),
            ("Frame rate", f"{media.fps:.3f} per second" if media.fps else "unknown"),
            ("Frames in the file", f"{media.frames}, times from {media.times_from or 'the container'}"),
            *_flat(report.settings),
        ]
    else:
        how.append(("Whole picture taken for a face", "yes" if report.whole_image else "no"))
    seconds = [(key, f"{value:.2f}") for key, value in dataclasses.asdict(report.seconds).items()]
    seconds.append(("total", f"{report.seconds.total:.2f}"))
    return [("Hashes", hashes), ("Thresholds", limits), ("Settings", how), ("Seconds per stage", seconds)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as `a.b` and their values."""
    flat: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", str(value) if isinstance(value, enum.StrEnum) else f"{value}"))
    return flat


def _clock(seconds: float) -> str:
    """`4.2 s`, `1:04.2`, `1:01:04`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{int(minutes)}:{rest:04.1f}"
    return f"{int(minutes // 60)}:{int(minutes % 60):02d}:{int(rest):02d}"

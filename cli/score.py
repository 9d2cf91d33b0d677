"""`fakeface classify` and `fakeface score`: score pictures and videos, with one record per input.

An input that cannot be read is recorded with its error, and the others are still scored.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fakeface_jax.cli.frame_table import FrameTable
from fakeface_jax.cli.inputs import STDIN, expand
from fakeface_jax.cli.output import Format, Records, tell
from fakeface_jax.cli.saved_reports import KeptReports
from fakeface_jax.cli.targets import Targets, distinct
from fakeface_jax.errors import ConfigError, LimitExceeded, MediaError, OpenError, printable
from fakeface_jax.video.reading.sampling import Sampling

if TYPE_CHECKING:
    from fakeface_jax.bundle import Medium
    from fakeface_jax.classifier import FaceClassifier
    from fakeface_jax.faces import FaceDetector
    from fakeface_jax.video.report.verification import SavedReport
    from fakeface_jax.video.report.video_report import ImageReport, VideoReport

SOME_FAILED = 3
NONE_READ = 4

VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".3gp", ".gif"}
)


_PEOPLE_SHOWN = 5
"""People of a video that the text format shows; the other formats have all."""

_SHOWN_MS = 250
"""Milliseconds for which each sampled frame is shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """The options that `classify` and `score` share.

    Attributes:
        model: bundle directory, or the name of a bundled model: lite0, clip-lite0 or report-cnn. If omitted: lite0 for
            pictures, clip-lite0 for videos.
        format: output format: text for people; json, jsonl or csv for programs.
        output: file for the results, instead of standard output.
        save: write the picture or video with boxes and scores to this file, or for several inputs to this directory.
        show: show the result in a window.
    """

    model: Path | None = None
    format: Format = "text"
    output: Path | None = None
    save: Path | None = None
    show: bool = False

    def load(self, medium: Medium = "picture") -> tuple[FaceClassifier, FaceDetector]:
        """Loads the classifier and the detector, before any input is read."""
        from fakeface_jax.bundle import load_bundle
        from fakeface_jax.classifier import FaceClassifier
        from fakeface_jax.detectors import create_detector

        if (
            self.show
            and sys.platform == "linux"
            and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        ):
            # OpenCV's window system aborts the whole process without a screen, instead of raising an error.
            raise ConfigError("--show needs a screen, and there is none; write the result with --save FILE instead")
        bundle = load_bundle(self.model, medium=medium)
        # The detector is created first, because it initialises in the background.
        detector = create_detector(bundle.spec.detector)
        return FaceClassifier(bundle), detector


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(Common):
    """Finds every face in pictures and says how likely each one is to be fake.

    Attributes:
        paths: pictures, directories (without hidden files and linked folders), globs, or - for a picture from standard
            input.
        whole_image: treat each picture as a face crop and score it as a whole.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    whole_image: bool = False

    def run(self) -> int:
        """Scores all pictures and returns the exit code."""
        from fakeface_jax.images import EXTENSIONS, read_image
        from fakeface_jax.video.render.annotate import IMAGE_EXTENSIONS, annotate, save_annotated_image
        from fakeface_jax.video.scoring import score_image

        inputs = _inputs(self.paths, EXTENSIONS)
        taken = distinct({"--output": self.output, "--save": self.save}, inputs)
        targets = Targets(self.save, IMAGE_EXTENSIONS, self.paths, inputs, taken)
        classifier, detector = self.load()

        def score(name: str) -> ImageReport:
            data = _read_stdin() if name == STDIN else None
            report = score_image(
                classifier, detector, name if data is None else data, whole_image=self.whole_image, name=name
            )
            if self.save is not None or self.show:
                from fakeface_jax.images import decode_image

                image = read_image(name) if data is None else decode_image(data, source=name)
                if self.save is not None:
                    save_annotated_image(image, report, targets.path(name, ".png"))
                if self.show:
                    _show(annotate(image, report.faces), name)
            return report

        return _score_all(self, inputs, score, _image_text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Common):
    """Scores videos: every person in the sampled frames, and the video as a whole.

    Attributes:
        videos: video files, directories (without hidden files and linked folders) or globs.
        sampling: which frames are scored. If omitted: 32, evenly spread.
        rule: how the scores of faces become one: worst_person, the mean of the most fake person; or worst_window, the
            worst two seconds, which finds short fakes and errs more often. If omitted: the rule that the model was
            calibrated for.
        html: write a page to read and to share to this file, or for several videos to this directory.
        frame_table: write a table with one row per face and sampled frame to this file: .csv or .parquet.
        reports: keep each video's report in this directory as JSON, as soon as it is finished; --output has all reports
            of a run in one file.
        resume: with --reports: skip videos that already have a report there for the same bytes, model and settings, and
            the files that --save and --html ask for.
    """

    videos: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    sampling: Sampling = Sampling()
    rule: str | None = None
    html: Path | None = None
    frame_table: Path | None = None
    reports: Path | None = None
    resume: bool = False

    def run(self) -> int:
        """Scores all videos and returns the exit code."""
        from fakeface_jax.video.render.annotate import VIDEO_CODECS, save_annotated_video
        from fakeface_jax.video.render.page import EXTENSIONS, save_video_html
        from fakeface_jax.video.scoring import rule_of, score_settings, score_video
        from fakeface_jax.video.verdict.aggregation import check_rule

        if self.rule is not None:
            check_rule(self.rule)
        if self.resume and self.reports is None:
            raise ConfigError("--resume needs --reports DIR, the directory of the finished reports")
        inputs = _inputs(self.videos, VIDEO_EXTENSIONS)
        files = {
            "--output": self.output,
            "--frame-table": self.frame_table,
            "--save": self.save,
            "--html": self.html,
            "--reports": self.reports,
        }
        taken = distinct(files, inputs)
        targets = Targets(self.save, VIDEO_CODECS, self.videos, inputs, taken)
        pages = Targets(self.html, EXTENSIONS, self.videos, inputs, taken, option="--html")
        classifier, detector = self.load("video")
        kept = KeptReports(self.reports, resume=self.resume) if self.reports is not None else None
        settings = {
            "model_id": classifier.bundle.id,
            "detector": detector.name,
            "sampling": self.sampling.resolved(),
            "rule": rule_of(classifier, self.rule),
            "settings": score_settings(),
        }

        def score(name: str) -> VideoReport | SavedReport:
            if name == STDIN:
                raise OpenError(name, "a video cannot come from standard input", "save it to a file first")
            # Every input gets its name, so that names do not depend on which inputs are already done.
            drawn = targets.path(name, ".mp4") if self.save is not None else None
            page = pages.path(name, ".html") if self.html is not None else None
            done = kept.find(name, **settings) if kept is not None else None
            if done is not None and all(path is None or path.is_file() for path in (drawn, page)):
                tell(printable(f"{name}: has a report already, skipped"))
                table.add(done.frame_rows())
                return done
            with _bar(name, unit="frame") as bar:

                def progress(done: int, total: int | None) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                report = score_video(classifier, detector, name, self.sampling, rule=self.rule, progress=progress)
            if kept is not None:
                kept.save(name, report)
            if drawn is not None:
                save_annotated_video(report, drawn)
            if page is not None:
                save_video_html(report, page, classifier)
            if self.show:
                _show_video(report)
            # Added last: an input that ends with an error has no rows.
            table.add(report.frame_rows())
            return report

        with FrameTable(self.frame_table) as table:
            return _score_all(self, inputs, score, _video_text)


def _inputs(names: Sequence[str], extensions: Collection[str]) -> list[str | OpenError]:
    if not names:
        raise ConfigError("no input was named; name at least one file, directory or glob")
    return list(expand(names, extensions))


def _score_all(
    settings: Common, inputs: list[str | OpenError], score: Callable[[str], Any], text: Callable[[Any], str]
) -> int:
    from fakeface_jax.video.report.video_report import SUMMARY_COLUMNS, ErrorRecord

    failed = 0
    lines: list[tuple[str, ...]] = []
    with Records(settings.format, output=settings.output, columns=SUMMARY_COLUMNS) as records:
        for name in inputs:
            try:
                if isinstance(name, OpenError):
                    raise name
                report = score(name)
            except MediaError as error:
                failed += 1
                shown = error.source if isinstance(name, OpenError) else name
                tell(f"fakeface: {printable(str(error))}")
                records.add(ErrorRecord(input=shown, error=str(error)), f"{printable(shown)}: error")
                lines.append(("error", "-", shown))
            else:
                records.add(report, text(report))
                row = report.summary_row()
                lines.append((row["verdict"], "-" if row["p_fake"] is None else f"{row['p_fake']:.3f}", row["input"]))
        if len(lines) > 1:
            records.add_text("\n" + _overview(lines))
    if not failed:
        return 0
    return NONE_READ if failed == len(inputs) else SOME_FAILED


def _overview(lines: Sequence[tuple[str, ...]]) -> str:
    """Returns one line per input, and the number of inputs per verdict."""
    counts = {verdict: sum(line[0] == verdict for line in lines) for verdict, *_ in sorted(lines)}
    rows = [f"  {verdict:<12}  {p_fake:>6}  {printable(name)}" for verdict, p_fake, name in lines]
    total = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return "\n".join([f"{len(lines)} inputs: {total}", *rows])


def _image_text(report: ImageReport) -> str:
    lines = [f"{printable(report.input)}: {_answer(report)}"]
    for number, face in enumerate(report.faces, start=1):
        x0, y0, x1, y1 = (round(value) for value in face.box)
        score = "too small to score" if face.p_fake is None else f"P(fake) {face.p_fake:.3f}  {face.verdict}"
        lines.append(f"  face {number}  x {x0}-{x1}  y {y0}-{y1}  {score}")
    return "\n".join(lines)


def _video_text(report: VideoReport | SavedReport) -> str:
    record = report.to_dict()
    evidence, seconds, media = record["evidence"], record["seconds"], record["media"]
    lines = [
        f"{printable(record['input'])}: {record['verdict']}"
        + ("" if record["p_fake"] is None else f"  P(fake) {record['p_fake']:.3f}"),
        f"  because   {printable(record['reason'])}",
        f"  evidence  {evidence['faces_scored']} faces in {evidence['frames_with_face']} of "
        f"{evidence['frames_sampled']} sampled frames, over {evidence['seconds']:.1f} s; {evidence['faces_too_small']} "
        f"faces too small to score, {evidence['frames_dropped']} frames unreadable; {record['frames_read']} of "
        f"{media['frames']} frames read",
        "  time      "
        + "  ".join(f"{stage} {seconds[stage]:.2f}" for stage in seconds if stage != "total")
        + f" s, {record['fps']:.0f} frames/s",
    ]
    people = sorted(record["people"], key=lambda person: (person["role"] != "main", -(person["p_fake"] or 0.0)))
    for person in people[:_PEOPLE_SHOWN]:
        score = "" if person["p_fake"] is None else f"  P(fake) {person['p_fake']:.3f}"
        role = "" if person["role"] == "main" else f" ({person['role']})"
        when = f"{person['start']:.1f}-{person['end']:.1f} s"
        lines.append(f"  person {person['number']}{role}  {when}{score}  {person['verdict']}")
        lines += [
            f"    suspicious {part['start']:.1f}-{part['end']:.1f} s  P(fake) {part['p_fake']:.3f}  {part['verdict']}"
            for part in person["segments"]
        ]
    if len(people) > _PEOPLE_SHOWN:
        lines.append(f"  and {len(people) - _PEOPLE_SHOWN} more people")
    if record["faces"]:
        lines.append("  most suspicious faces")
    for face in record["faces"][:3]:
        lines.append(
            f"    at {face['time']:8.2f} s  frame {face['frame']:6d}  P(fake) {face['p_fake']:.3f}  {face['verdict']}"
        )
    return "\n".join(lines)


def _answer(report: ImageReport | VideoReport) -> str:
    score = "" if report.p_fake is None else f"  P(fake) {report.p_fake:.3f}"
    return f"{report.verdict}{score}" + (f"  ({report.reason})" if report.reason else "")


def _read_stdin() -> bytes:
    from fakeface_jax.images import MAX_BYTES

    if sys.stdin is None:
        raise OpenError(STDIN, "standard input is closed", "pipe a picture into it, or name a file")
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise OpenError(STDIN, problem, "pipe a picture into it, or name a file") from error
    if len(data) > MAX_BYTES:
        raise LimitExceeded(STDIN, f"is larger than {MAX_BYTES // 2**20} MiB", "send a smaller picture")
    return data


def _bar(name: str, *, unit: str) -> Any:
    from tqdm import tqdm

    # disable=None: no bar where stderr is not a terminal.
    return tqdm(desc=printable(Path(name).name)[:32], unit=unit, disable=None, leave=False)


def _show(image: Any, title: str) -> None:
    import cv2

    cv2.imshow(title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    cv2.waitKey(0)
    cv2.destroyAllWindows()


def _show_video(report: VideoReport) -> None:
    """Shows the sampled frames with the faces found in them, one after the other; q, Esc or the last frame ends it."""
    import cv2

    from fakeface_jax.video.reading.opencv import open_video
    from fakeface_jax.video.render.annotate import annotate

    faces = {frame.index: frame.faces for frame in report.frames}
    with open_video(report.input) as video:
        for frame in video.frames(report.sampling):
            banner = f"{_answer(report)}  {frame.time:.2f} s"
            image = annotate(
                frame.image,
                faces.get(frame.index, ()),
                banner=banner,
                banner_verdict=report.verdict,
                people=report.people,
            )
            cv2.imshow(report.input, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            if cv2.waitKey(_SHOWN_MS) in (27, ord("q")):
                break
    cv2.destroyAllWindows()

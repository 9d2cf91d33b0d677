"""`fakeface classify` and `fakeface score`: pictures and videos in, one record per input out.

A bad input is recorded with its error and the others go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fakeface_jax.errors import ConfigError, LimitExceeded, MediaError, OpenError, printable
from service.commands.inputs import STDIN, expand
from service.commands.output import Format, Records, tell
from video.sampling import Sampling

if TYPE_CHECKING:
    from fakeface_jax.classifier import FaceClassifier
    from fakeface_jax.faces import FaceDetector
    from video.report import ImageReport, VideoReport

SOME_FAILED = 3
NONE_READ = 4

VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".3gp", ".gif"}
)


_LONGEST_STEM = 200
"""Bytes of an input's name that its picture is named by. A name has 255 at most, and more is added to it."""

_SHOWN_MS = 250
"""Milliseconds that each sampled frame is shown."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """What both commands take.

    Attributes:
        model: bundle directory, or the name of a model that ships: lite0 (default) or report-cnn.
        detector: centerface, haar, mtcnn, or yunet:MODEL.onnx; the one the model was trained with if not given.
        format: text for people, json, jsonl or csv for programs.
        output: write the results there instead of to standard output.
        save: write the picture or video with boxes and scores there: a file for one input, a directory for several.
        show: show the result in a window.
    """

    model: Path | None = None
    detector: str | None = None
    format: Format = "text"
    output: Path | None = None
    save: Path | None = None
    show: bool = False

    def load(self) -> tuple[FaceClassifier, FaceDetector]:
        """The classifier and the detector, before any input is looked at."""
        from fakeface_jax.classifier import FaceClassifier
        from fakeface_jax.faces import create_detector

        if (
            self.show
            and sys.platform == "linux"
            and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        ):
            # OpenCV's window system aborts the whole process here instead of raising.
            raise ConfigError("--show needs a screen and there is none; use --save FILE")
        classifier = FaceClassifier.load(self.model)
        return classifier, create_detector(self.detector or classifier.spec.detector)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(Common):
    """Finds every face in pictures and says how likely each is fake.

    Attributes:
        paths: pictures, directories (without hidden files and linked folders), globs, or - for a picture on standard
            input.
        whole_image: the pictures are face crops already: score each as a whole.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    whole_image: bool = False

    def run(self) -> int:
        """Scores all pictures; the exit code."""
        from fakeface_jax.images import EXTENSIONS, read_image
        from video.render import IMAGE_EXTENSIONS, annotate, save_annotated_image
        from video.scoring import score_image

        inputs = _inputs(self.paths, EXTENSIONS)
        taken = _distinct({"--output": self.output, "--save": self.save}, inputs)
        targets = _Targets(self.save, IMAGE_EXTENSIONS, self.paths, inputs, taken)
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
    """Scores videos: faces in sampled frames, one fake score per video.

    Attributes:
        videos: video files, directories (without hidden files and linked folders) or globs.
        sampling: which frames are looked at; 32 evenly spread ones if nothing is said.
        frame_table: write one CSV row per face and sampled frame there.
    """

    videos: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    sampling: Sampling = Sampling()
    frame_table: Path | None = None

    def run(self) -> int:
        """Scores all videos; the exit code."""
        from video.render import VIDEO_CODECS, save_annotated_video
        from video.report import FRAME_COLUMNS
        from video.scoring import score_video

        inputs = _inputs(self.videos, VIDEO_EXTENSIONS)
        files = {"--output": self.output, "--frame-table": self.frame_table, "--save": self.save}
        targets = _Targets(self.save, VIDEO_CODECS, self.videos, inputs, _distinct(files, inputs))
        classifier, detector = self.load()
        table = Records("csv", output=self.frame_table, columns=FRAME_COLUMNS) if self.frame_table else None

        def score(name: str) -> VideoReport:
            if name == STDIN:
                raise OpenError(name, "a video cannot come from standard input", "save it to a file first")
            with _bar(name, unit="frame") as bar:

                def progress(done: int, total: int | None) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                report = score_video(classifier, detector, name, self.sampling, progress=progress)
            if table is not None:
                table.add_rows(report.frame_rows())
            if self.save is not None:
                save_annotated_video(report, targets.path(name, ".mp4"))
            if self.show:
                _show_video(report)
            return report

        with table or contextlib.nullcontext():
            return _score_all(self, inputs, score, _video_text)


def _inputs(names: Sequence[str], extensions: Collection[str]) -> list[str | OpenError]:
    if not names:
        raise ConfigError("nothing to score was named; fakeface COMMAND --help says how")
    return list(expand(names, extensions))


def _score_all(
    settings: Common, inputs: list[str | OpenError], score: Callable[[str], Any], text: Callable[[Any], str]
) -> int:
    from video.report import SUMMARY_COLUMNS, ErrorRecord

    failed = 0
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
            else:
                records.add(report, text(report))
    if not failed:
        return 0
    return NONE_READ if failed == len(inputs) else SOME_FAILED


def _image_text(report: ImageReport) -> str:
    lines = [f"{printable(report.input)}: {_answer(report)}"]
    for number, face in enumerate(report.faces, start=1):
        x0, y0, x1, y1 = (round(value) for value in face.box)
        score = "too small to score" if face.p_fake is None else f"P(fake) {face.p_fake:.3f}  {face.verdict}"
        lines.append(f"  face {number}  x {x0}-{x1}  y {y0}-{y1}  {score}")
    return "\n".join(lines)


def _video_text(report: VideoReport) -> str:
    evidence, seconds = report.evidence, report.seconds
    lines = [
        f"{printable(report.input)}: {_answer(report)}",
        f"  evidence  {evidence.faces_scored} faces in {evidence.frames_with_face} of {evidence.frames_sampled} "
        f"sampled frames, {evidence.seconds:.1f} s; {evidence.faces_too_small} faces too small, "
        f"{evidence.frames_dropped} frames undecodable",
        f"  time      open {seconds.open:.2f}  decode {seconds.decode:.2f}  detect {seconds.detect:.2f}  "
        f"classify {seconds.classify:.2f}  aggregate {seconds.aggregate:.2f} s, {report.fps:.0f} frames/s",
    ]
    for frame, face in report.most_suspicious(3):
        lines.append(f"  at {frame.time:8.2f} s  frame {frame.index:6d}  P(fake) {face.p_fake:.3f}  {face.verdict}")
    return "\n".join(lines)


def _answer(report: ImageReport | VideoReport) -> str:
    score = "" if report.p_fake is None else f"  P(fake) {report.p_fake:.3f}"
    return f"{report.verdict}{score}" + (f"  ({report.reason})" if report.reason else "")


class _Targets:
    """Where each input's picture is saved: the named file for one input, files in the named directory for several.

    What cannot work is refused here, before anything is scored.
    """

    def __init__(
        self,
        save: Path | None,
        extensions: Collection[str],
        names: Sequence[str],
        inputs: Sequence[str | OpenError],
        taken: set[object],
    ) -> None:
        self._save = save
        self._taken = taken
        self._single = False
        if save is None:
            return
        many = len(names) > 1 or list(names) != list(inputs)
        try:
            self._check(save, extensions, many=many)
        except OSError as error:
            # Path's questions raise for a name that is too long and for a directory that may not be entered.
            raise ConfigError(f"--save {save}: cannot be written: {error.strerror or error}; name another") from error

    def _check(self, save: Path, extensions: Collection[str], *, many: bool) -> None:
        if save.suffix and not save.is_dir():
            if many:
                raise ConfigError(f"--save {save}: several inputs need a directory; make it first, or name another")
            if save.suffix.lower() not in extensions:
                known = " or ".join(sorted(extensions))
                raise ConfigError(f"--save {save}: cannot write {save.suffix}; name it {known}, or name a directory")
            if not save.parent.is_dir():
                raise ConfigError(f"--save {save}: there is no directory {save.parent}; make it first")
            self._single = True
            return
        there = next(path for path in (save, *save.absolute().parents) if path.exists())
        if not there.is_dir():
            raise ConfigError(f"--save {save}: cannot be made a directory: {there} is a file; name another")

    def path(self, name: str, extension: str) -> Path:
        if self._save is None or self._single:
            return self._save or Path()
        try:
            # Not before there is something to save: a wrong model leaves no empty directory behind.
            self._save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OpenError(self._save, f"cannot be made: {error.strerror}", "name another for --save") from error
        stem = "stdin" if name == STDIN else Path(name).stem
        while len(os.fsencode(stem)) > _LONGEST_STEM:
            stem = stem[:-1]
        number = 1
        # Inputs of different folders may share a name; none may overwrite another's picture, or an input.
        while True:
            path = self._save / f"{stem}-scored{'' if number == 1 else f'-{number}'}{extension}"
            identities = _identities(path)
            if not identities & self._taken:
                self._taken |= identities
                return path
            number += 1


def _distinct(files: Mapping[str, Path | None], inputs: Sequence[str | OpenError]) -> set[object]:
    """Identities of all that is read and written.

    Args:
        files: what is written, by the option that names it.
        inputs: what is read.

    Raises:
        ConfigError: an input would be overwritten, or one result by another.
    """
    read: set[object] = set().union(*(_identities(name) for name in inputs if isinstance(name, str)))
    written: dict[str, set[object]] = {}
    for option, path in files.items():
        if path is None:
            continue
        identities = _identities(path)
        if identities & read:
            raise ConfigError(f"{option} {path}: is the input itself; name another file")
        for other, taken in written.items():
            if identities & taken:
                raise ConfigError(f"{option} {path}: is what {other} names too; name another file")
        written[option] = identities
    return read.union(*written.values())


def _identities(name: str | Path) -> set[object]:
    """What two names of the same file have in common: the path without links, or the file's number."""
    identities: set[object] = set() if name == STDIN else {os.path.realpath(name)}
    with contextlib.suppress(OSError):
        # The shell may have opened a file as standard input.
        status = os.fstat(0) if name == STDIN else os.stat(name)  # noqa: PTH116 - a name or a path
        identities.add((status.st_dev, status.st_ino))
    return identities


def _read_stdin() -> bytes:
    from fakeface_jax.images import MAX_BYTES

    if sys.stdin is None:
        raise OpenError(STDIN, "standard input is closed", "send a picture to it, or name a file")
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        raise OpenError(STDIN, f"cannot be read: {error.strerror or error}", "send a picture to it") from error
    if len(data) > MAX_BYTES:
        raise LimitExceeded(STDIN, f"more than {MAX_BYTES // 2**20} MiB on standard input", "make it smaller")
    return data


def _bar(name: str, *, unit: str) -> Any:
    from tqdm import tqdm

    # disable=None: no bar where stderr is no terminal.
    return tqdm(desc=printable(Path(name).name)[:32], unit=unit, disable=None, leave=False)


def _show(image: Any, title: str) -> None:
    import cv2

    cv2.imshow(title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    cv2.waitKey(0)
    cv2.destroyAllWindows()


def _show_video(report: VideoReport) -> None:
    """The sampled frames with what was found in them, one after the other; q, Esc or the last one ends it."""
    import cv2

    from video.frames import VideoFile
    from video.render import annotate

    faces = {frame.index: frame.faces for frame in report.frames}
    with VideoFile(report.input) as video:
        for frame in video.frames(report.sampling):
            banner = f"{_answer(report)}  {frame.time:.2f} s"
            image = annotate(frame.image, faces.get(frame.index, ()), banner=banner, banner_verdict=report.verdict)
            cv2.imshow(report.input, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            if cv2.waitKey(_SHOWN_MS) in (27, ord("q")):
                break
    cv2.destroyAllWindows()

"""`fakeface verify`: checks that a video's report can be reproduced."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from fakeface_jax.cli.output import discard
from fakeface_jax.errors import ConfigError, printable

NOT_REPRODUCED = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify:
    """Scores a video again with the settings in its report and says whether the report is reproduced.

    Exits with 0 if it is reproduced and with 1 if it is not.

    Attributes:
        report: JSON file that `fakeface score` wrote; if it holds several reports, the one of this video's bytes is
            used.
        video: the video file.
        model: bundle directory, or the name of a bundled model; must be the model that made the report, by its SHA-256.
            If omitted: the bundled model.
    """

    report: Annotated[Path, tyro.conf.Positional]
    video: Annotated[Path, tyro.conf.Positional]
    model: Path | None = None

    def run(self) -> int:
        """Verifies the report and returns the exit code."""
        from fakeface_jax.classifier import FaceClassifier
        from fakeface_jax.detectors import create_detector
        from fakeface_jax.video.report.verification import compare, read_reports
        from fakeface_jax.video.scoring import file_sha256, score_video

        saved = read_reports(self.report)
        sha256 = file_sha256(self.video)
        mine = [one for one in saved if one.sha256 == sha256]
        if not mine:
            print(printable(f"not reproduced: {self.report} is not about the bytes of {self.video} (sha256 {sha256})"))
            return NOT_REPRODUCED
        classifier = FaceClassifier.load(self.model, medium="video")
        old = mine[-1]
        stated = old.record["model"]
        if stated["id"] != classifier.bundle.id:
            raise ConfigError(
                f"{self.report} was made with the model {stated['name']} {stated['id'][:12]}, but the loaded model is "
                f"{classifier.spec.name} {classifier.bundle.id[:12]}; name the report's model with --model"
            )
        detector = create_detector(old.record["detector"])
        new = score_video(classifier, detector, self.video, old.sampling, rule=old.record["aggregation"])
        found = compare(old, new)
        lines = [f"note: {note}" for note in found.notes]
        lines += [f"different: {difference}" for difference in found.differences]
        score = "" if new.p_fake is None else f", P(fake) {new.p_fake:.3f}"
        lines.append(
            f"{'reproduced' if found.reproduced else 'not reproduced'}: {new.verdict}{score}; {found.faces} faces in "
            f"{len(new.frames)} frames, largest differences {found.largest_logit_difference:.2g} in logit and "
            f"{found.largest_box_difference:.2g} pixels"
        )
        try:
            print("\n".join(map(printable, lines)), flush=True)
        except BrokenPipeError:  # the exit code is the answer even if nobody reads the lines
            discard(sys.stdout)
        return 0 if found.reproduced else NOT_REPRODUCED

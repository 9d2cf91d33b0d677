"""`fakeface verify`: does a report say what the video says?"""

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
    """Scores a video again as its report says it was scored, and says whether the report is reproduced.

    Exits with 0 when it is, with 1 when it is not.

    Attributes:
        report: JSON that `fakeface score` wrote; of several videos, the one of this video's bytes is taken.
        video: the video.
        model: bundle directory or name; the model that ships if not given. Its sha256 must be the report's.
    """

    report: Annotated[Path, tyro.conf.Positional]
    video: Annotated[Path, tyro.conf.Positional]
    model: Path | None = None

    def run(self) -> int:
        """Verifies; the exit code."""
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
        classifier = FaceClassifier.load(self.model)
        old = mine[-1]
        stated = old.record["model"]
        if stated["id"] != classifier.bundle.id:
            raise ConfigError(
                f"{self.report} was made with the model {stated['name']} {stated['id'][:12]}, this is "
                f"{classifier.spec.name} {classifier.bundle.id[:12]}; name that one with --model"
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
        except BrokenPipeError:  # the exit code is the answer, whoever reads the lines
            discard(sys.stdout)
        return 0 if found.reproduced else NOT_REPRODUCED

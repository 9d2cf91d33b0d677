"""`fakeface calibrate` and `fakeface update`: fit a bundle to pictures of one's own, and train it with new fakes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import tyro

from fakeface_jax.cli import NEEDS_TRAINING_EXTRA, quiet_libraries
from fakeface_jax.cli.output import tell
from fakeface_jax.errors import ConfigError, printable
from fakeface_jax.training.train_config import UpdateConfig

REFUSED = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Fits a bundle's probabilities and thresholds to your own pictures, without changing its weights.

    The result is a new bundle. With real and fake pictures, everything is fitted. With real faces alone, only the
    thresholds for 1 % and 5 % false positives and the lower limit of the verdict `fake` are fitted. At least 20 faces
    are needed; a few hundred that resemble the ones you will score are better.

    Attributes:
        output: the new bundle.
        data: a folder that contains real/ and fake/, or KIND:PATH[@NAMES] as in `fakeface data merge`.
        reals: a folder or zip archive that contains only real faces, instead of `data`.
        bundle: the bundle to calibrate. If omitted: the bundled model.
        whole_image: treat each picture as a face crop and do not look for faces.
    """

    output: Path
    data: str | None = None
    reals: Path | None = None
    bundle: Path | None = None
    whole_image: bool = False

    def __post_init__(self) -> None:
        if (self.data is None) == (self.reals is None):
            raise ConfigError("name either --data (real and fake pictures) or --reals (real faces alone)")

    def run(self) -> int:
        """Calibrates the bundle and returns the exit code."""
        try:
            from fakeface_jax.evaluation import recalibration
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing; {NEEDS_TRAINING_EXTRA}") from error
        from fakeface_jax.classifier import FaceClassifier
        from fakeface_jax.detectors import create_detector

        samples = (
            recalibration.labelled(self.data) if self.data is not None else recalibration.reals_of(self.reals or "")
        )
        classifier = FaceClassifier.load(self.bundle)
        detector = None if self.whole_image else create_detector(classifier.spec.detector)
        with progress_bar("scoring") as progress:
            faces = recalibration.read_faces(samples, classifier, detector, progress=progress)
        for name, reason in faces.rejected:
            tell(printable(f"excluded: {name}: {reason}"))
        done = recalibration.recalibrate(classifier, faces)
        bundle = recalibration.save_recalibrated(classifier.bundle, done, self.output)
        counts = [int((faces.predictions.labels == label).sum()) for label in (0, 1)]
        print(f"{counts[0]} real and {counts[1]} fake faces, {len(faces.rejected)} pictures excluded\n")
        print(done.table())
        print("\nRates with 95 % intervals. ", end="")
        if counts[1]:
            print("Old thresholds refer to the old scale of P(fake), new ones to the new scale.")
        else:
            print("Without fakes, P(fake) and the thresholds for fakes called real are unchanged.")
        print(f"\nverdicts: {done.spec.bands.reason}")
        print(f"bundle: {bundle.path}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """Continues the training of a bundle with a new source, and rejects the result if a source got worse (exit code 1).

    Batches mix new and old samples. The epoch is chosen on the validation splits of old and new data, the thresholds on
    their calibration splits. The old and the new bundle are compared on the test splits: do not choose settings by that
    table.

    Attributes:
        config: settings of the update.
        resume: continue the run in `output` where it stopped, or judge a rejected result by another --max-loss.
    """

    config: Annotated[UpdateConfig, tyro.conf.arg(name="")]
    resume: bool = False

    def run(self) -> int:
        """Updates the bundle and returns the exit code."""
        quiet_libraries()
        try:
            from fakeface_jax.training.update import update
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing; {NEEDS_TRAINING_EXTRA}") from error
        from fakeface_jax.cli.data import quiet_tfds
        from fakeface_jax.cli.train import Terminal, with_video_thresholds
        from fakeface_jax.data.manifest import Manifest

        def placed(fresh: Manifest) -> None:
            for row in fresh.left_out():
                tell(printable(f"excluded: {row.id}: {row.left_out}"))
            print(f"{fresh.counts_table()}\n", flush=True)

        with quiet_tfds(), progress_bar("reading") as progress, Terminal(lambda: None) as terminal:
            done = update(self.config, terminal, resume=self.resume, progress=progress, placed=placed)
        print(f"\n{printable(done.comparison.result.caption)}\n\n{done.comparison.table()}\n")
        if done.other_data:
            tell(
                "note: the old bundle was not trained on --data as it is now; if it was trained on some of the test "
                "pictures, its own figures are too good"
            )
        for source, loss in done.losses.items():
            interval = "" if loss.low is None else f" (95 % interval {loss.low:+.3f} to {loss.high:+.3f})"
            tell(
                printable(
                    f"fakeface: rejected: {source} changes by {loss.value:+.3f}{interval}, but --max-loss allows "
                    f"{self.config.max_loss:g}"
                )
            )
        if done.bundle is None:
            tell(printable(f"no bundle was written; the rejected model is in {done.candidate.path}"))
            return REFUSED
        bundle = with_video_thresholds(done.bundle, done.data)
        print(f"bundle: {bundle.path}")
        return 0


@contextlib.contextmanager
def progress_bar(what: str, unit: str = "picture") -> Iterator[Callable[[int, int], None]]:
    """Shows a progress bar on the terminal; yields a function that is called with (done, total)."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if done == total:
                bar.close()

        yield progress

"""`fakeface calibrate` and `fakeface update`: a bundle on one's own pictures, and against new fakes."""

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
    """Fits a bundle's probabilities and thresholds to your own pictures; its weights stay, and so does the bundle.

    With reals and fakes everything is fitted. With real faces alone the thresholds at 1 % and 5 % false positives are,
    and with them where the verdict `fake` begins. Some hundreds of faces like those you will score are good, 20 are
    the least.

    Attributes:
        output: the new bundle.
        data: a folder with real/ and fake/ in it, or KIND:PATH[@NAMES] as `fakeface data merge` takes it.
        reals: a folder or zip archive of nothing but real faces, instead of `data`.
        bundle: the bundle; the model that ships if not given.
        whole_image: the pictures are face crops already.
    """

    output: Path
    data: str | None = None
    reals: Path | None = None
    bundle: Path | None = None
    whole_image: bool = False

    def __post_init__(self) -> None:
        if (self.data is None) == (self.reals is None):
            raise ConfigError("give either --data, pictures of both kinds, or --reals, real faces alone")

    def run(self) -> int:
        """Calibrates; the exit code."""
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
            tell(printable(f"left out: {name}: {reason}"))
        done = recalibration.recalibrate(classifier, faces)
        bundle = recalibration.save_recalibrated(classifier.bundle, done, self.output)
        counts = [int((faces.predictions.labels == label).sum()) for label in (0, 1)]
        print(f"{counts[0]} real and {counts[1]} fake faces, {len(faces.rejected)} pictures left out\n")
        print(done.table())
        print("\nRates with 95 % intervals. ", end="")
        if counts[1]:
            print("Old thresholds are on the old scale of P(fake), new ones on the new scale.")
        else:
            print("Without fakes, P(fake) and the thresholds for fakes called real are as they were.")
        print(f"\nverdicts: {done.spec.bands.reason}")
        print(f"bundle: {bundle.path}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """Trains a bundle on with a new source, and refuses the result where a source got worse; exits with 1 then.

    Batches hold new and old samples. The epoch is chosen by the validation splits of old and new, thresholds by their
    calibration splits. Old and new bundle are compared on the test splits: choose no settings by that table.

    Attributes:
        config: the update.
        resume: continue in `output` where it stopped, or judge a refused result by another --max-loss.
    """

    config: Annotated[UpdateConfig, tyro.conf.arg(name="")]
    resume: bool = False

    def run(self) -> int:
        """Updates; the exit code."""
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
                tell(printable(f"left out: {row.id}: {row.left_out}"))
            print(f"{fresh.counts_table()}\n", flush=True)

        with quiet_tfds(), progress_bar("reading") as progress, Terminal(lambda: None) as terminal:
            done = update(self.config, terminal, resume=self.resume, progress=progress, placed=placed)
        print(f"\n{printable(done.comparison.result.caption)}\n\n{done.comparison.table()}\n")
        if done.other_data:
            tell(
                "note: the old bundle was not trained on --data as it is here; where it was trained on some of the "
                "test pictures, its own figures flatter"
            )
        for source, loss in done.losses.items():
            interval = "" if loss.low is None else f" (95 % interval {loss.low:+.3f} to {loss.high:+.3f})"
            tell(
                printable(
                    f"fakeface: refused: {source} changes by {loss.value:+.3f}{interval}, and --max-loss allows "
                    f"{self.config.max_loss:g}"
                )
            )
        if done.bundle is None:
            tell(printable(f"no bundle was written; what was refused is in {done.candidate.path}"))
            return REFUSED
        bundle = with_video_thresholds(done.bundle, done.data)
        print(f"bundle: {bundle.path}")
        return 0


@contextlib.contextmanager
def progress_bar(what: str, unit: str = "picture") -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal; what it gives is called with (done, in all)."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if done == total:
                bar.close()

        yield progress

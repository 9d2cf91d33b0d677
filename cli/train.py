"""`fakeface train`: trains a model on prepared crops."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fakeface_jax.cli import NEEDS_TRAINING_EXTRA, quiet_libraries
from fakeface_jax.cli.output import tell
from fakeface_jax.errors import ConfigError, FakeFaceError
from fakeface_jax.training.train_config import TrainConfig

if TYPE_CHECKING:
    from fakeface_jax.bundle import Bundle
    from fakeface_jax.data.dataset import Dataset

SECONDS_BETWEEN_LINES = 30.0
"""Seconds between two progress lines when stderr is not a terminal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Trains a model on prepared crops and writes a calibrated bundle.

    Early stopping and the choice of the best weights both use the LOWEST validation loss.

    Attributes:
        config: settings of the run.
        resume: continue the run in `output` where it stopped; its losses are those of an uninterrupted run.
        dry_run: run every step once, write nothing and print what a real run would do.
    """

    config: TrainConfig
    resume: bool = False
    dry_run: bool = False

    def run(self) -> int:
        """Trains and returns the exit code."""
        quiet_libraries()
        try:
            from fakeface_jax.data.dataset import open_dataset
            from fakeface_jax.training.finish import draw_data, finish
            from fakeface_jax.training.train_loop import dry_run, train
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing; {NEEDS_TRAINING_EXTRA}") from error

        if self.dry_run:
            print(dry_run(self.config))
            return 0

        def draw() -> None:
            # Drawn before the hours of training, so that wrong labels or extreme augmentation are noticed in time.
            if not (self.config.output / "batch.png").exists():
                draw_data(self.config, open_dataset(self.config.data))

        with Terminal(draw) as terminal:
            result = train(self.config, terminal, resume=self.resume)
        bundle = finish(result, self.config)
        bundle = with_video_thresholds(bundle, result.dataset, leave_out=self.config.loader.leave_out)
        print(f"lowest validation loss {result.best_val_loss:.4f} in epoch {result.best_epoch}")
        print(f"bundle: {bundle.path}")
        return 0


def with_video_thresholds(bundle: Bundle, dataset: Dataset, *, leave_out: Sequence[str] = ()) -> Bundle:
    """Writes the bundle again with probabilities and thresholds for videos; prints a reason where that is not possible.

    Args:
        bundle: a bundle that is calibrated for faces.
        dataset: the data set whose calibration split was used for that.
        leave_out: sources or methods that training did not see.
    """
    from fakeface_jax.video.verdict.video_calibration import SPLIT, calibrate_videos

    if SPLIT not in dataset.sizes:
        tell(f"the data set has no {SPLIT} split, so videos use the thresholds of single faces")
        return bundle
    try:
        return calibrate_videos(bundle, dataset, leave_out=leave_out)
    except FakeFaceError as error:
        tell(f"videos use the thresholds of single faces: {error}")
        return bundle


class Terminal:
    """Progress of a run, shown as a bar on a terminal or as plain lines where stderr is not a terminal.

    Args:
        before: called once, after the run directory was created and before the first step.
    """

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self._bar: Any = None
        self._epoch = 0
        self._done_before = 0
        self._started = self._said = 0.0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, text: str) -> None:
        """Prints the configuration, the network and the device, before the first step."""
        tell(text)
        self._before()

    def step(self, epoch: int, done: int, total: int, loss: float) -> None:
        """Updates the bar; where a bar would flood a log file, prints a line every half minute instead."""
        if not sys.stderr.isatty():
            self._line(epoch, done, total, loss)
            return
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=total, initial=done, desc=f"epoch {epoch}", unit="step", mininterval=1, leave=False)
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.update(done - self._bar.n)

    def _line(self, epoch: int, done: int, total: int, loss: float) -> None:
        now = time.monotonic()
        if epoch != self._epoch:
            self._epoch, self._done_before, self._started, self._said = epoch, done, now, now
        elif now - self._said >= SECONDS_BETWEEN_LINES and done > self._done_before:
            left = (now - self._started) / (done - self._done_before) * (total - done)
            tell(f"epoch {epoch}  step {done}/{total}  loss {loss:.4f}  {left:.0f} s left")
            self._said = now

    def epoch(self, row: dict[str, float], *, best: bool) -> None:
        """Prints one line for a finished epoch."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        print(
            f"epoch {row['epoch']:3.0f}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
            f"val_loss {row['val_loss']:.4f}  val_accuracy {row['val_accuracy']:.4f}  "
            f"{row['seconds']:.0f} s  {row['images_per_second']:.1f} images/s" + ("  best" if best else ""),
            flush=True,
        )

"""Logs a run: the loss of every step (JSONL), the metrics of every epoch (CSV), and TensorBoard.

A resumed run first truncates the logs to its checkpoint, so that each step and epoch appears once.

Example:
    >>> with RunLogs(run) as logs:
    ...     logs.steps([(1, 0.69)])
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

_COUNTS = ("epoch", "step", "self_blended", "up_sampled")
EPOCH_COLUMNS = (
    *("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "self_blended", "up_sampled"),
    *("seconds", "images_per_second"),
)
"""Columns of epochs.csv: losses in nats, accuracies in [0, 1], number of training samples that were fakes made from
real faces, speed of the training part."""


class RunLogs:
    """The log files of one run directory.

    Args:
        directory: the run directory.
        keep_steps: lines after this step are removed first, because these steps will run again.
        keep_epochs: the same for rows of epochs.csv after this epoch.
    """

    def __init__(self, directory: Path, *, keep_steps: int = 0, keep_epochs: int = 0) -> None:
        self._steps_path = directory / "steps.jsonl"
        self._epochs_path = directory / "epochs.csv"
        self.epochs: list[dict[str, float]] = []
        if keep_steps:
            self._cut(keep_steps, keep_epochs)
        else:
            self._steps_path.write_text("")
            self._write_epochs()
        self._steps_file = self._steps_path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=keep_steps or None)

    def __enter__(self) -> RunLogs:
        return self

    def __exit__(self, *_: object) -> None:
        self._steps_file.close()
        self._board.close()

    def steps(self, losses: Iterable[tuple[int, float]]) -> None:
        """Appends (step, loss) pairs."""
        for step, loss in losses:
            # repr-precision: a resumed run can be compared bit by bit with an uninterrupted one.
            self._steps_file.write(json.dumps({"step": step, "loss": loss}) + "\n")
            self._board.add_scalar("train/step_loss", loss, step)
        self._steps_file.flush()

    def epoch(self, row: Mapping[str, float]) -> None:
        """Appends one epoch with the columns `EPOCH_COLUMNS`."""
        self.epochs.append(dict(row))
        self._write_epochs()
        for name in EPOCH_COLUMNS[2:]:
            self._board.add_scalar(f"epoch/{name}", row[name], int(row["epoch"]))
        self._board.flush()

    def _write_epochs(self) -> None:
        temporary = self._epochs_path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, EPOCH_COLUMNS)
            writer.writeheader()
            writer.writerows(self.epochs)
        temporary.replace(self._epochs_path)

    def _cut(self, keep_steps: int, keep_epochs: int) -> None:
        kept = []
        for line in self._steps_path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= keep_steps:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError):
                continue  # a line that kill -9 left incomplete
        self._steps_path.write_text("".join(kept), encoding="utf-8")
        with self._epochs_path.open(newline="", encoding="utf-8") as file:
            rows = [_numbers(row) for row in csv.DictReader(file)]
        self.epochs = [row for row in rows if row["epoch"] <= keep_epochs]
        self._write_epochs()


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    # Integers stay integers: a resumed run writes "2", not "2.0".
    return {key: int(value) if key in _COUNTS else float(value) for key, value in row.items()}

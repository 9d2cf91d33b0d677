"""Saves and restores the checkpoints of a run; only this module uses Orbax.

A run resumes from `last`: its state, its position in the data, and the loop's own progress. `best` is the state with
the lowest validation loss.

Example:
    >>> checkpoints = Checkpoints(run / "checkpoints")
    >>> checkpoints.save_last(step, state, {"iterator": iterator_state, "epoch": 3})
    >>> state, memory = checkpoints.restore_last(like=state)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from fakeface_jax.errors import DataError
from fakeface_jax.training.train_state import TrainState


class Checkpoints:
    """Both kinds of checkpoints of a run; a context manager that waits for unfinished writes."""

    def __init__(self, directory: Path) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, cleanup_tmp_directories=True)
        single = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, cleanup_tmp_directories=True)
        root = directory.resolve()
        self._last = ocp.CheckpointManager(root / "last", options=options)
        self._best = ocp.CheckpointManager(root / "best", options=single)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._last.close()
        self._best.close()

    @property
    def last_step(self) -> int | None:
        """Returns the step of the newest finished checkpoint, or None if there is none."""
        return self._last.latest_step()

    def save_last(self, step: int, state: TrainState, memory: dict[str, Any]) -> None:
        """Writes the checkpoint from which the run can resume; returns before the write is finished."""
        if step == self._last.latest_step():
            return
        # A finished checkpoint may name a best epoch only if the weights of that epoch are on disk.
        self._best.wait_until_finished()
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), memory=ocp.args.JsonSave(memory))
        self._last.save(step, args=items)

    def save_best(self, step: int, state: TrainState) -> None:
        """Replaces the best weights."""
        if step != self._best.latest_step():
            self._best.save(step, args=ocp.args.Composite(weights=ocp.args.StandardSave(state.weights)))

    def restore_last(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores the state and progress of the newest checkpoint.

        Args:
            like: a state of the same structure and layout; its values are not used.

        Raises:
            DataError: there is no checkpoint, or it belongs to another network.
        """
        if self.last_step is None:
            raise DataError("there is no finished checkpoint to resume from; start the run again without --resume")
        _check_fit(Path(self._last.directory) / str(self.last_step) / "state", like)
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            items = self._last.restore(
                self.last_step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes), memory=ocp.args.JsonRestore()),
            )
        except (ValueError, KeyError) as error:
            raise DataError(
                f"the checkpoint of step {self.last_step} does not fit this model: {error}; name another run directory"
            ) from error
        return items["state"], items["memory"]

    def restore_best(self, like: Any) -> Any:
        """Restores the `TrainState.weights` with the lowest validation loss. Raises `DataError` if none were saved."""
        step = self._best.latest_step()
        if step is None:
            raise DataError("no epoch was finished, so there are no best weights; continue the run with --resume")
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._best.restore(step, args=ocp.args.Composite(weights=ocp.args.StandardRestore(shapes)))["weights"]

    def wait(self) -> None:
        """Waits until everything saved so far is on disk."""
        self._last.wait_until_finished()
        self._best.wait_until_finished()


def _check_fit(directory: Path, like: Any) -> None:
    """Refuses a checkpoint with other shapes before Orbax reads it: a failed restore leaves readers running."""
    stored = ocp.StandardCheckpointer().metadata(directory).item_metadata
    shapes = [sorted(tuple(leaf.shape) for leaf in jax.tree.leaves(tree)) for tree in (stored, like)]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"{directory}: the checkpoint does not fit this model: its arrays have other shapes; name another run "
            "directory"
        )

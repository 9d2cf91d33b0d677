"""The training loop, from a configuration to the weights with the lowest validation loss.

Early stopping and the best checkpoint use the LOWEST validation loss. (The report's ModelCheckpoint watched val_loss
with mode='max', which keeps the worst epoch.)

The loop itself prints nothing: it calls a `Reporter`.

Example:
    >>> result = train(TrainConfig(data=Path("data"), output=Path("runs/first"), epochs=3), reporter)
    >>> result.best_val_loss
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import jax
from flax import nnx

from fakeface_jax.bundle import WEIGHTS, Bundle, load_bundle
from fakeface_jax.data.dataset import Dataset, open_dataset
from fakeface_jax.data.loader import Batch, Chosen, evaluation_batches, steps_per_epoch, train_batches
from fakeface_jax.data.replay import newest, replay
from fakeface_jax.errors import ConfigError, DataError, FakeFaceError
from fakeface_jax.models import Network, build_network
from fakeface_jax.models.starting_weights import is_bundle, start_from, starting_settings
from fakeface_jax.training.checkpoints import Checkpoints
from fakeface_jax.training.metric_log import RunLogs
from fakeface_jax.training.optimizer import make_optimizer
from fakeface_jax.training.train_config import TrainConfig
from fakeface_jax.training.train_state import Layout, TrainState, init_state
from fakeface_jax.training.train_step import make_eval_step, make_train_step

FLUSH_EVERY = 10
"""Steps between fetches of losses: fetching each loss at once would make the host wait for the device every step."""

_DIVERGED_REMEDY = "start anew with a lower learning rate"


class Interrupted(FakeFaceError):
    """Raised when a signal stops the run; everything is saved and the run can be resumed.

    Args:
        signum: number of the signal.
        step: the last saved step.
    """

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(signum, step)
        self.signum = signum
        self.step = step

    def __str__(self) -> str:
        name = signal.Signals(self.signum).name
        return f"stopped by {name} after step {self.step}; everything is saved, continue with --resume"


class Diverged(FakeFaceError):
    """Raised when the loss is infinite or not a number."""

    diverged = True


@runtime_checkable
class Reporter(Protocol):
    """Receives the progress of a run; programs show it, tests record it."""

    def start(self, text: str) -> None:
        """Called once before the first step, with configuration, device and sizes."""

    def step(self, epoch: int, done: int, total: int, loss: float) -> None:
        """Called from time to time after `done` of `total` steps of this epoch."""

    def epoch(self, row: dict[str, float], *, best: bool) -> None:
        """Called after each epoch with its row of epochs.csv; `best` if it has the lowest validation loss so far."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a run.

    Attributes:
        network: the trained network.
        weights: (params, stats) with the lowest validation loss.
        dataset: the data set it was trained on.
        start: the bundle from which it started, as it was then; None for other starts.
        epochs: rows of epochs.csv.
        best_epoch: number of the best epoch, counted from 1.
        best_val_loss: lowest validation loss, in nats.
    """

    network: Network
    weights: tuple[nnx.State, nnx.State]
    dataset: Dataset
    start: Bundle | None
    epochs: list[dict[str, float]]
    best_epoch: int
    best_val_loss: float


@dataclasses.dataclass
class _Memory:
    """The loop's progress besides the state; saved with every checkpoint."""

    epoch: int = 1
    step_in_epoch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0
    self_blended: int = 0
    up_sampled: int = 0
    train_seconds: float = 0.0
    best_val_loss: float = math.inf
    best_epoch: int = 0


def train(config: TrainConfig, reporter: Reporter, *, resume: bool = False) -> TrainResult:
    """Runs a training, or continues it.

    Args:
        config: settings of the run.
        reporter: receives the progress.
        resume: continue from the run directory's last checkpoint, with the same sequence of losses as an
            uninterrupted run.

    Raises:
        ConfigError: the run directory contains a run already and `resume` is off, or a run of another configuration.
        DataError: the data cannot be used.
        Interrupted: SIGTERM or SIGINT arrived; everything is saved.
        Diverged: the loss is not finite; the message names the step.
    """
    run = _set_up(config)
    _prepare_directory(config, run, resume)
    dataset, layout, steps, state = run.dataset, run.layout, run.steps, run.state
    iterator = iter(run.batches)
    memory = _Memory()

    with Checkpoints(config.output / "checkpoints") as checkpoints, _stop_signals() as stop:
        if resume and checkpoints.last_step is not None:
            state, saved = checkpoints.restore_last(like=state)
            iterator.set_state(saved.pop("iterator"))
            memory = _Memory(**saved)
        step = int(state.step)
        reporter.start(_describe(config, run, step))
        with RunLogs(config.output, keep_steps=step, keep_epochs=memory.epoch - 1) as logs:

            def save() -> None:
                kept = dataclasses.asdict(memory) | {"iterator": iterator.get_state()}
                checkpoints.save_last(int(state.step), state, kept)

            while memory.epoch <= config.epochs and memory.epoch - memory.best_epoch <= config.patience:
                started = time.perf_counter()
                pending: list[tuple[int, Any]] = []
                while memory.step_in_epoch < steps:
                    batch = layout.split(next(iterator))
                    # No other transfer between host and device is allowed here: a stray fetch would stall every step.
                    with jax.transfer_guard("disallow"):
                        state, metrics = run.train_step(state, batch)
                    step += 1
                    memory.step_in_epoch += 1
                    pending.append((step, metrics))
                    last = memory.step_in_epoch == steps
                    due = memory.step_in_epoch % config.checkpoint_every == 0 and not last
                    if len(pending) == FLUSH_EVERY or last or due or stop:
                        _flush(pending, memory, logs)
                        loss = memory.loss_sum / memory.count
                        reporter.step(memory.epoch, memory.step_in_epoch, steps, loss)
                    if due or stop:
                        # A signal may have arrived since the condition above.
                        _flush(pending, memory, logs)
                        memory.train_seconds += time.perf_counter() - started
                        started = time.perf_counter()
                        save()
                        if stop:
                            checkpoints.wait()
                            raise Interrupted(stop[0], step)
                memory.train_seconds += time.perf_counter() - started

                row = _epoch_row(memory, step, _evaluate(run, state, config))
                if not math.isfinite(row["val_loss"]):
                    # Nothing is saved: a checkpoint of these weights could not be resumed.
                    raise Diverged(f"the validation loss after step {step} is {row['val_loss']}; {_DIVERGED_REMEDY}")
                best = row["val_loss"] < memory.best_val_loss
                if best:
                    memory.best_val_loss, memory.best_epoch = row["val_loss"], memory.epoch
                    checkpoints.save_best(step, state)
                logs.epoch(row)
                reporter.epoch(row, best=best)
                memory = _Memory(
                    epoch=memory.epoch + 1, best_val_loss=memory.best_val_loss, best_epoch=memory.best_epoch
                )
                save()
                if stop:
                    # The signal arrived during the evaluation. After the last epoch too: the next start does what
                    # follows.
                    checkpoints.wait()
                    raise Interrupted(stop[0], step)
            checkpoints.wait()
            return TrainResult(
                network=run.network,
                weights=checkpoints.restore_best(like=state.weights),
                dataset=dataset,
                start=run.start,
                epochs=logs.epochs,
                best_epoch=memory.best_epoch,
                best_val_loss=memory.best_val_loss,
            )


def dry_run(config: TrainConfig) -> str:
    """Runs one step and one evaluation batch, writes nothing, and describes what a run would do.

    Raises:
        ConfigError, DataError: as in `train`.
        Diverged: the first loss is not finite.
    """
    run = _set_up(config)
    batch = run.layout.split(next(iter(run.batches)))
    started = time.perf_counter()
    state, metrics = run.train_step(run.state, batch)
    loss = float(metrics["loss"])
    seconds = time.perf_counter() - started
    if not math.isfinite(loss):
        raise Diverged(f"the loss of the first step is {loss}; check the data, or lower the learning rate")
    held_out = next(_validation_batches(run, config))
    run.eval_step(state.weights, run.layout.split(held_out))
    return (
        f"{_describe(config, run, 0)}\nfirst step: loss {loss:.4f}, {seconds:.1f} s with compilation; nothing written"
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """The parts that training and a dry run have in common."""

    dataset: Dataset
    layout: Layout
    steps: int
    network: Network
    start: Bundle | None
    state: TrainState
    batches: Any
    train_step: Any
    eval_step: Any


def _set_up(config: TrainConfig) -> _Run:
    dataset = open_dataset(config.data)
    for split in ("train", "validation"):
        dataset.source(split, pictures=False)
    source, records = dataset.source("train"), dataset.source("train", pictures=False)
    settings = starting_settings(config.model, config.init_from) | config.network.settings()
    settings |= {"name": config.model, "size": dataset.crop.size, "dtype": config.dtype}
    network = build_network(settings, seed=config.seed)
    start = None
    if config.init_from is not None:
        network = start_from(network, config.init_from)
        start = load_bundle(config.init_from) if is_bundle(config.init_from) else None
    layout = Layout.over_local_devices(config.loader.batch_size)
    loader = config.loader
    if config.new_share is None:
        steps = steps_per_epoch(source, loader, records=records)
    else:
        drawn = replay(
            records,
            newest(dataset, "train"),
            loader,
            share=config.new_share,
            epochs=config.epochs,
            seed=config.seed,
            pseudo=config.pseudo,
        )
        steps, loader = drawn.steps, dataclasses.replace(loader, balance="none", leave_out=())
        source, records = Chosen(source, drawn.rows), Chosen(records, drawn.rows)
    optimizer = make_optimizer(config.optimizer, network, steps=steps * config.epochs, trained=config.network)
    state = init_state(network, optimizer, average=config.optimizer.average is not None)
    return _Run(
        dataset=dataset,
        layout=layout,
        steps=steps,
        network=network,
        start=start,
        state=layout.replicate(state),
        batches=train_batches(source, loader, seed=config.seed, records=records, pseudo=config.pseudo),
        train_step=make_train_step(network, optimizer, config),
        eval_step=make_eval_step(network),
    )


def _prepare_directory(config: TrainConfig, run: _Run, resume: bool) -> None:
    """Stores the resolved configuration; refuses to mix two runs in one directory."""
    path = config.output / "config.json"
    dataset = run.dataset
    story = {"config": config.story(), "manifest_sha256": dataset.manifest_sha256, "crop": str(dataset.crop)}
    if run.start is not None:
        # Only the weights count: other thresholds do not make another start.
        story["start"] = hashlib.sha256((run.start.path / WEIGHTS).read_bytes()).hexdigest()
    if path.exists():
        if not resume:
            raise ConfigError(f"{config.output}: already contains a run; add --resume or name another directory")
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["story"] != story:
            changed = [key for key in story if before["story"].get(key) != story[key]]
            raise ConfigError(f"{config.output}: the run was started with another {', '.join(changed)}; use the same")
        workers = before["resolved"]["loader"]["workers"]
        if workers != config.loader.workers:
            # The batches would be the same, but Grain stores the position among them in another form.
            raise ConfigError(f"{config.output}: the run was started with {workers} reading workers; use as many")
    elif resume:
        raise ConfigError(f"{config.output}: there is no run to resume; start it without --resume")
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"resolved": config.to_dict(), "story": story}, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"{config.output}: cannot be written: {error.strerror or error}; name another directory"
        ) from error


def _describe(config: TrainConfig, run: _Run, step: int) -> str:
    device = jax.devices()[0]
    kernels = "CPU formulation of convolution and pooling" if device.platform == "cpu" else "plain XLA operations"
    lines = [
        json.dumps(config.to_dict(), indent=2),
        run.network.summary,
        f"devices: {jax.device_count()} x {device.device_kind} ({device.platform}), {config.dtype}, {kernels}",
        f"data: {run.dataset.path}, {dict(run.dataset.sizes)}, {run.dataset.crop}",
        f"steps per epoch: {run.steps}, starting after step {step}",
    ]
    return "\n".join(lines)


def _flush(pending: list[tuple[int, Any]], memory: _Memory, logs: RunLogs) -> None:
    """Fetches the metrics of the last steps, checks and logs them."""
    fetched = [(step, jax.device_get(metrics)) for step, metrics in pending]
    pending.clear()
    for step, metrics in fetched:
        if not math.isfinite(metrics["loss"]):
            raise Diverged(f"the loss of step {step} is {metrics['loss']}; {_DIVERGED_REMEDY}")
        memory.loss_sum += float(metrics["loss"]) * int(metrics["count"])
        memory.correct += int(metrics["correct"])
        for name in ("count", "self_blended", "up_sampled"):
            setattr(memory, name, getattr(memory, name) + int(metrics[name]))
    logs.steps((step, float(metrics["loss"])) for step, metrics in fetched)


def _validation_batches(run: _Run, config: TrainConfig) -> Iterator[Batch]:
    """Yields validation batches without what training leaves out, which must not influence the choice of weights."""
    return evaluation_batches(
        run.dataset.source("validation"),
        config.loader.batch_size,
        leave_out=config.loader.leave_out,
        records=run.dataset.source("validation", pictures=False),
    )


def _evaluate(run: _Run, state: TrainState, config: TrainConfig) -> dict[str, float]:
    sums = {"loss": 0.0, "correct": 0.0, "count": 0.0}
    for batch in _validation_batches(run, config):
        _, metrics = run.eval_step(state.weights, run.layout.split(batch))
        for name in sums:
            sums[name] += float(metrics[name])
    return {"val_loss": sums["loss"] / sums["count"], "val_accuracy": sums["correct"] / sums["count"]}


def _epoch_row(memory: _Memory, step: int, validation: dict[str, float]) -> dict[str, float]:
    return {
        "epoch": memory.epoch,
        "step": step,
        "loss": memory.loss_sum / memory.count,
        "accuracy": memory.correct / memory.count,
        **validation,
        "self_blended": memory.self_blended,
        "up_sampled": memory.up_sampled,
        "seconds": round(memory.train_seconds, 3),
        "images_per_second": round(memory.count / memory.train_seconds, 2),
    }


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Yields a list to which SIGTERM and SIGINT are added; a second signal ends the process as usual."""
    noted: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        noted.append(signum)
        signal.signal(signum, previous[signum])

    previous: dict[int, Any] = {}
    try:
        for wanted in (signal.SIGTERM, signal.SIGINT):
            previous[wanted] = signal.signal(wanted, note)
    except ValueError:
        # Not the main thread: whoever owns the process handles its signals.
        yield noted
        return
    try:
        yield noted
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

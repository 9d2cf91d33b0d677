"""The loop on a small data set: what it keeps, when it stops, what it writes, and how it goes on after a kill -9."""

import csv
import dataclasses
import json
import math
import signal
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from fakeface_jax.bundle import load_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.data.augmentation_config import AugmentConfig, LoaderConfig
from fakeface_jax.data.dataset import build_dataset
from fakeface_jax.data.manifest import merge
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.evaluation.batch_scoring import predict
from fakeface_jax.faces import CropSpec
from fakeface_jax.models import flatten_state
from fakeface_jax.training import train_loop as loop
from fakeface_jax.training.finish import draw_data, finish
from fakeface_jax.training.metric_log import EPOCH_COLUMNS
from fakeface_jax.training.train_config import OptimizerConfig, TrainConfig
from fakeface_jax.training.train_loop import Diverged, Interrupted, dry_run, train

COUNTS = {"train": 38, "valid": 12}
"""Pictures per source and class; about half of the validation pictures become the calibration split."""

STEPS = 4 * COUNTS["train"] // 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """200 pictures of two sources; fakes are brighter."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for source in ("one", "two"):
        for split, count in COUNTS.items():
            for label, light in (("real", 0), ("fake", 60)):
                place = folder / source / split / label
                place.mkdir(parents=True)
                for number in range(count):
                    small = rng.uniform(40, 160, (6, 6, 3)) + light
                    picture = cv2.resize(small, (64, 64), interpolation=cv2.INTER_CUBIC)
                    cv2.imwrite(str(place / f"{number:03d}.png"), np.clip(picture, 0, 255).astype(np.uint8))
    merge([f"folder:{folder / name}@{name}" for name in ("one", "two")]).save(folder / "manifest.parquet")
    return build_dataset(folder / "manifest.parquet", folder / "crops", CropSpec(size=32), whole_images=True)


@pytest.fixture
def config(data, tmp_path):
    """Three epochs of 19 steps, a checkpoint every 5 of them."""
    return TrainConfig(
        data=data.path, output=tmp_path / "run", epochs=3, checkpoint_every=5, loader=LoaderConfig(batch_size=8)
    )


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """An uninterrupted run: configuration, result, bundle, and what the reporter heard."""
    config = TrainConfig(
        data=data.path,
        output=tmp_path_factory.mktemp("reference") / "run",
        epochs=3,
        checkpoint_every=5,
        loader=LoaderConfig(batch_size=8),
    )
    reporter = Recorder()
    draw_data(config, data)
    result = train(config, reporter)
    return config, result, finish(result, config), reporter


class Recorder:
    """Remembers, and does something at one moment."""

    def __init__(self, at=None, action=None):
        self.text = ""
        self.steps, self.rows, self.best = [], [], []
        self._at, self._action = at, action

    def start(self, text):
        self.text = text

    def step(self, epoch, done, total, loss):
        self.steps.append((epoch, done, total, loss))
        if (epoch, done) == self._at:
            self._at = None
            self._action()

    def epoch(self, row, *, best):
        self.rows.append(row)
        self.best.append(best)


def losses(run):
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1)), "every step exactly once, in order"
    return [line["loss"] for line in lines]


def epochs(run):
    with (run / "epochs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def prescribe(monkeypatch, values, at=None, action=None):
    """Validation losses as given, in order; the weights that each was measured on."""
    seen = []

    def evaluate(run, state, config):
        seen.append(flatten_state(jax.tree.map(np.asarray, state.params)))
        if len(seen) == at:
            action()
        return {"val_loss": values[len(seen) - 1], "val_accuracy": 0.5}

    monkeypatch.setattr(loop, "_evaluate", evaluate)
    return seen


def terminate():
    signal.raise_signal(signal.SIGTERM)  # to this thread, and before the next line


def test_a_run_learns_and_reports(finished, data):
    config, result, _, reporter = finished
    assert data.sizes["train"] // 8 == STEPS == 19
    assert len(result.epochs) == 3
    assert result.epochs[-1]["loss"] < result.epochs[0]["loss"]
    assert result.best_val_loss == min(row["val_loss"] for row in result.epochs)
    assert result.best_val_loss < 0.6
    assert reporter.rows == result.epochs
    assert [(epoch, done) for epoch, done, *_ in reporter.steps[:5]] == [(1, 5), (1, 10), (1, 15), (1, 19), (2, 5)]
    assert {total for *_, total, _ in reporter.steps} == {STEPS}
    for words in ("Total parameters: 224,833", "4 x cpu", "float32", "CPU formulation", "steps per epoch: 19"):
        assert words in reporter.text
    assert json.loads(reporter.text[: reporter.text.index("\n}") + 2]) == config.to_dict()


def test_logs_are_complete(finished):
    config, result, _, _ = finished
    assert len(losses(config.output)) == 3 * STEPS
    rows = epochs(config.output)
    assert tuple(rows[0]) == EPOCH_COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["19", "38", "57"]
    for row, kept in zip(rows, result.epochs, strict=True):
        assert {key: float(value) for key, value in row.items()} == kept
    # The epoch's loss is the mean of its steps' losses, as metrics are of the weights before each update.
    per_step = np.reshape(losses(config.output), (3, STEPS)).mean(axis=1)
    np.testing.assert_allclose(per_step, [row["loss"] for row in result.epochs], rtol=1e-6)
    events = list((config.output / "tensorboard").glob("events.out.tfevents.*"))
    assert len(events) == 1
    assert b"train/step_loss" in events[0].read_bytes()
    assert b"epoch/val_loss" in events[0].read_bytes()


def test_configuration_is_stored_resolved(finished):
    config, *_ = finished
    stored = json.loads((config.output / "config.json").read_text())
    assert stored["resolved"] == config.to_dict()
    assert stored["resolved"]["augment"]["rotation"] == 20.0
    assert not list(config.output.glob("*.tmp"))


@pytest.mark.parametrize("name", ["history.png", "classes.png", "batch.png"])
def test_figures_are_pictures(finished, name):
    config, *_ = finished
    with Image.open(config.output / name) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 200
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_bundle_is_calibrated_and_predicts_as_training_did(finished, data):
    config, result, bundle, _ = finished
    assert bundle.path == config.output / "bundle"
    spec = bundle.spec
    assert spec.calibration.split == "calibration"
    assert spec.calibration.samples == data.sizes["calibration"]
    assert {point.split for point in spec.operating_points} <= {"calibration"}
    assert spec.provenance["best_epoch"]["epoch"] == result.best_epoch
    assert spec.provenance["data"]["manifest_sha256"] == data.manifest_sha256
    assert spec.provenance["config"] == config.to_dict()
    assert spec.crop == data.crop
    predictions = predict(FaceClassifier.load(bundle.path), data, "validation")
    logits, labels = predictions.logits.astype(np.float64), predictions.labels
    loss = np.mean(np.logaddexp(0, logits) - logits * labels)
    # Half precision keeps 11 bits: a logit of a few units moves by less than 0.01.
    assert loss == pytest.approx(result.best_val_loss, abs=5e-3)
    best = result.epochs[result.best_epoch - 1]
    assert np.mean((logits > 0) == labels) == pytest.approx(best["val_accuracy"], abs=1e-6)
    card = (bundle.path / "README.md").read_text()
    assert data.manifest_sha256 in card
    assert "lowest validation loss" in card


def test_best_weights_are_those_of_the_lowest_validation_loss(config, monkeypatch):
    """The report's mode='max' kept the worst: here the loss falls, rises and falls, and the lowest is kept."""
    seen = prescribe(monkeypatch, [0.6, 0.3, 0.9, 0.4])
    reporter = Recorder()
    result = train(dataclasses.replace(config, epochs=4), reporter)
    assert (result.best_epoch, result.best_val_loss) == (2, 0.3)
    assert reporter.best == [True, True, False, False]
    kept = flatten_state(result.weights[0])
    for name, value in seen[1].items():
        np.testing.assert_array_equal(kept[name], value)
    assert not np.array_equal(kept["dense1.kernel"], seen[3]["dense1.kernel"])
    assert load_bundle(finish(result, config).path).spec.provenance["best_epoch"]["epoch"] == 2


@pytest.mark.parametrize(
    ("values", "patience", "run", "best"),
    [
        pytest.param([0.5, 0.6, 0.7, 0.1], 2, 3, 1, marks=pytest.mark.long),
        ([0.5, 0.5, 0.5, 0.1], 2, 3, 1),  # equal is no improvement
        pytest.param([0.5, 0.6, 0.4, 0.6, 0.6, 0.1], 2, 5, 3, marks=pytest.mark.long),
        ([0.5, 0.6, 0.1], 1, 2, 1),
    ],
)
def test_early_stopping_after_exactly_patience_epochs(config, monkeypatch, values, patience, run, best):
    prescribe(monkeypatch, values)
    result = train(dataclasses.replace(config, epochs=50, patience=patience), Recorder())
    assert len(result.epochs) == run
    assert result.best_epoch == best


def test_patience_is_remembered_over_a_resume(config, monkeypatch):
    prescribe(monkeypatch, [0.5, 0.6, 0.7, 0.8])
    train(dataclasses.replace(config, epochs=2, patience=2), Recorder())
    longer = dataclasses.replace(config, epochs=50, patience=2)
    prescribe(monkeypatch, [0.7, 0.8])
    result = train(longer, Recorder(), resume=True)
    assert [row["val_loss"] for row in result.epochs] == [0.5, 0.6, 0.7]
    assert (result.best_epoch, result.best_val_loss) == (1, 0.5)


def test_two_runs_of_one_configuration_are_equal(finished, config):
    reference, *_ = finished
    train(config, Recorder())
    assert losses(config.output) == losses(reference.output)


KILLED = """
import os, pathlib, signal, sys, time
from fakeface_jax.data.augmentation_config import LoaderConfig
from fakeface_jax.training.train_config import OptimizerConfig, TrainConfig
from fakeface_jax.training.train_loop import train

class Killer:
    def start(self, text): pass
    def epoch(self, row, *, best): pass
    def step(self, epoch, done, total, loss):
        if (epoch, done) == (2, 10):
            finished = output / "checkpoints" / "last" / "24"
            while not finished.exists():
                time.sleep(0.05)
            with open(output / "steps.jsonl", "a") as file:
                file.write('{"step": 30, "lo')  # kill -9 in the middle of a line
            os.kill(os.getpid(), signal.SIGKILL)

output = pathlib.Path(sys.argv[2])
train(TrainConfig(data=pathlib.Path(sys.argv[1]), output=output, epochs=3, checkpoint_every=5,
                  loader=LoaderConfig(batch_size=8)), Killer())
"""


def test_kill_9_and_resume_give_the_uninterrupted_sequence(finished, config, data):
    reference, wanted, *_ = finished
    command = [sys.executable, "-c", KILLED, str(data.path), str(config.output)]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    reporter = Recorder()
    result = train(config, reporter, resume=True)
    assert "starting after step 24" in reporter.text  # five steps into the second epoch
    assert losses(config.output) == losses(reference.output)
    for row, other in zip(epochs(config.output), epochs(reference.output), strict=True):
        for column in EPOCH_COLUMNS[:6]:
            assert row[column] == other[column]
    assert (result.best_epoch, result.best_val_loss) == (wanted.best_epoch, wanted.best_val_loss)
    for name, value in flatten_state(result.weights[0]).items():
        np.testing.assert_array_equal(value, flatten_state(wanted.weights[0])[name])


def test_sigterm_saves_and_the_sequence_continues(finished, config):
    reference, *_ = finished
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        Interrupted, match=r"SIGTERM after step 29; everything is saved, continue with --resume"
    ) as caught:
        train(config, Recorder(at=(2, 10), action=terminate))
    assert (caught.value.signum, caught.value.step) == (signal.SIGTERM, 29)
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(losses(config.output)) == 29
    train(config, Recorder(), resume=True)
    assert losses(config.output) == losses(reference.output)


def test_sigterm_in_the_evaluation_saves_too(config, monkeypatch):
    prescribe(monkeypatch, [0.5, 0.4], at=1, action=terminate)
    with pytest.raises(Interrupted) as caught:
        train(dataclasses.replace(config, epochs=2), Recorder())
    assert caught.value.step == STEPS
    result = train(dataclasses.replace(config, epochs=2), Recorder(), resume=True)
    assert [row["val_loss"] for row in result.epochs] == [0.5, 0.4]
    assert [row["epoch"] for row in epochs(config.output)] == ["1", "2"]


def test_a_run_stopped_at_the_end_of_an_epoch_and_crashed_after_it_counts_every_epoch_once(config):
    config = dataclasses.replace(config, checkpoint_every=1000)
    with pytest.raises(Interrupted) as caught:
        train(config, Recorder(at=(1, STEPS), action=terminate))
    assert caught.value.step == STEPS

    def crash():
        raise RuntimeError("as good as kill -9")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            train(config, Recorder(at=(2, 10), action=crash), resume=True)
    train(config, Recorder(), resume=True)
    assert [row["epoch"] for row in epochs(config.output)] == ["1", "2", "3"]
    assert len(losses(config.output)) == 3 * STEPS


def test_resuming_a_finished_run_trains_nothing_more(finished, config):
    reference, wanted, *_ = finished
    before = (reference.output / "steps.jsonl").read_bytes()
    reporter = Recorder()
    result = train(reference, reporter, resume=True)
    assert reporter.steps == []
    assert (result.best_epoch, result.best_val_loss) == (wanted.best_epoch, wanted.best_val_loss)
    assert [row["val_loss"] for row in result.epochs] == [row["val_loss"] for row in wanted.epochs]
    assert (reference.output / "steps.jsonl").read_bytes() == before


def test_a_directory_with_a_run_is_not_overwritten(finished):
    reference, *_ = finished
    before = {path: path.stat().st_mtime_ns for path in reference.output.rglob("*")}
    with pytest.raises(ConfigError, match="already contains a run; add --resume"):
        train(reference, Recorder())
    assert {path: path.stat().st_mtime_ns for path in reference.output.rglob("*")} == before


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7},
        {"optimizer": OptimizerConfig(learning_rate=1e-4)},
        {"dtype": "bfloat16"},
        {"augment": AugmentConfig(rotation=0)},
        {"loader": LoaderConfig(batch_size=16)},
        {"loader": LoaderConfig(batch_size=8, workers=1)},
    ],
)
def test_resume_under_another_configuration_is_refused(finished, change):
    reference, *_ = finished
    stored = (reference.output / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="the run was started with"):
        train(dataclasses.replace(reference, **change), Recorder(), resume=True)
    assert (reference.output / "config.json").read_bytes() == stored


def test_resume_without_a_run_is_refused_and_makes_nothing(config):
    with pytest.raises(ConfigError, match="there is no run to resume"):
        train(config, Recorder(), resume=True)
    assert not config.output.exists()


def test_a_loss_that_is_not_finite_stops_naming_the_step(config, monkeypatch):
    make = loop.make_train_step

    def make_broken(*arguments, **settings):
        step, spoil, calls = make(*arguments, **settings), jax.jit(lambda loss: loss * np.nan), []

        def broken(state, batch):
            state, metrics = step(state, batch)
            calls.append(None)
            return state, metrics | ({"loss": spoil(metrics["loss"])} if len(calls) == 8 else {})

        return broken

    monkeypatch.setattr(loop, "make_train_step", make_broken)
    with pytest.raises(Diverged, match="the loss of step 8 is nan; start anew with a lower learning rate"):
        train(config, Recorder())
    steps = [path.name for path in (config.output / "checkpoints" / "last").iterdir()]
    assert steps == ["5"]  # the one before, and none with spoilt weights
    assert "NaN" not in (config.output / "steps.jsonl").read_text()


def test_a_validation_loss_that_is_not_finite_stops_and_saves_nothing(config, monkeypatch):
    prescribe(monkeypatch, [0.5, math.inf])
    with pytest.raises(Diverged, match="the validation loss after step 38 is inf"):
        train(config, Recorder())
    assert [row["epoch"] for row in epochs(config.output)] == ["1"]
    assert "38" not in [path.name for path in (config.output / "checkpoints" / "last").iterdir()]


def test_dry_run_writes_nothing(config, data):
    def tree():
        return {path: path.stat().st_mtime_ns for path in data.path.parent.parent.parent.rglob("*")}

    before = tree()
    text = dry_run(config)
    assert "nothing written" in text
    assert "Total parameters: 224,833" in text
    assert tree() == before
    assert not config.output.exists()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"loader": LoaderConfig(batch_size=30)}, ConfigError, "cannot be divided among 4 devices"),
        ({"loader": LoaderConfig(batch_size=400)}, DataError, "are fewer than one batch of 400; lower the batch size"),
        ({"model": "resnet"}, ConfigError, "unknown model 'resnet'"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing_behind(config, change, error, words):
    with pytest.raises(error, match=words):
        train(dataclasses.replace(config, **change), Recorder())
    assert not config.output.exists()


def test_output_below_a_file_is_an_error_of_one_line(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        train(dataclasses.replace(config, output=tmp_path / "file" / "run"), Recorder())


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"patience": 0}, {"checkpoint_every": 0}])
def test_impossible_runs_are_refused(config, settings):
    with pytest.raises(ConfigError, match=next(iter(settings)).replace("_", "[_ ]")):
        dataclasses.replace(config, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": math.nan},
        {"warmup": 1.0},
        {"weight_decay": -1.0},
        {"layer_decay": 0.0},
        {"clip_norm": 0.0},
        {"average": 1.0},
    ],
)
def test_impossible_optimisers_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings)).replace("_", " ")):
        OptimizerConfig(**settings)

"""`fakeface train` and `fakeface evaluate`, as programs: exit codes, what is said where, what is left on the disk."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from fakeface_jax.bundle import load_bundle
from fakeface_jax.cli import train
from fakeface_jax.cli.main import main
from fakeface_jax.training import train_loop as loop

FAKEFACE = Path(sys.executable).with_name("fakeface")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Made with `fakeface data merge` and `build`: 96 training and about 48 held-out pictures, fakes brighter."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 48), ("valid", 24), ("test", 12)):
        for label, light in (("real", 0), ("fake", 60)):
            place = root / "faces" / split / label
            place.mkdir(parents=True)
            for number in range(count):
                picture = cv2.resize(rng.uniform(40, 160, (6, 6, 3)) + light, (64, 64), interpolation=cv2.INTER_CUBIC)
                cv2.imwrite(str(place / f"{number:03d}.png"), np.clip(picture, 0, 255).astype(np.uint8))
    assert main(["data", "merge", f"folder:{root / 'faces'}@faces", "--output", str(root / "m.parquet")]) == 0
    words = [
        "data",
        "build",
        str(root / "m.parquet"),
        "--output",
        str(root / "crops"),
        "--size",
        "32",
        "--whole-images",
    ]
    assert main(words) == 0
    return root / "crops"


def words(data, output, *more, epochs=2):
    return ["train", "--data", str(data), "--output", str(output), "--epochs", str(epochs), "--batch-size", "8", *more]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run of two epochs: its directory."""
    output = tmp_path_factory.mktemp("runs") / "first"
    assert main(words(data, output)) == 0
    return output


def test_train_writes_everything_and_says_where(data, tmp_path, capfd):
    output = tmp_path / "run"
    assert main(words(data, output)) == 0
    out, err = capfd.readouterr()
    first, second, best, bundle = out.splitlines()
    assert first.startswith("epoch   1  loss ")
    assert second.startswith("epoch   2  loss ")
    assert best.startswith("lowest validation loss 0.")
    assert bundle == f"bundle: {output / 'bundle'}"
    assert "Total parameters: 224,833" in err
    assert "\r" not in err  # no bars in a log file
    assert "WARNING" not in err
    assert {path.name for path in output.iterdir()} == {
        "config.json", "steps.jsonl", "epochs.csv", "tensorboard", "checkpoints", "bundle",
        "history.png", "classes.png", "batch.png",
    }  # fmt: skip
    assert sorted(path.name for path in (output / "bundle").iterdir()) == [
        "README.md", "bundle.json", "weights.safetensors",
    ]  # fmt: skip


def test_the_bundle_classifies(trained, data, capsys):
    picture = next((data.parent / "faces" / "test" / "fake").iterdir())
    assert (
        main(["classify", str(picture), "--whole-image", "--format", "json", "--model", str(trained / "bundle")]) == 0
    )
    (record,) = json.loads(capsys.readouterr().out)
    assert record["model"]["name"] == "first"
    assert record["model"]["calibration"] != "none"


def test_evaluate_writes_report_and_card(trained, data, tmp_path, capsys):
    arguments = ["evaluate", "--bundle", str(trained / "bundle"), "--data", str(data), "--output", str(tmp_path)]
    assert main([*arguments, "--resamples", "50", "--card"]) == 0
    out, _ = capsys.readouterr()
    assert "| faces" in out
    assert f"model card: {trained / 'bundle' / 'README.md'}" in out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics
    assert {"predictions.parquet", "report.md"} <= {path.name for path in tmp_path.iterdir()}
    card = (trained / "bundle" / "README.md").read_text()
    assert "| faces" in card
    assert "Not measured yet" not in card
    # The bundle is still whole.
    picture = next((data.parent / "faces" / "test" / "real").iterdir())
    assert main(["classify", str(picture), "--whole-image", "--model", str(trained / "bundle")]) == 0


def test_a_bundle_tells_what_it_started_from(trained, data, tmp_path, capsys):
    first, output = load_bundle(trained / "bundle"), tmp_path / "second"
    assert main(words(data, output, "--init-from", str(trained / "bundle"), "--seed", "1", epochs=1)) == 0
    second = load_bundle(output / "bundle")
    assert first.spec.provenance["start"] is None
    assert second.spec.provenance["start"] == {"name": "first", "id": first.id, "provenance": first.spec.provenance}
    card = (output / "bundle" / "README.md").read_text(encoding="utf-8")
    after = card.partition(f"### Before that: first, bundle `{first.id[:12]}`")[2]
    assert '"seed": 1' in card.removesuffix(after)
    assert '"seed": 0' in after
    # It goes on with the weights that it started from, and with no others under that name.
    more = words(data, output, "--init-from", str(tmp_path / "start"), "--seed", "1", "--resume", epochs=2)
    shutil.copytree(output / "bundle", tmp_path / "start")
    assert main(more) == 2
    assert "was started with another config" in capsys.readouterr().err
    own = tmp_path / "own"
    shutil.copytree(trained / "bundle", tmp_path / "again")
    assert main(words(data, own, "--init-from", str(tmp_path / "again"), epochs=1)) == 0
    shutil.rmtree(tmp_path / "again")
    shutil.copytree(output / "bundle", tmp_path / "again")
    assert main(words(data, own, "--init-from", str(tmp_path / "again"), "--resume", epochs=2)) == 2
    assert "was started with another start" in capsys.readouterr().err
    # Thresholds of videos are written into the card later; the training of the start stays what it is.
    assert card.count("## Videos") == 1
    assert card.count("## Training") == 1


def test_dry_run_writes_nothing(data, tmp_path, capsys):
    assert main(words(data, tmp_path / "run", "--dry-run")) == 0
    assert "nothing written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_in_the_same_place_is_refused(trained, data, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert main(words(data, trained)) == 2
    assert "already contains a run; add --resume or name another directory" in capsys.readouterr().err
    assert main(words(data, trained, "--resume", "--seed", "5")) == 2
    assert "was started with another config" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_resume_goes_on_to_more_epochs(data, tmp_path, capsys):
    output = tmp_path / "run"
    assert main(words(data, output, epochs=1)) == 0
    capsys.readouterr()
    assert main(words(data, output, "--resume", epochs=2)) == 0
    out, err = capsys.readouterr()
    assert out.startswith("epoch   2")
    assert "starting after step 12" in err
    lines = (output / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 25))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resume"], "there is no run to resume"),
        (["--learning-rate", "5"], "learning rate 5.0: must be between 0 and 1"),
        (["--learning-rate", "nan"], "learning rate nan: must be between 0 and 1"),
        (["--batch-size", "30"], "batch size 30 cannot be divided among 4 devices"),
        (["--batch-size", "400"], "are fewer than one batch of 400; lower the batch size"),
        (["--model", "resnet"], "unknown model 'resnet'; use one of report"),
        (["--rotation", "200"], "rotation 200.0: must be between 0 and 180"),
        (["--data", "gone"], "gone: contains no prepared data set"),
        (["--output", "file/run"], "file/run: cannot be written"),
    ],
)
def test_what_cannot_be_trained(more, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert main(words(data, "run", *more)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("fakeface: ")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_diverged_run_exits_with_1(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "_evaluate", lambda *_: {"val_loss": float("nan"), "val_accuracy": 0.5})
    assert main(words(data, tmp_path / "run")) == 1
    assert "fakeface: the validation loss after step 12 is nan; start anew" in capsys.readouterr().err


def test_progress_in_a_log_file_is_lines(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "SECONDS_BETWEEN_LINES", 0.0)
    assert main(words(data, tmp_path / "run", "--checkpoint-every", "4", epochs=1)) == 0
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("epoch 1")]
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1  step 8/12  loss 0.")
    assert lines[0].endswith(" s left")


def test_sigterm_saves_exits_with_143_and_resume_continues(data, tmp_path):
    output = tmp_path / "run"
    arguments = ["--patience", "10000"]
    program = subprocess.Popen(
        [FAKEFACE, *words(data, output, *arguments, epochs=10000)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 100
        while not (output / "epochs.csv").exists() or len((output / "epochs.csv").read_text().splitlines()) < 3:
            assert program.poll() is None, program.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == 128 + signal.SIGTERM
    steps = [json.loads(line)["step"] for line in (output / "steps.jsonl").read_text().splitlines()]
    stopped = err.splitlines()[-1]
    assert (
        stopped == f"fakeface: stopped by SIGTERM after step {steps[-1]}; everything is saved, continue with --resume"
    )
    assert "lowest validation loss" not in out
    epochs = steps[-1] // 12 + 1
    assert main(words(data, output, *arguments, "--resume", epochs=epochs)) == 0
    assert main(words(data, tmp_path / "straight", *arguments, epochs=epochs)) == 0
    assert (output / "steps.jsonl").read_text() == (tmp_path / "straight" / "steps.jsonl").read_text()


def test_evaluate_with_the_wrong_crops_is_refused(tiny_bundle, data, tmp_path, capsys):
    code = main(["evaluate", "--bundle", str(tiny_bundle), "--data", str(data), "--output", str(tmp_path / "out")])
    assert code == 2
    assert "build the data " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

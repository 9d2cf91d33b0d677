"""`fakeface data merge`, `audit` and `build`, end to end on small folders."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fakeface_jax.cli.main import main

FAKEFACE = Path(sys.executable).with_name("fakeface")


def write_pictures(folder, label, count, seed, *, kind=".png", side=96):
    rng = np.random.default_rng(seed)
    (folder / label).mkdir(parents=True)
    for number in range(count):
        picture = cv2.resize(rng.uniform(30, 220, (8, 8, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / label / f"{number:03d}{kind}"), np.clip(picture, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`fair`: 24 + 24 pictures of one kind and one broken file; `leaky`: real JPEGs, fake PNGs of another size."""
    root = tmp_path_factory.mktemp("folders")
    write_pictures(root / "fair", "real", 24, 0)
    write_pictures(root / "fair", "fake", 24, 1)
    (root / "fair" / "fake" / "broken.png").write_bytes((root / "fair/fake/000.png").read_bytes()[:200])
    write_pictures(root / "leaky", "real", 24, 2, kind=".jpg")
    write_pictures(root / "leaky", "fake", 24, 3, side=80)
    return root


@pytest.fixture(scope="module")
def manifest(folders):
    path = folders / "merged" / "manifest.parquet"
    assert main(["data", "merge", f"folder:{folders / 'fair'}@fair", f"folder:{folders / 'leaky'}@leaky",
                 "--output", str(path)]) == 0  # fmt: skip
    return path


@pytest.fixture(scope="module")
def face_manifest(tmp_path_factory, face_picture, faceless_picture):
    """Ten pictures with a face, and one without."""
    root = tmp_path_factory.mktemp("faces")
    for number in range(10):
        place = root / "train" / ("fake" if number % 2 else "real")
        place.mkdir(parents=True, exist_ok=True)
        part = face_picture[: 256 + 8 * number, 96 - 4 * number : 352]
        Image.fromarray(part).save(place / f"{number}.png")
    Image.fromarray(faceless_picture[:200, :200]).save(root / "train" / "real" / "cup.png")
    path = root / "manifest.parquet"
    assert main(["data", "merge", f"folder:{root}@faces", "--output", str(path)]) == 0
    return path


def test_merge_prints_counts_and_bad_files(folders, tmp_path, capsys):
    path = tmp_path / "manifest.parquet"
    code = main(["data", "merge", f"folder:{folders / 'fair'}@fair", "--output", str(path)])
    out, err = capsys.readouterr()
    assert code == 0
    assert "groups: 48 of 48 pictures" in out
    assert "excluded: 1 of fair: unreadable" in out
    assert out.splitlines()[-1] == f"manifest: {path}"
    (line,) = err.splitlines()
    assert line.startswith(f"excluded: {folders / 'fair'}/fake/broken.png: unreadable: ")
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.parquet"]


def test_train_only_holds_nothing_out(folders, tmp_path, capsys):
    path = tmp_path / "m.parquet"
    assert (
        main(["data", "merge", f"folder:{folders / 'leaky'}@leaky", "--output", str(path), "--train-only", "leaky"])
        == 0
    )
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("leaky"))
    assert row.split()[1:] == ["24", "/", "24"] + ["0", "/", "0"] * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data merge folder:gone --output m.parquet", "gone: no such file or directory"),
        ("data merge nonsense --output m.parquet", "'nonsense' is not a source; write KIND:PATH"),
        ("data merge folder:empty --output m.parquet", "no labelled pictures found"),
        ("data merge folder:{fair}@fair --output m.parquet --train-only other", "no such source: other"),
        ("data audit gone.parquet", "gone.parquet: not a manifest"),
        ("data audit file", "file: not a manifest"),
        ("data audit {manifest} --sources other", "no such source: other; use"),
        ("data build gone.parquet --output d", "gone.parquet: not a manifest"),
        ("data build {manifest} --output d --size 8", "crop size 8: must be between"),
        ("data build {manifest} --output file/d --whole-images", "cannot be"),
    ],
)
def test_what_cannot_be_done(words, message, folders, manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("empty").mkdir()
    assert main(words.format(fair=folders / "fair", manifest=manifest).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    # TFDS's own lines come before, where it had begun.
    *others, line = err.splitlines()
    assert line.startswith("fakeface: ")
    assert message in line
    assert all(other.startswith("Downloading and preparing dataset") for other in others)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["file"]


def test_audit_fails_on_what_leaks_and_passes_what_does_not(manifest, capsys):
    assert main(["data", "audit", str(manifest)]) == 1
    out = capsys.readouterr().out
    assert "PROBLEM leaky: the files alone tell real from fake (AUC 1.000" in out
    assert "PROBLEM fair" not in out
    assert out.splitlines()[-1].startswith("failed: limit of the metadata-only AUC is 0.70")
    assert main(["data", "audit", str(manifest), "--sources", "fair", "--max-auc", "0.75"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "passed"


def test_build_whole_images(manifest, tmp_path, capfd):
    from fakeface_jax.data.dataset import open_dataset

    words = ["data", "build", str(manifest), "--output", str(tmp_path / "crops"), "--size", "32", "--whole-images"]
    assert main(words) == 0
    out, err = capfd.readouterr()
    dataset = open_dataset(tmp_path / "crops")
    assert sum(dataset.sizes.values()) == 96
    sizes, left_out, place = out.splitlines()  # nothing of TFDS's between the results
    assert sizes == ", ".join(f"{split} {count}" for split, count in dataset.sizes.items())
    assert left_out == "excluded: 1"
    assert place == f"data: {dataset.path}"
    assert "excluded: fair/fake/broken.png: unreadable" in err
    # A second time: what is there is opened.
    assert main(words) == 0
    assert capfd.readouterr().out == out
    # Crops of something else are not taken for it.
    assert main(["data", "build", str(manifest), "--output", str(tmp_path / "crops"), "--size", "32",
                 "--whole-images", "--margin", "1.5"]) == 2  # fmt: skip
    assert "contains crops of another" in capfd.readouterr().err


def test_build_faces(face_manifest, tmp_path, capsys):
    from fakeface_jax.data.dataset import open_dataset

    assert main(["data", "build", str(face_manifest), "--output", str(tmp_path), "--size", "64"]) == 0
    out, err = capsys.readouterr()
    assert "excluded: faces/train/real/cup.png: no face found" in err
    dataset = open_dataset(tmp_path)
    assert dataset.sizes == {"train": 10}
    assert dataset.detector == "centerface"
    assert [dict(one) for one in dataset.rejected] == [{"id": "faces/train/real/cup.png", "reason": "no face found"}]
    record = dataset.source("train")[0]
    assert record["image"].shape == (64, 64, 3)
    assert "excluded: 1" in out


def test_a_log_file_is_not_flooded(manifest, tmp_path):
    words = ["data", "build", str(manifest), "--output", str(tmp_path), "--size", "32", "--whole-images"]
    done = subprocess.run([FAKEFACE, *words], capture_output=True, text=True, timeout=120, check=True)
    assert "\r" not in done.stderr
    assert "WARNING" not in done.stderr
    assert "absl" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert len(done.stdout.splitlines()) == 3


def test_a_manifest_says_where_everything_is(manifest, folders):
    from fakeface_jax.data.manifest import load_manifest

    rows = load_manifest(manifest).rows
    assert {row.sample.root for row in rows} == {str(folders / "fair"), str(folders / "leaky")}
    assert json.dumps(sorted({row.sample.source for row in rows})) == '["fair", "leaky"]'

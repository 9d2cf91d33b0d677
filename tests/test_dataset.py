import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fakeface_jax.data import dataset as dataset_module
from fakeface_jax.data.dataset import build_dataset, open_dataset
from fakeface_jax.data.fake_faces.fake_faces_dataset_builder import Builder, encode_crop
from fakeface_jax.data.manifest import Manifest, load_manifest, merge
from fakeface_jax.errors import DataError
from fakeface_jax.faces import CropSpec, crop_face, whole_image_box
from fakeface_jax.images import decode_image, read_image

CROP = CropSpec(size=64, margin=1.3)


def save_jpeg(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", **options)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, face_picture, faceless_picture):
    """Four pictures of one face, which are too different to be copies; one without a face; one damaged."""
    folder = tmp_path_factory.mktemp("pictures") / "portraits"
    face = face_picture[20:260, 110:350]
    save_jpeg(folder / "train/real/plain.jpg", face, quality=95)
    save_jpeg(folder / "train/fake/stargan/mirrored.jpg", face[:, ::-1], quality=60)
    save_jpeg(folder / "train/real/no face.jpg", faceless_picture[:200, :300])
    save_jpeg(folder / "valid/fake/shifted.jpg", face_picture[:400, 60:420])
    save_jpeg(folder / "test/real/größe.jpg", face_picture[30:230, 60:400, ::-1], quality=80)
    data = io.BytesIO()
    Image.fromarray(face).save(data, "JPEG")
    (folder / "test/real/cut.jpg").write_bytes(data.getvalue()[:3000])
    manifest = merge([f"folder:{folder}"])
    assert len(manifest.used()) == 5
    path = folder.parent / "manifest.parquet"
    manifest.save(path)
    return path


@pytest.fixture(scope="module")
def built(manifest, tmp_path_factory):
    directory = tmp_path_factory.mktemp("built")
    return directory, build_dataset(manifest, directory, CROP)


def records(dataset, **options):
    return {record["id"].decode(): record for split in dataset.sizes for record in dataset.source(split, **options)}


def test_every_face_of_the_manifest_is_stored_once_in_its_split(built, manifest):
    _, dataset = built
    used = {row.id: row for row in load_manifest(manifest).used() if "no face" not in row.id}
    assert sum(dataset.sizes.values()) == len(used) == 4
    for split in dataset.sizes:
        for record in dataset.source(split):
            row = used[record["id"].decode()]
            assert split == row.split
            assert record["label"] == int(row.sample.label)
            assert record["source"] == b"portraits"
            assert record["method"].decode() == row.sample.method
            assert record["group"].decode() == row.group


def test_a_stored_crop_is_the_crop_of_scoring_encoded_once(built, manifest):
    _, dataset = built
    found, encoded = records(dataset), records(dataset, pictures=False)
    for row in load_manifest(manifest).used():
        if row.id in found:
            record = found[row.id]
            image = read_image(f"{row.sample.root}/{row.sample.name}")
            crop = crop_face(image, tuple(record["box"].tolist()), CROP)
            assert record["image"].dtype == np.uint8
            assert encoded[row.id]["image"] == encode_crop(crop)
            error = np.abs(record["image"].astype(int) - crop)
            assert error.mean() < 3
            assert error.max() <= 40
            np.testing.assert_array_equal(record["picture_size"], [image.shape[1], image.shape[0]])


def test_all_crops_have_the_same_file_history(built):
    from fakeface_jax.data.image_metadata import inspect_file

    _, dataset = built
    facts = [inspect_file(record["image"], "") for record in records(dataset, pictures=False).values()]
    assert {(f.container, f.mode, f.width, f.height, f.jpeg_tables) for f in facts} == {
        ("JPEG", "RGB", 64, 64, facts[0].jpeg_tables)
    }


def test_encoding_a_crop_keeps_its_colours():
    crop = np.zeros((32, 32, 3), np.uint8)
    crop[..., 0], crop[:16, :, 2] = 200, 250
    assert np.abs(decode_image(encode_crop(crop)).astype(int) - crop).max() <= 6


def test_rejected_pictures_are_listed_with_their_reasons(built):
    _, dataset = built
    reasons = {entry["id"]: entry["reason"] for entry in dataset.rejected}
    assert reasons.keys() == {"portraits/train/real/no face.jpg", "portraits/test/real/cut.jpg"}
    assert reasons["portraits/train/real/no face.jpg"] == "no face found"
    assert reasons["portraits/test/real/cut.jpg"].startswith("unreadable: damaged image")


def test_an_opened_dataset_knows_how_it_was_made(built, manifest):
    directory, dataset = built
    opened = open_dataset(directory)
    assert opened == dataset == open_dataset(dataset.path)
    assert (opened.crop, opened.detector) == (CROP, "centerface")
    assert opened.manifest_sha256 == load_manifest(manifest).fingerprint()
    assert opened.class_counts()["train"] == {"real": 1, "fake": 1}
    with pytest.raises(DataError, match="has no split 'holdout'"):
        opened.source("holdout")


def test_building_again_opens_what_is_there(built, manifest):
    directory, dataset = built
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    assert build_dataset(manifest, directory, CROP) == dataset
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()} == before


def test_building_again_with_another_manifest_crop_or_detector_is_refused(built, manifest, tmp_path):
    directory, _ = built
    rows = load_manifest(manifest).rows
    Manifest(tuple(dataclasses.replace(row, split=row.split and "train") for row in rows)).save(tmp_path / "m.parquet")
    with pytest.raises(DataError, match="another manifest; remove it or name another directory"):
        build_dataset(tmp_path / "m.parquet", directory, CROP)
    with pytest.raises(DataError, match="another crop"):
        build_dataset(manifest, directory, dataclasses.replace(CROP, margin=2.0))
    with pytest.raises(DataError, match="another detector"):
        build_dataset(manifest, directory, CROP, detector="yunet")


def test_whole_images_are_stored_as_centred_squares_without_looking_for_faces(manifest, tmp_path):
    dataset = build_dataset(manifest, tmp_path, CROP, whole_images=True)
    found = records(dataset)
    assert len(found) == 5
    for row in load_manifest(manifest).used():
        image = read_image(f"{row.sample.root}/{row.sample.name}")
        expected = crop_face(image, whole_image_box(image), dataclasses.replace(CROP, margin=1.0))
        assert np.abs(found[row.id]["image"].astype(int) - expected).mean() < 3
    assert dataset.path.parent.name == "whole-64"


def test_crops_and_whole_images_beside_each_other_must_be_named(built, manifest, tmp_path):
    build_dataset(manifest, tmp_path, CROP, whole_images=True)
    build_dataset(manifest, tmp_path, CropSpec(size=32), whole_images=True)
    with pytest.raises(DataError, match="contains 2 prepared data sets; name the directory of one"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path / "fake_faces" / "whole-32").crop.size == 32


def test_a_place_without_crops_says_how_to_make_them(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"no prepared data set.*fakeface data build"):
            open_dataset(place)


@pytest.mark.parametrize("text", ["", "{}", "[]", "no json", '{"name": "mnist", "version": "1.0.0"}'])
def test_a_foreign_dataset_is_refused(tmp_path, text):
    (tmp_path / "1.0.0").mkdir()
    (tmp_path / "1.0.0" / "dataset_info.json").write_text(text)
    with pytest.raises(DataError, match="was not written by fakeface data build") as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_dataset_whose_metadata_is_not_ours_is_refused(built, tmp_path):
    import shutil

    _, dataset = built
    shutil.copytree(dataset.path, tmp_path / "1.0.0")
    (tmp_path / "1.0.0" / "metadata.json").write_text(json.dumps({"crop": {"size": 7}}))
    with pytest.raises(DataError, match="was not written by"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("power cut"), KeyboardInterrupt()])
def test_an_interrupted_build_leaves_nothing_that_can_be_opened_and_can_be_repeated(
    manifest, tmp_path, monkeypatch, error
):
    example, calls = Builder._example, []

    def fail(self, row, detector):
        calls.append(row)
        if len(calls) == 3:
            raise error
        return example(self, row, detector)

    monkeypatch.setattr(Builder, "_example", fail)
    with pytest.raises(type(error)):
        build_dataset(manifest, tmp_path, CROP, whole_images=True)
    with pytest.raises(DataError, match="no prepared data set"):
        open_dataset(tmp_path)
    monkeypatch.undo()
    assert sum(build_dataset(manifest, tmp_path, CROP, whole_images=True).sizes.values()) == 5


def test_a_manifest_without_any_face_is_refused_and_leaves_nothing(tmp_path, faceless_picture):
    save_jpeg(tmp_path / "in/train/real/1.jpg", faceless_picture[:200, :300])
    merge([f"folder:{tmp_path / 'in'}"]).save(tmp_path / "m.parquet")
    with pytest.raises(DataError) as caught:
        build_dataset(tmp_path / "m.parquet", tmp_path / "out", CROP)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no prepared data set"):
        open_dataset(tmp_path / "out")


def test_a_split_without_any_face_does_not_spoil_the_others(manifest, tmp_path, faceless_picture, face_picture):
    save_jpeg(tmp_path / "in/train/real/1.jpg", face_picture[20:260, 110:350])
    save_jpeg(tmp_path / "in/test/real/2.jpg", faceless_picture[:200, :300])
    merge([f"folder:{tmp_path / 'in'}"]).save(tmp_path / "m.parquet")
    dataset = build_dataset(tmp_path / "m.parquet", tmp_path / "out", CROP)
    assert dataset.sizes["train"] == 1
    assert [entry["reason"] for entry in dataset.rejected] == ["no face found"]
    assert dataset.sizes.get("test", 0) == 0


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(DataError, match=r"missing\.parquet"):
        build_dataset(tmp_path / "missing.parquet", tmp_path / "out", CROP)


def test_pictures_that_vanished_since_the_merge_are_rejected_and_not_fatal(tmp_path, face_picture):
    for name in ("train/real/1.jpg", "train/fake/2.jpg"):
        save_jpeg(tmp_path / "in" / name, face_picture[20:260, 110:350, :: 1 if "real" in name else -1])
    merge([f"folder:{tmp_path / 'in'}"]).save(tmp_path / "m.parquet")
    (tmp_path / "in/train/fake/2.jpg").unlink()
    dataset = build_dataset(tmp_path / "m.parquet", tmp_path / "out", CROP, whole_images=True)
    (entry,) = dataset.rejected
    assert entry["id"] == "in/train/fake/2.jpg"
    assert "cannot be read" in entry["reason"]
    assert dataset.sizes == {"train": 1}


OPEN_WITHOUT_TENSORFLOW = """
import sys
from fakeface_jax.data.dataset import build_dataset, open_dataset
from fakeface_jax.faces import CropSpec
build_dataset(sys.argv[1], sys.argv[2], CropSpec(size=64), whole_images=True)
dataset = open_dataset(sys.argv[2])
print(dataset.source("train")[0]["image"].shape, "tensorflow" in sys.modules)
"""


def test_tensorflow_is_not_needed(manifest, tmp_path):
    command = [sys.executable, "-c", OPEN_WITHOUT_TENSORFLOW, str(manifest), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(64, 64, 3) False"


def test_the_module_itself_imports_nothing_heavy():
    code = f"import sys, {dataset_module.__name__}; print('tensorflow_datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

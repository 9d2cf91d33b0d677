import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from fakeface_jax.data.dataset import build_dataset
from fakeface_jax.data.fake_faces.fake_faces_dataset_builder import encode_crop
from fakeface_jax.data.manifest import merge
from fakeface_jax.data.sources import read_sample, read_source
from fakeface_jax.data.tfds_source import read_tfds_image
from fakeface_jax.errors import DataError, OpenError
from fakeface_jax.faces import CropSpec
from fakeface_jax.images import decode_image
from fakeface_jax.labels import Label


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A built data set: 5 reals and 5 fakes of one method in published splits; two share a clip."""
    folder = tmp_path_factory.mktemp("tfds")
    lines = ["path,label,source,method,group,split"]
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{index}.png")
        split, clip = ("train", "train", "train", "val", "test")[index // 2], "clip" if index in (0, 2) else ""
        lines.append(f"{index}.png,{('real', 'fake')[index % 2]},made,{'gan' if index % 2 else ''},{clip},{split}")
    (folder / "made.csv").write_text("\n".join(lines))
    merge([f"csv:{folder / 'made.csv'}"]).save(folder / "m.parquet")
    return build_dataset(folder / "m.parquet", folder / "data", CropSpec(size=64), whole_images=True)


def test_a_built_dataset_is_a_source(prepared):
    samples = read_source(f"tfds:{prepared.path}")
    assert len(samples) == 10
    assert {sample.source for sample in samples} == {"fake_faces"}
    assert sum(sample.label is Label.FAKE for sample in samples) == 5
    assert {(sample.label, sample.method) for sample in samples} == {(Label.REAL, ""), (Label.FAKE, "gan")}
    train = [sample for sample in samples if sample.official_split == "train"]
    assert len(train) == prepared.sizes["train"] == 6
    assert {sample.source for sample in read_source(f"tfds:{prepared.path}@again")} == {"again"}


def test_its_pictures_and_labels_are_those_that_were_stored(prepared):
    samples = {sample.name: sample for sample in read_source(f"tfds:{prepared.path}")}
    for split in prepared.sizes:
        for index, record in enumerate(prepared.source(split)):
            sample = samples[f"{split}/{index:08d}"]
            assert sample.label == record["label"]
            image = decode_image(read_sample(sample))
            assert np.abs(image.astype(int) - record["image"]).max() <= 4


def test_it_is_merged_again_with_groups_and_splits_kept(prepared):
    manifest = merge([f"tfds:{prepared.path}"], workers=4)
    assert len(manifest.used()) == 10
    assert {row.split for row in manifest.used() if row.sample.official_split == "train"} == {"train"}
    assert {row.split for row in manifest.used() if row.sample.official_split == "test"} == {"test"}
    clip = [row for row in manifest.used() if row.sample.hint.endswith("clip")]
    assert len(clip) == 2
    assert clip[0].group == clip[1].group


@pytest.mark.parametrize("name", ["train/99999999", "nosplit/00000000", "train/x", ""])
def test_a_picture_that_is_not_there_is_an_open_error(prepared, name):
    with pytest.raises(OpenError, match="cannot be read") as caught:
        read_tfds_image(f"tfds:{prepared.path}", name)
    assert "\n" not in str(caught.value)


def test_a_name_that_tfds_does_not_know_is_refused_in_one_line(tmp_path):
    for name in ("no_such_data_set_anywhere", str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(DataError, match="not a prepared TFDS data set") as caught:
            read_source(f"tfds:{name}")
        assert "\n" not in str(caught.value)


GREY = encode_crop(np.full((16, 16, 3), 99, np.uint8))


class Foreign(tfds.core.GeneratorBasedBuilder):
    """Two grey pictures, numbered 0 and 1, with features that others might choose."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, number_feature, number, **settings):
        self._numbered = (number_feature, number)
        super().__init__(file_format="array_record", **settings)

    def _info(self):
        name, feature = self._numbered
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(16, 16, 3)), name: feature})
        return tfds.core.DatasetInfo(builder=self, description="For tests.", features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        # Encoded already: TFDS would use TensorFlow to encode.
        for number in (0, 1):
            yield number, {"image": io.BytesIO(GREY), self._numbered[0]: number}


def prepare_foreign(folder, name, feature):
    builder = Foreign(number_feature=name, number=feature, data_dir=str(folder))
    builder.download_and_prepare()
    return f"tfds:{builder.data_path}"


@pytest.mark.parametrize(
    ("name", "feature", "words"),
    [
        ("label", tfds.features.ClassLabel(names=["cat", "dog"]), "is not a label"),
        ("label", tfds.features.Scalar(np.int64), "its labels have no names"),
        ("class", tfds.features.ClassLabel(names=["real", "fake"]), "lacks the feature image or label"),
    ],
)
def test_a_dataset_about_something_else_is_refused(tmp_path, name, feature, words):
    spec = prepare_foreign(tmp_path, name, feature)
    with pytest.raises(DataError, match=words):
        read_source(spec)


def test_labels_are_mapped_by_name_and_not_by_number(tmp_path):
    spec = prepare_foreign(tmp_path, "label", tfds.features.ClassLabel(names=["fake", "real"]))
    assert [sample.label for sample in read_source(spec)] == [Label.FAKE, Label.REAL]

"""Updating a bundle: where new pictures go, what is drawn, what is compared, what is refused."""

import dataclasses
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from fakeface_jax.bundle import BundleSpec, load_bundle, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.cli.main import main
from fakeface_jax.data.augmentation_config import NO_DEGRADATION, AugmentConfig, LoaderConfig, PseudoFakeConfig
from fakeface_jax.data.dataset import build_dataset, join_datasets, open_dataset
from fakeface_jax.data.manifest import CONFLICT, EXACT, Manifest, load_manifest, merge
from fakeface_jax.data.manifest_merge import BRIDGE, extend
from fakeface_jax.data.replay import newest, replay
from fakeface_jax.decision import VerdictBands
from fakeface_jax.errors import BundleError, ConfigError, DataError
from fakeface_jax.evaluation.batch_scoring import predict
from fakeface_jax.faces import CropSpec
from fakeface_jax.models import create_model, flatten_state
from fakeface_jax.training import update as updating
from fakeface_jax.training.train_config import NetworkConfig, TrainConfig, UpdateConfig
from fakeface_jax.training.update import training_config, update

OLD = {"train": 32, "valid": 16, "test": 10}
NEW = {"train": 16, "test": 8}


class Silent:
    """Hears and says nothing."""

    def start(self, text):
        pass

    def step(self, epoch, done, total, loss):
        pass

    def epoch(self, row, *, best):
        pass


def picture(rng, light=0.0, *, checks=0.0):
    """Blobs of 64 x 64 pixels, brighter, or with a pattern of checks over them."""
    small = rng.uniform(40, 160, (6, 6, 3)) + light
    pixels = cv2.resize(small, (64, 64), interpolation=cv2.INTER_CUBIC)
    pattern = np.kron([[1, -1] * 8, [-1, 1] * 8] * 8, np.ones((4, 4)))[..., None]
    return np.clip(pixels + checks * pattern, 0, 255).astype(np.uint8)


def write(root, counts, fakes, *, reals=True, seed=0):
    """`fakes` draws a fake picture."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for label, draw in (("real", picture), ("fake", fakes))[0 if reals else 1 :]:
            place = root / split / label
            place.mkdir(parents=True)
            for number in range(count):
                cv2.imwrite(str(place / f"{number:03d}.png"), draw(rng))
    return f"folder:{root}@{root.name}"


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A folder `old`, bright fakes, and a folder `new`, fakes with checks: manifest and crops of the old one."""
    root = tmp_path_factory.mktemp("update")
    spec = write(root / "old", OLD, lambda rng: picture(rng, 60))
    write(root / "new", NEW, lambda rng: picture(rng, checks=40), reals=False, seed=1)
    merge([spec]).save(root / "manifest.parquet")
    build_dataset(root / "manifest.parquet", root / "data", CropSpec(size=32), whole_images=True)
    return root


@pytest.fixture(scope="module")
def bundle(old):
    """Fresh weights, turned so that brighter means fake, that say they were trained on the old data, in their way."""
    from flax import nnx

    model = {"name": "report", "size": 32, "dtype": "float32"}
    weights = flatten_state(nnx.state(create_model(model, nnx.Rngs(0)), nnx.Param))
    spec = BundleSpec(
        name="first",
        model=model,
        crop=CropSpec(size=32),
        detector="centerface",
        bands=VerdictBands(real_below=0.4, fake_from=0.6),
        provenance={
            "config": {
                "augment": {"rotation": 5.0},
                "degrade": dataclasses.asdict(NO_DEGRADATION),
                "loader": {"balance": "source", "leave_out": ["new"]},
                "pseudo": {},
            },
            "data": {"manifest_sha256": load_manifest(old / "manifest.parquet").fingerprint()},
        },
    )
    path = old / "first" / "bundle"
    fresh = FaceClassifier(save_bundle(path, spec, weights, card="For tests.\n"))
    found = predict(fresh, open_dataset(old / "data"), "test")
    if found.logits[found.labels == 1].mean() < found.logits[found.labels == 0].mean():
        weights |= {name: -value for name, value in weights.items() if name.startswith("dense2")}
    return save_bundle(path, spec, weights, card="For tests.\n")


@pytest.fixture
def config(old, bundle, tmp_path):
    return UpdateConfig(
        new=f"folder:{old / 'new'}@new",
        data=(old / "data",),
        output=tmp_path / "run",
        bundle=bundle.path,
        batch_size=8,
        epochs=4,
        learning_rate=2e-3,
        max_loss=1.0,
        resamples=50,
    )


def test_the_training_is_the_bundles_own(config, bundle, tmp_path):
    settings = training_config(config, bundle, tmp_path)
    assert settings.augment == AugmentConfig(rotation=5.0)
    assert settings.degrade == NO_DEGRADATION
    assert settings.loader == LoaderConfig(batch_size=8, balance="source", leave_out=("new",))
    assert settings.data == (*config.data, tmp_path)
    assert (settings.model, settings.init_from, settings.new_share) == ("report", str(bundle.path), 0.5)
    spec = dataclasses.replace(
        bundle.spec,
        model={"name": "efficientnet_lite0", "size": 32, "input": "residual", "running_statistics": True},
        provenance={},
    )
    known = {"loader": {"balance": "none", "leave_out": ["a/b"]}, "augment": {}, "degrade": {}, "pseudo": {}}
    for provenance in ({}, {"config": known | {"augment": {"colour": 1}}}):
        spec = dataclasses.replace(spec, provenance=provenance)
        with pytest.raises(BundleError, match="does not say how it was trained"):
            training_config(config, dataclasses.replace(bundle, spec=spec), tmp_path)
    spec = dataclasses.replace(spec, provenance={"config": known})
    settings = training_config(config, dataclasses.replace(bundle, spec=spec), tmp_path)
    assert settings.network == NetworkConfig(input="residual", running_statistics=True)
    assert settings.loader.leave_out == ("a/b",)
    # What the bundle has never seen is what an update is for.
    settings = training_config(config, dataclasses.replace(bundle, spec=spec), tmp_path, learned={"a", "a/b"})
    assert settings.loader.leave_out == ()


def tree(path):
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.rglob("*.*"))}


def test_an_update_learns_the_new_and_leaves_the_old_bundle(config, old, bundle):
    before, heard = tree(bundle.path), []
    done = update(config, Silent(), placed=heard.append)
    assert done.losses == {}
    assert not done.other_data
    assert done.bundle.path == config.output / "bundle"
    assert tree(bundle.path) == before
    assert done.comparison.only_old == done.comparison.only_new == 0
    assert done.comparison.change("log_loss").value < 0
    rates = [row.estimates["new"].value for row in done.comparison.result.rows if row.names["figure"] == "AUC"]
    assert rates[0] is None, "fakes alone have none"
    assert min(rates[1:]) > 0.9
    assert {row.names["source"] for row in done.comparison.result.rows} == {"new", "old", "all sources"}
    (fresh,) = heard
    assert fresh.counts() == {("new", "train", "fake"): NEW["train"], ("new", "test", "fake"): NEW["test"]}
    spec = load_bundle(config.output / "bundle").spec
    assert spec.name == "run"
    assert spec.provenance["updates"] == [
        {"from": {"name": "first", "id": bundle.id}, "new": config.new, "max_loss": 1.0}
    ]
    assert spec.calibration.samples == open_dataset(old / "data").sizes["calibration"]
    assert "new less old" in (config.output / "bundle" / "README.md").read_text()
    assert json.loads((config.output / "comparison.json").read_text())["losses"] == {}
    # What the next update takes.
    assert len(load_manifest(config.output / "manifest.parquet").rows) == 2 * sum(OLD.values()) + sum(NEW.values())
    again = dataclasses.replace(
        config, data=(old / "data", config.output / "data"), bundle=done.bundle.path, output=config.output / "next"
    )
    with pytest.raises(DataError, match=r"none of its pictures is in the train split .*excluded: exact duplicate"):
        update(again, Silent())


def test_a_loss_is_refused_and_can_be_judged_anew(config, bundle, monkeypatch, capsys):
    def turned(result, settings):
        """What the old bundle calls fake, this one calls real: a source that it knew, it gets wrong."""
        weights = {name: -value if name.startswith("dense2") else value for name, value in bundle.weights.items()}
        return save_bundle(settings.output / "bundle", bundle.spec, weights, card="Turned.\n")

    monkeypatch.setattr(updating, "train", lambda settings, reporter, resume: None)
    monkeypatch.setattr(updating, "finish", turned)
    words = ["update", "--new", config.new, "--data", str(config.data[0]), "--bundle", str(config.bundle)]
    words += ["--output", str(config.output), "--resamples", "20"]
    code = main(words)
    out, err = capsys.readouterr()
    change = json.loads((config.output / "comparison.json").read_text())["losses"]["old"]["value"]
    assert code == 1
    assert change < -0.02
    assert f"fakeface: rejected: old changes by {change:+.3f} (95 % interval" in err
    assert "--max-loss allows 0.02" in err
    assert "| old | AUC | 10 | 10 | 20 |" in out
    assert "bundle: " not in out
    assert not (config.output / "bundle").exists()
    assert main(words) == 2
    assert "already contains an update; add --resume" in capsys.readouterr().err
    assert main([*words, "--resume", "--max-loss", "1"]) == 0
    assert f"bundle: {config.output / 'bundle'}" in capsys.readouterr().out
    assert load_bundle(config.output / "bundle").spec.name == "run"


def test_what_does_not_fit_is_refused_before_training(config, old, tmp_path):
    def refused(message, error=ConfigError, **changes):
        with pytest.raises(error, match=message):
            update(dataclasses.replace(config, **changes), Silent())

    merge([config.new]).save(tmp_path / "other.parquet")
    refused("other.parquet: does not list old/.* name the manifest", manifest=tmp_path / "other.parquet")
    write(tmp_path / "few", {"train": 3}, picture, seed=2)
    refused("none of its pictures is in the test split", DataError, new=f"folder:{tmp_path / 'few'}@few")
    write(tmp_path / "same", NEW, picture, seed=3)
    refused("rename the source", new=f"folder:{tmp_path / 'same'}@old")
    refused("the bundle takes", bundle=None)
    assert not config.output.exists()
    with pytest.raises(ConfigError, match="must be between 0 and 1"):
        dataclasses.replace(config, share=1.0)


def test_new_pictures_follow_old_ones(old, tmp_path):
    """By their names: a copy, one labelled otherwise, near duplicates of one and of two splits, one that is new."""
    known = load_manifest(old / "manifest.parquet")
    rng = np.random.default_rng(5)
    shared = {split: cv2.imread(str(old / "old" / split / "real" / "000.png")) for split in ("train", "test")}
    files = {"real/copy": shared["test"], "fake/conflict": shared["train"], "real/new": picture(rng)}
    files["real/near"] = np.clip(shared["test"].astype(np.int16) + 3, 0, 255).astype(np.uint8)
    for name, pixels in files.items():
        (tmp_path / "more" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "more" / f"{name}.png"), pixels)
    new = merge([f"folder:{tmp_path / 'more'}@more"])
    placed = {row.sample.name: row for row in extend(known, new).rows}
    assert placed["real/copy.png"].left_out == EXACT
    assert placed["fake/conflict.png"].left_out == CONFLICT
    assert (placed["real/near.png"].split, placed["real/near.png"].left_out) == ("test", "")
    original = next(row for row in known.rows if row.sample.name == "test/real/000.png")
    assert placed["real/near.png"].group == original.group
    alone = {row.sample.name: row for row in new.rows}
    assert placed["real/new.png"] == alone["real/new.png"]
    # As if the source said that the near duplicate belongs to a training picture too.
    train_row = next(row for row in known.rows if row.sample.name == "train/real/000.png")
    hinted = dataclasses.replace(train_row.sample, hint="clip", source="more")
    bridged = Manifest(
        tuple(dataclasses.replace(row, sample=hinted) if row is train_row else row for row in known.rows)
    )
    rows = [
        dataclasses.replace(row, sample=dataclasses.replace(row.sample, hint="clip")) for row in new.rows
        if row.sample.name == "real/near.png"
    ]  # fmt: skip
    assert [row.left_out for row in extend(bridged, Manifest(tuple(rows))).rows] == [BRIDGE]


def records(*counts):
    """Samples by (label, source, how many), in order."""
    return [{"label": label, "source": source, "method": ""} for label, source, n in counts for _ in range(n)]


def test_replay_draws_the_share_in_each_class_that_is_new():
    old_and_new = records((0, "a", 300), (1, "a", 100), (1, "n", 20))
    drawn = replay(old_and_new, 20, LoaderConfig(batch_size=8), share=0.5, epochs=3, seed=0)
    # A quarter of all is new, so 20 new ones make 80 samples.
    assert drawn.steps == 10
    assert len(drawn.rows) == 3 * 80
    counts = np.bincount(drawn.rows, minlength=420)
    assert [counts[:300].sum(), counts[300:400].sum(), counts[400:].sum()] == [120, 60, 60]
    assert set(counts[400:]) == {3}, "each new one once an epoch"
    assert counts[:400].max() == 1, "old ones do not repeat before all are through"
    again = replay(old_and_new, 20, LoaderConfig(batch_size=8), share=0.5, epochs=3, seed=0)
    assert np.array_equal(drawn.rows, again.rows)


def test_replay_of_both_classes_pseudo_fakes_and_sources():
    both = records((0, "a", 200), (1, "a", 180), (1, "b", 20), (0, "n", 10), (1, "n", 10))
    drawn = replay(both, 20, LoaderConfig(batch_size=20, balance="source"), share=0.25, epochs=2, seed=1)
    counts = np.bincount(drawn.rows, minlength=420)
    assert drawn.steps == 4
    parts = [slice(0, 200), slice(200, 380), slice(380, 400), slice(400, 410), slice(410, 420)]
    # Of the old fakes 60, the small source at most four times as often as by its size: a fifth of all of 400.
    assert [int(counts[part].sum()) for part in parts] == [60, 36, 24, 20, 20]
    pseudo = PseudoFakeConfig(self_blended=0.2)
    drawn = replay(both, 20, LoaderConfig(batch_size=20), share=0.25, epochs=1, seed=1, pseudo=pseudo)
    labels = np.array([both[row]["label"] for row in drawn.rows])
    assert np.mean(labels == 0) == pytest.approx(0.5 / 0.8, abs=0.02)
    with pytest.raises(DataError, match="no training samples to repeat"):
        replay(both, 420, LoaderConfig(), share=0.5, epochs=1, seed=0)


def test_replay_leaves_out():
    both = records((0, "a", 40), (1, "a", 40), (1, "b", 40), (1, "n", 10))
    drawn = replay(both, 10, LoaderConfig(batch_size=8, leave_out=("b",)), share=0.5, epochs=2, seed=0)
    assert not set(range(80, 120)) & set(drawn.rows.tolist())
    assert set(range(120, 130)) <= set(drawn.rows.tolist())


def test_joined_data_sets_read_as_one(old, config, tmp_path):
    merge([config.new]).save(tmp_path / "new.parquet")
    new = build_dataset(tmp_path / "new.parquet", tmp_path / "data", CropSpec(size=32), whole_images=True)
    first = open_dataset(old / "data")
    joined = open_dataset((old / "data", tmp_path / "data"))
    assert first.whole_images
    assert joined.sizes["train"] == 2 * OLD["train"] + NEW["train"]
    assert joined.sizes["validation"] == first.sizes["validation"]
    source, parts = joined.source("test"), (first.source("test"), new.source("test"))
    assert len(source) == 2 * OLD["test"] + NEW["test"]
    for row, part, there in ((0, 0, 0), (len(parts[0]), 1, 0), (len(source) - 1, 1, len(parts[1]) - 1)):
        assert np.array_equal(source[row]["image"], parts[part][there]["image"])
        assert source[row]["id"] == parts[part][there]["id"]
    assert newest(joined, "test") == NEW["test"]
    assert newest(joined, "validation") == 0
    assert joined.manifest_sha256 not in (first.manifest_sha256, new.manifest_sha256)
    assert join_datasets([first]) is first
    assert open_dataset([old / "data"]).manifest_sha256 == first.manifest_sha256
    with pytest.raises(DataError, match="is named twice"):
        join_datasets([first, first])
    with pytest.raises(DataError, match="its crops differ from those of"):
        join_datasets([first, dataclasses.replace(new, whole_images=False)])
    with pytest.raises(DataError, match="is a single data set"):
        newest(first, "train")


def test_a_share_of_new_samples_is_drawn_from_several_data_sets():
    one = TrainConfig(data=Path("a"), output=Path("b"))
    with pytest.raises(ConfigError, match="at least two data directories"):
        dataclasses.replace(one, new_share=0.5)

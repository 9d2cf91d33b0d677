"""Frozen networks that the package carries: int8 kernels, files that are verified, names that lead nowhere else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fakeface_jax import backbones
from fakeface_jax.backbones import SPEC, QuantizedKernel, load_backbone, save_backbone
from fakeface_jax.errors import BundleError

SETTINGS = {"size": 32, "width": 6, "depth": 1, "norm_epsilon": 1e-5, "biases": ["query", "mlp"]}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "patch.kernel": (12, 6),
        "class_token": (6,),
        "blocks.0.query.kernel": (6, 6),
        "blocks.0.query.bias": (6,),
        "blocks.0.up.kernel": (6, 9),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where this test's backbones are, with nothing remembered of other tests'."""
    directory = tmp_path / "backbones"
    directory.mkdir()
    monkeypatch.setattr(backbones, "BACKBONES", directory)
    backbones._read_backbone.cache_clear()
    yield directory
    backbones._read_backbone.cache_clear()


def _save(directory, weights) -> None:
    save_backbone(directory, SETTINGS, weights, mean=MEAN, std=STD, origin="made for a test", licence="CC0")


def test_a_kernel_that_was_int8_comes_back_as_it_was():
    rng = np.random.default_rng(0)
    values = rng.integers(-127, 128, (40, 7)).astype(np.int8)
    values[rng.integers(0, 40, 7), np.arange(7)] = 127
    steps = rng.uniform(1e-4, 1e-1, 7).astype(np.float32)
    found = QuantizedKernel.of(QuantizedKernel(values, steps).float())
    np.testing.assert_array_equal(found.values, values)
    np.testing.assert_allclose(found.steps, steps, rtol=2e-7)


def test_any_other_kernel_is_off_by_half_a_step_at_most():
    kernel = np.random.default_rng(1).normal(size=(200, 11)).astype(np.float32) * np.logspace(-4, 4, 11, dtype="f4")
    found = QuantizedKernel.of(kernel)
    assert found.values.dtype == np.int8
    assert found.steps.dtype == np.float32
    np.testing.assert_array_equal(np.abs(found.values.astype(int)).max(axis=0), 127)
    np.testing.assert_allclose(found.steps * 127, np.abs(kernel).max(axis=0), rtol=1e-6)
    assert (np.abs(found.float() - kernel) <= 0.5001 * found.steps).all()


def test_a_column_of_zeros_stays_zeros():
    kernel = np.zeros((5, 2), np.float32)
    kernel[:, 1] = 3
    found = QuantizedKernel.of(kernel)
    assert (found.steps > 0).all()
    np.testing.assert_allclose(found.float(), kernel, rtol=1e-6)


def test_a_saved_backbone_is_loaded_with_its_blocks_kernels_in_int8(place, weights):
    _save(place / "tiny", weights)
    found = load_backbone("tiny")
    assert (found.name, dict(found.settings), found.mean, found.std) == ("tiny", SETTINGS, MEAN, STD)
    kernels = {"blocks.0.query.kernel", "blocks.0.up.kernel"}
    assert found.weights().keys() == weights.keys()
    for name, value in weights.items():
        if name in kernels:
            assert found.kernel(name).values.dtype == np.int8
            assert (np.abs(found.array(name) - value) <= 0.5001 * found.kernel(name).steps).all()
        else:
            np.testing.assert_array_equal(found.array(name), value)
        np.testing.assert_array_equal(found.weights()[name], found.array(name))
        assert found.array(name).dtype == np.float32


def test_what_was_loaded_can_be_saved_again_as_it_is(place, weights):
    _save(place / "tiny", weights)
    first = load_backbone("tiny")
    _save(place / "again", first.weights())
    second = load_backbone("again")
    for name in ("blocks.0.query.kernel", "blocks.0.up.kernel"):
        np.testing.assert_array_equal(second.kernel(name).values, first.kernel(name).values)


def test_large_weights_are_parted_into_files_that_repositories_take(place, weights, monkeypatch):
    monkeypatch.setattr(backbones, "_PART", 300)
    _save(place / "tiny", weights)
    assert len(list(place.glob("tiny/part-*.safetensors"))) > 1
    assert load_backbone("tiny").weights().keys() == weights.keys()


def test_a_backbone_of_the_stated_sha256_alone_is_taken(place, weights):
    _save(place / "tiny", weights)
    sha256 = load_backbone("tiny").sha256
    assert load_backbone("tiny", sha256).sha256 == sha256
    with pytest.raises(BundleError, match="not the backbone that the bundle was made with"):
        load_backbone("tiny", "0" * 64)


@pytest.mark.parametrize("change", ["weights", "settings"])
def test_the_sha256_is_over_weights_and_settings(place, weights, change):
    _save(place / "tiny", weights)
    _save(place / "same", weights)
    if change == "weights":
        _save(place / "other", weights | {"class_token": weights["class_token"] + 1})
    else:
        settings = SETTINGS | {"depth": 2}
        save_backbone(place / "other", settings, weights, mean=MEAN, std=STD, origin="made for a test", licence="CC0")
    tiny, same, other = (load_backbone(name).sha256 for name in ("tiny", "same", "other"))
    assert tiny == same != other


@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_changed_byte_of_the_weights_is_refused(place, weights, at):
    _save(place / "tiny", weights)
    (file,) = place.glob("tiny/*.safetensors")
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match="was changed"):
        load_backbone("tiny")


def test_weights_that_are_missing_are_told(place, weights):
    _save(place / "tiny", weights)
    (file,) = place.glob("tiny/*.safetensors")
    file.unlink()
    with pytest.raises(BundleError, match="damaged backbone"):
        load_backbone("tiny")


@pytest.mark.parametrize("text", ["", "{", "{}", "null", '{"files": {"part-1.safetensors": 3}}'])
def test_a_damaged_description_is_told(place, weights, text):
    _save(place / "tiny", weights)
    (place / "tiny" / SPEC).write_text(text)
    with pytest.raises(BundleError, match=r"damaged|was changed"):
        load_backbone("tiny")


@pytest.mark.parametrize("name", ["sub/tiny", "../outside", "tiny/", "./tiny", "tiny/../tiny", "..", ".", "", "absent"])
def test_a_name_leads_nowhere_but_to_the_backbones(place, weights, name):
    for directory in (place / "tiny", place / "sub" / "tiny", place.parent / "outside"):
        _save(directory, weights)
    with pytest.raises(BundleError, match="this backbone is not installed"):
        load_backbone(name)


def test_an_absolute_name_is_refused(place, weights):
    _save(place.parent / "outside", weights)
    with pytest.raises(BundleError, match="this backbone is not installed"):
        load_backbone(str(place.parent / "outside"))


def test_the_backbone_of_the_detector_is_whole_and_in_files_that_repositories_take():
    if not (backbones.BACKBONES / "clip-vit-base-patch16").is_dir():
        pytest.skip("needs the backbone: make backbone")
    backbones._read_backbone.cache_clear()
    found = load_backbone("clip-vit-base-patch16")
    assert (found.settings["size"], found.settings["width"], found.settings["depth"]) == (224, 768, 9)
    assert found.kernel("blocks.8.down.kernel").values.shape == (3072, 768)
    assert np.isfinite(found.array("blocks.0.query.kernel")).all()
    for file in (backbones.BACKBONES / found.name).iterdir():
        assert file.stat().st_size < 50e6, file
    backbones._read_backbone.cache_clear()


@pytest.mark.parametrize("module", ["fakeface_jax.backbones", "fakeface_jax.network_config"])
def test_backbones_are_read_without_jax(module):
    program = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0

"""Heads on a frozen backbone, and fusions of experts: OpenVINO and JAX agree, and logits are added."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fakeface_jax import backbones
from fakeface_jax.backbones import STATISTICS, load_backbone, save_backbone
from fakeface_jax.backends.openvino import ExpertsBackend, OpenVinoBackend
from fakeface_jax.backends.reference import probe_crops, reference_logits
from fakeface_jax.bundle import BundleSpec, Normalization, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.decision import VerdictBands
from fakeface_jax.errors import BundleError, ConfigError
from fakeface_jax.faces import CropSpec
from fakeface_jax.models import create_model, flatten_state, with_backbone
from fakeface_jax.models.vit import VisionTransformer
from fakeface_jax.network_config import members, pixel_scaling

SETTINGS = {
    "size": 32,
    "patch": 16,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "mlp_width": 32,
    "activation": "quick_gelu",
    "norm_epsilon": 1e-5,
    "pre_norm": True,
    "position_grid": 2,
    "biases": ["query", "key", "value", "out", "mlp"],
}
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
REPORT = {"name": "report", "size": 32}


@pytest.fixture(autouse=True)
def tiny_backbone(tmp_path, monkeypatch):
    """A backbone of two blocks, none of whose weights is an idle 0 or 1."""
    rng = np.random.default_rng(0)
    weights = flatten_state(nnx.state(VisionTransformer(rngs=nnx.Rngs(0), **SETTINGS), nnx.Param))
    weights = {
        name: (rng.normal(0, 0.3, value.shape) + name.endswith("scale")).astype(np.float32)
        for name, value in weights.items()
    }
    monkeypatch.setattr(backbones, "BACKBONES", tmp_path / "backbones")
    backbones._read_backbone.cache_clear()
    more = {"origin": "random", "licence": "CC0"}
    save_backbone(tmp_path / "backbones" / "tiny", SETTINGS, weights, mean=MEAN, std=STD, **more)
    yield
    backbones._read_backbone.cache_clear()


def _probe(*, taps=(0, 1), statistics=STATISTICS, seed=1):
    """Configuration and weights of a head."""
    rng, inputs = np.random.default_rng(seed), len(taps) * len(statistics) * SETTINGS["width"]
    config = {"name": "feature_probe", "backbone": "tiny", "taps": list(taps), "size": 32}
    if statistics != STATISTICS:
        config["statistics"] = list(statistics)
    kernel = rng.normal(0, 0.3, (inputs, 1)).astype(np.float16)
    return config, {"classifier.kernel": kernel.astype(np.float32), "classifier.bias": np.array([0.25], np.float32)}


def _report():
    weights = flatten_state(nnx.state(create_model(REPORT, nnx.Rngs(3)), nnx.Param))
    return REPORT, {name: value.astype(np.float16).astype(np.float32) for name, value in weights.items()}


def _fusion(*parts):
    config = {"name": "experts", "size": 32, "experts": [config for config, _ in parts]}
    weights = {f"experts.{i}.{name}": value for i, (_, own) in enumerate(parts) for name, value in own.items()}
    return config, weights


def _spec(config) -> BundleSpec:
    mean, std = pixel_scaling(config)
    return BundleSpec(
        name="tiny",
        model=config,
        crop=CropSpec(size=32),
        detector="centerface",
        bands=VerdictBands(real_below=0.3, fake_from=0.7, reason="chosen by hand for tests"),
        normalization=Normalization(mean=mean, std=std),
    )


CASES = {
    "a head": lambda: _probe(),
    "a head on one block": lambda: _probe(taps=(0,)),
    "a head on two of the statistics": lambda: _probe(statistics=("class", "mean")),
    "a head and a small network": lambda: _fusion(_probe(), _report()),
    "two heads": lambda: _fusion(_probe(seed=1), _probe(taps=(1,), statistics=("deviation",), seed=2)),
}


def test_a_heads_pixels_are_scaled_as_its_backbone_says():
    assert pixel_scaling(_probe()[0]) == (MEAN, STD)
    assert pixel_scaling(_fusion(_probe(), _report())[0]) == ((0.0,) * 3, (1.0,) * 3)


def test_members_are_told_with_the_weights_of_their_own():
    probe, report = _probe(), _report()
    config, weights = _fusion(probe, report)
    found = members(config, weights)
    assert [member for member, _ in found] == [probe[0], report[0]]
    assert [own.keys() for _, own in found] == [probe[1].keys(), report[1].keys()]


@pytest.mark.parametrize("case", CASES)
def test_openvino_gives_jaxs_answers(case):
    config, weights = CASES[case]()
    spec = _spec(config)
    backend = OpenVinoBackend.of(spec, weights)
    assert isinstance(backend, ExpertsBackend) == (config["name"] == "experts")
    expected, found = reference_logits(spec, weights), backend.logits(probe_crops(32))
    assert np.ptp(expected) > 1e-2  # else there would be nothing to compare
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose([backend.logits(crop[None])[0] for crop in probe_crops(32)], expected, atol=1e-3)
    assert backend.logits(probe_crops(32)[:0]).shape == (0,)


@pytest.mark.parametrize("backend", ["openvino", "jax"])
@pytest.mark.parametrize("case", ["a head", "a head and a small network"])
def test_a_bundle_of_a_head_is_loaded_and_answers_by_either_backend(tmp_path, case, backend):
    config, weights = CASES[case]()
    bundle = save_bundle(tmp_path / "bundle", _spec(config), weights, card="A test.\n")
    # The backbone is not in it.
    assert bundle.weights.keys() == weights.keys()
    assert bundle.reference is not None
    classifier = FaceClassifier(bundle, backend=backend)
    assert classifier.backend.name == backend
    crops = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    np.testing.assert_allclose(classifier.logits(probe_crops(32)), bundle.reference, atol=1e-3)
    np.testing.assert_allclose(classifier.logits(crops)[2:3], classifier.logits(crops[2:3]), atol=1e-4)


@pytest.mark.parametrize("runs", ["openvino", "jax"])
def test_a_fusions_logit_is_the_sum_of_its_members(runs):
    parts = _probe(), _report(), _probe(taps=(1,), seed=5)

    def logits(config, weights):
        spec = _spec(config)
        if runs == "jax":
            return reference_logits(spec, weights)
        return OpenVinoBackend.of(spec, weights).logits(probe_crops(32))

    alone = [logits(config, weights) for config, weights in parts]
    assert all(np.abs(one).max() > 1e-3 for one in alone)
    np.testing.assert_allclose(logits(*_fusion(*parts)), np.sum(alone, axis=0), atol=1e-4)


def test_a_heads_kernel_is_applied_to_the_backbones_features():
    config, weights = _probe(statistics=("class", "deviation"))
    model = VisionTransformer(rngs=nnx.Rngs(0), **SETTINGS)
    full = with_backbone(config, weights)
    state = nnx.state(model, nnx.Param)
    flat = {
        path: leaf.replace(jnp.asarray(full["backbone." + ".".join(map(str, path))]))
        for path, leaf in nnx.to_flat_state(state)
    }
    nnx.update(model, nnx.from_flat_state(list(flat.items())))
    pixels = jnp.asarray((probe_crops(32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD))
    features = np.asarray(model.depth_features(pixels, (0, 1)))
    assert features.shape == (2, 2, 3, 16)
    expected = features[:, :, [0, 2]].reshape(2, -1) @ weights["classifier.kernel"] + 0.25
    np.testing.assert_allclose(reference_logits(_spec(config), weights), expected[:, 0], atol=1e-3)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("change", ["kernel", "bias", "no kernel"])
def test_a_head_of_another_shape_is_refused_by_either_backend(fused, change):
    config, weights = _probe()
    if change == "no kernel":
        del weights["classifier.kernel"]
    else:
        weights[f"classifier.{change}"] = weights[f"classifier.{change}"].repeat(2, axis=0)
    if fused:
        config, weights = _fusion((config, weights), _report())
    spec = _spec(config)
    with pytest.raises(BundleError):
        OpenVinoBackend.of(spec, weights)
    with pytest.raises(BundleError):
        reference_logits(spec, weights)


@pytest.mark.parametrize("fused", [False, True])
def test_a_head_on_another_backbone_than_it_was_made_with_is_refused(fused):
    config, weights = _probe()
    config["backbone_sha256"] = load_backbone("tiny").sha256
    spec = _spec(config)
    assert OpenVinoBackend.of(spec, weights) is not None
    config = config | {"backbone_sha256": "0" * 64}
    if fused:
        config, weights = _fusion((config, weights), _report())
    with pytest.raises(BundleError, match="not the backbone that the bundle was made with"):
        OpenVinoBackend.of(dataclasses.replace(spec, model=config), weights)
    with pytest.raises(BundleError, match="not the backbone that the bundle was made with"):
        reference_logits(dataclasses.replace(spec, model=config), weights)


@pytest.mark.parametrize(
    "settings",
    [
        {"taps": [2]},
        {"taps": [-1]},
        {"taps": []},
        {"taps": [0.5]},
        {"statistics": []},
        {"statistics": ["median"]},
        {"size": 64},
        {"dtype": "bfloat16"},
        {"unheard": 1},
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_setting_that_does_not_fit_the_backbone_is_refused(settings):
    with pytest.raises(ConfigError):
        create_model(_probe()[0] | settings, nnx.Rngs(0))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"name": "experts"}, "must list the networks"),
        ({"name": "experts", "experts": "report"}, "must list the networks"),
        ({"name": "experts", "experts": []}, "at least one"),
        ({"name": "experts", "size": 64, "experts": [REPORT]}, "must take crops of the fusion's size"),
        ({"name": "experts", "experts": [{"name": "unheard"}]}, "unknown model"),
    ],
)
def test_a_fusion_that_cannot_be_is_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        create_model(config, nnx.Rngs(0))

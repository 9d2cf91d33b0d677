"""The report's network: its shapes, its parameters, and its numbers against scipy and Keras with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx

from fakeface_jax.errors import BundleError, ConfigError
from fakeface_jax.models import NAMES, apply_function, build_network, create_model, flatten_state, pixel_scaling

REPORT_TABLE = [
    ("conv2d (Conv2D)", "(None, 148, 148, 32)", 896),
    ("max_pooling2d (MaxPooling2D)", "(None, 74, 74, 32)", 0),
    ("conv2d_1 (Conv2D)", "(None, 72, 72, 64)", 18_496),
    ("max_pooling2d_1 (MaxPooling2D)", "(None, 36, 36, 64)", 0),
    ("conv2d_2 (Conv2D)", "(None, 34, 34, 128)", 73_856),
    ("max_pooling2d_2 (MaxPooling2D)", "(None, 17, 17, 128)", 0),
    ("flatten (Flatten)", "(None, 36992)", 0),
    ("dense (Dense)", "(None, 256)", 9_470_208),
    ("dense_1 (Dense)", "(None, 1)", 257),
]


@pytest.fixture(scope="module")
def model():
    return create_model({"name": "report"}, nnx.Rngs(0))


@pytest.fixture(scope="module")
def weights(model):
    """Fresh weights, with biases that are not zero, so that a forgotten bias is noticed."""
    rng = np.random.default_rng(0)
    flat = flatten_state(nnx.state(model, nnx.Param))
    return {name: rng.normal(0, 0.1, w.shape).astype(np.float32) if w.ndim == 1 else w for name, w in flat.items()}


@pytest.fixture(scope="module")
def pixels():
    return jnp.asarray(np.random.default_rng(1).random((3, 150, 150, 3), np.float32))


def report_network_in_scipy(weights, pixels):
    """The report's formulas in float64, by another library: pool(relu(conv(x) + b)), flatten, dense, dense."""
    logits = []
    for picture in np.asarray(pixels, np.float64):
        x = picture
        for index in range(3):
            kernel, bias = weights[f"convs.{index}.kernel"].astype(np.float64), weights[f"convs.{index}.bias"]
            maps = []
            for out in range(kernel.shape[3]):
                total = sum(
                    # Correlation, not convolution: the kernel is turned back.
                    scipy.signal.fftconvolve(x[:, :, c], kernel[::-1, ::-1, c, out], mode="valid")
                    for c in range(x.shape[2])
                )
                maps.append(np.maximum(total + bias[out], 0))
            x = np.stack(maps, axis=-1)
            height, width = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
            x = x[:height, :width].reshape(height // 2, 2, width // 2, 2, -1).max(axis=(1, 3))
        hidden = np.maximum(x.reshape(-1) @ weights["dense1.kernel"].astype(np.float64) + weights["dense1.bias"], 0)
        logits.append((hidden @ weights["dense2.kernel"].astype(np.float64) + weights["dense2.bias"])[0])
    return np.array(logits)


def test_every_model_says_how_it_takes_pixels():
    assert NAMES[0] == "report"
    assert pixel_scaling({"name": "report"}) == ((0.0,) * 3, (1.0,) * 3)  # in [0, 1], as the report trained it
    mean, std = pixel_scaling({"name": "efficientnet_lite0"})
    assert (np.array([0, 255]) / 255 - mean[0]) / std[0] == pytest.approx([-127 / 128, 1.0])
    own = {"name": "report", "mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}
    assert pixel_scaling(own) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    create_model(own | {"size": 32}, nnx.Rngs(0))  # what is done to pixels is no setting of the network
    with pytest.raises(ConfigError, match="positive"):
        pixel_scaling({"name": "report", "std": [1, 0, 1]})
    with pytest.raises(ConfigError, match="three numbers"):
        pixel_scaling({"name": "report", "mean": [0.5]})


def test_summary_prints_the_reports_table(model):
    lines = model.summary().splitlines()
    rows = [line for line in lines if "(None" in line]
    assert len(rows) == len(REPORT_TABLE)
    for row, (name, shape, parameters) in zip(rows, REPORT_TABLE, strict=True):
        assert row.startswith(name + " ")
        assert f" {shape} " in row
        assert row.endswith(f" {parameters:,}")
    assert lines[-1] == "Total parameters: 9,563,713"
    assert max(map(len, lines)) <= 80


def test_summary_says_what_happens_to_real_pixels(weights, pixels):
    """The table is computed; these are the shapes of the operations themselves, layer by layer."""
    apply, state = apply_function({"name": "report"}, weights)
    text = str(jax.make_jaxpr(apply)(state, pixels))
    for _, shape, _ in REPORT_TABLE[:6]:
        assert shape.replace("(None, ", "[3,").replace(", ", ",").replace(")", "]") in text


def test_parameters_layer_by_layer(model):
    flat = flatten_state(nnx.state(model, nnx.Param))
    counts = {}
    for name, value in flat.items():
        assert value.dtype == np.float32
        layer = name.rsplit(".", 1)[0]
        counts[layer] = counts.get(layer, 0) + value.size
    wanted = [parameters for *_, parameters in REPORT_TABLE if parameters]
    assert [counts[name] for name in ("convs.0", "convs.1", "convs.2", "dense1", "dense2")] == wanted
    assert sum(counts.values()) == 9_563_713


def test_weights_start_as_kerass(model):
    flat = flatten_state(nnx.state(model, nnx.Param))
    for name, value in flat.items():
        if name.endswith("bias"):
            assert not value.any()
            continue
        area = np.prod(value.shape[:-2], dtype=int)
        limit = np.sqrt(6 / (area * (value.shape[-2] + value.shape[-1])))
        assert np.abs(value).max() <= limit * (1 + 1e-6)
        assert value.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)  # uniform


def test_logits_equal_an_independent_implementation(weights, pixels):
    apply, state = apply_function({"name": "report"}, weights)
    ours = np.asarray(jax.jit(apply)(state, pixels[:1]))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, report_network_in_scipy(weights, pixels[:1]), rtol=1e-4, atol=1e-4)


def test_logits_under_a_gradient_are_the_same(weights, pixels):
    apply, state = apply_function({"name": "report"}, weights)
    state = jax.device_put(state)
    values, _ = jax.vjp(lambda pixels: apply(state, pixels), pixels)
    np.testing.assert_allclose(values, apply(state, pixels), rtol=1e-5, atol=1e-6)


def test_logits_equal_keras(weights, pixels):
    keras = pytest.importorskip("keras", reason="Keras is a peer of its own environment: make peers")
    layers = [keras.Input((150, 150, 3))]
    for filters in (32, 64, 128):
        layers += [keras.layers.Conv2D(filters, 3, activation="relu"), keras.layers.MaxPooling2D(2)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(256, activation="relu"), keras.layers.Dense(1)]
    peer = keras.Sequential(layers)
    assert peer.count_params() == 9_563_713
    names = ["convs.0", "convs.1", "convs.2", "dense1", "dense2"]
    peer.set_weights([weights[f"{name}.{part}"] for name in names for part in ("kernel", "bias")])
    apply, state = apply_function({"name": "report"}, weights)
    state = jax.device_put(state)
    np.testing.assert_allclose(apply(state, pixels), np.asarray(peer(pixels))[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [32, 33, 63, 64, 150])
def test_every_size_runs_and_matches_its_summary(size):
    network = build_network({"name": "report", "size": size}, seed=0)
    logits = network.apply(network.params, network.stats, jnp.zeros((2, size, size, 3)))
    assert logits.shape == (2,)
    total = sum(value.size for value in flatten_state(network.params).values())
    assert network.summary.endswith(f"Total parameters: {total:,}")


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32(pixels):
    config = {"name": "report", "size": 64}
    network = build_network(config, seed=0)
    half = build_network(config | {"dtype": "bfloat16"}, seed=0)
    exact = network.apply(network.params, network.stats, pixels[:, :64, :64])
    rough = half.apply(half.params, half.stats, pixels[:, :64, :64])
    assert rough.dtype == jnp.float32
    assert all(value.dtype == np.float32 for value in flatten_state(half.params).values())
    np.testing.assert_allclose(rough, exact, atol=0.02)
    assert not np.array_equal(rough, exact)


def test_seeds_decide_the_weights():
    one, same, other = (build_network({"name": "report", "size": 32}, seed=seed) for seed in (0, 0, 1))
    first, again, changed = (flatten_state(network.params)["dense1.kernel"] for network in (one, same, other))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, changed)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "unknown model None"),
        ({"name": "resnet"}, "unknown model 'resnet'; use one of report"),
        ({"name": ["report"]}, "unknown model"),
        ({"name": "report", "depth": 3}, "depth"),
        ({"name": "report", "size": 31}, "at least 32"),
        ({"name": "report", "size": "64"}, "settings"),
        ({"name": "report", "dtype": "float16"}, "float16"),
    ],
)
def test_bad_configurations_are_named(config, words):
    with pytest.raises(ConfigError, match=words):
        create_model(config, nnx.Rngs(0))


def test_foreign_weights_are_refused(weights):
    config = {"name": "report"}
    with pytest.raises(BundleError, match=r"dense2\.bias"):
        apply_function(config, {name: value for name, value in weights.items() if name != "dense2.bias"})
    with pytest.raises(BundleError, match=r"extra\.kernel"):
        apply_function(config, weights | {"extra.kernel": np.zeros(1, np.float32)})
    with pytest.raises(BundleError, match=r"dense1\.kernel has shape \(36992, 256\), but the model's has \(512, 256\)"):
        apply_function(config | {"size": 32}, weights)


def test_flatten_and_apply_are_inverses(weights):
    _, state = apply_function({"name": "report"}, weights)
    again = flatten_state(state[0]) | flatten_state(state[1])
    assert again.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(again[name], value)

"""The update rule against its formulas, on a network of five numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fakeface_jax.errors import ConfigError
from fakeface_jax.models import Network, build_network, flatten_state
from fakeface_jax.training.optimizer import learning_rate, make_optimizer
from fakeface_jax.training.train_config import LossConfig, NetworkConfig, OptimizerConfig
from fakeface_jax.training.train_step import training_loss

RATE = 0.01


class Tiny(nnx.Module):
    """Weights in three stages, in an order and under keys that sort in another way than they count."""

    def __init__(self):
        self.stem = nnx.Param(jnp.full((2, 2), 1.0))
        self.blocks = nnx.List([nnx.Param(jnp.full((1, 2), float(number))) for number in range(12)])
        self.bias = nnx.Param(jnp.full(2, 3.0))
        self.a_head = nnx.Param(jnp.full((2, 1), -2.0))

    @staticmethod
    def stage_of(path):
        if path[0] == "blocks":
            return 1 + int(path[1])
        return 0 if path[0] in ("stem", "bias") else 13


@pytest.fixture(scope="module")
def network():
    model = Tiny()
    return Network(
        config={"name": "tiny"},
        apply=lambda params, stats, pixels: pixels,
        train=lambda params, stats, pixels, key: (pixels, stats),
        params=nnx.state(model, nnx.Param),
        stats=nnx.state(model, nnx.BatchStat),
        summary="",
        stage_of=Tiny.stage_of,
    )


def updates(network, gradients, *, steps=10, frozen_stages=0, **settings):
    """What is added to each weight at each step."""
    optimizer = make_optimizer(
        OptimizerConfig(**{"learning_rate": RATE} | settings),
        network,
        steps=steps,
        trained=NetworkConfig(frozen_stages=frozen_stages),
    )
    params, memory = network.params, optimizer.init(network.params)
    found = []
    for gradient in gradients:
        tree = jax.tree.map(lambda leaf, slope=gradient: jnp.full(leaf.shape, slope), params)
        change, memory = optimizer.update(tree, memory, params)
        params = optax.apply_updates(params, change)
        found.append({name: float(value.ravel()[0]) for name, value in flatten_state(change).items()})
    return found


def rates(**settings):
    schedule = learning_rate(OptimizerConfig(learning_rate=RATE, **settings), 100)
    return [float(schedule(step)) for step in (0, 5, 10, 55, 99, 100)]


def test_schedules_at_the_start_the_end_of_the_warm_up_the_middle_and_the_end():
    half = RATE * (1 + np.cos(np.pi * np.array([45, 89, 90]) / 90)) / 2
    assert rates() == pytest.approx([RATE] * 6)
    assert rates(warmup=0.1) == pytest.approx([0, RATE / 2, RATE, RATE, RATE, RATE])
    assert rates(warmup=0.1, schedule="cosine") == pytest.approx([0, RATE / 2, RATE, *half], abs=1e-9)
    plain = RATE * (1 + np.cos(np.pi * np.array([0, 5, 10, 55, 99, 100]) / 100)) / 2
    assert rates(schedule="cosine") == pytest.approx(list(plain), abs=1e-9)
    assert half[0] == pytest.approx(RATE / 2)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("warmup", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_shortest_runs_have_finite_rates(schedule, warmup, steps):
    rate = learning_rate(OptimizerConfig(learning_rate=RATE, schedule=schedule, warmup=warmup), steps)
    assert all(0 <= float(rate(step)) <= RATE * 1.000001 for step in range(steps + 2))


def test_plain_settings_are_adam(network):
    slopes = [0.5, -2.0, 0.1]
    first = second = 0.0
    for step, found in enumerate(updates(network, slopes), 1):
        first, second = 0.9 * first + 0.1 * slopes[step - 1], 0.999 * second + 0.001 * slopes[step - 1] ** 2
        wanted = -RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        assert list(found.values()) == pytest.approx([wanted] * 15, rel=1e-4)


def test_stages_further_from_the_output_learn_more_slowly(network):
    (found,) = updates(network, [1.0], layer_decay=0.5)
    for name, change in found.items():
        stage = Tiny.stage_of(tuple(name.split(".")))
        assert change == pytest.approx(-RATE * 0.5 ** (13 - stage), rel=1e-4), name
    assert found["a_head"] == pytest.approx(-RATE, rel=1e-4)
    assert found["blocks.11"] == pytest.approx(-RATE / 2, rel=1e-4)
    assert found["blocks.2"] == pytest.approx(-RATE / 2**10, rel=1e-4)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_frozen_stages_do_not_move_at_all(network, weight_decay, layer_decay):
    for found in updates(
        network, [1.0, -0.3], frozen_stages=4, weight_decay=weight_decay, layer_decay=layer_decay, clip_norm=1.0
    ):
        still = {name for name, change in found.items() if change == 0.0}
        assert still == {"stem", "bias", "blocks.0", "blocks.1", "blocks.2"}


def test_frozen_stages_have_no_memory(network):
    optimizer = make_optimizer(OptimizerConfig(), network, steps=1, trained=NetworkConfig(frozen_stages=4))
    moments = [leaf for leaf in jax.tree.leaves(optimizer.init(network.params)) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * (9 * 2 + 2)


def test_layer_normalisations_alone_need_a_network_that_has_some(network):
    with pytest.raises(ConfigError, match="'tiny' has no layer normalisation to tune"):
        make_optimizer(OptimizerConfig(), network, steps=1, trained=NetworkConfig(tune="layer-norm"))


def test_weight_decay_spares_what_has_one_axis(network):
    """AdamW: the decay is added to Adam's step, not to the gradient."""
    (found,) = updates(network, [1.0], weight_decay=0.1)
    start = {name: float(value.ravel()[0]) for name, value in flatten_state(network.params).items()}
    for name, change in found.items():
        decay = 0.0 if name == "bias" else 0.1 * start[name]
        assert change == pytest.approx(-RATE * (1 + decay), rel=1e-4), name


def test_weight_decay_spares_scales_and_shifts_of_the_network():
    network = build_network({"name": "efficientnet_lite0", "size": 32}, seed=None)
    vectors = {name for name, leaf in nnx.to_flat_state(network.params) if len(leaf.shape) == 1}
    assert all(name[-1] in ("scale", "bias") for name in vectors)
    assert sum(name[-1] in ("scale", "bias") for name, _ in nnx.to_flat_state(network.params)) == len(vectors)


def test_long_gradients_are_shortened(network):
    """Adam's size does not depend on the gradient's, but its memory does: a long second one counts no more."""
    count = sum(value.size for value in flatten_state(network.params).values())
    long, unit = 100.0, 1 / np.sqrt(count)
    clipped = updates(network, [unit, long], clip_norm=1.0)
    np.testing.assert_allclose(list(clipped[1].values()), list(updates(network, [unit, unit])[1].values()), rtol=1e-4)
    assert updates(network, [unit, long])[1]["stem"] != pytest.approx(clipped[1]["stem"], rel=1e-2)
    short = updates(network, [unit / 2, unit / 3], clip_norm=1.0)
    assert short[1] == pytest.approx(updates(network, [unit / 2, unit / 3])[1])


def test_the_schedule_drives_the_steps(network):
    found = [step["stem"] for step in updates(network, [1.0] * 10, schedule="cosine", warmup=0.2)]
    wanted = [0, RATE / 2, *(RATE * (1 + np.cos(np.pi * np.arange(8) / 8)) / 2)]
    assert found == pytest.approx([-rate for rate in wanted], rel=1e-4, abs=1e-9)


def test_the_loss_is_its_definition():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 12)
    labels = np.array([1.0] * 3 + [0.0] * 9)
    for smoothing in (0.0, 0.1):
        target = np.where(labels > 0, 1 - smoothing / 2, smoothing / 2)
        p = 1 / (1 + np.exp(-logits))
        losses = -target * np.log(p) - (1 - target) * np.log(1 - p)
        together = LossConfig(label_smoothing=smoothing)
        apart = LossConfig(label_smoothing=smoothing, separate_classes=True)
        given = jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.float32)
        assert float(training_loss(*given, together)) == pytest.approx(losses.mean(), rel=1e-5)
        halves = (losses[:3].mean() + losses[3:].mean()) / 2
        assert float(training_loss(*given, apart)) == pytest.approx(halves, rel=1e-5)
        assert halves != pytest.approx(losses.mean(), rel=1e-2)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_batch_of_one_class_has_a_finite_loss_and_slope(label):
    config = LossConfig(separate_classes=True)
    logits = jnp.array([0.5, -1.0, 2.0])
    value, slope = jax.value_and_grad(lambda logits: training_loss(logits, jnp.full(3, label), config))(logits)
    wanted = np.log1p(np.exp(np.where(label, -1, 1) * np.asarray(logits, np.float64))).mean() / 2
    assert float(value) == pytest.approx(wanted, rel=1e-5)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"warmup": 1.0},
        {"warmup": -0.1},
        {"weight_decay": -1},
        {"layer_decay": 0},
        {"layer_decay": 1.1},
        {"clip_norm": 0.0},
        {"clip_norm": float("nan")},
        {"average": 1.0},
        {"average": 0.0},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings)).replace("_", " ")):
        OptimizerConfig(**settings)
    with pytest.raises(ConfigError, match="label smoothing"):
        LossConfig(label_smoothing=1.0)


def test_a_network_is_told_only_what_differs():
    assert NetworkConfig().settings() == {}
    given = NetworkConfig(input="residual", dropout=0.0, drop_path=0.3, frozen_stages=2, running_statistics=True)
    # What is tuned is the optimiser's matter.
    assert given.settings() == {name: value for name, value in dataclasses.asdict(given).items() if name != "tune"}

"""The jitted steps on a toy problem whose answer is known."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from fakeface_jax.data.augment import NO_AUGMENTATION
from fakeface_jax.data.augmentation_config import SELF_BLENDED, UP_SAMPLED, AugmentConfig
from fakeface_jax.errors import ConfigError
from fakeface_jax.models import build_network, flatten_state
from fakeface_jax.training.train_config import LossConfig, OptimizerConfig, TrainConfig
from fakeface_jax.training.train_state import Layout, init_state
from fakeface_jax.training.train_step import cross_entropy, make_eval_step, make_train_step

SIZE, BATCH = 32, 16


def toy_batch(seed):
    """Fakes are brighter: any network finds that out within a few steps."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(BATCH) % 2).astype(np.float32)
    images = rng.integers(60, 120, (BATCH, SIZE, SIZE, 3)) + (80 * labels)[:, None, None, None]
    return {"image": images.astype(np.uint8), "label": labels}


class Run:
    def __init__(self, *, devices=1, dtype="float32", augment=NO_AUGMENTATION, rate=1e-3, seed=0, **settings):
        self.network = build_network({"name": "report", "size": SIZE, "dtype": dtype}, seed=seed)
        optimizer = optax.adam(rate)
        self.layout = Layout(Mesh(np.array(jax.devices()[:devices]), ("data",)))
        config = TrainConfig(data=Path(), output=Path(), augment=augment, seed=seed, **settings)
        average = config.optimizer.average is not None
        self.state = self.layout.replicate(init_state(self.network, optimizer, average=average))
        self.step = make_train_step(self.network, optimizer, config)

    def logits(self, batch):
        return np.asarray(jax.jit(self.network.apply)(*self.state.weights, jnp.asarray(batch["image"]) / 255.0))

    def __call__(self, batch):
        self.state, metrics = self.step(self.state, self.layout.split(batch))
        return {name: float(value) for name, value in metrics.items()}


def entropy_in_numpy(logits, labels):
    logits = np.asarray(logits, np.float64)
    return np.maximum(logits, 0) - logits * labels + np.log1p(np.exp(-np.abs(logits)))


def test_cross_entropy_is_the_definition_and_survives_extreme_logits():
    logits = np.array([0.0, 2.0, -3.0, 100.0, -100.0, 100.0], np.float32)
    labels = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0], np.float32)
    ours = np.asarray(cross_entropy(jnp.asarray(logits), jnp.asarray(labels)))
    np.testing.assert_allclose(ours, entropy_in_numpy(logits, labels), rtol=1e-6, atol=1e-12)
    assert ours[0] == pytest.approx(np.log(2))
    assert ours[5] == 100.0


def test_loss_falls_and_classes_are_told_apart():
    run = Run()
    history = [run(toy_batch(step)) for step in range(40)]
    assert history[0]["loss"] == pytest.approx(np.log(2), abs=0.3)
    assert history[-1]["loss"] < 0.2
    assert history[-1]["correct"] == history[-1]["count"] == BATCH
    assert int(run.state.step) == 40


def test_metrics_are_of_the_weights_before_the_update():
    run = Run()
    batch = toy_batch(0)
    before = run.logits(batch)
    metrics = run(batch)
    assert metrics["loss"] == pytest.approx(entropy_in_numpy(before, batch["label"]).mean(), rel=1e-5)
    assert metrics["correct"] == np.sum((before > 0) == (batch["label"] > 0.5))
    after = run.logits(batch)
    assert not np.allclose(before, after)


def test_the_update_is_adams():
    """One step of Adam moves every weight with a gradient by the learning rate, against the gradient's sign."""
    run = Run(rate=1e-3)
    batch = toy_batch(0)
    before = flatten_state(jax.tree.map(jnp.copy, run.state.params))

    def loss(params):
        logits = run.network.apply(params, run.state.stats, jnp.asarray(batch["image"]) / 255.0)
        return cross_entropy(logits, jnp.asarray(batch["label"])).mean()

    gradient = flatten_state(jax.jit(jax.grad(loss))(run.state.params))
    run(batch)
    after = flatten_state(run.state.params)
    for name, slope in gradient.items():
        clear = np.abs(slope) > 1e-5
        assert clear.any()
        np.testing.assert_allclose((after[name] - before[name])[clear], -1e-3 * np.sign(slope[clear]), rtol=0.02)


def test_four_devices_train_as_one_does():
    assert len(jax.devices()) == 4  # conftest asks XLA for them
    one, four = Run(devices=1, augment=AugmentConfig()), Run(devices=4, augment=AugmentConfig())
    for step in range(6):
        batch = toy_batch(step)
        single, parallel = one(batch), four(batch)
        # The same sums in another order; Adam's normalised steps make the difference grow slowly.
        assert parallel["loss"] == pytest.approx(single["loss"], rel=2e-3, abs=2e-4)
        assert parallel["count"] == BATCH
    assert len(four.layout.split(batch)["image"].addressable_shards) == 4
    assert len(four.state.params["dense1"]["kernel"][...].sharding.device_set) == 4


def test_augmentation_follows_from_seed_and_step_alone():
    batch = toy_batch(0)
    # With a learning rate of nothing only the draws differ from step to step.
    run = Run(augment=AugmentConfig(), rate=0.0)
    start = jax.tree.map(jnp.copy, run.state)
    sequence = [run(batch)["loss"] for _ in range(3)]
    run.state = start
    assert [run(batch)["loss"] for _ in range(3)] == sequence
    unwarped = entropy_in_numpy(run.logits(batch), batch["label"]).mean()
    assert len({*sequence, unwarped}) == 4


def test_the_average_follows_its_definition_and_is_what_ships():
    run = Run(optimizer=OptimizerConfig(average=0.15))
    wanted = flatten_state(run.state.params)
    for step in range(4):
        run(toy_batch(step))
        kept = min(0.15, (1 + step) / (10 + step))
        new = flatten_state(run.state.params)
        wanted = {name: kept * wanted[name] + (1 - kept) * value for name, value in new.items()}
        for name, value in flatten_state(run.state.weights[0]).items():
            np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-7)
    assert kept == 0.15  # and the first was 0.1: both branches of the definition were taken
    assert run.state.weights is run.state.average
    assert any(not np.array_equal(new[name], wanted[name]) for name in new)
    plain = Run()
    assert plain.state.average is None
    assert plain.state.weights[0] is plain.state.params


def test_a_step_minimises_the_loss_it_is_told_to():
    batch = toy_batch(0)
    batch["label"][:12] = 0.0
    config = LossConfig(label_smoothing=0.2, separate_classes=True)
    run = Run(loss=config)
    logits, labels = run.logits(batch), batch["label"]
    losses = entropy_in_numpy(logits, np.where(labels > 0, 0.9, 0.1))
    wanted = (losses[labels < 0.5].mean() + losses[labels > 0.5].mean()) / 2
    metrics = run(batch)
    assert metrics["loss"] == pytest.approx(wanted, rel=1e-5)
    assert metrics["correct"] == np.sum((logits > 0) == (labels > 0.5))
    assert abs(wanted - losses.mean()) > 1e-3


def test_made_fakes_are_counted():
    run = Run()
    assert run(toy_batch(0))["self_blended"] == 0
    pseudo = np.zeros(BATCH, np.int32)
    pseudo[:3], pseudo[3:8] = SELF_BLENDED, UP_SAMPLED
    metrics = run(toy_batch(0) | {"pseudo": pseudo})
    assert (metrics["self_blended"], metrics["up_sampled"]) == (3, 5)


def test_bfloat16_trains():
    run = Run(dtype="bfloat16")
    history = [run(toy_batch(step))["loss"] for step in range(40)]
    assert history[-1] < 0.2
    weights = flatten_state(run.state.params)
    assert all(value.dtype == np.float32 for value in weights.values())
    moments = [value for value in jax.tree.leaves(run.state.opt_state) if value.ndim]
    assert all(value.dtype == jnp.float32 for value in moments)


def test_evaluation_only_rescales_and_leaves_padding_out():
    run = Run()
    evaluate = make_eval_step(run.network)
    batch = toy_batch(3)
    mask = np.ones(BATCH, np.float32)
    mask[11:] = 0
    logits, metrics = evaluate(run.state.weights, batch | {"mask": mask})
    wanted = run.logits(batch)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5)
    losses = entropy_in_numpy(wanted, batch["label"])
    assert float(metrics["loss"]) == pytest.approx(losses[:11].sum(), rel=1e-4)
    assert metrics["count"] == 11
    assert metrics["correct"] == np.sum(((np.asarray(wanted) > 0) == (batch["label"] > 0.5))[:11])
    garbage = batch["image"].copy()
    garbage[11:] = 255 - garbage[11:]
    _, again = evaluate(run.state.weights, batch | {"image": garbage, "mask": mask})
    assert float(again["loss"]) == float(metrics["loss"])


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ConfigError, match="batch size 30 cannot be divided among 4 devices"):
        Layout.over_local_devices(30)
    assert Layout.over_local_devices(32).mesh.size == 4

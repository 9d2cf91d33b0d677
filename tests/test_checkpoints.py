"""What is saved comes back, and the newest finished checkpoint is the one a run resumes from."""

import jax
import numpy as np
import optax
import pytest

from fakeface_jax.errors import DataError
from fakeface_jax.models import build_network, flatten_state
from fakeface_jax.training.checkpoints import Checkpoints
from fakeface_jax.training.train_state import Layout, init_state


def make_state(size=32, seed=0):
    network = build_network({"name": "report", "size": size}, seed=seed)
    return Layout.over_local_devices(4).replicate(init_state(network, optax.adam(1e-3)))


@pytest.fixture(scope="module")
def state():
    return make_state()


def assert_equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_state_and_memory_come_back_exactly(tmp_path, state):
    memory = {"epoch": 2, "best_val_loss": 0.1 + 0.2, "iterator": {"next_index": 17}}
    with Checkpoints(tmp_path / "a") as checkpoints:
        assert checkpoints.last_step is None
        checkpoints.save_last(5, state, memory)
    with Checkpoints(tmp_path / "a") as checkpoints:
        assert checkpoints.last_step == 5
        restored, kept = checkpoints.restore_last(like=make_state(seed=1))
    assert_equal(restored, state)
    assert kept == memory
    leaf = restored.params["dense1"]["kernel"][...]
    assert leaf.sharding == state.params["dense1"]["kernel"][...].sharding


def test_infinity_in_the_memory_survives(tmp_path, state):
    """Before the first epoch ends the best loss is infinite, which JSON has no word for."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_last(1, state, {"best_val_loss": float("inf")})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_last(like=state)[1]["best_val_loss"] == float("inf")


def test_the_newest_is_restored_and_old_ones_go(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save_last(step, state, {"epoch": step})
        checkpoints.wait()
        assert checkpoints.restore_last(like=state)[1] == {"epoch": 3}
    assert sorted(path.name for path in (tmp_path / "last").iterdir()) == ["2", "3"]


def test_best_weights_are_replaced(tmp_path, state):
    other = make_state(seed=1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(3, state)
        checkpoints.wait()
        checkpoints.save_best(6, other)
        checkpoints.wait()
        assert_equal(checkpoints.restore_best(like=state.weights), other.weights)
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["6"]


def test_a_checkpoint_is_never_finished_before_the_best_weights_it_remembers(tmp_path, state):
    """Else kill -9 between the two leaves a memory of epoch 2 beside the weights of epoch 1."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(4, state)
        checkpoints.save_last(4, state, {"best_epoch": 1})
        assert [path.name for path in (tmp_path / "best").iterdir()] == ["4"]  # under its final name


def test_unfinished_checkpoints_are_ignored(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_last(2, state, {"epoch": 1})
    # What kill -9 leaves: a directory under Orbax's temporary name.
    (tmp_path / "last" / "4.orbax-checkpoint-tmp-1").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.last_step == 2
        assert checkpoints.restore_last(like=state)[1] == {"epoch": 1}


def test_nothing_to_restore_says_so(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(DataError, match="no finished checkpoint"):
            checkpoints.restore_last(like=state)
        with pytest.raises(DataError, match="no best weights"):
            checkpoints.restore_best(like=state.weights)


def test_another_networks_checkpoint_is_refused(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_last(2, state, {"epoch": 1})
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(DataError, match="does not fit this model"):
        checkpoints.restore_last(like=make_state(size=48))


def test_weights_of_the_best_survive_being_flattened(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(1, state)
        checkpoints.wait()
        restored = flatten_state(checkpoints.restore_best(like=state.weights)[0])
    wanted = flatten_state(state.params)
    assert restored.keys() == wanted.keys()
    np.testing.assert_array_equal(restored["convs.0.kernel"], wanted["convs.0.kernel"])

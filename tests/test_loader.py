import itertools

import numpy as np
import pytest

from fakeface_jax.data.config import AugmentConfig, LoaderConfig
from fakeface_jax.data.loader import evaluation_batches, steps_per_epoch, train_batches
from fakeface_jax.errors import ConfigError, DataError


class Numbered:
    """A source whose sample `i` says that it is `i`; at module level, so that worker processes can import it."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.full((4, 4, 3), int(index), np.uint8)
        return {"image": image, "label": np.int64(index % 2), "id": b"text that no device can hold"}


def numbers(batch):
    return batch["image"][:, 0, 0, 0].tolist()


def flat(batches):
    return [number for batch in batches for number in batch]


def take(iterator, count):
    return [numbers(batch) for batch in itertools.islice(iterator, count)]


def epoch(source_size, batch_size, *, seed=0, processes=(0, 1), epochs=1):
    batches = train_batches(Numbered(source_size), LoaderConfig(batch_size=batch_size), seed=seed, processes=processes)
    per_epoch = source_size // batch_size
    return take(iter(batches), per_epoch * epochs)


def test_a_batch_holds_bytes_and_float_labels_and_no_text():
    batch = next(iter(train_batches(Numbered(20), LoaderConfig(batch_size=8), seed=0, processes=(0, 1))))
    assert batch.keys() == {"image", "label"}
    assert (batch["image"].shape, batch["image"].dtype) == ((8, 4, 4, 3), np.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((8,), np.float32)
    np.testing.assert_array_equal(batch["label"], np.array(numbers(batch)) % 2)


def test_every_sample_comes_once_per_epoch_in_shuffled_order():
    order = flat(epoch(64, 8))
    assert sorted(order) == list(range(64))
    assert order != list(range(64))
    # A shuffle, not a rotation or a shuffle of blocks: neighbours are rarely neighbours.
    assert np.mean(np.diff(order) == 1) < 0.2


def test_every_epoch_has_another_order_and_the_same_seed_the_same():
    order = flat(epoch(64, 8, epochs=3))
    epochs = [order[start : start + 64] for start in (0, 64, 128)]
    assert all(sorted(one) == list(range(64)) for one in epochs)
    assert len({tuple(one) for one in epochs}) == 3
    assert flat(epoch(64, 8, epochs=3)) == order
    assert flat(epoch(64, 8, epochs=3, seed=1)) != order


def test_the_rest_of_an_epoch_is_left_out_and_is_another_each_time():
    batches = epoch(20, 8, epochs=30)
    rests = set()
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert len(set(first + second)) == 16
        rests.add(frozenset(range(20)) - frozenset(first + second))
    assert len(rests) > 10
    assert frozenset.union(*rests) == frozenset(range(20))


@pytest.mark.parametrize(("size", "count"), [(64, 2), (64, 4), (50, 3), (37, 4)])
def test_shards_of_processes_are_disjoint_and_cover_equally_before_the_shuffle(size, count):
    shards = []
    for index in range(count):
        order = flat(take(iter_of(size, count, index), size // count))
        shards.append(set(order[: size // count]))
    assert all(len(shard) == size // count for shard in shards)
    assert len(set.union(*shards)) == size // count * count
    # Which samples a process has does not depend on the seed: the split comes before the shuffle.
    assert [set(flat(take(iter_of(size, count, i, seed=9), size // count))) for i in range(count)] == shards


def iter_of(size, count, index, seed=0):
    return iter(train_batches(Numbered(size), LoaderConfig(batch_size=count), seed=seed, processes=(index, count)))


def test_the_batch_is_shared_by_the_processes():
    batches = train_batches(Numbered(64), LoaderConfig(batch_size=32), seed=0, processes=(1, 4))
    assert len(numbers(next(iter(batches)))) == 8
    with pytest.raises(ConfigError, match="cannot be divided among 3 processes"):
        train_batches(Numbered(64), LoaderConfig(batch_size=32), seed=0, processes=(0, 3))


@pytest.mark.parametrize("at", [0, 1, 5, 8, 13])
def test_a_restored_iterator_continues_with_the_very_next_batch(at):
    batches = train_batches(Numbered(64), LoaderConfig(batch_size=8), seed=3, processes=(0, 1))
    iterator = iter(batches)
    take(iterator, at)
    state = iterator.get_state()
    expected = take(iterator, 12)
    fresh = iter(train_batches(Numbered(64), LoaderConfig(batch_size=8), seed=3, processes=(0, 1)))
    fresh.set_state(state)
    assert take(fresh, 12) == expected
    # Back again on the same iterator, too.
    iterator.set_state(state)
    assert take(iterator, 12) == expected


def test_worker_processes_restore_exactly_and_end_cleanly():
    config = LoaderConfig(batch_size=8, workers=2)
    iterator = iter(train_batches(Numbered(64), config, seed=3, processes=(0, 1)))
    first = take(iterator, 5)
    state = iterator.get_state()
    expected = take(iterator, 9)
    iterator.close()
    fresh = iter(train_batches(Numbered(64), config, seed=3, processes=(0, 1)))
    fresh.set_state(state)
    assert take(fresh, 9) == expected
    fresh.close()
    assert sorted(flat(first + expected[:3])) == list(range(64))


def test_a_batch_larger_than_the_data_is_refused():
    for make in (steps_per_epoch, lambda source, config: train_batches(source, config, seed=0, processes=(0, 1))):
        with pytest.raises(DataError, match="7 training samples make no batch of 8; lower the batch size"):
            make(Numbered(7), LoaderConfig(batch_size=8))
        with pytest.raises(DataError, match="0 training samples"):
            make(Numbered(0), LoaderConfig(batch_size=1))
    assert steps_per_epoch(Numbered(8), LoaderConfig(batch_size=8)) == 1
    assert steps_per_epoch(Numbered(23), LoaderConfig(batch_size=8)) == 2


@pytest.mark.parametrize(("size", "filled"), [(20, [8, 8, 4]), (16, [8, 8]), (3, [3]), (1, [1])])
def test_the_last_evaluation_batch_is_padded_and_masked(size, filled):
    batches = list(evaluation_batches(Numbered(size), 8, processes=(0, 1)))
    assert [int(batch["mask"].sum()) for batch in batches] == filled
    seen = []
    for batch, count in zip(batches, filled, strict=True):
        assert batch["image"].shape == (8, 4, 4, 3)
        assert (batch["image"].dtype, batch["label"].dtype, batch["mask"].dtype) == (np.uint8, np.float32, np.float32)
        np.testing.assert_array_equal(batch["mask"], [1] * count + [0] * (8 - count))
        assert not batch["image"][count:].any()
        assert not batch["label"][count:].any()
        seen += numbers(batch)[:count]
    assert seen == list(range(size))


def test_evaluation_shards_are_disjoint_and_cover_everything():
    seen = []
    for index in range(3):
        for batch in evaluation_batches(Numbered(20), 4, processes=(index, 3)):
            seen += np.array(numbers(batch))[batch["mask"] > 0].tolist()
    assert sorted(seen) == list(range(20))


def test_an_evaluation_that_is_left_early_ends_cleanly():
    batches = evaluation_batches(Numbered(200), 4, processes=(0, 1))
    assert numbers(next(batches)) == [0, 1, 2, 3]
    batches.close()
    assert list(batches) == []


def test_no_samples_make_no_evaluation_batch():
    assert list(evaluation_batches(Numbered(0), 4, processes=(0, 1))) == []
    assert list(evaluation_batches(Numbered(1), 4, processes=(1, 2))) == []


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"batch_size": -1}, {"workers": -1}])
def test_impossible_loader_settings_are_refused(settings):
    with pytest.raises(ConfigError):
        LoaderConfig(**settings)


@pytest.mark.parametrize("settings", [{"rotation": -1}, {"rotation": 181}, {"zoom": 1.0}, {"width_shift": -0.1}])
def test_impossible_augmentation_settings_are_refused(settings):
    with pytest.raises(ConfigError):
        AugmentConfig(**settings)

import itertools
import pickle
import threading

import numpy as np
import pytest

from fakeface_jax.data.augmentation_config import (
    SELF_BLENDED,
    UP_SAMPLED,
    AugmentConfig,
    LoaderConfig,
    PseudoFakeConfig,
)
from fakeface_jax.data.loader import (
    Chosen,
    _PseudoFakes,
    evaluation_batches,
    group_shares,
    kept_indices,
    steps_per_epoch,
    train_batches,
)
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


@pytest.mark.long
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
        with pytest.raises(DataError, match="7 training samples are fewer than one batch of 8; lower the batch size"):
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


# Sources, sizes and classes as a merge has them: one large, one small, one of fakes alone with two methods.
MERGE = (
    [("big", 0, "")] * 60
    + [("big", 1, "swap")] * 50
    + [("small", 0, "")] * 12
    + [("small", 1, "shop")] * 10
    + [("old", 1, "gan")] * 8
    + [("old", 1, "vae")] * 4
)


class Merged:
    """A source of several sources whose sample `i` says that it is `i`; counts what was read."""

    def __init__(self, rows=MERGE, *, pictures=True):
        self.rows, self.pictures = rows, pictures
        self.reads = 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.reads += 1
        source, label, method = self.rows[index]
        sample = {"label": label, "source": source.encode(), "method": method.encode(), "id": b"text"}
        sample["landmarks"] = np.float32([[5, 5], [11, 5], [8, 8], [6, 11], [10, 11]])
        if not self.pictures:
            return sample | {"image": b"not decoded"}
        # A gradient, so that a blend can be seen; its first pixel tells the number.
        image = np.full((16, 16, 3), np.arange(16)[:, None] * 8, np.uint8)
        image[0, 0] = index
        return sample | {"image": image}


def merged_batches(count, pseudo=PseudoFakeConfig(), *, seed=0, rows=MERGE, processes=(0, 1), **settings):
    batches = train_batches(
        Merged(rows),
        LoaderConfig(**{"batch_size": 16} | settings),
        seed=seed,
        processes=processes,
        records=Merged(rows, pictures=False),
        pseudo=pseudo,
    )
    return list(itertools.islice(iter(batches), count))


def joined(batches, name):
    return np.concatenate([batch[name] for batch in batches])


def test_reals_become_fakes_in_the_shares_asked_for_and_are_counted():
    pseudo = PseudoFakeConfig(self_blended=0.3, up_sampled=0.2)
    plain, batches = merged_batches(50), merged_batches(50, pseudo)
    assert batches[0].keys() == {"image", "label", "pseudo"}
    assert (batches[0]["pseudo"].shape, batches[0]["pseudo"].dtype) == ((16,), np.int32)
    kinds, labels, stored = joined(batches, "pseudo"), joined(batches, "label"), joined(plain, "label")
    # The order of the samples is what it is without.
    np.testing.assert_array_equal(labels, np.where(kinds > 0, 1, stored))
    assert not kinds[stored == 1].any()
    reals = kinds[stored == 0]
    assert np.mean(reals == SELF_BLENDED) == pytest.approx(0.3, abs=0.07)
    assert np.mean(reals == UP_SAMPLED) == pytest.approx(0.2, abs=0.07)
    same = (joined(plain, "image") == joined(batches, "image")).all(axis=(1, 2, 3))
    assert same[kinds == 0].all()
    assert np.mean(~same[kinds > 0]) > 0.9


def test_every_epoch_draws_other_fakes():
    # 144 samples are 9 batches of 16.
    batches = merged_batches(18, PseudoFakeConfig(self_blended=0.5))
    kinds = [[batch["pseudo"][batch["label"] >= 0] for batch in part] for part in (batches[:9], batches[9:])]
    assert not np.array_equal(np.concatenate(kinds[0]), np.concatenate(kinds[1]))


def test_self_blending_is_given_the_landmarks(monkeypatch):
    given = []

    def blend(image, points, rng):
        # Iterators of other tests may still be reading ahead in threads of theirs.
        if threading.current_thread() is threading.main_thread():
            given.append(points)
        return image

    monkeypatch.setattr("fakeface_jax.data.loader.self_blend", blend)
    # As a worker process receives it.
    transform = pickle.loads(pickle.dumps(_PseudoFakes(PseudoFakeConfig(self_blended=1))))
    source = pickle.loads(pickle.dumps(Chosen(Merged(), [61, 0])))
    rng = np.random.default_rng(0)
    fake, real = (transform.random_map(source[row], rng) for row in range(2))
    assert (fake["label"], fake["pseudo"]) == (1, 0)
    assert (real["label"], real["pseudo"]) == (1, SELF_BLENDED)
    assert [points.tolist() for points in given] == [[[5, 5], [11, 5], [8, 8], [6, 11], [10, 11]]]


def test_a_restored_iterator_repeats_fakes_and_balance_exactly():
    def make():
        config = LoaderConfig(batch_size=16, balance="source")
        pseudo = PseudoFakeConfig(self_blended=0.2, up_sampled=0.2)
        return iter(train_batches(Merged(), config, seed=5, processes=(0, 1), pseudo=pseudo))

    iterator = make()
    list(itertools.islice(iterator, 7))
    state = iterator.get_state()
    expected = list(itertools.islice(iterator, 12))
    fresh = make()
    fresh.set_state(state)
    for ours, theirs in zip(itertools.islice(fresh, 12), expected, strict=True):
        for name in ("image", "label", "pseudo"):
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_the_same_seed_draws_the_same_and_another_another():
    settings = {"pseudo": PseudoFakeConfig(up_sampled=0.3), "balance": "class"}
    first = joined(merged_batches(6, **settings), "image")
    np.testing.assert_array_equal(joined(merged_batches(6, **settings), "image"), first)
    assert not np.array_equal(joined(merged_batches(6, seed=1, **settings), "image"), first)


@pytest.mark.parametrize("balance", ["class", "source"])
@pytest.mark.parametrize("pseudo", [PseudoFakeConfig(), PseudoFakeConfig(self_blended=0.25, up_sampled=0.1)])
def test_balance_gives_as_many_fakes_as_reals(balance, pseudo):
    rows = [("big", 0, "")] * 100 + [("big", 1, "swap")] * 44
    labels = joined(merged_batches(30, pseudo, balance=balance, rows=rows), "label")
    assert labels.mean() == pytest.approx(0.5, abs=0.06)


def test_balance_by_source_draws_from_each_alike_and_from_each_sample_alike():
    batches = merged_batches(60, balance="source")
    numbers, labels = joined(batches, "image")[:, 0, 0, 0], joined(batches, "label")
    sources = np.array([source for source, _, _ in MERGE])
    counts = np.bincount(numbers, minlength=len(MERGE))
    for label, names in ((0, ("big", "small")), (1, ("big", "small", "old"))):
        drawn = sources[numbers[labels == label]]
        for name in names:
            assert np.mean(drawn == name) == pytest.approx(1 / len(names), abs=0.02)
    # Every pass through a source is complete before the next begins.
    for name, label in {(name, label) for name, label, _ in MERGE}:
        mine = counts[[row for row, (source, kind, _) in enumerate(MERGE) if (source, kind) == (name, label)]]
        assert mine.min() > 0
        assert np.ptp(mine) <= 1


def test_a_balanced_batch_is_itself_balanced():
    for batch in merged_batches(10, balance="class"):
        assert 7 <= batch["label"].sum() <= 9


def test_small_sources_are_not_repeated_more_often_than_allowed():
    sizes = {(0, "big"): 900, (0, "small"): 20, (1, "big"): 1000, (1, "mid"): 80}
    shares = group_shares(sizes, LoaderConfig(balance="source", max_repeats=4))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[(0, "small")] == pytest.approx(4 * 20 / 2000)
    assert shares[(0, "big")] == pytest.approx(0.5 - 0.04)
    assert shares[(1, "mid")] == pytest.approx(4 * 80 / 2000)
    free = group_shares(sizes, LoaderConfig(balance="source", max_repeats=1000))
    assert all(share == pytest.approx(0.25) for share in free.values())


def test_reals_are_drawn_more_often_where_some_become_fakes():
    sizes = {(0, ""): 500, (1, ""): 500}
    shares = group_shares(sizes, LoaderConfig(balance="class"), PseudoFakeConfig(self_blended=0.2, up_sampled=0.05))
    assert shares[(0, "")] * 0.75 == pytest.approx(0.5)
    # Half of the reals are all the fakes that are needed.
    shares = group_shares(sizes, LoaderConfig(balance="class"), PseudoFakeConfig(self_blended=0.5))
    assert shares == {(0, ""): 1.0, (1, ""): 0.0}
    labels = joined(merged_batches(25, PseudoFakeConfig(self_blended=0.5), balance="class"), "label")
    assert labels.mean() == pytest.approx(0.5, abs=0.1)


def test_a_balance_that_cannot_be_had_is_refused():
    with pytest.raises(ConfigError, match=r"at most half of the reals .*lower the share 0\.6"):
        merged_batches(1, PseudoFakeConfig(self_blended=0.6), balance="class")
    with pytest.raises(ConfigError, match=r"draw each real sample 10\.0 times as often; raise max_repeats"):
        group_shares({(0, ""): 5, (1, ""): 95}, LoaderConfig(balance="class"))
    with pytest.raises(DataError, match="needs reals and fakes, but the training split has no real samples"):
        merged_batches(1, balance="class", rows=[("old", 1, "gan")] * 20)
    with pytest.raises(DataError, match="tiny has 2 samples, fewer than the 4 processes"):
        merged_batches(
            1,
            balance="source",
            rows=[*MERGE, ("tiny", 0, ""), ("tiny", 0, "")],
            processes=(3, 4),
        )


def test_balanced_shards_are_disjoint_and_both_classes_are_in_each():
    # Reals and fakes alternate: every second sample would be one class alone.
    rows = [("one", number % 2, "") for number in range(40)]
    seen = []
    for index in range(2):
        batches = merged_batches(12, balance="class", rows=rows, processes=(index, 2))
        assert all(batch["label"].shape == (8,) for batch in batches)
        assert joined(batches, "label").mean() == pytest.approx(0.5, abs=0.02)
        seen.append(set(joined(batches, "image")[:, 0, 0, 0].tolist()))
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == set(range(40))


def test_processes_draw_other_fakes_at_the_same_position():
    kinds = [
        joined(merged_batches(20, PseudoFakeConfig(up_sampled=0.5), balance="class", processes=(index, 2)), "pseudo")
        for index in range(2)
    ]
    assert not np.array_equal(*kinds)


def test_what_is_left_out_is_not_drawn():
    config = {"leave_out": ("small", "old/vae"), "batch_size": 8}
    kept = {row for row, (source, _, method) in enumerate(MERGE) if source != "small" and method != "vae"}
    assert set(kept_indices(Merged(pictures=False), config["leave_out"]).tolist()) == kept
    batches = merged_batches(len(kept) // 8 + 1, **config)
    drawn = joined(batches, "image")[:, 0, 0, 0].tolist()
    assert set(drawn) <= kept
    assert len(set(drawn[: len(kept)])) > len(kept) - 8
    for balance in ("class", "source"):
        assert set(joined(merged_batches(30, balance=balance, **config), "image")[:, 0, 0, 0].tolist()) <= kept
    assert steps_per_epoch(Merged(), LoaderConfig(**config), records=Merged(pictures=False)) == len(kept) // 8


def test_a_name_that_matches_nothing_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="leave_out 'olf' matches nothing; use one of big, big/swap, old, old/gan"):
        kept_indices(Merged(pictures=False), ("olf",))
    with pytest.raises(ConfigError, match="'small/gan' matches nothing"):
        merged_batches(1, leave_out=("small/gan",))
    with pytest.raises(DataError, match="0 training samples"):
        merged_batches(1, leave_out=("big", "small", "old"))


def test_evaluation_leaves_out_the_same_and_minds_no_name_it_lacks():
    batches = list(evaluation_batches(Merged(), 16, processes=(0, 1), leave_out=("big", "old/gan", "elsewhere")))
    drawn = joined(batches, "image")[joined(batches, "mask") > 0][:, 0, 0, 0]
    rows = [row for row, (source, _, method) in enumerate(MERGE) if source != "big" and method != "gan"]
    assert drawn.tolist() == rows
    with pytest.raises(DataError, match="none of 144 samples remains"):
        next(evaluation_batches(Merged(), 16, processes=(0, 1), leave_out=("big", "small", "old")))


def test_records_are_read_once_and_pictures_not_for_them():
    pictures, records = Merged(), Merged(pictures=False)
    config = LoaderConfig(batch_size=16, balance="source", leave_out=("old",))
    train_batches(pictures, config, seed=0, processes=(0, 1), records=records)
    assert pictures.reads == 0
    assert records.reads <= 2 * len(MERGE)
    # Nothing is read where nothing is balanced or left out.
    records.reads = 0
    train_batches(pictures, LoaderConfig(batch_size=16), seed=0, processes=(0, 1), records=records)
    assert records.reads == 0


@pytest.mark.parametrize("settings", [{"max_repeats": 0.5}, {"max_repeats": float("nan")}])
def test_impossible_balance_settings_are_refused(settings):
    with pytest.raises(ConfigError):
        LoaderConfig(**settings)


def test_an_unknown_balance_is_refused(unchecked_types):
    with pytest.raises(ConfigError, match="balance 'sources' is unknown; use none, class or source"):
        LoaderConfig(balance="sources")


@pytest.mark.parametrize(
    "settings", [{"self_blended": -0.1}, {"up_sampled": 1.1}, {"self_blended": 0.6, "up_sampled": 0.6}]
)
def test_impossible_shares_of_pseudo_fakes_are_refused(settings):
    with pytest.raises(ConfigError):
        PseudoFakeConfig(**settings)

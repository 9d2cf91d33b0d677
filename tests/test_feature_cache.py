"""The cache of features: rows are added shard by shard, and what is there is known."""

from __future__ import annotations

import numpy as np
import pytest

from fakeface_jax.errors import DataError
from fakeface_jax.features.cache import COLUMNS, FeatureCache
from fakeface_jax.features.table import FeatureTable


def _rows(first: int, count: int) -> list[dict[str, object]]:
    numbers = dict.fromkeys(("face_side", "picture_width", "picture_height", "picture_bytes", "side"), 100)
    rows = []
    for number in range(first, first + count):
        row = dict.fromkeys(COLUMNS, "") | numbers
        row |= {"sha256": f"{number:064x}", "view": "web", "aligned": "blend" if number % 2 else ""}
        row |= {"label": "fake" if number % 2 else "real", "source": f"s{number}", "method": "swap", "group": "g"}
        row |= {"bytes_per_pixel": 0.5, "sharpness": 0.1, "picture_bytes": 5000}
        rows.append(row)
    return rows


def _arrays(first: int, count: int) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + count, dtype=np.float16)
    features = np.broadcast_to(numbers[:, None, None, None], (count, 2, 3, 4))
    return {"features": features, "detail": np.repeat(numbers[:, None], 5, axis=1)}


def _key(number: int) -> tuple[str, str, str]:
    return f"{number:064x}", "web", "blend" if number % 2 else ""


def test_what_was_added_is_known_and_loaded(tmp_path):
    cache = FeatureCache(tmp_path / "new" / "cache")
    assert cache.keys() == set()
    cache.append(_rows(0, 3), _arrays(0, 3))
    assert cache.keys() == {_key(0), _key(1), _key(2)}
    columns, arrays = cache.load()
    assert sorted(columns) == sorted(COLUMNS)
    assert columns["source"].tolist() == ["s0", "s1", "s2"]
    assert arrays.keys() == {"features"}
    assert arrays["features"].dtype == np.float16
    np.testing.assert_array_equal(arrays["features"], _arrays(0, 3)["features"])


def test_an_extraction_that_was_interrupted_goes_on(tmp_path):
    FeatureCache(tmp_path).append(_rows(0, 2), _arrays(0, 2))
    cache = FeatureCache(tmp_path)
    there = cache.keys()
    missing = [number for number in range(5) if _key(number) not in there]
    assert missing == [2, 3, 4]
    cache.append(_rows(2, 3), _arrays(2, 3))
    assert FeatureCache(tmp_path).keys() == {_key(number) for number in range(5)}
    columns, arrays = FeatureCache(tmp_path).load(("features", "detail"))
    assert [int(sha256, 16) for sha256 in columns["sha256"]] == arrays["detail"][:, 0].tolist()
    np.testing.assert_array_equal(arrays["features"][:, 0, 0, 0], np.arange(5))


def test_a_shard_without_its_table_is_as_if_it_were_not_there(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.append(_rows(0, 2), _arrays(0, 2))
    cache.append(_rows(2, 2), _arrays(2, 2))
    max(tmp_path.glob("*.parquet")).unlink()
    assert cache.keys() == {_key(0), _key(1)}
    cache.append(_rows(3, 1), _arrays(3, 1))
    assert cache.keys() == {_key(0), _key(1), _key(3)}
    np.testing.assert_array_equal(cache.load()[1]["features"][:, 0, 0, 0], [0, 1, 3])


def test_nothing_is_left_over(tmp_path):
    FeatureCache(tmp_path).append(_rows(0, 2), _arrays(0, 2))
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet", ".safetensors"}


def test_an_empty_cache_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="run fakeface features first"):
        FeatureCache(tmp_path).load()
    with pytest.raises(DataError, match="run fakeface features first"):
        FeatureTable.load(tmp_path)


def test_what_cannot_be_written_is_told(tmp_path):
    cache = FeatureCache(tmp_path)
    (tmp_path / "part-00000.parquet.d").mkdir()
    (tmp_path / "part-00000.safetensors").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        cache.append(_rows(0, 1), _arrays(0, 1))
    assert cache.keys() == set()


def test_a_table_has_the_labels_and_arrays_of_every_row(tmp_path):
    FeatureCache(tmp_path).append(_rows(0, 4), _arrays(0, 4))
    table = FeatureTable.load(tmp_path)
    assert len(table) == 4
    assert table.features.shape == (4, 2, 3, 4)
    assert table.detail.shape == (4, 5)
    assert table.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(table.fakes, [False, True, False, True])
    fakes = table.select(table.fakes)
    assert fakes.sources.tolist() == ["s1", "s3"]
    np.testing.assert_array_equal(fakes.features[:, 0, 0, 0], [1, 3])

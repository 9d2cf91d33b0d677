import collections
import dataclasses
import io
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from fakeface_jax.data import manifest as manifest_module
from fakeface_jax.data.image_metadata import FileFacts
from fakeface_jax.data.manifest import CONFLICT, EXACT, SHARES, SPLITS, Manifest, Row, load_manifest, merge
from fakeface_jax.data.samples import Sample
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.labels import Label


def picture(seed, side=48):
    """A smooth random picture: its perceptual hash is far from that of any other seed."""
    field = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return cv2.resize(field, (side, side), interpolation=cv2.INTER_CUBIC)


def encode(pixels, format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def near_copy(seed):
    return encode(picture(seed, 96), "JPEG", quality=80)


def make(folder, files):
    """files: name -> seed of a picture, or bytes."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encode(picture(content)))
    return f"folder:{folder}"


def many(folder, seeds):
    return make(folder, {f"{('real', 'fake')[seed % 2]}/{seed:04d}.png": seed for seed in seeds})


def by_id(manifest):
    return {row.id: row for row in manifest.rows}


def splits_of(manifest):
    return {row.id: (row.group, row.split) for row in manifest.used()}


def test_pictures_that_are_their_own_are_all_used(tmp_path):
    manifest = merge([many(tmp_path / "a", range(12))])
    assert len(manifest.used()) == len(manifest.rows) == 12
    assert manifest.left_out() == []
    assert len({row.group for row in manifest.rows}) == 12
    assert {row.split for row in manifest.rows} <= set(SPLITS)
    assert {row.id: str(row.sample.label) for row in manifest.rows}["a/real/0000.png"] == "real"


def test_of_exact_duplicates_the_first_is_used(tmp_path):
    a = make(tmp_path / "a", {"real/1.png": 1, "real/2.png": 1, "fake/3.png": 3})
    b = make(tmp_path / "b", {"real/1.png": 1, "fake/9.png": 9})
    rows = by_id(merge([a, b]))
    assert rows["a/real/1.png"].left_out == ""
    assert rows["a/real/2.png"].left_out == rows["b/real/1.png"].left_out == EXACT
    assert rows["b/fake/9.png"].left_out == ""


def test_near_duplicates_across_sources_share_a_group_and_a_split(tmp_path):
    a = many(tmp_path / "a", range(30))
    copies = {f"{('real', 'fake')[seed % 2]}/{seed}.jpg": near_copy(seed) for seed in range(30)}
    rows = by_id(merge([a, make(tmp_path / "b", copies)]))
    for seed in range(30):
        word = ("real", "fake")[seed % 2]
        first, second = rows[f"a/{word}/{seed:04d}.png"], rows[f"b/{word}/{seed}.jpg"]
        assert first.group == second.group
        assert first.split == second.split != ""
    assert len({row.group for row in rows.values()}) == 30


def test_a_picture_under_both_labels_is_left_out(tmp_path):
    a = make(tmp_path / "a", {"real/1.png": 1, "real/2.png": 2})
    b = make(tmp_path / "b", {"fake/1.png": 1})
    rows = by_id(merge([a, b]))
    assert rows["a/real/1.png"].left_out == rows["b/fake/1.png"].left_out == CONFLICT
    assert rows["a/real/2.png"].left_out == ""


def test_unreadable_pictures_are_listed_with_their_reason(tmp_path):
    whole = encode(picture(1))
    files = {
        "real/1.png": 1,
        "real/cut.png": whole[: len(whole) // 2],
        "fake/empty.jpg": b"",
        "fake/text.jpg": b"hi" * 99,
    }
    manifest = merge([make(tmp_path / "a", {**files, "fake/2.png": 2})])
    reasons = {row.id: row.left_out for row in manifest.left_out()}
    assert reasons.keys() == {"a/real/cut.png", "a/fake/empty.jpg", "a/fake/text.jpg"}
    assert all(reason.startswith("unreadable: ") for reason in reasons.values())
    assert "empty" in reasons["a/fake/empty.jpg"]
    assert len(manifest.used()) == 2
    assert "excluded: 3 of a: unreadable" in manifest.counts_table()
    assert all(row.split == "" for row in manifest.left_out())


def test_a_source_at_the_end_moves_nobody(tmp_path):
    a = many(tmp_path / "a", range(40))
    before = splits_of(merge([a]))
    copies = {f"{('real', 'fake')[seed % 2]}/{seed}.jpg": near_copy(seed) for seed in range(5, 15)}
    b = make(tmp_path / "b", {**copies, "train/real/exact.png": 20, "real/new.png": 100})
    # A published split of the newcomer moves nobody either.
    c = make(tmp_path / "c", {f"{split}/real/{n}.jpg": near_copy(n) for n, split in ((30, "train"), (32, "test"))})
    after = splits_of(merge([a, b, c]))
    assert len(after) > len(before)
    assert {key: after[key] for key in before} == before


def test_groups_never_straddle_splits(tmp_path):
    rng = np.random.default_rng(0)
    specs = []
    for name in ("a", "b", "c"):
        files = {}
        for index, seed in enumerate(rng.integers(0, 25, 30)):
            folder = rng.choice(["", "train/", "valid/", "test/"])
            content = int(seed) if rng.random() < 0.5 else near_copy(int(seed))
            files[f"{folder}{('real', 'fake')[seed % 2]}/{index}.png"] = content
        specs.append(make(tmp_path / name, files))
    manifest = merge(specs, train_only=["b"])
    splits = collections.defaultdict(set)
    seeds = {}
    for row in manifest.used():
        splits[row.group].add(row.split)
        seeds.setdefault(row.facts.phash, row.group)
    assert len(splits) <= 25
    assert all(len(found) == 1 for found in splits.values())
    assert {row.split for row in manifest.used() if row.sample.source == "b"} == {"train"}


def test_official_splits_are_kept(tmp_path):
    names = {"train": range(0, 6), "valid": range(6, 26), "test": range(26, 32)}
    files = {f"{split}/{('real', 'fake')[s % 2]}/{s}.png": s for split, seeds in names.items() for s in seeds}
    splits = collections.defaultdict(set)
    for row in merge([make(tmp_path / "a", files)]).used():
        splits[row.sample.official_split].add(row.split)
    assert splits == {"train": {"train"}, "validation": {"validation", "calibration"}, "test": {"test"}}


@pytest.mark.parametrize("copy", [near_copy(1), 1], ids=["near", "exact"])
def test_an_official_test_picture_with_a_copy_in_training_moves_to_training(tmp_path, copy):
    files = {"test/real/1.png": 1, "train/real/1.png": copy, "test/real/2.png": 2, "train/fake/3.png": 3}
    rows = by_id(merge([make(tmp_path / "a", files)]))
    assert rows["a/test/real/1.png"].split == "train"
    assert rows["a/test/real/2.png"].split == "test"


def test_nothing_is_held_out_of_a_train_only_source(tmp_path):
    a, b = many(tmp_path / "a", range(40)), many(tmp_path / "b", range(100, 140))
    manifest = merge([a, b], train_only=["b"])
    counts = collections.Counter((row.sample.source, row.split) for row in manifest.used())
    assert counts["b", "train"] == 40
    assert counts["a", "train"] < 40


def test_unknown_train_only_sources_and_empty_merges_are_refused(tmp_path):
    a = many(tmp_path / "a", range(2))
    with pytest.raises(ConfigError, match=r"no such source: typo; use one of \['a'\]"):
        merge([a], train_only=["typo"])
    with pytest.raises(ConfigError, match="none given"):
        merge([])


def test_progress_counts_every_picture_once(tmp_path):
    calls = []
    merge([many(tmp_path / "a", range(7))], progress=lambda done, of: calls.append((done, of)), workers=3)
    assert calls == [(n, 7) for n in range(1, 8)]


def test_the_number_of_workers_changes_nothing(tmp_path):
    spec = many(tmp_path / "a", range(20))
    assert merge([spec], workers=1) == merge([spec], workers=8)


def rows_by_hand(count, **changes):
    rows = []
    for index in range(count):
        sample = Sample(root="r", name=f"{index}.png", label=Label(index % 2), source="s")
        rows.append(Row(sample=sample, facts=FileFacts(sha256=f"{index:064x}"), group=f"g{index}", split=""))
    return [dataclasses.replace(row, **changes) for row in rows]


def test_the_shares_of_the_splits_are_about_as_stated():
    rows = manifest_module._assign_splits(rows_by_hand(20_000), set())
    counts = collections.Counter(row.split for row in rows)
    for split, share in zip(SPLITS, SHARES, strict=True):
        assert counts[split] / 20_000 == pytest.approx(share, abs=0.01)
    assert sum(SHARES) == pytest.approx(1)


def test_the_split_of_a_group_depends_on_its_name_only():
    rows = rows_by_hand(500)
    all_at_once = {row.group: row.split for row in manifest_module._assign_splits(rows, set())}
    reversed_half = manifest_module._assign_splits(rows[::-2], set())
    assert all(all_at_once[row.group] == row.split for row in reversed_half)


def test_a_manifest_comes_back_as_it_was_saved(tmp_path):
    a = make(tmp_path / "größe ñ", {"real/1.png": 1, "fake/写真.png": 2, "fake/bad.png": b"", "real/copy.png": 1})
    manifest = merge([a])
    manifest.save(tmp_path / "new folder" / "m.parquet")
    loaded = load_manifest(tmp_path / "new folder" / "m.parquet")
    assert loaded == manifest
    assert loaded.fingerprint() == manifest.fingerprint()
    assert all(isinstance(row.sample.label, Label) for row in loaded.rows)


def test_a_failed_save_keeps_the_old_manifest_and_leaves_nothing(tmp_path, monkeypatch):
    import pyarrow.parquet

    manifest = merge([many(tmp_path / "a", range(3))])
    path = tmp_path / "out" / "m.parquet"
    manifest.save(path)
    before = path.read_bytes()

    def fail(_table, where, **_):
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", fail)
    with pytest.raises(DataError, match="cannot be written: No space left"):
        Manifest(manifest.rows[:1]).save(path)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == ["m.parquet"]


def test_an_empty_manifest_is_not_saved(tmp_path):
    with pytest.raises(DataError, match="manifest is empty"):
        Manifest(()).save(tmp_path / "m.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_the_way_is_an_error(tmp_path):
    (tmp_path / "m.parquet").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        Manifest(tuple(rows_by_hand(1))).save(tmp_path / "m.parquet")
    assert [found.name for found in tmp_path.iterdir()] == ["m.parquet"]


def test_a_place_below_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"m\.parquet: cannot be written"):
        Manifest(tuple(rows_by_hand(1))).save(tmp_path / "file" / "m.parquet")


def test_what_is_no_manifest_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "text.parquet").write_text("no table")
    pq.write_table(pa.table({"name": ["a"], "label": [1]}), tmp_path / "other.parquet")
    Manifest(tuple(rows_by_hand(2))).save(tmp_path / "good.parquet")
    table = pq.read_table(tmp_path / "good.parquet")
    strange = table.set_column(table.schema.get_field_index("label"), "label", pa.array([0, 7]))
    pq.write_table(strange, tmp_path / "strange.parquet")
    for name in ("text.parquet", "other.parquet", "strange.parquet", "missing.parquet"):
        with pytest.raises(DataError, match=name):
            load_manifest(tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: dataclasses.replace(row, split="test"),
        lambda row: dataclasses.replace(row, left_out="why"),
        lambda row: dataclasses.replace(row, sample=dataclasses.replace(row.sample, label=Label.FAKE)),
        lambda row: dataclasses.replace(row, sample=dataclasses.replace(row.sample, source="other")),
        lambda row: dataclasses.replace(row, facts=dataclasses.replace(row.facts, sha256="f" * 64)),
    ],
)
def test_the_fingerprint_changes_with_whatever_training_sees(change):
    rows = rows_by_hand(6, split="train")
    before = Manifest(tuple(rows)).fingerprint()
    assert Manifest((change(rows[0]), *rows[1:])).fingerprint() != before


def test_the_fingerprint_does_not_depend_on_order_or_place():
    rows = rows_by_hand(6, split="train")
    moved = [dataclasses.replace(row, sample=dataclasses.replace(row.sample, root="/elsewhere")) for row in rows]
    assert Manifest(tuple(moved[::-1])).fingerprint() == Manifest(tuple(rows)).fingerprint()


def test_the_table_counts_what_is_used(tmp_path):
    a = make(
        tmp_path / "a", {"train/real/1.png": 1, "train/real/2.png": 2, "train/fake/3.png": 3, "test/fake/4.png": 4}
    )
    manifest = merge([a])
    assert manifest.counts() == {("a", "train", "real"): 2, ("a", "train", "fake"): 1, ("a", "test", "fake"): 1}
    lines = manifest.counts_table().splitlines()
    assert " ".join(lines[2].split()) == "a 2 / 1 0 / 0 0 / 0 0 / 1"
    assert lines[3].split()[0] == "all"
    assert "groups: 4 of 4 pictures, largest 1" in lines


def test_photographs_that_two_shared_sources_have_share_a_group(shared_data, tmp_path):
    """The reals of `leaky` are larger copies of photographs in `140k`, and carry their numbers."""
    official = {path.name: path for path in (shared_data / "140k").rglob("real/*.jpg")}
    for path in sorted((shared_data / "leaky" / "real").iterdir()):
        original = official[f"{int(path.stem):05d}.jpg"]
        split = original.parent.parent.name
        for source, target in ((path, "leaky/real"), (original, f"140k/{split}/real")):
            (tmp_path / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tmp_path / target)
    manifest = merge([f"folder:{tmp_path / '140k'}", f"folder:{tmp_path / 'leaky'}"])
    groups = collections.defaultdict(list)
    for row in manifest.used():
        groups[row.group].append(row)
    assert len(groups) == 12
    for rows in groups.values():
        assert [row.sample.source for row in rows] == ["140k", "leaky"]
        assert rows[0].split == rows[1].split
        assert rows[0].sample.official_split in (rows[0].split, "validation")

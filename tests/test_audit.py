import dataclasses
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from fakeface_jax.data import audit as audit_module
from fakeface_jax.data.audit import FOLDS, MIN_PER_CLASS, audit
from fakeface_jax.data.manifest import Manifest, load_manifest, merge
from fakeface_jax.errors import DataError
from fakeface_jax.labels import Label


@pytest.fixture(autouse=True)
def small_forest(request, monkeypatch):
    """Enough for made-up sources, whose files differ plainly or not at all."""
    if "shared_data" not in request.fixturenames:
        monkeypatch.setattr(audit_module, "TREES", 15)


def picture(seed, size=(48, 48)):
    field = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return cv2.resize(field, size, interpolation=cv2.INTER_CUBIC)


def encode(pixels, format="JPEG", mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def make(folder, count, encodings, classes=("real", "fake"), first_seed=0, prefix=""):
    """`count` pictures per class; encodings: class -> function of a seed."""
    for offset, word in enumerate(classes):
        (folder / prefix / word).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            seed = first_seed + 2 * index + offset
            (folder / prefix / word / f"{seed}.img.jpg").write_bytes(encodings[word](seed))
    return f"folder:{folder}"


def alike(seed):
    return encode(picture(seed), quality=90)


def only(findings):
    (one,) = findings.sources
    return one


def test_a_source_whose_files_are_alike_passes(tmp_path):
    findings = audit(merge([make(tmp_path / "a", 40, {"real": alike, "fake": alike})]))
    one = only(findings)
    assert findings.passed
    assert (one.source, one.real, one.fake, one.problems) == ("a", 40, 40, ())
    assert one.auc < 0.7
    for fact in ("container", "size", "jpeg_tables", "mode"):
        assert one.fact_auc[fact] == pytest.approx(0.5, abs=0.1)
    assert (one.copies, one.near_copies, one.label_conflicts, one.split_conflicts) == (0, 0, 0, 0)


LEAKS = {
    "container": lambda seed: encode(picture(seed), "PNG"),
    "jpeg_tables": lambda seed: encode(picture(seed), quality=75),
    "size": lambda seed: encode(picture(seed, (64, 64)), quality=90),
    "mode": lambda seed: encode(picture(seed), mode="L", quality=90),
    "bytes": lambda seed: encode(cv2.blur(picture(seed), (9, 9)), quality=90),
}


@pytest.mark.parametrize("fact", LEAKS)
@pytest.mark.parametrize("leaking", ["real", "fake"])
def test_a_fact_that_gives_the_class_away_is_caught_and_named(tmp_path, fact, leaking):
    encodings = {"real": alike, "fake": alike, leaking: LEAKS[fact]}
    findings = audit(merge([make(tmp_path / "a", 15, encodings)]))
    one = only(findings)
    assert not findings.passed
    assert one.fact_auc[fact] > 0.95
    assert one.auc > 0.9
    assert "the files alone tell real from fake" in one.problems[0]
    assert f"PROBLEM a: {one.problems[0]}" in findings.table()
    assert "failed" in findings.table()


def test_a_leak_in_every_third_file_is_caught(tmp_path):
    encodings = {"real": alike, "fake": lambda seed: LEAKS["container"](seed) if seed % 3 == 0 else alike(seed)}
    findings = audit(merge([make(tmp_path / "a", 60, encodings)]), max_auc=0.6)
    assert only(findings).fact_auc["container"] == pytest.approx(0.5 + 1 / 6, abs=0.05)  # cross-validated: folds differ
    assert not findings.passed


def test_the_limit_decides(tmp_path):
    manifest = merge([make(tmp_path / "a", 15, {"real": alike, "fake": LEAKS["container"]})])
    assert audit(manifest, max_auc=1.0).passed
    assert not audit(manifest, max_auc=0.99).passed


def test_a_source_of_one_class_has_nothing_to_give_away(tmp_path):
    findings = audit(merge([make(tmp_path / "a", 15, {"fake": alike}, classes=("fake",))]))
    one = only(findings)
    assert findings.passed
    assert (one.real, one.fake, one.auc) == (0, 15, None)
    assert set(one.fact_auc.values()) == {None}
    assert " - " in findings.table()


def test_a_tiny_source_is_not_waved_through(tmp_path):
    findings = audit(merge([make(tmp_path / "a", MIN_PER_CLASS - 1, {"real": alike, "fake": alike})]))
    assert only(findings).auc is None
    assert not findings.passed
    assert "too few to audit" in only(findings).problems[0]


@pytest.mark.parametrize("groups", [1, FOLDS - 1])
def test_many_pictures_of_few_groups_are_too_few(tmp_path, groups):
    manifest = merge([make(tmp_path / "a", 20, {"real": alike, "fake": alike})])
    rows = [
        dataclasses.replace(row, group=f"{row.sample.label} {index % groups}")
        for index, row in enumerate(manifest.rows)
    ]
    one = only(audit(Manifest(tuple(rows))))
    assert one.auc is None
    assert "too few to audit" in one.problems[0]


def test_one_group_that_holds_most_of_a_class_is_audited_without_failing(tmp_path):
    manifest = merge([make(tmp_path / "a", 30, {"real": alike, "fake": LEAKS["container"]})])
    rows = [
        dataclasses.replace(row, group="clip" if row.sample.label is Label.FAKE and index % 6 else row.group)
        for index, row in enumerate(manifest.rows)
    ]
    assert only(audit(Manifest(tuple(rows)))).fact_auc["container"] > 0.9


def test_the_same_bytes_under_both_labels_are_a_problem(tmp_path):
    spec = make(tmp_path / "a", 12, {"real": alike, "fake": alike})
    (tmp_path / "a" / "fake" / "copy.jpg").write_bytes((tmp_path / "a" / "real" / "0.img.jpg").read_bytes())
    findings = audit(merge([spec]))
    assert (only(findings).label_conflicts, only(findings).copies) == (2, 2)
    assert not findings.passed


def test_the_same_bytes_in_two_published_splits_are_a_problem(tmp_path):
    make(tmp_path / "a", 12, {"real": alike, "fake": alike}, prefix="train")
    spec = make(tmp_path / "a", 12, {"real": alike, "fake": alike}, first_seed=100, prefix="test")
    assert audit(merge([spec])).passed
    (tmp_path / "a" / "test" / "real" / "copy.jpg").write_bytes((tmp_path / "a/train/real/0.img.jpg").read_bytes())
    findings = audit(merge([spec]))
    assert (only(findings).split_conflicts, only(findings).label_conflicts) == (2, 0)
    assert "copy in another published split" in only(findings).problems[0]


def test_the_source_that_copies_is_blamed_and_not_the_one_that_was_there(tmp_path):
    a = make(tmp_path / "a", 12, {"real": alike, "fake": alike})
    b = make(tmp_path / "b", 12, {word: lambda seed: encode(picture(seed), quality=80) for word in ("real", "fake")})
    first, second = audit(merge([a, b])).sources
    assert (first.near_copies, first.problems) == (0, ())
    assert second.near_copies == 24
    assert "nearly equal pictures of a source listed before" in second.problems[0]


def test_only_the_named_sources_are_audited(tmp_path):
    a = make(tmp_path / "a", 12, {"real": alike, "fake": alike})
    b = make(tmp_path / "b", 12, {"real": alike, "fake": LEAKS["container"]}, first_seed=1000)
    manifest = merge([a, b])
    assert not audit(manifest).passed
    assert audit(manifest, sources=["a"]).passed
    with pytest.raises(DataError, match="no such source: c; use a, b"):
        audit(manifest, sources=["a", "c"])


def test_a_manifest_without_a_readable_picture_is_refused(tmp_path):
    (tmp_path / "a" / "real").mkdir(parents=True)
    (tmp_path / "a" / "real" / "1.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no readable picture"):
        audit(merge([f"folder:{tmp_path / 'a'}"]))


def test_the_answer_does_not_depend_on_saving(tmp_path):
    manifest = merge([make(tmp_path / "a", 12, {"real": alike, "fake": alike})])
    manifest.save(tmp_path / "m.parquet")
    assert audit(load_manifest(tmp_path / "m.parquet")) == audit(manifest)


def test_the_leaky_shared_set_is_caught_and_the_reports_set_passes(shared_data, tmp_path):
    leaky = audit(merge([f"folder:{shared_data / 'leaky'}"]))
    assert not leaky.passed
    assert only(leaky).auc > 0.9
    # 120 of each class are enough to see that their files are alike.
    for word in ("real", "fake"):
        for split in ("train", "valid", "test"):
            for path in sorted((shared_data / "140k").rglob(f"{split}/{word}/*.jpg"))[:40]:
                target = tmp_path / "140k" / split / word / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
    official = audit(merge([f"140k:{tmp_path / '140k'}"]))
    assert (only(official).real, only(official).fake) == (120, 120)
    assert official.passed, official.table()

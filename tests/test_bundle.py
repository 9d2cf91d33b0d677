import dataclasses
import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from fakeface_jax import bundle as bundle_module
from fakeface_jax.bundle import CARD, PRETRAINED, SPEC, WEIGHTS, BundleSpec, Normalization, load_bundle, save_bundle
from fakeface_jax.decision import Calibration, OperatingPoint, VerdictBands
from fakeface_jax.errors import BundleError
from fakeface_jax.faces import CropSpec

FULL_SPEC = BundleSpec(
    name="röntgen 模型",
    model={"name": "report", "size": 64, "dtype": "float32"},
    crop=CropSpec(size=64, margin=1.5),
    detector="centerface",
    bands=VerdictBands(real_below=0.25, fake_from=0.75, reason="why"),
    normalization=Normalization(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)),
    calibration=Calibration(scale=0.7, bias=-0.2, method="platt", split="calibration", samples=12),
    operating_points=(
        OperatingPoint(
            kind="fpr", rate=0.01, threshold=0.9, rate_low=0.0, rate_high=0.02, split="calibration", samples=99
        ),
    ),
    provenance={"data": ["a", "b"], "nested": {"steps": 3}},
    metrics={"overall": {"auc": 0.8, "none": None}},
)
FEW_WEIGHTS = {"a.kernel": np.linspace(-2, 2, 24).reshape(2, 3, 4), "a.bias": np.arange(3.0), "scale": np.float32(0.5)}


def save_few(path, **changes):
    return save_bundle(path, dataclasses.replace(FULL_SPEC, **changes), FEW_WEIGHTS, card="# Card\n")


def rewrite(path, change):
    """Changes bundle.json and makes its checksum right again, as another program (or an attacker) would."""
    document = json.loads((path / SPEC).read_text(encoding="utf-8"))
    del document["sha256"]
    change(document)
    canonical = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    document["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    (path / SPEC).write_text(json.dumps(document), encoding="utf-8")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(path, *words):
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    for word in words:
        assert word in text


def test_a_bundle_comes_back_as_it_was_saved(tmp_path):
    saved = save_few(tmp_path / "model")
    loaded = load_bundle(tmp_path / "model")
    assert loaded.spec == saved.spec == FULL_SPEC
    assert loaded.id == saved.id
    assert loaded.weights.keys() == FEW_WEIGHTS.keys()
    for key, value in FEW_WEIGHTS.items():
        assert loaded.weights[key].dtype == np.float32
        assert loaded.weights[key].shape == np.shape(value)
        np.testing.assert_array_equal(loaded.weights[key], np.asarray(value).astype(np.float16).astype(np.float32))
    assert (tmp_path / "model" / CARD).read_text(encoding="utf-8") == "# Card\n"
    assert sorted(contents(tmp_path)) == [f"model/{name}" for name in sorted((CARD, SPEC, WEIGHTS))]


def test_the_id_changes_with_weights_and_specification_only(tmp_path):
    first = save_few(tmp_path / "a").id
    assert save_few(tmp_path / "b").id == first
    assert save_few(tmp_path / "c", name="other").id != first
    changed = {**FEW_WEIGHTS, "a.bias": np.arange(3.0) + 1}
    assert save_bundle(tmp_path / "d", FULL_SPEC, changed, card="# Card\n").id != first
    assert save_bundle(tmp_path / "e", FULL_SPEC, FEW_WEIGHTS, card="other card").id == first


def test_weights_can_be_stored_exactly(tmp_path):
    weights = {"a": np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)}
    loaded = save_bundle(tmp_path / "exact", FULL_SPEC, weights, card="", dtype=np.float32)
    np.testing.assert_array_equal(loaded.weights["a"], weights["a"])


@pytest.mark.parametrize("place", [0, 8, 100, -1])
def test_a_changed_byte_in_the_weights_is_refused(tmp_path, place):
    save_few(tmp_path / "model")
    data = bytearray((tmp_path / "model" / WEIGHTS).read_bytes())
    data[place] ^= 1
    (tmp_path / "model" / WEIGHTS).write_bytes(data)
    assert_refused(tmp_path / "model", "SHA-256", WEIGHTS, "get the bundle again")


def test_truncated_or_longer_weights_are_refused(tmp_path):
    save_few(tmp_path / "model")
    data = (tmp_path / "model" / WEIGHTS).read_bytes()
    for changed in (data[:-1], data + b"\0", b""):
        (tmp_path / "model" / WEIGHTS).write_bytes(changed)
        assert_refused(tmp_path / "model", "SHA-256")


@pytest.mark.parametrize(
    ("old", "new"),
    [('"scale": 0.7', '"scale": 0.8'), ('"name": "report"', '"name": "repost"'), ("calibration", "celibration")],
)
def test_a_changed_value_in_the_specification_is_refused(tmp_path, old, new):
    save_few(tmp_path / "model")
    text = (tmp_path / "model" / SPEC).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "model" / SPEC).write_text(text.replace(old, new, 1), encoding="utf-8")
    assert_refused(tmp_path / "model", "SHA-256", SPEC)


def test_every_changed_byte_of_the_specification_is_refused_or_changes_nothing(tmp_path):
    original = save_few(tmp_path / "model")
    data = (tmp_path / "model" / SPEC).read_bytes()
    rng, accepted, refused = np.random.default_rng(0), [], []
    for place in rng.integers(0, len(data), 150):
        changed = bytearray(data)
        changed[place] = rng.integers(0, 256)
        (tmp_path / "model" / SPEC).write_bytes(changed)
        try:
            accepted.append(load_bundle(tmp_path / "model").spec)
        except BundleError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert not any("\n" in text for text in refused)
    assert all(spec == original.spec for spec in accepted)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused_with_the_remedy(tmp_path, version):
    save_few(tmp_path / "model")
    rewrite(tmp_path / "model", lambda document: document.update(format_version=version))
    assert_refused(tmp_path / "model", f"bundle format {version}", "install the release")


@pytest.mark.parametrize("name", [SPEC, WEIGHTS])
def test_a_missing_file_is_named(tmp_path, name):
    save_few(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    assert_refused(tmp_path / "model", name)


def test_a_missing_card_does_not_matter(tmp_path):
    saved = save_few(tmp_path / "model")
    (tmp_path / "model" / CARD).unlink()
    assert load_bundle(tmp_path / "model").id == saved.id


def test_no_bundle_at_all_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "file"):
        assert_refused(path, "no bundle here")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"text"', "{}", '{"format": "other"}', "\ud800", "[" * 100_000, '{"a": NaN}']
)
def test_a_specification_that_is_no_bundle_is_refused(tmp_path, text):
    save_few(tmp_path / "model")
    (tmp_path / "model" / SPEC).write_bytes(text.encode("utf-8", "surrogatepass"))
    assert_refused(tmp_path / "model")


def test_a_specification_with_nan_is_refused(tmp_path):
    save_few(tmp_path / "model")
    rewrite(tmp_path / "model", lambda document: document["metrics"].update(auc=float("nan")))
    assert_refused(tmp_path / "model", "damaged")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("crop"),
        lambda d: d.pop("weights"),
        lambda d: d.update(weights="none"),
        lambda d: d.update(crop={"size": 64, "margin": 9.0}),
        lambda d: d.update(crop={"size": 64, "padding": 3}),
        lambda d: d.update(bands={"real_below": 0.9, "fake_from": 0.1}),
        lambda d: d["calibration"].update(scale=-1.0),
        lambda d: d.update(normalization={"mean": [0, 0, 0]}),
        lambda d: d.update(operating_points=[{"kind": "fpr"}]),
        lambda d: d.update(normalization=None),
    ],
)
def test_specifications_of_other_releases_are_refused_in_one_line(tmp_path, change):
    save_few(tmp_path / "model")
    rewrite(tmp_path / "model", change)
    assert_refused(tmp_path / "model")


def test_the_name_of_the_weights_file_is_fixed_whatever_the_document_says(tmp_path):
    saved = save_few(tmp_path / "model")
    save_bundle(tmp_path / "other", FULL_SPEC, {"stolen": np.ones(3)}, card="")
    target = "../other/" + WEIGHTS
    rewrite(tmp_path / "model", lambda document: document["weights"].update(file=target))
    assert load_bundle(tmp_path / "model").weights.keys() == saved.weights.keys()


def test_a_file_that_only_claims_to_be_weights_is_refused(tmp_path):
    save_few(tmp_path / "model")
    data = b"\xff" * 64
    (tmp_path / "model" / WEIGHTS).write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    rewrite(tmp_path / "model", lambda document: document["weights"].update(sha256=sha256))
    assert_refused(tmp_path / "model", "not a safetensors file")


def test_saving_again_replaces_the_bundle(tmp_path):
    save_few(tmp_path / "model")
    new = save_few(tmp_path / "model", name="new")
    assert load_bundle(tmp_path / "model").id == new.id
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("attempt", ["write_text", "write_bytes", "chmod"])
def test_a_failure_while_writing_keeps_the_old_bundle_and_leaves_nothing(tmp_path, monkeypatch, attempt):
    save_few(tmp_path / "model")
    before = contents(tmp_path)

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_module.Path, attempt, fail)
    with pytest.raises(BundleError, match="No space left") as caught:
        save_few(tmp_path / "model", name="new")
    monkeypatch.undo()
    assert str(tmp_path / "model") in str(caught.value)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_failure_while_renaming_keeps_the_old_bundle_and_leaves_nothing(tmp_path, monkeypatch, failing, error):
    save_few(tmp_path / "model")
    before = contents(tmp_path)
    rename, calls = bundle_module.Path.rename, []

    def fail(self, target):
        calls.append(target)
        if len(calls) == failing:
            raise error
        return rename(self, target)

    monkeypatch.setattr(bundle_module.Path, "rename", fail)
    with pytest.raises((BundleError, KeyboardInterrupt)):
        save_few(tmp_path / "model", name="new")
    monkeypatch.undo()
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_directory_that_is_no_bundle_is_not_overwritten(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"precious")
    (tmp_path / "file").write_bytes(b"precious")
    for name in ("photos", "file"):
        with pytest.raises(BundleError, match="is not a bundle"):
            save_few(tmp_path / name)
    assert contents(tmp_path) == {"photos/holiday.jpg": b"precious", "file": b"precious"}


def test_a_directory_with_a_bundle_and_other_files_is_not_overwritten(tmp_path):
    save_few(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_bytes(b"precious")
    before = contents(tmp_path)
    with pytest.raises(BundleError, match=r"notes\.txt"):
        save_few(tmp_path / "model", name="new")
    assert contents(tmp_path) == before


def test_a_linked_bundle_is_replaced_and_its_target_kept(tmp_path):
    old = save_few(tmp_path / "v1")
    (tmp_path / "latest").symlink_to(tmp_path / "v1")
    new = save_few(tmp_path / "latest", name="new")
    assert load_bundle(tmp_path / "latest").id == new.id
    assert load_bundle(tmp_path / "v1").id == old.id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "v1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_write_permission_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BundleError, match="the bundle cannot be written"):
            save_few(tmp_path / "model")
    finally:
        tmp_path.chmod(0o700)


def test_a_place_below_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError):
        save_few(tmp_path / "file" / "model")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_weights_that_would_not_be_finite_are_not_saved(tmp_path, value):
    with pytest.raises(BundleError, match=r"weight a\.kernel is not finite as float16"):
        save_bundle(tmp_path / "model", FULL_SPEC, {"a.kernel": np.array([1.0, value])}, card="")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metrics", [{"auc": float("nan")}, {"auc": object()}])
def test_a_specification_that_json_cannot_hold_is_not_saved(tmp_path, metrics):
    with pytest.raises(BundleError, match="cannot be written as JSON"):
        save_few(tmp_path / "model", metrics=metrics)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_can_be_copied_and_used_elsewhere(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "größe und mehr")
    assert load_bundle(tmp_path / "größe und mehr").id == load_bundle(tiny_bundle).id


def test_no_file_of_a_bundle_is_a_pickle(tiny_bundle):
    for name, data in contents(tiny_bundle).items():
        assert name in (CARD, SPEC, WEIGHTS)
        assert not data.startswith(b"\x80")
        assert not data.startswith(b"PK")


def test_measuring_a_model_does_not_change_its_id(tmp_path, tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    measured = dataclasses.replace(bundle.spec, metrics={"split": "test"})
    saved = save_bundle(tmp_path / "measured", measured, bundle.weights, card="card")
    assert saved.id == bundle.id
    other = dataclasses.replace(bundle.spec, name="other")
    assert save_bundle(tmp_path / "other", other, bundle.weights, card="card").id != bundle.id


def test_models_that_ship_are_found_by_name_and_directories_go_first(tmp_path, monkeypatch):
    assert load_bundle("report-cnn").path == PRETRAINED / "report-cnn"
    monkeypatch.chdir(tmp_path)
    own = save_few(tmp_path / "report-cnn")
    assert load_bundle("report-cnn").id == own.id
    with pytest.raises(BundleError, match=r"or one of the bundled models: .*report-cnn"):
        load_bundle("no-such-model")

"""Thresholds from one's own pictures: with fakes, with reals alone, with too few; what is said and what is written."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from fakeface_jax.bundle import load_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.cli.main import main
from fakeface_jax.data.manifest import CONFLICT, EXACT
from fakeface_jax.decision import OperatingPoint, VerdictBands, sigmoid
from fakeface_jax.detectors import create_detector
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.evaluation.calibration import FAKE_AT_FPR, clopper_pearson
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.recalibration import (
    LEAST,
    SPLIT,
    OwnFaces,
    labelled,
    read_faces,
    reals_of,
    recalibrate,
)
from fakeface_jax.faces import Face, whole_image_box


def own(real_logits, fake_logits=(), *, groups=None):
    logits = np.array([*real_logits, *fake_logits], np.float32)
    names = np.array([f"own/{number}" for number in range(len(logits))])
    labels = np.repeat(np.array([0, 1], np.int8), [len(real_logits), len(fake_logits)])
    predictions = Predictions(
        ids=names,
        sources=np.full(len(logits), "own"),
        groups=names if groups is None else groups,
        labels=labels,
        logits=logits,
    )
    return OwnFaces(predictions=predictions, hashes=tuple(names), rejected=())


@pytest.fixture
def classifier(tiny_bundle):
    """The tiny bundle with an old threshold of 0.7 at 5 % false positives, and one of 0.3 at 5 % false negatives."""
    loaded = load_bundle(tiny_bundle)
    points = tuple(
        OperatingPoint(
            kind=kind, rate=0.05, threshold=threshold, rate_low=0.03, rate_high=0.08, split="calibration", samples=400
        )
        for kind, threshold in (("fpr", 0.7), ("fnr", 0.3))
    )
    spec = dataclasses.replace(loaded.spec, operating_points=points, metrics={"auc": 1})
    return FaceClassifier(dataclasses.replace(loaded, spec=spec))


def test_reals_alone_move_what_reals_can_tell(classifier):
    # P(fake) of 100 reals, evenly from .005 to .995: 30 of them are at .7 or above.
    p_fake = (np.arange(100) + 0.5) / 100
    done = recalibrate(classifier, own(np.log(p_fake / (1 - p_fake))))
    spec, old = done.spec, classifier.spec
    assert spec.calibration == old.calibration
    found = {(point.kind, point.rate): point for point in spec.operating_points}
    assert found["fpr", 0.05].threshold == pytest.approx(0.95, abs=1e-6)
    assert found["fpr", 0.01].threshold == pytest.approx(0.99, abs=1e-6)
    assert (found["fpr", 0.05].split, found["fpr", 0.05].samples) == (SPLIT, 100)
    assert found["fnr", 0.05] == old.operating_points[1]
    assert spec.bands.fake_from == found["fpr", FAKE_AT_FPR].threshold
    assert spec.bands.real_below == old.bands.real_below
    assert (
        "on 100 real faces of the user's; no fakes were given, so real below the threshold as it" in spec.bands.reason
    )
    assert spec.metrics == {}
    five = next(change for change in done.changes if change.rate == 0.05)
    assert (five.old, *five.old_rate) == (0.7, 0.3, *clopper_pearson(0.3, 100))
    one = next(change for change in done.changes if change.rate == 0.01)
    assert (one.old, one.old_rate) == (None, None)
    assert "| 5% reals called fake | 0.7000 | 30.0% [21.2%, 40.0%] | 0.9500 | 1.6% to 11.3% |" in done.table()


def test_real_below_is_never_above_fake_from(classifier):
    # All of them are far below the old thresholds: fakes would begin below what was real.
    spec = dataclasses.replace(classifier.spec, bands=VerdictBands(real_below=0.6, fake_from=0.7, reason="old"))
    low = FaceClassifier(dataclasses.replace(classifier.bundle, spec=spec))
    done = recalibrate(low, own(np.linspace(-6, -4, 50)))
    assert done.spec.bands.real_below == done.spec.bands.fake_from < 0.6
    assert done.spec.bands.reason.endswith("as it was, lowered to where fake begins: old")


def test_both_classes_fit_everything(classifier):
    rng = np.random.default_rng(0)
    # Shifted by 3 logits: uncalibrated, nearly every real is called fake.
    done = recalibrate(classifier, own(rng.normal(2, 1, 150), rng.normal(4, 1, 150)))
    assert done.spec.calibration.method == "platt"
    assert done.spec.calibration.samples == 300
    assert done.spec.calibration(np.array([3.0]))[0] == pytest.approx(0.5, abs=0.1)
    assert {(point.kind, point.rate) for point in done.spec.operating_points} == {
        (kind, rate) for kind in ("fpr", "fnr") for rate in (0.01, 0.05)
    }
    five = next(change for change in done.changes if (change.kind, change.rate) == ("fpr", 0.05))
    assert five.old_rate[0] > 0.8
    assert "calibration" not in done.spec.bands.reason
    record = done.spec.provenance["recalibration"]
    assert (record["reals"], record["fakes"], record["from"]) == (150, 150, classifier.bundle.id)


def test_few_faces_say_so(classifier):
    done = recalibrate(classifier, own(np.linspace(-1, 1, LEAST)))
    point = done.spec.operating_points[0]
    assert point.rate_high == pytest.approx(0.168, abs=0.001)
    # Many shots of one scene are one.
    groups = np.repeat(["a", "b", "c", "d"], 5)
    done = recalibrate(classifier, own(np.linspace(-1, 1, 20), groups=groups))
    assert done.spec.operating_points[0].rate_high > 0.5
    with pytest.raises(DataError, match=r"19 real faces are too few .* name at least 20"):
        recalibrate(classifier, own(np.linspace(-1, 1, 19)))
    with pytest.raises(DataError, match=r"3 fakes are too few; .* only the reals with --reals"):
        recalibrate(classifier, own(np.linspace(-1, 1, 30), [1, 2, 3]))


def test_the_fingerprint_is_of_contents_and_labels():
    one = own([0.0, 1.0], [2.0])
    assert one.fingerprint() == own([5.0, 1.0], [2.0]).fingerprint()
    assert one.fingerprint() != own([0.0], [1.0, 2.0]).fingerprint()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """24 reals and 22 fakes of noise, a copy, one that is labelled both ways, and a broken file."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for label, count in (("real", 24), ("fake", 22)):
        (root / label).mkdir()
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(root / label / f"{number:02d}.png")
    (root / "real" / "copy.png").write_bytes((root / "real" / "00.png").read_bytes())
    (root / "real" / "disputed.png").write_bytes((root / "fake" / "00.png").read_bytes())
    (root / "real" / "broken.png").write_bytes((root / "real" / "00.png").read_bytes()[:300])
    return root


def test_bad_pictures_are_left_out_with_their_reason(pictures, classifier):
    heard = []
    faces = read_faces(labelled(str(pictures)), classifier, None, progress=lambda *pair: heard.append(pair))
    reasons = {name.rsplit("/", 2)[-2] + "/" + name.rsplit("/", 1)[-1]: reason for name, reason in faces.rejected}
    assert reasons.pop("real/broken.png")
    assert reasons == {"fake/00.png": CONFLICT, "real/disputed.png": CONFLICT, "real/copy.png": EXACT}
    assert np.bincount(faces.predictions.labels).tolist() == [24, 21]
    assert len(set(faces.hashes)) == len(faces.hashes) == 45
    assert heard[-1] == (49, 49)
    row = faces.predictions.ids.tolist().index(f"{pictures}/real/05.png")
    image = np.asarray(Image.open(pictures / "real" / "05.png"))
    (score,) = classifier.score_faces(image, [Face(box=whole_image_box(image), confidence=1.0)])
    logits = classifier.spec.calibration.logit(faces.predictions.logits.astype(np.float64))
    assert sigmoid(logits)[row] == pytest.approx(score.p_fake, abs=1e-5)


def test_faces_are_found_as_in_use(face_picture, faceless_picture, classifier, tmp_path):
    Image.fromarray(face_picture[:320, 60:400]).save(tmp_path / "face.png")
    Image.fromarray(faceless_picture[:200, :200]).save(tmp_path / "cup.png")
    detector = create_detector("centerface")
    faces = read_faces(reals_of(tmp_path), classifier, detector)
    assert faces.rejected == ((f"{tmp_path}/cup.png", "no face found"),)
    picture = np.asarray(Image.open(tmp_path / "face.png"))
    (score,) = classifier.score_faces(picture, detector.detect(picture)[:1])
    logits = classifier.spec.calibration.logit(faces.predictions.logits.astype(np.float64))
    assert logits[0] == pytest.approx(score.logit, abs=1e-4)


def test_what_is_no_labelled_folder_is_refused(pictures, classifier, tmp_path):
    with pytest.raises(DataError, match=r"no folder named real or fake; .* with --reals"):
        labelled(str(tmp_path))
    with pytest.raises(DataError, match="lies in a folder of fakes; use --data instead"):
        reals_of(pictures)
    with pytest.raises(DataError, match="contains no pictures"):
        reals_of(tmp_path)
    with pytest.raises(ConfigError, match="is not a source"):
        labelled("nothing")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"none of 1 pictures can be used \(.*a.png"):
        read_faces(labelled(str(tmp_path)), classifier, None)


def test_the_command_writes_a_new_bundle_beside_the_old(pictures, tiny_bundle, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in tiny_bundle.iterdir()}
    words = ["calibrate", "--bundle", str(tiny_bundle), "--whole-image"]
    assert main([*words, "--data", str(pictures), "--output", str(tmp_path / "both")]) == 0
    out, err = capsys.readouterr()
    assert "24 real and 21 fake faces, 4 pictures excluded" in out
    assert f"bundle: {tmp_path / 'both'}" in out
    assert err.count("excluded: ") == 4
    assert {path.name: path.read_bytes() for path in tiny_bundle.iterdir()} == before
    new = load_bundle(tmp_path / "both")
    assert (tmp_path / "both" / "weights.safetensors").read_bytes() == before["weights.safetensors"]
    assert new.id != load_bundle(tiny_bundle).id
    assert new.spec.calibration.split == SPLIT
    assert len(new.spec.provenance["recalibration"]["pictures_sha256"]) == 64
    assert main([*words, "--reals", str(pictures / "real"), "--output", str(tmp_path / "reals")]) == 0
    out, _ = capsys.readouterr()
    assert "25 real and 0 fake faces, 2 pictures excluded" in out
    assert "Without fakes, P(fake)" in out
    assert main([*words, "--data", str(pictures), "--output", str(tiny_bundle)]) == 2
    assert "is the bundle to recalibrate, which is kept" in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path / "x")]) == 2
    assert "name either --data" in capsys.readouterr().err
    assert json.loads((tmp_path / "reals" / "bundle.json").read_text())["calibration"]["method"] == "none"

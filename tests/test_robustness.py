"""The grid of degradations: what each does to a picture, and that it does the same again."""

import cv2
import numpy as np
import pytest

from fakeface_jax.errors import ConfigError
from fakeface_jax.evaluation.robustness import GRID, Degradation, find_degradation


@pytest.fixture(scope="module")
def crops(face_picture):
    """Three different square crops of a real picture, of an odd size."""
    parts = [face_picture[top : top + 160, 180 : 180 + 160] for top in (0, 60, 250)]
    return np.stack([cv2.resize(part, (97, 97), interpolation=cv2.INTER_AREA) for part in parts])


def distance(one, other):
    return float(np.abs(one.astype(np.float64) - other).mean())


def test_the_grid_is_the_published_one():
    strengths = {kind: [one.strength for one in GRID if one.kind == kind] for kind in {one.kind for one in GRID}}
    assert strengths == {
        "jpeg": [100, 80, 60, 40, 20, 10],
        "blur": [0.5, 1.0, 1.5, 2.0, 3.0],
        "resize": [224, 112, 64],
        "scale": [0.5],
        "noise": [0.01, 0.03, 0.05, 0.1, 0.2],
    }
    assert len({one.name for one in GRID}) == len(GRID) == 20


@pytest.mark.parametrize("degradation", GRID, ids=lambda one: one.name)
def test_changes_crops_and_nothing_else(crops, degradation):
    before = crops.copy()
    after = degradation.apply(crops)
    assert after.dtype == np.uint8
    assert after.shape == crops.shape
    assert np.array_equal(crops, before)
    # What a face gets depends neither on the batch nor on its place in it.
    assert np.array_equal(degradation.apply(crops[::-1])[::-1], after)
    assert np.array_equal(degradation.apply(crops[1:2])[0], after[1])
    # Colours stay where they are: red and blue swapped would be far off.
    assert 0 < distance(after, crops) < 0.75 * distance(crops[..., ::-1], crops) or degradation.kind == "noise"
    assert degradation.apply(crops[:0]).shape == (0, 97, 97, 3)


@pytest.mark.parametrize("kind", ["jpeg", "blur", "noise"])
def test_stronger_changes_more(crops, kind):
    changes = [distance(one.apply(crops), crops) for one in GRID if one.kind == kind]
    assert changes == sorted(changes)
    assert changes[-1] > 3 * changes[0]


def test_noise_has_the_sigma_it_says():
    grey = np.full((2, 128, 128, 3), 128, np.uint8)
    for sigma in (0.01, 0.05, 0.1):
        noisy = Degradation(name="noise", kind="noise", strength=sigma).apply(grey).astype(np.float64)
        assert noisy.std() == pytest.approx(sigma * 255, rel=0.03)
        assert noisy.mean() == pytest.approx(128, abs=0.2)
    # Strengths differ by their strength alone.
    weak, strong = (find_degradation(f"noise {sigma}").apply(grey).astype(np.float64) - 128 for sigma in (0.03, 0.1))
    assert np.corrcoef(weak.ravel(), strong.ravel())[0, 1] > 0.98


def test_blur_is_a_gaussian():
    point = np.zeros((1, 41, 41, 3), np.uint8)
    point[0, 20, 20] = 255
    spread = find_degradation("blur 1").apply(point)[0, 20, :, 0].astype(np.float64)
    expected = 255 / (2 * np.pi) * np.exp(-0.5 * (np.arange(41) - 20.0) ** 2)
    assert np.abs(spread - expected).max() < 1.0


def test_jpeg_is_that_of_opencv(crops):
    encoded = cv2.imencode(".jpg", cv2.cvtColor(crops[0], cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    expected = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.array_equal(find_degradation("JPEG 40").apply(crops[:1])[0], expected)


def test_sizes_below_the_limit_lose_detail():
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 256, (1, 100, 100, 3), np.uint8)
    # Half and back keeps means over 2 x 2 pixels and loses what is finer; 224 and back loses less.
    halved, enlarged = (find_degradation(name).apply(fine) for name in ("resize by half", "resize 224"))
    assert halved.std() < 0.6 * fine.std()
    assert distance(enlarged, fine) < 0.6 * distance(halved, fine)


@pytest.mark.parametrize(
    ("kind", "strength"),
    [("jpeg", 0), ("jpeg", 101), ("jpeg", 50.5), ("blur", -1), ("noise", float("nan")), ("resize", 11.5), ("fog", 1)],
)
def test_impossible_strengths_are_refused(kind, strength, unchecked_types):
    with pytest.raises(ConfigError, match=r"not a valid strength of|unknown degradation"):
        Degradation(name="x", kind=kind, strength=strength)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="use one of JPEG 100, "):
        find_degradation("JPEG 55")

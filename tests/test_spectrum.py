"""The power spectrum baseline: what it measures, what it learns, what it never sees."""

import dataclasses

import cv2
import numpy as np
import pytest

from fakeface_jax.errors import DataError
from fakeface_jax.evaluation.metrics import evaluate
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.spectrum import Spectra, fit_baseline, spectrum


def as_crops(grey):
    return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def spectra(rng, count, source, *, sigma=0.7, size=48, first=0):
    """Half reals of plain noise, half fakes of slightly blurred noise."""
    labels = np.arange(count) % 2
    grey = rng.normal(128, 40, (count, size, size))
    for index in np.flatnonzero(labels):
        grey[index] = cv2.GaussianBlur(grey[index], (0, 0), sigma)
    names = np.array([f"{source}/{first + index}" for index in range(count)])
    faces = Predictions(
        ids=names,
        sources=np.full(count, source),
        groups=names,
        labels=labels.astype(np.int8),
        logits=np.zeros(count, np.float32),
        methods=np.where(labels == 1, "blurred", ""),
    )
    return Spectra(faces=faces, values=spectrum(as_crops(grey)))


def joined(*parts):
    faces = Predictions.joined([part.faces for part in parts])
    return Spectra(faces=faces, values=np.concatenate([part.values for part in parts]))


def turned(part):
    """The same faces with real and fake the other way round."""
    fake = 1 - part.faces.labels
    faces = dataclasses.replace(part.faces, labels=fake, methods=np.where(fake == 1, "sharp", ""))
    return dataclasses.replace(part, faces=faces)


@pytest.mark.parametrize("size", [64, 75])
@pytest.mark.parametrize("frequency", [4, 17])
def test_a_wave_is_in_its_ring(size, frequency):
    noise = np.random.default_rng(0).normal(128, 5, (size, size))
    wave = noise + 50 * np.sin(2 * np.pi * frequency * np.arange(size) / size)
    found = spectrum(as_crops(np.stack([noise, wave, wave.T, np.full((size, size), 90.0)])))
    assert found.shape == (4, size // 2)
    assert found.dtype == np.float32
    # A window spreads it over neighbouring rings, of which the inner one has fewer frequencies to average over.
    gained = found[1] - found[0]
    assert np.argmax(gained) + 1 in (frequency - 1, frequency)
    assert gained[frequency - 1] > 0.4
    assert np.abs(np.delete(gained, range(frequency - 3, frequency + 2))).max() < 0.5 * gained.max()
    # Turned by a right angle it is the same; without detail there is nothing.
    assert np.allclose(found[1], found[2], atol=1e-3)
    assert np.abs(found[3]).max() < 1e-3


@pytest.mark.parametrize("size", [40, 41])
def test_agrees_with_the_full_transform(size):
    rng = np.random.default_rng(1)
    grey = np.rint(rng.uniform(0, 255, (2, size, size)))
    found = spectrum(as_crops(grey))
    window = np.hanning(size + 2)[1:-1]
    for row, picture in zip(found, grey, strict=True):
        power = np.log(np.abs(np.fft.fft2((picture - picture.mean()) * np.outer(window, window))) ** 2 + 1)
        frequency = np.fft.fftfreq(size, 1 / size)
        radius = np.rint(np.hypot(frequency[:, None], frequency))
        expected = [power[radius == ring].mean() for ring in range(1, size // 2 + 1)]
        assert np.allclose(row, expected, rtol=1e-4)


def test_learns_what_differs_and_is_calibrated():
    rng = np.random.default_rng(2)
    train, validation, calibration, test = (spectra(rng, count, "a") for count in (120, 60, 80, 80))
    baseline = fit_baseline(train, validation, calibration)
    found = evaluate(baseline.predict(test), baseline.calibration, baseline.bands, resamples=20).overall
    assert found.metrics["auc"].value > 0.95
    assert baseline.calibration.method != "none"
    assert found.verdicts["real"]["fake"].share.value < 0.2
    assert np.array_equal(baseline.predict(test).ids, test.faces.ids)
    # The same again.
    again = fit_baseline(train, validation, calibration)
    assert again.strength == baseline.strength
    assert np.array_equal(again.predict(test).logits, baseline.predict(test).logits)


def test_what_is_left_out_is_not_seen():
    rng = np.random.default_rng(3)
    a = [spectra(rng, 80, "a") for _ in range(3)]
    b = [spectra(rng, 80, "b") for _ in range(3)]
    # In c the same trace means the opposite.
    c = [turned(spectra(rng, 80, "c")) for _ in range(3)]
    test = spectra(rng, 60, "a")
    alone = fit_baseline(*(joined(*parts) for parts in zip(a, b, strict=True)))
    without = fit_baseline(*(joined(*parts) for parts in zip(a, b, c, strict=True)), leave_out=["c"])
    assert without.left_out == ("c",)
    assert np.allclose(without.predict(test).logits, alone.predict(test).logits)
    confused = fit_baseline(*(joined(*parts) for parts in zip(a, c, strict=True)))
    assert evaluate(confused.predict(test), resamples=2).overall.metrics["auc"].value < 0.9
    # One kind of fakes of a source: its reals stay.
    with pytest.raises(DataError, match="training without a/blurred: lacks one of the two classes"):
        fit_baseline(*a, leave_out=["a/blurred"])

import math

import numpy as np
import pytest

from fakeface_jax.decision import Calibration, VerdictBands, sigmoid
from fakeface_jax.errors import ConfigError
from fakeface_jax.labels import Verdict


@pytest.mark.parametrize(
    ("p_fake", "verdict"),
    [
        (0.0, Verdict.REAL),
        (math.nextafter(0.3, 0), Verdict.REAL),
        (0.3, Verdict.INCONCLUSIVE),
        (0.5, Verdict.INCONCLUSIVE),
        (math.nextafter(0.7, 0), Verdict.INCONCLUSIVE),
        (0.7, Verdict.FAKE),
        (1.0, Verdict.FAKE),
    ],
)
def test_bands_include_their_lower_end(p_fake, verdict):
    assert VerdictBands(real_below=0.3, fake_from=0.7).decide(p_fake) is verdict


def test_bands_that_meet_leave_nothing_inconclusive():
    bands = VerdictBands(real_below=0.4, fake_from=0.4)
    assert [bands.decide(p) for p in (0.39999, 0.4)] == [Verdict.REAL, Verdict.FAKE]


def test_a_score_that_is_no_number_is_never_a_claim():
    assert VerdictBands(real_below=0.4, fake_from=0.4).decide(math.nan) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("bands", [(0.7, 0.3), (-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5), (0.5, math.nan)])
def test_bands_out_of_order_or_range_are_refused(bands):
    with pytest.raises(ConfigError, match="verdict bands"):
        VerdictBands(real_below=bands[0], fake_from=bands[1])


def test_sigmoid_is_the_logistic_function_without_overflow():
    logits = np.array([-1e4, -700.0, -2.0, 0.0, 2.0, 700.0, 1e4])
    values = sigmoid(logits)
    np.testing.assert_allclose(values[2:5], 1 / (1 + np.exp(-logits[2:5])), rtol=1e-12)
    assert values[0] == 0.0
    assert values[-1] == 1.0
    assert float(sigmoid(np.array(0.0))) == 0.5


def test_calibration_is_platt_scaling():
    calibration = Calibration(scale=0.5, bias=-1.0, method="platt")
    logits = np.array([-3.0, 0.0, 2.0, 5.0])
    np.testing.assert_allclose(calibration.logit(logits), [-2.5, -1.0, 0.0, 1.5])
    np.testing.assert_allclose(calibration(logits), 1 / (1 + np.exp(-np.array([-2.5, -1.0, 0.0, 1.5]))))


def test_no_calibration_changes_nothing():
    logits = np.linspace(-5, 5, 11)
    np.testing.assert_array_equal(Calibration().logit(logits), logits)


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 50.0])
@pytest.mark.parametrize("bias", [-7.0, 0.0, 3.0])
def test_calibration_never_changes_the_order_of_scores(scale, bias):
    logits = np.sort(np.random.default_rng(0).normal(0, 3, 200))
    calibration = Calibration(scale=scale, bias=bias)
    assert (np.diff(calibration.logit(logits)) > 0).all()
    assert (np.diff(calibration(logits)) >= 0).all()


@pytest.mark.parametrize(
    ("scale", "bias"), [(0.0, 0.0), (-1.0, 0.0), (math.nan, 0.0), (math.inf, 0.0), (1.0, math.nan), (1.0, -math.inf)]
)
def test_a_calibration_that_could_turn_scores_around_is_refused(scale, bias):
    with pytest.raises(ConfigError, match="positive scale"):
        Calibration(scale=scale, bias=bias)

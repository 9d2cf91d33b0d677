"""From a model's raw logit to a probability and a verdict.

A score becomes a verdict through operating points: thresholds chosen at a stated error rate, on a split that neither
training nor testing touched. Between them the answer is `inconclusive`. Fitting is in `evaluation/calibration.py`;
here is only what every scored face needs.

Example:
    >>> bands = VerdictBands(real_below=0.2, fake_from=0.8)
    >>> bands.decide(0.5)
    <Verdict.INCONCLUSIVE: 'inconclusive'>
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

from fakeface_jax.errors import ConfigError
from fakeface_jax.labels import Verdict


def sigmoid(logits: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """The logistic function, without overflow for large negative logits; a scalar is an array of no axes."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def log_odds(p_fake: float) -> float:
    """The logit of a probability in [0, 1], cut off at 12 logits either way so that certainty stays finite."""
    return float(np.clip(np.log(max(p_fake, 1e-12)) - np.log1p(-min(p_fake, 1 - 1e-12)), -12.0, 12.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """P(fake) = sigmoid(scale * logit + bias): Platt scaling (Platt, 1999); bias 0 makes it temperature scaling.

    Attributes:
        scale: positive, so that calibration never changes the order of two scores.
        bias: shift in logits.
        method: `platt`, `temperature`, or `none` for a model whose scores were never calibrated.
        split: the split it was fitted on.
        samples: how many faces it was fitted on.
    """

    scale: float = 1.0
    bias: float = 0.0
    method: Literal["none", "temperature", "platt"] = "none"
    split: str = ""
    samples: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and np.isfinite(self.bias) and self.scale > 0):
            raise ConfigError(f"a calibration needs a positive scale and a finite bias, not {self.scale}, {self.bias}")

    def logit(self, logits: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Calibrated logits; `sigmoid` of them is P(fake)."""
        return np.asarray(self.scale * logits + self.bias)

    def __call__(self, logits: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """P(fake) in [0, 1]."""
        return sigmoid(self.logit(logits))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold on P(fake), with the error rate it was chosen for.

    Attributes:
        kind: `fpr` where real faces at or above the threshold are the error, `fnr` where fakes below it are.
        rate: the error rate it was chosen for, in [0, 1].
        threshold: P(fake), in [0, 1].
        rate_low: lower end of the 95 % interval of the true error rate at this threshold.
        rate_high: upper end.
        split: the split it was chosen on.
        samples: how many faces of the class concerned that split had.
    """

    kind: Literal["fpr", "fnr"]
    rate: float
    threshold: float
    rate_low: float
    rate_high: float
    split: str
    samples: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerdictBands:
    """Below `real_below` the verdict is real, from `fake_from` on it is fake, in between nothing is claimed.

    Attributes:
        real_below: P(fake), at most `fake_from`.
        fake_from: P(fake).
        reason: in words, which operating points these are.
    """

    real_below: float
    fake_from: float
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.real_below <= self.fake_from <= 1.0:
            raise ConfigError(f"verdict bands need 0 <= {self.real_below} <= {self.fake_from} <= 1")

    def decide(self, p_fake: float) -> Verdict:
        """The verdict for one calibrated score."""
        if p_fake >= self.fake_from:
            return Verdict.FAKE
        return Verdict.REAL if p_fake < self.real_below else Verdict.INCONCLUSIVE


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoDecision:
    """From the score of a whole video to P(fake) and a verdict: an average errs otherwise than a single face.

    Attributes:
        rule: the aggregation rule this was fitted for; scores of another one need their own.
        calibration: of the aggregated logit.
        operating_points: thresholds at stated error rates of videos.
        bands: the verdict bands in force.
        fitted_on: in words, which videos.
    """

    rule: str
    calibration: Calibration
    bands: VerdictBands
    operating_points: tuple[OperatingPoint, ...] = ()
    fitted_on: str = ""

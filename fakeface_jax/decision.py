"""Turns a model's raw logit into a probability and a verdict.

A score becomes a verdict through operating points: thresholds chosen at a stated error rate, on a split that neither
training nor testing used. Between the thresholds the verdict is `inconclusive`. Fitting is in
`evaluation/calibration.py`; this module has only what scoring needs.

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
    """Computes the logistic function without overflow for large negative logits; a scalar is an array without axes."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def log_odds(p_fake: float) -> float:
    """Returns the logit of a probability in [0, 1], limited to 12 in either direction so that it stays finite."""
    return float(np.clip(np.log(max(p_fake, 1e-12)) - np.log1p(-min(p_fake, 1 - 1e-12)), -12.0, 12.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Platt scaling, P(fake) = sigmoid(scale * logit + bias) (Platt, 1999); with bias 0 it is temperature scaling.

    Attributes:
        scale: positive, so that calibration never changes the order of two scores.
        bias: added to the scaled logit.
        method: `platt`, `temperature`, or `none` for a model whose scores were never calibrated.
        split: the split on which it was fitted.
        samples: number of faces on which it was fitted.
    """

    scale: float = 1.0
    bias: float = 0.0
    method: Literal["none", "temperature", "platt"] = "none"
    split: str = ""
    samples: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and np.isfinite(self.bias) and self.scale > 0):
            raise ConfigError(
                f"a calibration needs a positive scale and a finite bias; got {self.scale} and {self.bias}"
            )

    def logit(self, logits: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Returns calibrated logits; their sigmoid is P(fake)."""
        return np.asarray(self.scale * logits + self.bias)

    def __call__(self, logits: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Returns P(fake) in [0, 1]."""
        return sigmoid(self.logit(logits))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold on P(fake) and the error rate for which it was chosen.

    Attributes:
        kind: `fpr` if the errors are real faces at or above the threshold, `fnr` if they are fakes below it.
        rate: the error rate for which it was chosen, in [0, 1].
        threshold: P(fake), in [0, 1].
        rate_low: lower end of the 95 % interval of the true error rate at this threshold.
        rate_high: upper end of that interval.
        split: the split on which it was chosen.
        samples: number of faces of the class concerned in that split.
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
    """The limits of the verdicts: real below `real_below`, fake from `fake_from` on, inconclusive in between.

    Attributes:
        real_below: P(fake), at most `fake_from`.
        fake_from: P(fake).
        reason: the operating points that these are, in words.
    """

    real_below: float
    fake_from: float
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.real_below <= self.fake_from <= 1.0:
            raise ConfigError(
                f"verdict bands need 0 <= real_below <= fake_from <= 1; got {self.real_below} and {self.fake_from}"
            )

    def decide(self, p_fake: float) -> Verdict:
        """Returns the verdict for one calibrated score."""
        if p_fake >= self.fake_from:
            return Verdict.FAKE
        return Verdict.REAL if p_fake < self.real_below else Verdict.INCONCLUSIVE


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoDecision:
    """Turns the score of a whole video into P(fake) and a verdict: an average has other errors than a single face.

    Attributes:
        rule: the aggregation rule for which it was fitted; scores of another rule need another calibration.
        calibration: calibration of the aggregated logit.
        operating_points: thresholds at stated error rates of videos.
        bands: the verdict bands in force.
        fitted_on: the videos on which it was fitted, in words.
    """

    rule: str
    calibration: Calibration
    bands: VerdictBands
    operating_points: tuple[OperatingPoint, ...] = ()
    fitted_on: str = ""

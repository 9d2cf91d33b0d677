"""Computes every metric of a detector, overall and per source, each with an interval that respects groups.

Faces of one video and near-duplicates are not independent, so the bootstrap draws whole groups (Field and Welsh,
2007). The value itself is computed by the same code, as the resample in which each group is drawn once, so that a
value and its interval cannot have different definitions.

Example:
    >>> evaluation = evaluate(predictions, bundle.spec.calibration, bundle.spec.bands)
    >>> evaluation.sources["ciplab"].metrics["auc"]
    Estimate(value=0.71, low=0.64, high=0.78)
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from fakeface_jax.decision import Calibration, VerdictBands
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.evaluation.calibration import clopper_pearson
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.weighted_metrics import BINS, METRICS, THRESHOLD, ScoredFaces

CONFIDENCE = 0.95

_BLOCK = 2_000_000
"""Largest number of weights in memory while resampling: 16 MB, and a few temporary arrays of that size."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric with its 95 % interval; None if these faces do not determine it.

    Attributes:
        value: None if the metric is undefined, such as AUC with one class.
        low: lower end of the interval; None also if there are too few groups to resample.
        high: upper end of the interval, likewise.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts at P(fake) >= 0.5; fake is positive."""

    true_negatives: int
    false_positives: int
    false_negatives: int
    true_positives: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerdictShare:
    """Number and share of the faces of one class that get one verdict.

    Attributes:
        count: number of faces.
        share: share of the class's faces; for reals called fake it is the false-positive rate of the bands, for fakes
            called real their false-negative rate.
    """

    count: int
    share: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """All figures for one set of faces.

    Attributes:
        reals: number of faces with label 0.
        fakes: number of faces with label 1.
        groups: number of independent units among them, on which the intervals are based.
        confusion: counts at 0.5.
        metrics: estimates by the keys of `METRICS`.
        verdicts: shares by class word, then verdict word; without classes that have no faces; None without bands.
    """

    reals: int
    fakes: int
    groups: int
    confusion: Confusion
    metrics: Mapping[str, Estimate]
    verdicts: Mapping[str, Mapping[str, VerdictShare]] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's results on one split.

    Attributes:
        overall: all faces together; the largest source dominates it.
        sources: results by source, in alphabetical order.
        calibration: turns logits into probabilities.
        bands: turn probabilities into verdicts; None if there are none.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
        predictions: the predictions that were measured, for plots; not part of `to_dict`.
    """

    overall: Measured
    sources: Mapping[str, Measured]
    calibration: Calibration
    bands: VerdictBands | None
    resamples: int
    seed: int
    predictions: Predictions = dataclasses.field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-able values without NaN; metrics are rounded to 6 decimals, so that machines agree on it."""
        return {
            "faces": len(self.predictions),
            "threshold": THRESHOLD,
            "ece_bins": BINS,
            "confidence": CONFIDENCE,
            "resamples": self.resamples,
            "seed": self.seed,
            "calibration": dataclasses.asdict(self.calibration),
            "bands": dataclasses.asdict(self.bands) if self.bands else None,
            "overall": _rounded(dataclasses.asdict(self.overall)),
            "sources": {name: _rounded(dataclasses.asdict(measured)) for name, measured in self.sources.items()},
        }


def evaluate(
    predictions: Predictions,
    calibration: Calibration | None = None,
    bands: VerdictBands | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Measures predictions overall and per source, with 95 % intervals by group.

    Intervals are percentiles of the cluster bootstrap, with two exceptions. A plain share (accuracy, precision, recall,
    TPR at an FPR, verdicts) that is exactly 0 or 1 does not vary between resamples, so its interval is that of Clopper
    and Pearson with one sample per group. ECE grows with noise, so resamples are above its value; their interval is
    moved back by the difference between their mean and the value.

    Args:
        predictions: at least one face.
        calibration: None uses the logits as they are.
        bands: None for a model without verdict bands.
        resamples: number of resamples, at least 1.
        seed: seed of the resampling; a source's draws do not depend on the other sources.

    Raises:
        DataError: there are no predictions.
        ConfigError: `resamples` is below 1.
    """
    if len(predictions) == 0:
        raise DataError("there are no predictions to evaluate, because the split is empty; choose another split")
    if resamples < 1:
        raise ConfigError(f"intervals need at least one resample; got {resamples}")
    calibration = calibration or Calibration()

    def measure(part: Predictions, name: str) -> Measured:
        logits = np.asarray(calibration.logit(part.logits.astype(np.float64)))
        scored = ScoredFaces(part.labels, np.asarray(calibration(part.logits.astype(np.float64))), logits, bands)
        groups = np.unique(part.groups, return_inverse=True)[1]
        return _measure(scored, groups, resamples, np.random.default_rng([seed, zlib.crc32(name.encode())]))

    return Evaluation(
        overall=measure(predictions, ""),
        sources={name: measure(predictions.select(name), name) for name in np.unique(predictions.sources).tolist()},
        calibration=calibration,
        bands=bands,
        resamples=resamples,
        seed=seed,
        predictions=predictions,
    )


def _measure(
    scored: ScoredFaces, groups: Integer[np.ndarray, " n"], resamples: int, rng: np.random.Generator
) -> Measured:
    count = int(groups.max()) + 1
    values = scored.metrics(np.ones((1, count)), groups)
    blocks = []
    size = max(1, _BLOCK // len(groups))
    for start in range(0, resamples if count > 1 else 0, size):
        rows = min(size, resamples - start)
        drawn = rng.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        blocks.append(
            scored.metrics(np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, -1) * 1.0, groups)
        )
    drawn_values = {name: np.concatenate([block[name] for block in blocks]) if blocks else None for name in values}
    fake, called = scored.fake, scored.called
    # The faces that each plain share is a share of, for its interval if it is exactly 0 or 1.
    bases = dict.fromkeys(("recall", "tpr_at_fpr_1", "tpr_at_fpr_5"), fake)
    bases |= {"accuracy": np.ones_like(fake), "precision": called}
    bases |= {f"{label} {verdict}": fake == bool(label) for label, verdict, _ in scored.classes()}
    estimates = {}
    for name, value in values.items():
        base = bases.get(name)
        units = len(np.unique(groups[base])) if base is not None else None
        estimates[name] = estimate(name, float(value[0]), drawn_values[name], units)
    verdicts: dict[str, dict[str, VerdictShare]] = {}
    for label, verdict, mask in scored.classes():
        if (fake == bool(label)).any():
            share = VerdictShare(count=int(mask.sum()), share=estimates[f"{label} {verdict}"])
            verdicts.setdefault(str(label), {})[str(verdict)] = share
    return Measured(
        reals=int((~fake).sum()),
        fakes=int(fake.sum()),
        groups=count,
        confusion=Confusion(
            true_negatives=int((~fake & ~called).sum()),
            false_positives=int((~fake & called).sum()),
            false_negatives=int((fake & ~called).sum()),
            true_positives=int((fake & called).sum()),
        ),
        metrics={name: estimates[name] for name in METRICS},
        verdicts=verdicts if scored.verdicts else None,
    )


def estimate(name: str, value: float, drawn: Float[np.ndarray, " b"] | None, units: int | None) -> Estimate:
    """Returns a value with its interval; `units` is the number of groups behind a plain share, else None."""
    if not np.isfinite(value):
        return Estimate(value=None, low=None, high=None)
    if drawn is None:
        return Estimate(value=value, low=None, high=None)
    if units and (value == 0.0 or value == 1.0):
        low, high = clopper_pearson(value, float(units), CONFIDENCE)
        return Estimate(value=value, low=low, high=high)
    defined = drawn[np.isfinite(drawn)]
    # Percentiles of the remaining resamples would be too narrow: those that miss a class are the unlucky ones.
    if len(defined) < 0.95 * len(drawn):
        return Estimate(value=value, low=None, high=None)
    low, high = np.quantile(defined, [(1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0])
    if name == "ece":
        low, high = np.clip(np.array([low, high]) - (defined.mean() - value), 0.0, 1.0)
    return Estimate(value=value, low=float(low), high=float(high))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value

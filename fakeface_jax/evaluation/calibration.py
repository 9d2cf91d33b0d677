"""Turns raw logits into calibrated probabilities, and these into thresholds at stated error rates.

Everything here is fitted on a split that neither training nor testing used.

Example:
    >>> calibration = fit_calibration(labels, logits, groups=groups)
    >>> points = choose_operating_points(labels, calibration(logits.astype(np.float64)), groups=groups)
    >>> choose_bands(points).fake_from
    0.71
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Integer, Shaped
from scipy.optimize import minimize
from scipy.stats import beta
from sklearn.model_selection import GroupKFold

from fakeface_jax.decision import Calibration, OperatingPoint, VerdictBands, sigmoid
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.labels import Label

FOLDS = 5
"""Folds of the cross-validation that chooses between temperature and Platt scaling."""

SCALE_BOUNDS = (1e-3, 1e3)
"""Bounds of the fitted scale, in units of one over the logits' standard deviation."""

BIAS_BOUND = 100.0
"""Largest absolute value of the calibrated logit at the mean of the raw ones."""

RATES = (0.01, 0.05)
"""Error rates for which operating points are chosen."""

MOST = 10.0
"""Largest factor by which balancing sources may increase the weight of a face."""

FAKE_AT_FPR, REAL_AT_FNR = 0.01, 0.05
"""Error rates of the verdicts. `fake` has the stricter one: a wrong accusation is worse than a missed fake."""


def balanced_weights(labels: Integer[np.ndarray, " n"], sources: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns weights that give both classes the same total and, within a class, every source; their mean is 1.

    A source that has only fakes then counts among the fakes, without making fakes more likely in general. No face has
    a weight much above `MOST` times its unbalanced one: two stray reals among a source's fakes must not become half of
    all reals.

    Args:
        labels: 0 for real, 1 for fake.
        sources: name of each face's data set, str.
    """
    weights = np.zeros(len(labels), np.float64)
    for label in np.unique(labels):
        mine = labels == label
        _, index, counts = np.unique(sources[mine], return_inverse=True, return_counts=True)
        found = np.minimum(mine.sum() / (len(counts) * counts[index]), MOST)
        weights[mine] = found / found.sum()
    return weights * (len(weights) / max(weights.sum(), 1.0))


def fit_calibration(
    labels: Integer[np.ndarray, " n"],
    logits: Float[np.ndarray, " n"],
    *,
    split: str = "calibration",
    groups: Shaped[np.ndarray, " n"] | None = None,
    weights: Float[np.ndarray, " n"] | None = None,
) -> Calibration:
    """Fits temperature (Guo et al., 2017) or Platt scaling (Platt, 1999), whichever predicts unseen groups better.

    Both minimise log loss against Platt's smoothed targets, (n+ + 1) / (n+ + 2) for fakes and 1 / (n- + 2) for reals,
    so that the scale stays finite if the classes are perfectly separated. The choice is by plain log loss in a
    group k-fold without randomness; temperature if tied, or if a class has too few groups for two folds.

    Args:
        labels: 0 for real, 1 for fake.
        logits: finite logits before calibration.
        split: name of the split, stored in the result.
        groups: ids of groups of dependent faces; by default each face is its own group.
        weights: positive weight per face, e.g. `balanced_weights`; only their ratios matter. By default all are equal,
            so the largest source dominates.

    Returns:
        A calibration with scale > 0, even for a model that confuses the classes: its probabilities then say almost
        nothing.

    Raises:
        DataError: there is one class only, logits are not finite, or weights are not positive.
    """
    labels, logits = _checked(labels, logits, "logits")
    weights = _checked_weights(weights, len(labels))
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    method: Literal["temperature", "platt"] = "temperature"
    folds = min(FOLDS, *(len(np.unique(groups[labels == label])) for label in Label))
    if folds >= 2:
        loss = dict.fromkeys(("temperature", "platt"), 0.0)
        for train, test in GroupKFold(folds).split(logits, labels, groups):
            for name in loss:
                scale, bias = _fit(labels[train], logits[train], weights[train], shift=name == "platt")
                calibrated = scale * logits[test] + bias
                loss[name] += float(weights[test] @ log_losses(labels[test], calibrated))
        method = "platt" if loss["platt"] < loss["temperature"] else "temperature"
    scale, bias = _fit(labels, logits, weights, shift=method == "platt")
    return Calibration(scale=scale, bias=bias, method=method, split=split, samples=len(labels))


def log_losses(labels: Integer[np.ndarray, " n"], logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Computes the log loss per face in nats from logits: without clipping, and exact for confident wrong answers."""
    return np.logaddexp(0.0, logits) - labels * logits


def clopper_pearson(rate: float, samples: float, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the exact interval of a proportion (Clopper and Pearson, 1934).

    Args:
        rate: the observed share, in [0, 1].
        samples: number of independent samples, positive; it may be fractional (an effective sample size).
        confidence: confidence level, in (0, 1).
    """
    hits, tail = rate * samples, (1.0 - confidence) / 2.0
    # A share of a few ulps is zero, and beta quantiles with zero parameters are not defined.
    low = 0.0 if hits < 1e-9 else float(beta.ppf(tail, hits, samples - hits + 1.0))
    high = 1.0 if samples - hits < 1e-9 else float(beta.ppf(1.0 - tail, hits + 1.0, samples - hits))
    return low, high


def choose_operating_points(
    labels: Integer[np.ndarray, " n"],
    p_fake: Float[np.ndarray, " n"],
    *,
    split: str = "calibration",
    groups: Shaped[np.ndarray, " n"] | None = None,
    weights: Float[np.ndarray, " n"] | None = None,
    rates: Sequence[float] = RATES,
) -> tuple[OperatingPoint, ...]:
    """Chooses thresholds on P(fake) at false-positive and false-negative rates that are not exceeded on this split.

    A threshold is midway between the two neighbouring scores, so that rounding cannot move a face across it. If the
    split has too few faces for the rate (fewer than 1 / rate), the threshold is beyond the most extreme of them,
    and `rate_high` says how little that proves. The interval is Clopper-Pearson's at the effective sample size of
    Korn and Graubard (1998), which equals the number of faces if each is its own group and all weights are equal.

    Args:
        labels: 0 for real, 1 for fake.
        p_fake: calibrated probabilities, in [0, 1].
        split: name of the split, stored in the result.
        groups: ids of groups of dependent faces; they widen the interval and do not change the threshold.
        weights: positive weight per face; the rates are then weighted shares.
        rates: error rates in (0, 1), ascending.

    Returns:
        `fpr` points, then `fnr` points, in the order of `rates`.

    Raises:
        DataError: there is one class only, scores are outside [0, 1], or so many reals have exactly 1 that no threshold
            keeps the rate (scores saturate without calibration).
        ConfigError: a rate is outside (0, 1).
    """
    labels, p_fake = _checked(labels, p_fake, "scores")
    if p_fake.min() < 0.0 or p_fake.max() > 1.0:
        raise DataError(f"P(fake) must be in [0, 1]; got {p_fake.min():g} to {p_fake.max():g}; calibrate the logits")
    if not all(0.0 < rate < 1.0 for rate in rates):
        raise ConfigError(f"error rates must be between 0 and 1; got {tuple(rates)}")
    weights = _checked_weights(weights, len(labels))
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    points = []
    kinds: tuple[tuple[Literal["fpr", "fnr"], Label], ...] = (("fpr", Label.REAL), ("fnr", Label.FAKE))
    for kind, label in kinds:
        mine = labels == label
        for rate in rates:
            if kind == "fpr":
                threshold = _gap_above(p_fake[mine], weights[mine], p_fake, rate, limit=1.0)
                if threshold is None:
                    raise DataError(
                        f"P(fake) of more than {rate:.0%} of the real faces is 1 to the last digit; "
                        "fit the calibration on this split first"
                    )
                wrong = p_fake[mine] >= threshold
            else:
                # The same problem with the sign reversed; scores are at least 0, so the threshold 0 always keeps the
                # rate.
                turned = _gap_above(-p_fake[mine], weights[mine], -p_fake, rate, limit=0.0)
                threshold = -turned if turned is not None else 0.0
                wrong = p_fake[mine] < threshold
            low, high = _rate_interval(wrong, weights[mine], groups[mine])
            points.append(
                OperatingPoint(
                    kind=kind,
                    rate=rate,
                    threshold=threshold,
                    rate_low=low,
                    rate_high=high,
                    split=split,
                    samples=int(mine.sum()),
                )
            )
    return tuple(points)


def choose_bands(
    points: Sequence[OperatingPoint], *, fpr: float = FAKE_AT_FPR, fnr: float = REAL_AT_FNR
) -> VerdictBands:
    """Chooses verdict bands from operating points: fake from the threshold at `fpr`, real below the one at `fnr`.

    The thresholds of a detector with fewer errors than that cross; both bands then start at their midpoint, no score is
    inconclusive, and both error rates are below the stated ones.

    Raises:
        ConfigError: there is no operating point at one of the rates.
    """
    found = {point.kind: point for point in points if point.rate == (fpr if point.kind == "fpr" else fnr)}
    if set(found) != {"fpr", "fnr"}:
        known = ", ".join(f"{point.kind} {point.rate:g}" for point in points) or "none"
        raise ConfigError(f"verdict bands need operating points at fpr {fpr:g} and fnr {fnr:g}; available: {known}")
    fake_from, real_below = found["fpr"].threshold, found["fnr"].threshold
    split = found["fpr"].split
    if real_below > fake_from:
        middle = (real_below + fake_from) / 2.0
        reason = (
            f"the thresholds at {fpr:.0%} false positives ({fake_from:.4f}) and {fnr:.0%} false negatives "
            f"({real_below:.4f}) on {split} cross, so both bands start at their midpoint and no score is inconclusive"
        )
        return VerdictBands(real_below=middle, fake_from=middle, reason=reason)
    reason = (
        f"fake from the threshold at {fpr:.0%} false positives, real below the one at {fnr:.0%} false negatives, "
        f"both on {split}"
    )
    return VerdictBands(real_below=real_below, fake_from=fake_from, reason=reason)


def _checked(
    labels: Integer[np.ndarray, " n"], scores: Float[np.ndarray, " n"], what: str
) -> tuple[Integer[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    labels, scores = np.asarray(labels).astype(np.int64), np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} {what} are not finite")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels must be 0 (real) or 1 (fake)")
    fakes = int(labels.sum())
    if fakes in (0, len(labels)):
        raise DataError(f"calibration needs both classes; there are {len(labels) - fakes} reals and {fakes} fakes")
    return labels, scores


def _checked_weights(weights: Float[np.ndarray, " n"] | None, samples: int) -> Float[np.ndarray, " m"]:
    """Returns weights with mean 1, equal ones for None."""
    if weights is None:
        return np.ones(samples)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (samples,) or not np.isfinite(weights).all() or (weights <= 0).any():
        raise DataError(f"calibration needs {samples} weights that are positive and finite")
    return weights / weights.mean()


def _fit(
    labels: Integer[np.ndarray, " n"],
    logits: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    *,
    shift: bool,
) -> tuple[float, float]:
    """Fits scale and bias (0 unless `shift`) by log loss, which is convex: the optimum does not depend on the start."""
    fakes, reals = weights @ labels, weights @ (1 - labels)
    targets = np.where(labels == 1, (fakes + 1.0) / (fakes + 2.0), 1.0 / (reals + 2.0))
    # In units of the standard deviation, so that the bounds and the optimiser's tolerances suit logits of any size.
    spread = float(np.std(logits)) or 1.0
    centre = float(np.mean(logits)) if shift else 0.0
    unit = (logits - centre) / spread

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        calibrated = parameters[0] * unit + parameters[1]
        loss = weights @ (np.logaddexp(0.0, calibrated) - targets * calibrated)
        slope = weights * (sigmoid(calibrated) - targets)
        return loss / len(labels), np.array([slope @ unit, slope.sum()]) / len(labels)

    bias = BIAS_BOUND if shift else 0.0
    found = minimize(
        objective,
        x0=np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[SCALE_BOUNDS, (-bias, bias)],
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 500},
    )
    scale = float(found.x[0]) / spread
    return scale, float(found.x[1]) - scale * centre


def _gap_above(
    values: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    pool: Float[np.ndarray, " m"],
    rate: float,
    *,
    limit: float,
) -> float | None:
    """Returns the lowest threshold with at most `rate` of `values` at or above it, in the middle of a gap.

    Args:
        pool: scores of both classes; the gap is between two of these, or between the highest of them and `limit`.

    Returns:
        None if the threshold would have to be above `limit`.
    """
    distinct, index = np.unique(values, return_inverse=True)
    share = np.cumsum(np.bincount(index, weights)[::-1])[::-1] / weights.sum()
    # The highest value that must be below the threshold; it exists, because all of `values` are more than `rate`.
    excluded = float(distinct[np.flatnonzero(share > rate + 1e-12)[-1]])
    if excluded >= limit:
        return None
    above = pool[pool > excluded]
    upper = float(above.min()) if len(above) else limit
    middle = (excluded + upper) / 2.0
    return middle if middle > excluded else upper


def _rate_interval(
    wrong: Shaped[np.ndarray, " n"], weights: Float[np.ndarray, " n"], groups: Integer[np.ndarray, " n"]
) -> tuple[float, float]:
    """Returns the 95 % interval of a weighted, clustered share: Clopper-Pearson at the effective sample size."""
    rate = float(weights @ wrong / weights.sum())
    per_group = np.bincount(groups, weights)
    kish = per_group.sum() ** 2 / (per_group**2).sum()
    if 0.0 < rate < 1.0:
        variance = (np.bincount(groups, weights * (wrong - rate)) ** 2).sum() / weights.sum() ** 2
        # By chance clusters may look better than independent samples; the number of faces is the upper limit.
        samples = min(rate * (1.0 - rate) / variance if variance > 0 else kish, float(len(wrong)))
    else:
        samples = kish  # without spread to estimate from, groups count instead of faces
    return clopper_pearson(rate, samples)

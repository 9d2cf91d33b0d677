"""Computes every metric of a binary detector for many weightings of the same faces at once.

A bootstrap resample is a vector of weights. A thousand resamples take about as long here as one call per metric of
scikit-learn, which is the reference in the tests.

Example:
    >>> point_metrics(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9]))["auc"]
    0.75
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.special import logit

from fakeface_jax.decision import VerdictBands
from fakeface_jax.evaluation.calibration import log_losses
from fakeface_jax.labels import Label, Verdict

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auc": "AUC",
    "ap": "AP",
    "eer": "EER",
    "log_loss": "log loss",
    "brier": "Brier",
    "ece": "ECE",
    "tpr_at_fpr_1": "TPR at 1 % FPR",
    "tpr_at_fpr_5": "TPR at 5 % FPR",
}
"""Key of every metric and its name in tables. Fake is the positive class."""

BINS = 15
"""Number of equal-width bins of the expected calibration error (Guo et al., 2017)."""

THRESHOLD = 0.5
"""P(fake) from which on accuracy, precision, recall, F1 and the confusion matrix count a face as called fake."""


def weighted_metrics(
    labels: Integer[np.ndarray, " n"], p_fake: Float[np.ndarray, " n"], weights: Float[np.ndarray, "b n"]
) -> dict[str, Float[np.ndarray, " b"]]:
    """Computes every metric of `METRICS` under each of several weightings of the faces; NaN if undefined.

    AUC is the trapezoid under the ROC (ties count half), AP the step-wise sum of precision over recall, EER the point
    of the linearly interpolated ROC where both error rates are equal, and TPR at an FPR the best of a threshold whose
    FPR does not exceed it, without interpolation. If a class is missing, only accuracy, log loss, Brier and ECE are
    defined, and recall if the missing class is the reals. Precision needs at least one face called fake.

    Args:
        labels: 0 for real, 1 for fake.
        p_fake: probabilities in [0, 1].
        weights: non-negative; a row is one weighting.
    """
    scored = ScoredFaces(labels, p_fake, logit(np.clip(p_fake, *_inside(p_fake))), None)
    return scored.metrics(weights, np.arange(len(labels)))


def point_metrics(labels: Integer[np.ndarray, " n"], p_fake: Float[np.ndarray, " n"]) -> dict[str, float | None]:
    """Computes every metric of `METRICS`, None if undefined; see `weighted_metrics` for definitions and arguments."""
    values = weighted_metrics(labels, p_fake, np.ones((1, len(labels))))
    return {name: _value(float(value[0])) for name, value in values.items()}


def ece_by_chance(
    p_fake: Float[np.ndarray, " n"],
    *,
    weights: Float[np.ndarray, " n"] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Simulates the ECE of correct scores: each face is fake with exactly its P(fake), independently of the others.

    Args:
        p_fake: probabilities in [0, 1].
        weights: non-negative weight of each face; 1 by default.
        draws: number of draws of the labels.
        seed: seed of the draws.

    Returns:
        Mean and 95th percentile over the draws.
    """
    if not len(p_fake):
        return 0.0, 0.0
    generator = np.random.default_rng(seed)
    order = np.argsort(p_fake)
    ranked = p_fake[order]
    shares = np.full(len(ranked), 1 / len(ranked)) if weights is None else weights[order] / weights.sum()
    starts = np.unique(np.searchsorted(bin_index(ranked), np.arange(BINS)))
    starts = starts[starts < len(ranked)]
    found = [
        np.abs(np.add.reduceat(shares * (ranked - (generator.random(len(ranked)) < ranked)), starts)).sum()
        for _ in range(draws)
    ]
    return float(np.mean(found)), float(np.quantile(found, 0.95))


def bin_index(p_fake: Float[np.ndarray, " n"], bins: int = BINS) -> Integer[np.ndarray, " n"]:
    """Returns the bin of each score, of `bins` equal-width bins of [0, 1]; 1 belongs to the last."""
    return np.minimum((p_fake * bins).astype(np.int64), bins - 1)


def verdict_masks(p_fake: Float[np.ndarray, " n"], bands: VerdictBands) -> dict[Verdict, Bool[np.ndarray, " n"]]:
    """Returns the mask of the scores for each verdict, as `VerdictBands.decide` does, for all of them at once."""
    fake = p_fake >= bands.fake_from
    real = (p_fake < bands.real_below) & ~fake
    return {Verdict.REAL: real, Verdict.INCONCLUSIVE: ~real & ~fake, Verdict.FAKE: fake}


class ScoredFaces:
    """Scored faces, prepared once for many weightings of their groups."""

    def __init__(
        self,
        labels: Integer[np.ndarray, " n"],
        p_fake: Float[np.ndarray, " n"],
        logits: Float[np.ndarray, " n"],
        bands: VerdictBands | None,
    ) -> None:
        self.fake = np.asarray(labels) == Label.FAKE
        self.called = p_fake >= THRESHOLD
        self.verdicts = verdict_masks(p_fake, bands) if bands else {}
        fake, called = self.fake, self.called
        gap = p_fake - fake
        columns = {
            "tn": ~fake & ~called,
            "fp": ~fake & called,
            "fn": fake & ~called,
            "tp": fake & called,
            "log_loss": log_losses(fake.astype(np.int64), logits),
            "brier": gap**2,
        }
        for label, verdict, mask in self.classes():
            columns[f"{label} {verdict}"] = mask
        bins = bin_index(p_fake)
        # sum over bins of (share of faces) * |mean score - share of fakes| is the sum of |sum of gaps| over all faces.
        columns |= {f"bin {index}": np.where(bins == index, gap, 0.0) for index in range(BINS)}
        self.names = list(columns)
        self.table = np.stack([np.asarray(column, np.float64) for column in columns.values()], axis=1)
        # Ranked by logit, because probabilities near 1 are equal in the last digits.
        self.order = np.argsort(-logits, kind="stable")
        ranked = logits[self.order]
        # A threshold cannot separate equal scores: only the last of a run is a point of the ROC.
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def classes(self) -> list[tuple[Label, Verdict, Bool[np.ndarray, " n"]]]:
        """Lists each class with each verdict, and the mask of the faces with both."""
        return [
            (label, verdict, mask & (self.fake == bool(label)))
            for label in Label
            for verdict, mask in self.verdicts.items()
        ]

    def metrics(
        self, group_weights: Float[np.ndarray, "b g"], groups: Integer[np.ndarray, " n"]
    ) -> dict[str, Float[np.ndarray, " b"]]:
        """Computes metrics, and shares of verdicts as `class verdict`, for weights of the groups; NaN if undefined."""
        per_group = np.zeros((group_weights.shape[1], len(self.names)))
        np.add.at(per_group, groups, self.table)
        sums = dict(zip(self.names, (group_weights @ per_group).T, strict=True))
        tn, fp, fn, tp = (sums[name] for name in ("tn", "fp", "fn", "tp"))
        reals, fakes = tn + fp, fn + tp
        total = reals + fakes
        with np.errstate(divide="ignore", invalid="ignore"):
            both = np.where((reals > 0) & (fakes > 0), 1.0, np.nan)
            found = {
                "accuracy": (tp + tn) / total,
                "balanced_accuracy": (tp / fakes + tn / reals) / 2.0,
                "precision": tp / (tp + fp) * both,
                "recall": tp / fakes,
                "f1": 2.0 * tp / (2.0 * tp + fp + fn) * both,
                **self._ranking(group_weights[:, groups[self.order]]),
                "log_loss": sums["log_loss"] / total,
                "brier": sums["brier"] / total,
                "ece": sum(np.abs(sums[f"bin {index}"]) for index in range(BINS)) / total,
            }
            shares = {
                f"{label} {verdict}": sums[f"{label} {verdict}"] / (fakes if label else reals)
                for label, verdict, _ in self.classes()
            }
        return {name: found[name] for name in METRICS} | shares

    def _ranking(self, weights: Float[np.ndarray, "b n"]) -> dict[str, Float[np.ndarray, " b"]]:
        """Computes the metrics of the order alone, from weights in descending order of score."""

        def counts(part: np.ndarray) -> np.ndarray:
            # Starts with the threshold above all scores, where no face is called fake.
            return np.pad(np.cumsum(part, axis=1)[:, self.ends], ((0, 0), (1, 0)))

        tp = counts(weights * self.fake[self.order])
        fp = counts(weights * ~self.fake[self.order])
        fakes, reals = tp[:, -1], fp[:, -1]
        tpr, fpr = tp / fakes[:, None], fp / reals[:, None]
        gained = np.diff(tpr, axis=1)
        precision = tp[:, 1:] / (tp[:, 1:] + fp[:, 1:])
        defined = np.where((fakes > 0) & (reals > 0), 1.0, np.nan)
        row = np.arange(len(weights))
        # The crossing is between the first point with FPR >= FNR and the one before it.
        lead = fpr - (1.0 - tpr)
        after = np.maximum(np.argmax(lead >= 0, axis=1), 1)
        step = -lead[row, after - 1] / (lead[row, after] - lead[row, after - 1])
        found = {
            "auc": (np.diff(fpr, axis=1) * (tpr[:, 1:] + tpr[:, :-1])).sum(axis=1) / 2.0,
            # Before the first face with a positive weight, precision is 0 / 0 and nothing is gained.
            "ap": np.where(gained > 0, precision * gained, 0.0).sum(axis=1),
            "eer": fpr[row, after - 1] + step * (fpr[row, after] - fpr[row, after - 1]),
        }
        for percent in (1, 5):
            allowed = fp <= (percent / 100.0 + 1e-12) * reals[:, None]
            found[f"tpr_at_fpr_{percent}"] = tpr[row, np.maximum(allowed.sum(axis=1), 1) - 1]
        return {name: value * defined for name, value in found.items()}


def _inside(p_fake: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Returns the range of probabilities with a finite logit, as scikit-learn's log loss clips it."""
    smallest = float(np.finfo(p_fake.dtype).eps)
    return smallest, 1.0 - smallest


def _value(number: float) -> float | None:
    return number if np.isfinite(number) else None

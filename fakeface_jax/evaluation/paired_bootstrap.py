"""Measures several scores of the same faces on the same resampled groups, so that differences have intervals too.

Values and intervals are those of `metrics.evaluate`, with the same draws: figures that are in both are equal.

Example:
    >>> clean, blurred = paired_draws([scored, scored_blurred], "ciplab", resamples=1000, seed=0)
    >>> estimates(scored_blurred, blurred)["auc_change"]
    Estimate(value=-0.021, low=-0.034, high=-0.008)
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from fakeface_jax.decision import Calibration, VerdictBands
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.evaluation.metrics import Estimate, estimate
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.weighted_metrics import ScoredFaces

Draws = Mapping[str, Float[np.ndarray, " draws"]]
"""Maps the name of a figure to its value, followed by its value in every resample; NaN if undefined."""

_BLOCK = 2_000_000
"""Largest number of weights in memory while resampling, as in `metrics`."""

_BASES = {"real_": (0,), "fake_": (1,), "tpr_at_fpr": (1,), "accuracy": (0, 1), "recall": (1,)}
"""Labels of the faces that a plain share is a share of, by the prefix of its name."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Scored faces of a model, and how to interpret its logits.

    Attributes:
        name: name of the model in tables.
        predictions: its raw logits.
        calibration: turns logits into probabilities.
        bands: turn probabilities into verdicts; `fake_from` is the threshold in tables.
    """

    name: str
    predictions: Predictions
    calibration: Calibration
    bands: VerdictBands

    def select(self, mask: Bool[np.ndarray, " n"]) -> Scored:
        """Returns the faces where the mask is true."""
        return dataclasses.replace(self, predictions=self.predictions.select(mask))


def paired_draws(scored: Sequence[Scored], name: str, *, resamples: int, seed: int) -> list[Draws]:
    """Computes every figure of every scoring, as it is and under each resample of whole groups.

    Besides the keys of `weighted_metrics.METRICS`, which hold at P(fake) >= 0.5, there are the shares of verdicts
    (`real_fake` is the false-positive rate of the bands, `fake_fake` the share of fakes found, `real_inconclusive`),
    `balanced_at_bands` for the balanced accuracy with the threshold `fake_from`, and, from the second scoring on,
    `auc_change`: the difference of its AUC to that of the first.

    Args:
        scored: scorings of the same faces in the same order.
        name: seeds the draws together with `seed`: a source's draws do not depend on the other sources.
        resamples: number of resamples, at least 1.
        seed: seed of the resampling.

    Raises:
        DataError: there are no faces, or the faces differ.
        ConfigError: `resamples` is below 1.
    """
    faces = scored[0].predictions
    if len(faces) == 0:
        raise DataError(
            f"{scored[0].name}: there are no faces to measure{f' of {name}' if name else ''}; choose another split"
        )
    if any(not np.array_equal(one.predictions.ids, faces.ids) for one in scored):
        raise DataError(f"{', '.join(one.name for one in scored)}: scored different faces; score the same ones")
    if resamples < 1:
        raise ConfigError(f"intervals need at least one resample; got {resamples}")
    prepared = []
    for one in scored:
        logits = one.predictions.logits.astype(np.float64)
        p_fake = np.asarray(one.calibration(logits))
        calibrated = np.asarray(one.calibration.logit(logits))
        prepared.append(ScoredFaces(one.predictions.labels, p_fake, calibrated, one.bands))
    groups = np.unique(faces.groups, return_inverse=True)[1]
    count = int(groups.max()) + 1
    blocks = [[ready.metrics(np.ones((1, count)), groups)] for ready in prepared]
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    size = max(1, _BLOCK // len(groups))
    for start in range(0, resamples if count > 1 else 0, size):
        rows = min(size, resamples - start)
        drawn = random.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        weights = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, -1) * 1.0
        for parts, ready in zip(blocks, prepared, strict=True):
            parts.append(ready.metrics(weights, groups))
    found: list[Draws] = []
    for parts in blocks:
        draws = {key.replace(" ", "_"): np.concatenate([part[key] for part in parts]) for key in parts[0]}
        # At exactly 0 or 1 its interval would depend on the faces called fake, which differ between resamples.
        del draws["precision"]
        draws["balanced_at_bands"] = (1.0 - draws["real_fake"] + draws["fake_fake"]) / 2.0
        if found:
            draws["auc_change"] = draws["auc"] - found[0]["auc"]
        found.append(draws)
    return found


def estimates(scored: Scored, draws: Draws) -> dict[str, Estimate]:
    """Returns values with their 95 % intervals, by the rules of `metrics.evaluate`.

    Args:
        scored: the scoring from which `draws` were made.
        draws: one of the results of `paired_draws`.
    """
    faces = scored.predictions
    found = {}
    for key, values in draws.items():
        labels = next((labels for start, labels in _BASES.items() if key.startswith(start)), None)
        units = None if labels is None else len(np.unique(faces.groups[np.isin(faces.labels, labels)]))
        found[key] = estimate_of(values, key, units)
    return found


def estimate_of(values: Float[np.ndarray, " draws"], key: str = "", units: int | None = None) -> Estimate:
    """Returns a value with its interval.

    Args:
        values: the value, then those of the resamples, of which there are none if there are too few groups.
        key: name of the figure; the interval of ECE is special.
        units: number of groups behind a plain share; None for other figures.
    """
    return estimate(key, float(values[0]), values[1:] if len(values) > 1 else None, units)

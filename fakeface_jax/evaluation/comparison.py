"""Compares two models on the same faces: gain and loss per source, with intervals of the difference.

Both are drawn on the same resampled groups (`paired_bootstrap`), so that effects common to all faces of a draw cancel:
the interval of a difference is much narrower than the intervals of the two values suggest.

Example:
    >>> comparison = compare(read_report("runs/report-a"), read_report("runs/report-b"))
    >>> print(comparison.table())
    >>> comparison.losses(0.02)
    {'ciplab': Estimate(value=-0.05, low=-0.08, high=-0.01)}
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer

from fakeface_jax.decision import Calibration, VerdictBands
from fakeface_jax.errors import ConfigError, DataError, FakeFaceError
from fakeface_jax.evaluation.metrics import Estimate
from fakeface_jax.evaluation.paired_bootstrap import Scored, estimate_of, estimates, paired_draws
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.tables import UNKNOWN, ProtocolResult, Row, counts
from fakeface_jax.evaluation.weighted_metrics import THRESHOLD

FIGURES = {
    "auc": "AUC",
    "balanced_at_bands": "balanced accuracy at the threshold",
    "log_loss": "log loss",
    "real_fake": "reals called fake",
    "fake_fake": "fakes called fake",
}
"""Compared figures and their names in tables. The threshold is each model's own `fake_from`."""

LOWER_IS_BETTER = frozenset({"log_loss", "real_fake"})

OVERALL = "all sources"
"""Name of the row of all faces together, which the largest source dominates."""

_NO_BANDS = VerdictBands(real_below=THRESHOLD, fake_from=THRESHOLD)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models' results on the same faces.

    Attributes:
        result: a row per source and figure: old, new, and their difference (new - old) as `new_change`.
        only_old: faces that only the old model scored; they are not compared.
        only_new: faces that only the new model scored; they are not compared.
    """

    result: ProtocolResult
    only_old: int
    only_new: int

    def table(self) -> str:
        """Returns the comparison as a Markdown table."""
        return self.result.table()

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as JSON-able values, without NaN."""
        return {"only_old": self.only_old, "only_new": self.only_new, **self.result.to_dict()}

    def change(self, figure: str, source: str = OVERALL) -> Estimate:
        """Returns a difference, new - old.

        Args:
            figure: a key of `FIGURES`.
            source: name of a source, or `OVERALL`.

        Raises:
            ConfigError: the figure or the source does not exist.
        """
        for row in self.result.rows:
            if (row.names["source"], row.names["figure"]) == (source, FIGURES.get(figure)):
                return row.estimates["new_change"]
        known = ", ".join(dict.fromkeys(row.names["source"] for row in self.result.rows))
        raise ConfigError(f"no figure {figure!r} of {source!r}; use figures {', '.join(FIGURES)}; sources {known}")

    def losses(self, most: float) -> dict[str, Estimate]:
        """Returns sources, and all together, on which the new model is worse by more than `most`, with the change.

        The figure is AUC or, if a source has one class only, the share of its faces that are classified correctly at
        each model's threshold. The value decides and not its interval: a source with few faces can fail by chance, and
        a wide interval does not show that there was no loss.

        Args:
            most: allowed loss, in [0, 1].

        Returns:
            Changes with a sign such that negative is worse.

        Raises:
            ConfigError: `most` is outside [0, 1].
        """
        if not 0.0 <= most <= 1.0:
            raise ConfigError(f"the allowed loss must be between 0 and 1; got {most}")
        lost = {}
        for source in dict.fromkeys(row.names["source"] for row in self.result.rows):
            changes = [_gain(figure, self.change(figure, source)) for figure in ("auc", "fake_fake", "real_fake")]
            change = next((one for one in changes if one.value is not None), UNKNOWN)
            if change.value is not None and change.value < -most:
                lost[source] = change
        return lost


def compare(old: Scored, new: Scored, *, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compares two models on the faces that both scored, per source and overall.

    Args:
        old: the model to compare with; its groups and sources are used.
        new: the model that may replace it.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap; old and new are drawn on the same groups.

    Raises:
        DataError: an id stands for two faces, there is no common face, or labels or sources of a face differ.
    """
    rows_old, rows_new = _common(old, new)
    only_old, only_new = (len(one.predictions) - len(rows_old) for one in (old, new))
    pair = [
        dataclasses.replace(one, predictions=_taken(one.predictions, rows))
        for one, rows in ((old, rows_old), (new, rows_new))
    ]
    faces, other = (one.predictions for one in pair)
    for name in ("labels", "sources"):
        differ = getattr(faces, name) != getattr(other, name)
        if differ.any():
            first = str(faces.ids[np.flatnonzero(differ)[0]])
            raise DataError(
                f"{first}: {name} of {int(differ.sum())} faces differ between {old.name} and {new.name}; "
                "evaluate both on the same data"
            )
    rows: list[Row] = []
    parts: list[tuple[str, Bool[np.ndarray, " n"]]] = [
        (name, faces.sources == name) for name in np.unique(faces.sources).tolist()
    ]
    for source, mask in [*parts, (OVERALL, np.ones(len(faces), np.bool_))]:
        scored = [one.select(mask) for one in pair]
        # Seeded as in `metrics.evaluate`, so that values have the same intervals as in the reports.
        draws = paired_draws(scored, "" if source == OVERALL else source, resamples=resamples, seed=seed)
        shown = [estimates(part, one) for part, one in zip(scored, draws, strict=True)]
        rows += [
            Row(
                names={"source": source, "figure": name},
                counts=counts(scored[0]),
                estimates={
                    "old": shown[0][key],
                    "new": shown[1][key],
                    "new_change": estimate_of(draws[1][key] - draws[0][key]),
                },
            )
            for key, name in FIGURES.items()
        ]
    result = ProtocolResult(
        protocol="compare",
        title=f"{new.name} beside {old.name}",
        caption=_caption(old, new, len(faces), only_old, only_new),
        columns={"old": "old", "new": "new", "new_change": "new less old"},
        rows=tuple(rows),
    )
    return Comparison(result=result, only_old=only_old, only_new=only_new)


def read_report(directory: str | os.PathLike[str]) -> Scored:
    """Reads the predictions of a report directory, with the calibration and the bands of the report.

    For a model without bands the threshold is P(fake) = 0.5. The name is that of the model with the beginning of the
    bundle's hash.

    Raises:
        DataError: predictions.parquet or metrics.json is missing or damaged.
    """
    directory = Path(directory)
    path = directory / "metrics.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        calibration = Calibration(**document["calibration"])
        bands = VerdictBands(**document["bands"]) if document["bands"] else _NO_BANDS
        context = document["context"]
        name = f"{context.get('model', directory.name)} {str(context.get('bundle', ''))[:12]}".strip()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}; name a directory that fakeface evaluate wrote"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, FakeFaceError) as error:
        raise DataError(f"{path}: is not a report of fakeface evaluate, or is damaged; evaluate again") from error
    predictions = Predictions.load(directory / "predictions.parquet")
    return Scored(name=name, predictions=predictions, calibration=calibration, bands=bands)


def _common(old: Scored, new: Scored) -> tuple[Integer[np.ndarray, " n"], Integer[np.ndarray, " n"]]:
    """Returns the rows of the faces that both scored, in the order of the old ones."""
    for one in (old, new):
        ids, times = np.unique(one.predictions.ids, return_counts=True)
        if (times > 1).any():
            raise DataError(f"{one.name}: {ids[times > 1][0]} stands for several faces; evaluate again")
    places: Mapping[str, int] = {name: row for row, name in enumerate(new.predictions.ids.tolist())}
    rows = [(row, places[name]) for row, name in enumerate(old.predictions.ids.tolist()) if name in places]
    if not rows:
        raise DataError(f"{old.name} and {new.name} have no face in common; evaluate both on the same split")
    found = np.array(rows, np.int64)
    return found[:, 0], found[:, 1]


def _taken(predictions: Predictions, rows: Integer[np.ndarray, " n"]) -> Predictions:
    columns = {field.name: getattr(predictions, field.name)[rows] for field in dataclasses.fields(predictions)}
    return Predictions(**columns)


def _gain(figure: str, change: Estimate) -> Estimate:
    """Returns a change with a sign such that a gain is positive."""
    if change.value is None or figure not in LOWER_IS_BETTER:
        return change
    low, high = change.low, change.high
    return Estimate(value=-change.value, low=None if high is None else -high, high=None if low is None else -low)


def _caption(old: Scored, new: Scored, common: int, only_old: int, only_new: int) -> str:
    text = (
        f"Old: {old.name}, fake from P(fake) = {old.bands.fake_from:.4f}. New: {new.name}, fake from "
        f"{new.bands.fake_from:.4f}. {common} faces that both scored; differences are drawn on the same resampled "
        "groups. Of log loss and reals called fake less is better."
    )
    if only_old or only_new:
        text += f" Not compared: {only_old} faces that only the old one scored, {only_new} that only the new one did."
    return text

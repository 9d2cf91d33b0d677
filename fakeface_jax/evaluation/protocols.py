"""Protocols beyond the main table of test results: robustness, reals alone, face size, unseen methods and sources.

Every protocol returns a `ProtocolResult`: a title, a caption that describes the procedure, and rows of estimates with
95 % intervals by group (`paired_bootstrap`). The threshold is the one stored with the model, `fake_from` of its verdict
bands; nothing is chosen here.

Example:
    >>> model = Scorer(name="report-cnn", predict=..., calibration=spec.calibration, bands=spec.bands)
    >>> clean = [model.scored("test")]
    >>> print(face_size(clean).table())
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from fakeface_jax.decision import Calibration, VerdictBands
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.evaluation.batch_scoring import Transform, named
from fakeface_jax.evaluation.paired_bootstrap import Draws, Scored, estimate_of, paired_draws
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.robustness import GRID, Degradation
from fakeface_jax.evaluation.tables import ProtocolResult, Row, counts
from fakeface_jax.labels import Label

OVERALL = "all sources"
"""Name of the row of all faces together, which the largest source dominates."""

SIZE_EDGES = (64, 96, 128, 192)
"""Edges between the bins of face sizes, in pixels; a size at an edge belongs to the bin above it."""

_COLUMNS = {
    "auc": "AUC",
    "balanced_at_bands": "balanced accuracy at the threshold",
    "tpr_at_fpr_5": "TPR at 5 % FPR",
    "real_fake": "reals called fake",
    "fake_fake": "fakes called fake",
}

_ALL_REALS = "all test reals"

_OTHER_REALS = (
    "Reals of other sources also differ in framing, scale and file history, which can make a method look easier than "
    "it is."
)


@runtime_checkable
class Predict(Protocol):
    """Scores a split of a data set, or some of its samples, unchanged or degraded; arguments as for `predict`."""

    def __call__(  # noqa: D102
        self, split: str, *, keep: Bool[np.ndarray, " n"] | None = None, transform: Transform | None = None
    ) -> Predictions: ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
    """A scorer of faces: a trained model, or the spectrum baseline.

    Attributes:
        name: name in tables.
        predict: computes raw logits.
        calibration: turns logits into probabilities.
        bands: turn probabilities into verdicts.
        left_out: `source` or `source/method` that it was not trained on.
    """

    name: str
    predict: Predict
    calibration: Calibration
    bands: VerdictBands
    left_out: tuple[str, ...] = ()

    def scored(
        self, split: str, *, keep: Bool[np.ndarray, " n"] | None = None, transform: Transform | None = None
    ) -> Scored:
        """Scores a split."""
        return self.read(self.predict(split, keep=keep, transform=transform))

    def read(self, predictions: Predictions) -> Scored:
        """Combines predictions of this scorer with its calibration and bands."""
        return Scored(name=self.name, predictions=predictions, calibration=self.calibration, bands=self.bands)


def within(scored: Sequence[Scored], *, resamples: int = 1000, seed: int = 0) -> ProtocolResult:
    """Compares several scorers on the same faces with the last one, the baseline.

    Args:
        scored: scorings of the same faces.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
    """
    rows = []
    for source, mask in _sources(scored[0].predictions):
        parts = [one.select(mask) for one in scored]
        # The others are compared with the last one.
        found = paired_draws([parts[-1], *parts[:-1]], _seed_name(source), resamples=resamples, seed=seed)
        rows += [
            Row.of({"source": source, "model": part.name}, part, drawn)
            for part, drawn in zip(parts, [*found[1:], found[0]], strict=True)
        ]
    last = scored[-1].name
    return ProtocolResult(
        protocol="within",
        title=f"Beside {last}",
        caption=f"The same faces by each model; the AUC less that of {last}, drawn on the same resampled groups.",
        columns=_COLUMNS | {"auc_change": f"AUC less {last}"},
        rows=tuple(rows),
    )


def robustness(
    scorers: Sequence[Scorer],
    clean: Sequence[Scored],
    split: str,
    *,
    grid: Sequence[Degradation] = GRID,
    resamples: int = 1000,
    seed: int = 0,
) -> ProtocolResult:
    """Measures every degradation of the grid, per source and overall, and its cost in AUC.

    Args:
        scorers: score the faces again for every degradation.
        clean: their scores of the unchanged split, in the same order.
        split: split of the data set.
        grid: degradations, applied to all faces, real and fake alike.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
    """
    rows: dict[tuple[str, int], list[Row]] = {}
    for scorer, before in zip(scorers, clean, strict=True):
        after = [scorer.scored(split, transform=one.apply) for one in grid]
        for source, mask in _sources(before.predictions):
            parts = [one.select(mask) for one in (before, *after)]
            drawn = paired_draws(parts, _seed_name(source), resamples=resamples, seed=seed)
            for index, (part, one) in enumerate(zip(parts, drawn, strict=True)):
                name = grid[index - 1].name if index else "none"
                names = {"source": source, "degradation": name, "model": scorer.name}
                # The faces are the same in all rows of a source, and their number is in the main tables.
                row = dataclasses.replace(Row.of(names, part, one), counts={})
                rows.setdefault((source, index), []).append(row)
    # First one table of all sources, then one per source, with the scorers side by side.
    order = sorted(rows, key=lambda key: (key[0] != OVERALL, key))
    return ProtocolResult(
        protocol="robustness",
        title="Robustness",
        caption="Every face crop, real and fake alike, degraded before it is scored; calibration and threshold as "
        "shipped. JPEG: quality, by OpenCV; blur and noise: sigma in pixels and as a share of full range; resize: to "
        "so many pixels and back. The AUC less that of the undegraded crops is drawn on the same resampled groups.",
        columns=_COLUMNS | {"auc_change": "AUC less clean"},
        rows=tuple(row for key in order for row in rows[key]),
    )


def reals_only(clean: Sequence[Scored], *, resamples: int = 1000, seed: int = 0) -> ProtocolResult:
    """Measures how often real faces are called fake or inconclusive, per source: the errors that users meet first."""
    real = clean[0].predictions.labels == Label.REAL
    return _side_by_side(
        "reals-only",
        "Real faces alone",
        "Real faces of each source at the thresholds that ship with the model: the share called fake is the "
        "false-positive rate in use. It was set on the calibration split of all sources together, and differs between "
        "them.",
        {"real_fake": "called fake", "real_inconclusive": "inconclusive", "real_real": "called real"},
        [({"source": source}, mask & real, source) for source, mask in _sources(clean[0].predictions)],
        clean,
        resamples,
        seed,
    )


def face_size(clean: Sequence[Scored], *, resamples: int = 1000, seed: int = 0) -> ProtocolResult:
    """Measures results by the size of the face in the original picture, overall and per source."""
    faces = clean[0].predictions
    bins = {"unknown": np.isnan(faces.sizes)} if np.isnan(faces.sizes).any() else {}
    edges = (0.0, *SIZE_EDGES, np.inf)
    for low, high in itertools.pairwise(edges):
        name = f"< {high} px" if not low else f">= {low} px" if high == np.inf else f"{low} to {high} px"
        bins[name] = (faces.sizes >= low) & (faces.sizes < high)
    parts = [
        ({"source": source, "face size": name}, mask & inside, f"{source} {name}")
        for source, mask in _sources(faces)
        for name, inside in bins.items()
        # All bins overall, so that unmeasured ones are visible; the empty ones of a source add nothing.
        if source == OVERALL or (mask & inside).any()
    ]
    return _side_by_side(
        "face-size",
        "Face size",
        "By the longer side of the face's box in the picture as its source publishes it (of the whole picture in data "
        "sets of whole pictures). Size and source go together, so compare bins within a source. A bin without faces "
        "was not measured: the degradation `resize` says what small faces lose.",
        _COLUMNS,
        parts,
        clean,
        resamples,
        seed,
    )


def by_method(clean: Sequence[Scored], *, resamples: int = 1000, seed: int = 0) -> ProtocolResult:
    """Measures each method of making fakes against the real faces of all sources; also if a source has only fakes."""
    faces = clean[0].predictions
    reals, fakes = faces.labels == Label.REAL, faces.labels == Label.FAKE
    kinds = sorted(set(zip(faces.sources[fakes].tolist(), faces.methods[fakes].tolist(), strict=True)))
    parts = [
        (
            {"source": source, "method": method or "(not stated)"},
            reals | (fakes & (faces.sources == source) & (faces.methods == method)),
            f"{source}/{method} {_ALL_REALS}",
        )
        for source, method in kinds
    ]
    return _side_by_side(
        "by-method",
        "Kinds of fakes",
        f"Fakes of each kind against the real faces of all sources in the split. {_OTHER_REALS}",
        _COLUMNS,
        parts,
        clean,
        resamples,
        seed,
    )


def unseen_method(
    scorers: Sequence[Scorer],
    clean: Sequence[Scored],
    labelled: Mapping[str, Predictions],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> ProtocolResult:
    """Measures fakes of a kind that training left out, against real faces of the test split and of their own source.

    Args:
        scorers: scorers that were all trained without the first one's `left_out`.
        clean: their scores of the test split, in the same order.
        labelled: facts about the faces of every split, from `batch_scoring.labelled_faces`.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        ConfigError: nothing was left out, or a scorer left out less than the first.
        DataError: the data set has no fakes of that kind, or thresholds were chosen on them.
    """
    names = scorers[0].left_out
    if not names:
        raise ConfigError(
            f"{scorers[0].name} was trained on all sources; evaluate a run that was trained with --leave-out"
        )
    for scorer in scorers:
        if not set(names) <= set(scorer.left_out):
            raise ConfigError(
                f"{scorer.name} was trained on {', '.join(set(names) - set(scorer.left_out))}; leave it out"
            )
    rows: list[Row] = []
    for scorer, seen in zip(scorers, clean, strict=True):
        unseen = _unseen(scorer, labelled, names)
        fakes = unseen.select(unseen.labels == Label.FAKE)
        if not len(fakes):
            raise DataError(f"the data set has no fakes of {', '.join(names)}, which {scorer.name} left out")
        reals = seen.predictions.select(seen.predictions.labels == Label.REAL)
        for source, method in sorted(set(zip(fakes.sources.tolist(), fakes.methods.tolist(), strict=True))):
            mine = fakes.select((fakes.sources == source) & (fakes.methods == method))
            whole = source in names
            pool = unseen if whole else reals
            own = pool.select((pool.sources == source) & (pool.labels == Label.REAL))
            for against, negatives in ((_ALL_REALS, reals), (f"{source}'s own reals", own)):
                if not len(negatives):
                    continue
                part = scorer.read(Predictions.joined([mine, negatives]))
                (drawn,) = paired_draws([part], f"{source}/{method} {against}", resamples=resamples, seed=seed)
                cells = {"source": source, "method": method or "(not stated)", "against": against}
                rows.append(Row.of(cells | {"model": scorer.name}, part, drawn))
    return ProtocolResult(
        protocol="unseen-method",
        title="Unseen methods",
        caption=f"Fakes of {', '.join(names)}, which training left out: all of them, whatever their split, against "
        f"real faces of the test split, and of their own source where it has any that training has not seen. "
        f"{_OTHER_REALS}",
        columns=_COLUMNS,
        rows=tuple(rows),
    )


def leave_one_source_out(
    runs: Mapping[str, Sequence[Scorer]],
    reference: Sequence[Scored],
    labelled: Mapping[str, Predictions],
    split: str,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> ProtocolResult:
    """Measures each source by models that were trained on the others, and the mean over sources.

    Args:
        runs: for each source, scorers that were trained without it, in the order of `reference`.
        reference: scores of the split by models that were trained on these sources.
        labelled: facts about the faces of every split, from `batch_scoring.labelled_faces`.
        split: split of the data set; a source without faces in it is measured on all its faces, as no model saw them.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        DataError: there are no runs, a scorer was trained or calibrated on the source, or the data lack a source.
    """
    if not runs:
        raise DataError("leave-one-source-out has no runs; train one per source first")
    rows: list[Row] = []
    means: dict[str, list[tuple[Row, Draws]]] = {}
    for source, scorers in sorted(runs.items()):
        tested = bool((labelled[split].sources == source).any())
        splits = [split] if tested else list(labelled)
        for scorer, with_all in zip(scorers, reference, strict=True):
            if source not in scorer.left_out:
                raise DataError(f"{scorer.name}: was trained on {source}; train it with --leave-out {source}")
            part = scorer.read(_unseen(scorer, labelled, [source], splits=splits))
            parts = [part]
            if tested:
                parts.insert(0, with_all.select(with_all.predictions.sources == source))
            drawn = paired_draws(parts, source, resamples=resamples, seed=seed)[-1]
            names = {"left out": source, "model": with_all.name, "faces": split if tested else "all splits"}
            rows.append(Row.of(names, part, drawn))
            if tested and np.isfinite(drawn["auc"][0]):
                means.setdefault(with_all.name, []).append((rows[-1], drawn))
    for name, found in means.items():
        # Sources are drawn separately, so a mean of draws is a draw of the mean; a source of one group has no draws.
        draws = min(len(drawn["auc"]) for _, drawn in found)
        estimates = {
            key: estimate_of(np.mean([drawn[key][:draws] for _, drawn in found], axis=0))
            for key in ("auc", "auc_change")
        }
        summed = {key: sum(row.counts[key] for row, _ in found) for key in found[0][0].counts}
        cells = {"left out": f"mean of {len(found)}", "model": name, "faces": split}
        rows.append(Row(names=cells, counts=summed, estimates=estimates))
    return ProtocolResult(
        protocol="leave-one-source-out",
        title="Leave one source out",
        caption="Each source scored by a model that was trained, stopped and calibrated without it, with that model's "
        f"own threshold; the AUC less that of the model trained with it, on the same faces. The mean is over "
        f"sources with both classes in the {split} split, each counted once.",
        columns=_COLUMNS | {"auc_change": "AUC less trained with it"},
        rows=tuple(rows),
    )


def _side_by_side(
    protocol: str,
    title: str,
    caption: str,
    columns: Mapping[str, str],
    parts: Sequence[tuple[Mapping[str, str], Bool[np.ndarray, " n"], str]],
    clean: Sequence[Scored],
    resamples: int,
    seed: int,
) -> ProtocolResult:
    """Measures scorers side by side on parts of the faces: names of the row, mask, name of the draws."""
    rows = []
    for names, mask, drawn_as in parts:
        for scored in clean:
            part, cells = scored.select(mask), {**names, "model": scored.name}
            if mask.any():
                rows.append(Row.of(cells, part, paired_draws([part], drawn_as, resamples=resamples, seed=seed)[0]))
            else:
                rows.append(Row(names=cells, counts=counts(part), estimates={}))
    return ProtocolResult(protocol=protocol, title=title, caption=caption, columns=columns, rows=tuple(rows))


def _sources(faces: Predictions) -> list[tuple[str, Bool[np.ndarray, " n"]]]:
    """Lists all faces, then those of each source."""
    every = (OVERALL, np.ones(len(faces), np.bool_))
    return [every, *((name, faces.sources == name) for name in np.unique(faces.sources).tolist())]


def _seed_name(source: str) -> str:
    """Returns the name with which `metrics.evaluate` seeds the same rows."""
    return "" if source == OVERALL else source


def _unseen(
    scorer: Scorer, labelled: Mapping[str, Predictions], names: Sequence[str], *, splits: Sequence[str] | None = None
) -> Predictions:
    """Returns all faces with some names, of all splits or some, scored by a model that was trained on none of them.

    Raises:
        DataError: there are none, or the model's thresholds were chosen on them.
    """
    fitted_on = labelled.get(scorer.calibration.split)
    if fitted_on is not None and named(fitted_on, names).any() and scorer.calibration.samples == len(fitted_on):
        raise DataError(f"{scorer.name}: was calibrated on {', '.join(names)} too; train and calibrate it without")
    masks = {split: named(labelled[split], names) for split in splits or labelled}
    parts = [scorer.predict(split, keep=mask) for split, mask in masks.items() if mask.any()]
    if not parts:
        raise DataError(f"the data set has no faces of {', '.join(names)}, which {scorer.name} left out")
    return Predictions.joined(parts)

"""Evaluates a recipe on unseen data: every source of reals and every method of fakes is held out in turn.

For every source of fakes and every group of sources of reals, a head is fitted that saw neither: no face of these
sources, real or fake, none of a group that they share, and no fake of the same family of methods (`FAMILIES`) from
elsewhere. It scores both, so every AUC is between fakes of an unseen method and reals of an unseen source. Thresholds
are those that 2 % of the reals of *other* unseen sources reach, with sources weighted by the square root of their size;
their false alarms on this source show what a user's pictures would meet. One number chooses between recipes
(`LeaveSourceOut.objective`): the mean AUC over methods, minus half of the amount by which the worst source's false
alarms exceed the stated 2 %.

This module does not read the test split, and a validation split of the training sources is not used either: the
recipe that was best on known sources was worst on unseen ones.

Example:
    >>> result = leave_source_out(table, Recipe(table, config, load_bundle("lite0")), view="web")
    >>> print(result.methods.table(), result.objective)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from fakeface_jax.errors import DataError
from fakeface_jax.evaluation.metrics import Estimate
from fakeface_jax.evaluation.tables import ProtocolResult, Row
from fakeface_jax.features.table import FeatureTable
from fakeface_jax.labels import Label

FALSE_ALARMS = 0.02
"""Share of unseen reals for which thresholds are chosen."""

PENALTY = 0.5
"""Cost, in AUC, of the worst source's false alarms above that share."""

LEAST = 12
"""Number of faces that a source or a method needs for a row of its own."""

GROUPS = 4
"""Number of groups of real sources that are held out together, and so of heads for every source of fakes."""

FitAndScore = Callable[[Bool[np.ndarray, "k n"]], Float[np.ndarray, "k n"]]
"""(the rows on which each of k heads is fitted) -> logits of all rows by each head."""

SMALL = "clips of many small sources"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LeaveSourceOut:
    """Result of the protocol.

    Attributes:
        methods: a row for every method of fakes.
        sources: a row for every source of reals.
        objective: the number by which recipes are chosen.
        logits: logit of every scored row, by heads that saw neither its source nor its method; otherwise NaN.
        mean_auc: mean AUC over the methods.
        worst_false_alarms: false alarms of the source that has the most.
    """

    methods: ProtocolResult
    sources: ProtocolResult
    objective: float
    logits: Float[np.ndarray, " n"]
    mean_auc: float
    worst_false_alarms: float


def merged_sources(table: FeatureTable, *, view: str = "web") -> np.ndarray:
    """Returns names of sources; those with too few faces of a class in a view share one and are held out together."""
    names = np.asarray(table.sources, dtype=object).copy()
    real, shown = table.labels == Label.REAL, (table.views == view) & (table.aligned == "")
    for name in np.unique(table.sources):
        mine = table.sources == name
        if max((mine & real & shown).sum(), (mine & ~real & shown).sum()) < LEAST:
            names[mine] = SMALL
    return names.astype(str)


FAMILIES = {
    "stylegan": "stylegan",
    "gpt-4o": "gpt-4o",
    "wav2lip": "wav2lip",
    "faceswap": "face swap",
    "deepfakes": "face swap",
    "fomm": "fomm",
}
"""Words in the names of methods and the families that they mean: methods of one family are held out together."""


def method_families(methods: np.ndarray) -> np.ndarray:
    """Returns each method's family, or its own name if it belongs to none."""
    names = [str(method).lower() for method in methods.tolist()]
    return np.array([next((FAMILIES[word] for word in FAMILIES if word in name), name) for name in names])


def leave_source_out(
    table: FeatureTable,
    fit_and_score: FitAndScore,
    *,
    view: str = "web",
    without: Sequence[str] = (),
    resamples: int = 200,
    seed: int = 0,
) -> LeaveSourceOut:
    """Runs the protocol.

    Args:
        table: development data.
        fit_and_score: the recipe.
        view: view of the faces that are scored.
        without: sources that are fitted on but not scored, because a part of the recipe has seen them in every fold.
        resamples: number of bootstrap resamples, by groups.
        seed: seed of the bootstrap.

    Raises:
        DataError: there are too few sources.
    """
    sources, families = merged_sources(table, view=view), method_families(table.methods)
    scored = (table.views == view) & (table.aligned == "") & ~np.isin(table.sources, list(without))
    real_sources = _names_of(sources, scored & (table.labels == Label.REAL))
    fake_sources = _names_of(sources, scored & (table.labels == Label.FAKE))
    if len(real_sources) < 2 * GROUPS or not fake_sources:
        raise DataError(f"leaving sources out needs {2 * GROUPS} sources of reals with {LEAST} faces each; add sources")
    parts = [real_sources[start::GROUPS] for start in range(GROUPS)]
    folds = []
    for source in fake_sources:
        fakes = scored & (sources == source) & (table.labels == Label.FAKE)
        same_method = np.isin(families, sorted(set(families[fakes].tolist()) - {""})) & (table.labels == Label.FAKE)
        for part in parts:
            reals = scored & np.isin(sources, part) & (table.labels == Label.REAL)
            # Groups may span sources, such as the same original video in two data sets.
            same_group = np.isin(table.groups, np.unique(table.groups[fakes | reals]))
            folds.append((source, fakes, reals, ~np.isin(sources, [*part, source]) & ~same_method & ~same_group))
    logits = np.asarray(fit_and_score(np.stack([fitted for *_, fitted in folds])), np.float64)
    found: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]] = {}
    for (source, fakes, reals, _), own in zip(folds, logits, strict=True):
        found.setdefault(source, []).append((np.flatnonzero(fakes), own[fakes], np.flatnonzero(reals), own[reals]))
    return _summary(table, sources, found, resamples, seed)


def _names_of(sources: np.ndarray, rows: Bool[np.ndarray, " n"]) -> list[str]:
    names, counts = np.unique(sources[rows], return_counts=True)
    return [str(name) for name, count in zip(names, counts, strict=True) if count >= LEAST]


def _summary(
    table: FeatureTable,
    sources: np.ndarray,
    found: Mapping[str, Sequence[tuple[np.ndarray, ...]]],
    resamples: int,
    seed: int,
) -> LeaveSourceOut:
    random = np.random.default_rng(seed)
    logits = np.full(len(table), np.nan)
    method_rows, aucs = [], []
    alarms: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for source, folds in found.items():
        thresholds = [
            _threshold([f for i, f in enumerate(folds) if i != index], sources) for index in range(len(folds))
        ]
        for (fakes, fake_logits, reals, real_logits), threshold in zip(folds, thresholds, strict=True):
            # One head's logit for each face, as in use: a mean over folds would spread less.
            for rows, own in ((fakes, fake_logits), (reals, real_logits)):
                fresh = np.isnan(logits[rows])
                logits[rows[fresh]] = own[fresh]
            for name in np.unique(sources[reals]):
                mine = sources[reals] == name
                alarms.setdefault(str(name), []).append((reals[mine], real_logits[mine] >= threshold))
        for method in np.unique(table.methods[folds[0][0]]):
            kept = table.methods[folds[0][0]] == method
            if kept.sum() < LEAST:
                continue
            auc = _mean_auc(table, sources, folds, kept, random, resamples)
            caught = np.mean([fold[1][kept] >= limit for fold, limit in zip(folds, thresholds, strict=True)], axis=0)
            aucs.append(auc)
            names = {"method": str(method) or "not stated", "source": source}
            counts = {"fakes": int(kept.sum()), "groups": len(np.unique(table.groups[folds[0][0]][kept]))}
            shown = {
                "auc": auc,
                "found": _share(caught, table.groups[folds[0][0]][kept], random, resamples),
            }
            method_rows.append(Row(names=names, counts=counts, estimates=shown))
    source_rows, worst = [], 0.0
    for name, several in sorted(alarms.items()):
        rows = several[0][0]
        share = np.mean([hits for _, hits in several], axis=0)
        worst = max(worst, float(share.mean()))
        estimate = _share(share, table.groups[rows], random, resamples)
        counts = {"reals": len(rows), "groups": len(np.unique(table.groups[rows]))}
        source_rows.append(Row(names={"source": name}, counts=counts, estimates={"alarms": estimate}))
    if not aucs:
        raise DataError(f"no method of fakes has {LEAST} faces; add fakes")
    mean_auc = float(np.mean([auc.value for auc in aucs]))
    return LeaveSourceOut(
        methods=ProtocolResult(
            protocol="leave-source-out",
            title="Methods of fakes that were left out",
            caption="Each by heads that saw neither the method nor its source, against reals of sources that they did "
            "not see either: the AUC is the mean over these sources.",
            columns={"auc": "AUC", "found": f"called fake where {FALSE_ALARMS:.0%} of other unseen reals are"},
            rows=tuple(method_rows),
        ),
        sources=ProtocolResult(
            protocol="leave-source-out",
            title="Sources of reals that were left out",
            caption=f"Thresholds are those that {FALSE_ALARMS:.0%} of the reals of other unseen sources reach.",
            columns={"alarms": "called fake"},
            rows=tuple(source_rows),
        ),
        objective=mean_auc - PENALTY * max(0.0, worst - FALSE_ALARMS),
        logits=logits,
        mean_auc=mean_auc,
        worst_false_alarms=worst,
    )


def _threshold(folds: Sequence[tuple[np.ndarray, ...]], sources: np.ndarray) -> float:
    """Returns the logit that `FALSE_ALARMS` of these reals reach, sources weighted by the square root of their size."""
    rows = np.concatenate([fold[2] for fold in folds])
    logits = np.concatenate([fold[3] for fold in folds])
    _, index, counts = np.unique(sources[rows], return_inverse=True, return_counts=True)
    weights = counts[index] ** -0.5
    order = np.argsort(logits)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(logits[order][min(int(np.searchsorted(reached, 1 - FALSE_ALARMS)), len(order) - 1)])


def _mean_auc(
    table: FeatureTable,
    sources: np.ndarray,
    folds: Sequence[tuple[np.ndarray, ...]],
    kept: Bool[np.ndarray, " m"],
    random: np.random.Generator,
    resamples: int,
) -> Estimate:
    """Computes means over the sources of reals, each scored by the head that did not see it."""
    pairs = []
    for fakes, fake_logits, reals, real_logits in folds:
        for name in np.unique(sources[reals]):
            mine = sources[reals] == name
            pairs.append((fakes[kept], fake_logits[kept], reals[mine], real_logits[mine]))

    def drawn(rows: np.ndarray) -> np.ndarray:
        groups, index = np.unique(table.groups[rows], return_inverse=True)
        return np.bincount(random.integers(0, len(groups), len(groups)), minlength=len(groups))[index].astype(float)

    value = float(np.mean([_auc(f, np.ones(len(f)), r, np.ones(len(r))) for _, f, _, r in pairs]))
    draws = []
    for _ in range(resamples):
        fake_weights = drawn(pairs[0][0])
        draws.append(np.mean([_auc(f, fake_weights, r, drawn(rows)) for _, f, rows, r in pairs]))
    low, high = np.nanquantile(draws, (0.025, 0.975)) if draws else (None, None)
    return Estimate(value=value, low=None if low is None else float(low), high=None if high is None else float(high))


def _auc(fakes: np.ndarray, fake_weights: np.ndarray, reals: np.ndarray, real_weights: np.ndarray) -> float:
    """Computes the weighted share of pairs in the right order; ties count half."""
    order = np.argsort(reals)
    below = np.concatenate([[0.0], np.cumsum(real_weights[order])])
    left, right = np.searchsorted(reals[order], fakes, "left"), np.searchsorted(reals[order], fakes, "right")
    total = fake_weights.sum() * below[-1]
    return float(fake_weights @ (below[left] + below[right]) / 2 / total) if total else float("nan")


def _share(hits: np.ndarray, groups: np.ndarray, random: np.random.Generator, resamples: int) -> Estimate:
    """Computes a mean and its interval by groups."""
    names, index = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(index, hits), np.bincount(index)
    if len(names) < 2 or not resamples:
        return Estimate(value=float(hits.mean()), low=None, high=None)
    drawn = random.integers(0, len(names), (resamples, len(names)))
    shares = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return Estimate(value=float(hits.mean()), low=float(low), high=float(high))

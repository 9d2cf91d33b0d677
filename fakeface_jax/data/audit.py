"""Measures what gives a label away besides the face.

A detector trained on real JPEGs and fake PNGs learns the file format. The audit measures, per source, how well the
label can be predicted from facts about the files alone, and lists data that no training should accept: the same picture
under both labels, and copies across published splits. `fakeface data audit` exits with 1 if a source exceeds a limit.

Example:
    >>> findings = audit(load_manifest("manifest.parquet"))
    >>> findings.passed
    False
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from fakeface_jax.data.duplicates import near_pairs
from fakeface_jax.data.manifest import CONFLICT, Manifest, Row
from fakeface_jax.errors import DataError
from fakeface_jax.labels import Label

MAX_AUC = 0.70
"""Default limit of a source's AUC when the label is predicted from file metadata alone."""

MIN_PER_CLASS = 10
"""Pictures of each class that a source needs for an AUC: with fewer it would be noise."""

FOLDS = 5
"""Folds of the cross-validation, and the smallest number of groups of a class."""

TREES = 100
"""Trees of the forest that predicts labels from facts about files."""

FACTS = ("container", "size", "bytes", "jpeg_tables", "mode")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFindings:
    """The findings for one source.

    Attributes:
        source: name of the source.
        real: number of readable real pictures.
        fake: number of readable fake pictures.
        auc: AUC, in [0, 1], of the label predicted from all facts together, cross-validated by group; None if a class
            is missing or too small.
        fact_auc: the same for each fact alone: `container`, `size`, `bytes` (per pixel), `jpeg_tables`, `mode`.
        copies: pictures with the same bytes as another picture of the merge.
        near_copies: pictures that nearly equal a picture of another source.
        label_conflicts: pictures whose bytes appear under both labels.
        split_conflicts: pictures whose bytes also appear in another published split.
        problems: descriptions of what exceeds a limit.
    """

    source: str
    real: int
    fake: int
    auc: float | None
    fact_auc: dict[str, float | None]
    copies: int
    near_copies: int
    label_conflicts: int
    split_conflicts: int
    problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """The findings for all sources, and the limit that was applied."""

    sources: tuple[SourceFindings, ...]
    max_auc: float

    @property
    def passed(self) -> bool:
        """True if no source has a problem."""
        return not any(source.problems for source in self.sources)

    def table(self) -> str:
        """Returns a text with one line per source, then the problems."""
        head = f"{'source':<16}{'real':>8}{'fake':>8}{'AUC':>8}" + "".join(f"{fact:>13}" for fact in FACTS)
        head += f"{'copies':>9}{'near':>7}{'labels':>8}{'splits':>8}"
        lines = ["metadata-only AUC (0.5: the files give nothing away), and duplicates", head, "-" * len(head)]
        for one in self.sources:
            line = f"{one.source:<16}{one.real:>8,}{one.fake:>8,}{_number(one.auc):>8}"
            line += "".join(f"{_number(one.fact_auc[fact]):>13}" for fact in FACTS)
            line += f"{one.copies:>9,}{one.near_copies:>7,}{one.label_conflicts:>8,}{one.split_conflicts:>8,}"
            lines.append(line)
        for one in self.sources:
            lines += [f"PROBLEM {one.source}: {problem}" for problem in one.problems]
        lines.append("passed" if self.passed else f"failed: limit of the metadata-only AUC is {self.max_auc:.2f}")
        return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def audit(manifest: Manifest, *, max_auc: float = MAX_AUC, sources: Sequence[str] = ()) -> Findings:
    """Audits the readable pictures of a manifest.

    Args:
        manifest: the merged data.
        max_auc: highest metadata-only AUC that a source may have.
        sources: names of the sources to audit; all if empty. Duplicates are searched in all sources in any case.

    Raises:
        DataError: a source is not in the manifest, or no picture is readable.
    """
    rows = [row for row in manifest.rows if row.facts.sha256]
    if not rows:
        raise DataError("the manifest contains no readable picture, so there is nothing to audit; merge other sources")
    known = list(dict.fromkeys(row.sample.source for row in rows))
    if set(sources) - set(known):
        raise DataError(f"no such source: {', '.join(sorted(set(sources) - set(known)))}; use {', '.join(known)}")
    marks = _duplicate_marks(rows)
    found = []
    for source in known:
        if not sources or source in sources:
            indices = [index for index, row in enumerate(rows) if row.sample.source == source]
            found.append(_audit_source(source, [rows[i] for i in indices], [marks[i] for i in indices], max_auc))
    return Findings(sources=tuple(found), max_auc=max_auc)


def _audit_source(source: str, rows: list[Row], marks: list[set[str]], max_auc: float) -> SourceFindings:
    labels = np.array([int(row.sample.label) for row in rows])
    groups = np.unique([row.group for row in rows], return_inverse=True)[1]
    facts = _facts(rows)
    fact_auc = {name: _cross_validated_auc(columns, labels, groups) for name, columns in facts.items()}
    auc = _cross_validated_auc(np.concatenate(list(facts.values()), axis=1), labels, groups)
    counts = collections.Counter(mark for marked in marks for mark in marked)
    problems = []
    # With few samples a single fact can give away more than all facts together.
    strongest = max(((value, name) for name, value in fact_auc.items() if value is not None), default=None)
    if auc is not None and strongest is not None:
        if max(auc, strongest[0]) > max_auc:
            problems.append(
                f"the files alone tell real from fake (AUC {max(auc, strongest[0]):.3f}, most by {strongest[1]}); "
                "re-encode all classes alike, or exclude the source"
            )
    elif Label.REAL in labels and Label.FAKE in labels:
        problems.append(
            f"fewer than {MIN_PER_CLASS} pictures or {FOLDS} groups of a class: too few to audit; add pictures, or "
            "exclude the source"
        )
    if counts["label"]:
        problems.append(f"{counts['label']} pictures appear under both labels")
    if counts["split"]:
        problems.append(f"{counts['split']} pictures have a copy in another published split")
    if counts["near"]:
        problems.append(f"{counts['near']} pictures nearly equal pictures of a source listed before")
    return SourceFindings(
        source=source,
        real=int((labels == Label.REAL).sum()),
        fake=int((labels == Label.FAKE).sum()),
        auc=auc,
        fact_auc=fact_auc,
        copies=counts["copy"],
        near_copies=counts["near"],
        label_conflicts=counts["label"],
        split_conflicts=counts["split"],
        problems=tuple(problems),
    )


def _duplicate_marks(rows: list[Row]) -> list[set[str]]:
    """Returns, for each row, the kinds of duplicate that it is: `copy`, `label`, `split`, `near`."""
    marks: list[set[str]] = [set() for _ in rows]
    same: dict[str, list[int]] = collections.defaultdict(list)
    for index, row in enumerate(rows):
        same[row.facts.sha256].append(index)
        if row.left_out == CONFLICT:
            marks[index].add("label")
    for indices in same.values():
        if len(indices) > 1:
            published = {rows[index].sample.official_split for index in indices} - {""}
            for index in indices:
                marks[index].add("copy")
                if len(published) > 1 and rows[index].sample.official_split:
                    marks[index].add("split")
    hashes = np.stack([np.frombuffer(bytes.fromhex(row.facts.phash), np.uint8) for row in rows])
    for a, b in near_pairs(hashes):
        if rows[a].sample.source != rows[b].sample.source and rows[a].facts.sha256 != rows[b].facts.sha256:
            # Only the later source is to blame: the earlier one was there first.
            marks[b].add("near")
    return marks


def _facts(rows: list[Row]) -> dict[str, Float64[np.ndarray, "n _"]]:
    """Returns each fact as columns of numbers."""
    pixels = np.array([row.facts.width * row.facts.height for row in rows], np.float64)
    size = np.array([row.facts.bytes for row in rows], np.float64)
    return {
        "container": _one_hot([row.facts.container for row in rows]),
        "size": np.array([(row.facts.width, row.facts.height) for row in rows], np.float64),
        "bytes": (size / pixels)[:, None],
        "jpeg_tables": _one_hot([row.facts.jpeg_tables for row in rows]),
        "mode": _one_hot([row.facts.mode for row in rows]),
    }


def _one_hot(values: list[str]) -> Float64[np.ndarray, "n _"]:
    common = [value for value, _ in collections.Counter(values).most_common(20)]
    return np.array([[value == one for one in common] for value in values], np.float64)


def _cross_validated_auc(
    columns: Float64[np.ndarray, "n _"], labels: Int64[np.ndarray, " n"], groups: Int64[np.ndarray, " n"]
) -> float | None:
    """Computes the AUC of out-of-fold predictions of a random forest; groups stay together.

    Returns None if a class has too few pictures, or too few groups for every fold to contain one.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    if min(np.bincount(labels, minlength=2)) < MIN_PER_CLASS:
        return None
    if min(len(np.unique(groups[labels == label])) for label in Label) < FOLDS:
        return None
    columns = columns[:, (columns != columns[:1]).any(axis=0)]
    if not columns.shape[1]:
        # A fact that is the same in all files tells nothing.
        return 0.5
    predictions = np.zeros(len(labels))
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(columns, labels, groups):
        model: Any = RandomForestClassifier(TREES, min_samples_leaf=2, random_state=0, n_jobs=1)
        model.fit(columns[train], labels[train])
        # A fold may lack a class if one group contains most of it: the forest then knows only the other class.
        fake = model.classes_ == Label.FAKE
        predictions[test] = model.predict_proba(columns[test])[:, fake].sum(axis=1)
    return float(roc_auc_score(labels, predictions))

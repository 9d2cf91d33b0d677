"""Writes an evaluation to disk, for people and programs: report.html, report.md, metrics.json and the figures.

Both reports are made from the same chapters, so that they cannot differ.

Example:
    >>> write_report(evaluation, "runs/report/test", "Report CNN on the test split", {"bundle": bundle.id})
    {'report': PosixPath('runs/report/test/report.md'), ...}
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.atomic_files import make_directory, whole_file
from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.evaluation.calibration import balanced_weights
from fakeface_jax.evaluation.evaluation_page import Chapter, Drawing, FaceCard, Faces, html_page
from fakeface_jax.evaluation.metrics import Estimate, Evaluation, Measured
from fakeface_jax.evaluation.plots import plot_confusion, plot_det, plot_reliability, plot_roc, plot_score_histograms
from fakeface_jax.evaluation.tables import ProtocolResult
from fakeface_jax.evaluation.weighted_metrics import BINS, METRICS, THRESHOLD, ece_by_chance, weighted_metrics
from fakeface_jax.labels import Label, Verdict

TABLE_METRICS = ("accuracy", "balanced_accuracy", "auc", "ap", "eer", "tpr_at_fpr_5", "ece")
"""Metrics in the short table of a model card."""

Mistakes = Callable[[str], UInt8[np.ndarray, "h w 3"] | None]
"""Maps a face's id to its crop, RGB; None if there is none."""

WORST = 8
"""Mistakes shown per source."""

_FIGURES = {
    "roc": (plot_roc, "ROC per source", ("auc",)),
    "det": (plot_det, "Both error rates per source, on axes where normally distributed scores are lines", ("eer",)),
    "reliability": (
        plot_reliability,
        "Reliability before and after calibration, and the number of faces per bin",
        ("ece",),
    ),
    "confusion": (plot_confusion, "Confusion matrices, shaded by the share of the true class", ("balanced_accuracy",)),
    "scores": (plot_score_histograms, "Scores by class and source, real blue and fake hatched orange", ("log_loss",)),
}
"""The function, the caption and, for the description in words, the metrics of each figure."""

_OVERALL = "all sources"


def write_report(
    evaluation: Evaluation,
    directory: str | os.PathLike[str],
    title: str,
    context: Mapping[str, Any],
    *,
    sections: Sequence[ProtocolResult] = (),
    mistakes: Mistakes | None = None,
) -> dict[str, Path]:
    """Writes report.html, report.md, metrics.json and the figures; each completely or not at all, and report.md last.

    The same evaluation gives the same files.

    Args:
        evaluation: the measured results.
        directory: created if it is missing; files of an earlier report in it are replaced.
        title: heading of the report.
        context: what was measured: model, hash, split, command; JSON-able, shown as given.
        sections: results of the protocols, in this order.
        mistakes: returns the pictures of the worst mistakes for report.html, which then warns that the data sets'
            licences may forbid sharing it; by default only the names of the faces are shown.

    Returns:
        Paths by `report`, `html`, `metrics`, `roc`, `det`, `reliability`, `confusion` and `scores`.

    Raises:
        DataError: the context cannot be represented in JSON.
        OpenError: the directory cannot be written.
    """
    directory = Path(directory)
    measured = {**evaluation.to_dict(), "protocols": [section.to_dict() for section in sections]}
    try:
        document = json.dumps(
            {"title": title, "context": dict(context), **measured}, indent=2, ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{directory}: the report's context is not JSON: {error}; use only text and finite numbers"
        ) from error
    paths = {"report": directory / "report.md", "html": directory / "report.html"}
    paths |= {"metrics": directory / "metrics.json"} | {name: directory / f"{name}.png" for name in _FIGURES}
    make_directory(directory)
    drawings = {}
    for name, (plot, caption, metrics) in _FIGURES.items():
        plot(evaluation, paths[name])
        alt = _alternative(evaluation, caption, metrics)
        drawings[name] = Drawing(name=name, png=paths[name].read_bytes(), caption=caption, alt=alt)
    facts = {key: _plain(value) for key, value in context.items()} | {"faces": _faces(evaluation)}
    chapters = _chapters(evaluation, drawings, sections, mistakes)
    texts = {"metrics": document + "\n", "html": html_page(title, facts, chapters)}
    texts["report"] = _markdown(title, facts, chapters)
    for name, text in texts.items():
        with whole_file(paths[name]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths


def worst_mistakes(evaluation: Evaluation, count: int = WORST) -> dict[str, tuple[FaceCard, ...]]:
    """Returns, per source that has any, the faces on the wrong side of P(fake) = 0.5, the most confident first.

    Args:
        evaluation: the measured results.
        count: largest number of faces per source.
    """
    predictions = evaluation.predictions
    logits = np.asarray(evaluation.calibration.logit(predictions.logits.astype(np.float64)))
    p_fake = np.asarray(evaluation.calibration(predictions.logits.astype(np.float64)))
    wrong = (p_fake >= THRESHOLD) != (predictions.labels == Label.FAKE)
    found = {}
    for source in evaluation.sources:
        mine = np.flatnonzero(wrong & (predictions.sources == source))
        # By logit, because probabilities near 0 and 1 are almost equal; ties by name, so that the order is always the
        # same.
        order = sorted(mine.tolist(), key=lambda row: (-abs(logits[row]), str(predictions.ids[row])))
        if order:
            found[source] = tuple(
                FaceCard(
                    id=str(predictions.ids[row]),
                    label=Label(int(predictions.labels[row])),
                    method=str(predictions.methods[row]),
                    p_fake=float(p_fake[row]),
                )
                for row in order[:count]
            )
    return found


def markdown_table(evaluation: Evaluation, metrics: Sequence[str] = TABLE_METRICS) -> str:
    """Returns a table with a row per source and one for all faces, each metric as `value [low, high]`, or a dash.

    Args:
        metrics: keys of `METRICS`, in the order of the columns.

    Raises:
        ConfigError: a metric is unknown.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ConfigError(f"unknown metrics {', '.join(unknown)}; use {', '.join(METRICS)}")
    rows = [
        [name, str(part.reals), str(part.fakes), str(part.groups), *(_text(part.metrics[key]) for key in metrics)]
        for name, part in _rows(evaluation)
    ]
    return _table(["source", "reals", "fakes", "groups", *(METRICS[key] for key in metrics)], rows)


def verdict_table(evaluation: Evaluation) -> str:
    """Returns a table of the verdicts per source and class, as `count, share [low, high]`; empty without bands."""
    rows = [
        [name, f"{label} ({part.fakes if label else part.reals})"]
        + [
            f"{shares[verdict].count}, {_text(shares[verdict].share)}"
            for verdict in (Verdict.REAL, Verdict.INCONCLUSIVE, Verdict.FAKE)
        ]
        for name, part in _rows(evaluation)
        for label in Label
        if part.verdicts and (shares := part.verdicts.get(str(label)))
    ]
    return _table(["source", "class", "real", "inconclusive", "fake"], rows) if rows else ""


def confusion_table(evaluation: Evaluation) -> str:
    """Returns a table of the counts at P(fake) >= 0.5, per source."""
    rows = []
    for name, part in _rows(evaluation):
        counts = part.confusion
        cells = (counts.true_negatives, counts.false_positives, counts.false_negatives, counts.true_positives)
        rows.append([name, *map(str, cells)])
    header = ["source", "real called real", "real called fake", "fake called real", "fake called fake"]
    return _table(header, rows)


def _chapters(
    evaluation: Evaluation,
    drawings: Mapping[str, Drawing],
    sections: Sequence[ProtocolResult],
    mistakes: Mistakes | None,
) -> list[Chapter]:
    accuracy_like = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")
    ranking = ("auc", "ap", "eer", "tpr_at_fpr_1", "tpr_at_fpr_5")
    probability = ("log_loss", "brier", "ece")
    legend = (
        "Fake is the positive class. Square brackets are 95 % intervals. A dash means that the faces cannot tell: most "
        "metrics need both classes, intervals need several groups."
    )
    ranks = "TPR at an FPR is that of the best threshold on these very faces whose FPR does not exceed it."
    p_fake = np.asarray(evaluation.calibration(evaluation.predictions.logits.astype(np.float64)))
    mean, high = ece_by_chance(p_fake)
    weights = balanced_weights(evaluation.predictions.labels, evaluation.predictions.sources)
    alike = weighted_metrics(evaluation.predictions.labels, p_fake, weights[None])["ece"][0]
    scores = (
        f"Log loss in nats. ECE in {BINS} equal-width bins of P(fake); few faces make it larger than it is: of all "
        f"faces here, scores that are exactly right would have {mean:.3f}, and in 5 % of cases more than {high:.3f}. "
        "With both classes and, within them, every source counting alike, as `fakeface train` fits probabilities, it "
        f"is {alike:.3f}, where scores that are exactly right would have "
        f"{ece_by_chance(p_fake, weights=weights)[0]:.3f}. Of a source with one class all three say only how sure the "
        "scores are."
    )
    intervals = (
        f"Percentiles of {evaluation.resamples} bootstrap resamples of whole groups (seed {evaluation.seed}), as faces "
        "of one group (one video, near-duplicates) are not independent. A share of exactly 0 or 1 has the "
        "Clopper-Pearson interval with one sample per group instead; the interval of ECE is moved by the resamples' "
        "mean excess. An AUC of 1.000 without width means that no resample had an error, not that there are none. "
        "Intervals cover the choice of faces from these sources, not sources that were never seen."
    )
    at_threshold = (legend, markdown_table(evaluation, accuracy_like))
    order = (markdown_table(evaluation, ranking), ranks, drawings["roc"], drawings["det"])
    as_probabilities = (markdown_table(evaluation, probability), scores, drawings["reliability"])
    return [
        Chapter(title=f"Per source, at P(fake) ≥ {THRESHOLD}", blocks=at_threshold),
        Chapter(title="The order of scores, whatever the threshold", blocks=order),
        Chapter(title="Scores as probabilities", blocks=as_probabilities),
        Chapter(title="Confusion matrix", blocks=(confusion_table(evaluation), drawings["confusion"])),
        Chapter(title="Verdicts", blocks=(*_verdict_sections(evaluation), drawings["scores"])),
        *(Chapter(title=section.title, blocks=(section.caption, section.table())) for section in sections),
        Chapter(title="Worst mistakes", blocks=_mistakes(evaluation, mistakes)),
        Chapter(title="How the intervals were made", blocks=(intervals,)),
    ]


def _mistakes(evaluation: Evaluation, pictures: Mistakes | None) -> tuple[str | Faces, ...]:
    worst = worst_mistakes(evaluation)
    if not worst:
        return (f"No face is on the wrong side of P(fake) = {THRESHOLD}.",)
    what = (
        f"The faces of each source that are furthest on the wrong side of P(fake) = {THRESHOLD}, up to {WORST}: what "
        "the model is sure of and wrong about, or a label that is wrong."
    )
    note = "Pictures are left out, as the data sets' licences may not allow passing them on."
    if pictures is not None:
        note = (
            "The HTML report holds pictures of these faces. The data sets' licences may not allow passing them on: "
            "keep that file to yourself, or write the report without pictures."
        )
    faces = [
        Faces(
            title=f"{source}: {len(cards)} of {_wrong(evaluation.sources[source])}",
            faces=tuple(
                dataclasses.replace(card, picture=None if pictures is None else pictures(card.id)) for card in cards
            ),
        )
        for source, cards in worst.items()
    ]
    return (what, note, *faces)


def _markdown(title: str, facts: Mapping[str, str], chapters: Sequence[Chapter]) -> str:
    parts = [f"# {title}", "\n".join(f"- {key}: {value}" for key, value in facts.items())]
    for chapter in chapters:
        parts.append(f"## {chapter.title}")
        for block in chapter.blocks:
            if isinstance(block, Drawing):
                parts.append(f"![{block.caption}]({block.name}.png)")
            elif isinstance(block, Faces):
                rows = [[str(face.label), face.method, f"{face.p_fake:.3f}", face.id] for face in block.faces]
                parts += [f"### {block.title}", _table(["is", "method", "P(fake)", "id"], rows)]
            else:
                parts.append(block)
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict_sections(evaluation: Evaluation) -> list[str]:
    calibration, bands = evaluation.calibration, evaluation.bands
    if calibration.method == "none":
        scores = "Scores are not calibrated: P(fake) = sigmoid(logit)."
    else:
        scores = (
            f"P(fake) = sigmoid({calibration.scale:.4f} x logit {calibration.bias:+.4f}), {calibration.method} scaling "
            f"fitted on {calibration.samples} faces of {calibration.split or 'an unnamed split'}."
        )
    if bands is None:
        return [scores, "No verdict bands were given."]
    limits = f"`fake` from {bands.fake_from:.4f} on, `real` below {bands.real_below:.4f}, else `inconclusive`"
    return [
        scores,
        f"{limits}: {bands.reason}." if bands.reason else f"{limits}.",
        "Real faces called `fake` are the false-positive rate, fake faces called `real` the false-negative rate.",
        verdict_table(evaluation),
    ]


def _faces(evaluation: Evaluation) -> str:
    overall = evaluation.overall
    return (
        f"{overall.reals} real and {overall.fakes} fake, in {overall.groups} groups, of {', '.join(evaluation.sources)}"
    )


def _alternative(evaluation: Evaluation, caption: str, metrics: Sequence[str]) -> str:
    """Describes a figure in words."""
    values = [
        f"{METRICS[key]} {name} {_text(part.metrics[key])}" for key in metrics for name, part in _rows(evaluation)
    ]
    return f"{caption}. {'; '.join(values)}."


def _wrong(part: Measured) -> int:
    return part.confusion.false_positives + part.confusion.false_negatives


def _rows(evaluation: Evaluation) -> list[tuple[str, Measured]]:
    return [*evaluation.sources.items(), (_OVERALL, evaluation.overall)]


def _text(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _plain(value: Any) -> str:
    """Returns a context value as one line of Markdown."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return " ".join(text.split())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

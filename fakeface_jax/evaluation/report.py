"""An evaluation on disk, for people and programs: report.md, metrics.json and the figures.

Example:
    >>> write_report(evaluation, "runs/report/test", "Report CNN on the test split", {"bundle": bundle.id})
    {'report': PosixPath('runs/report/test/report.md'), ...}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fakeface_jax.errors import ConfigError, DataError
from fakeface_jax.evaluation.metrics import Estimate, Evaluation, Measured
from fakeface_jax.evaluation.plots import plot_confusion, plot_reliability, plot_roc, plot_score_histograms
from fakeface_jax.evaluation.weighted import BINS, METRICS, THRESHOLD
from fakeface_jax.labels import Label, Verdict
from fakeface_jax.outputs import make_directory, whole_file

TABLE_METRICS = ("accuracy", "balanced_accuracy", "auc", "ap", "eer", "tpr_at_fpr_5", "ece")
"""What the short table of a model card shows."""

_FIGURES = {
    "roc": (plot_roc, "ROC per source"),
    "reliability": (plot_reliability, "Reliability and the number of faces per bin"),
    "confusion": (plot_confusion, "Confusion matrices"),
    "scores": (plot_score_histograms, "Scores by class"),
}

_OVERALL = "all sources"


def write_report(
    evaluation: Evaluation, directory: str | os.PathLike[str], title: str, context: Mapping[str, Any]
) -> dict[str, Path]:
    """Writes metrics.json, report.md and the figures; each file complete or not at all, report.md last.

    The same evaluation gives the same files.

    Args:
        directory: made if missing; files of an earlier report in it are replaced.
        title: heading of report.md.
        context: what the figures are of: model, hash, split, command; JSON-able, shown as given.

    Returns:
        Paths by `report`, `metrics`, `roc`, `reliability`, `confusion` and `scores`.

    Raises:
        DataError: the context is not JSON.
        OpenError: the directory cannot be written.
    """
    directory = Path(directory)
    try:
        document = json.dumps(
            {"title": title, "context": dict(context), **evaluation.to_dict()},
            indent=2,
            ensure_ascii=False,
            allow_nan=False,
        )
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{directory}: the report's context is not JSON: {error}; give text and finite numbers"
        ) from error
    paths = {"report": directory / "report.md", "metrics": directory / "metrics.json"}
    paths |= {name: directory / f"{name}.png" for name in _FIGURES}
    make_directory(directory)
    for name, (plot, _) in _FIGURES.items():
        plot(evaluation, paths[name])
    for path, text in ((paths["metrics"], document + "\n"), (paths["report"], _markdown(evaluation, title, context))):
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths


def markdown_table(evaluation: Evaluation, metrics: Sequence[str] = TABLE_METRICS) -> str:
    """One row per source and one for all faces, each metric as `value [low, high]`; a dash where it is undefined.

    Args:
        metrics: keys of `METRICS`, in the order of the columns.

    Raises:
        ConfigError: an unknown metric.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ConfigError(f"unknown metrics {', '.join(unknown)}; known: {', '.join(METRICS)}")
    rows = [
        [name, str(part.reals), str(part.fakes), str(part.groups), *(_text(part.metrics[key]) for key in metrics)]
        for name, part in _rows(evaluation)
    ]
    return _table(["source", "reals", "fakes", "groups", *(METRICS[key] for key in metrics)], rows)


def verdict_table(evaluation: Evaluation) -> str:
    """Per source and class, how many faces get which verdict, as `count, share [low, high]`; empty without bands."""
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
    """Counts at P(fake) >= 0.5, per source."""
    rows = []
    for name, part in _rows(evaluation):
        counts = part.confusion
        cells = (counts.true_negatives, counts.false_positives, counts.false_negatives, counts.true_positives)
        rows.append([name, *map(str, cells)])
    header = ["source", "real called real", "real called fake", "fake called real", "fake called fake"]
    return _table(header, rows)


def _markdown(evaluation: Evaluation, title: str, context: Mapping[str, Any]) -> str:
    accuracy_like = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")
    ranking = ("auc", "ap", "eer", "tpr_at_fpr_1", "tpr_at_fpr_5")
    probability = ("log_loss", "brier", "ece")
    sections = [
        f"# {title}",
        "\n".join(f"- {key}: {_plain(value)}" for key, value in context.items()),
        "Fake is the positive class. Square brackets are 95 % intervals. A dash means that the faces cannot tell: most "
        "metrics need both classes, intervals need several groups.",
        f"## Per source, at P(fake) ≥ {THRESHOLD}",
        markdown_table(evaluation, accuracy_like),
        "## The order of scores, whatever the threshold",
        markdown_table(evaluation, ranking),
        "TPR at an FPR is that of the best threshold on these very faces whose FPR does not exceed it.",
        "## Scores as probabilities",
        markdown_table(evaluation, probability),
        f"Log loss in nats. ECE in {BINS} equal-width bins of P(fake); few faces make it larger than it is. "
        "Of a source with one class all three say only how sure the scores are.",
        "## Confusion matrix",
        confusion_table(evaluation),
        "## Verdicts",
        *_verdict_sections(evaluation),
        "## How the intervals were made",
        f"Percentiles of {evaluation.resamples} bootstrap resamples of whole groups (seed {evaluation.seed}), as faces "
        "of one group (one video, near-duplicates) are not independent. A share of exactly 0 or 1 has the "
        "Clopper-Pearson interval with one sample per group instead; the interval of ECE is moved by the resamples' "
        "mean excess. An AUC of 1.000 without width means that no resample had an error, not that there are none. "
        "Intervals cover the choice of faces from these sources, not sources that were never seen.",
        "## Figures",
        *(f"![{caption}]({name}.png)" for name, (_, caption) in _FIGURES.items()),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


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


def _rows(evaluation: Evaluation) -> list[tuple[str, Measured]]:
    return [*evaluation.sources.items(), (_OVERALL, evaluation.overall)]


def _text(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _plain(value: Any) -> str:
    """A context value on one line of Markdown."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return " ".join(text.split())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

"""Draws the project's figures as PNG files: ROC, DET, reliability, confusion, scores, history, class counts, a batch.

Each figure has its own Agg canvas, so that drawing needs no display and leaves no global state. Real is blue and fake
is vermilion everywhere (the colour-blind safe palette of Okabe and Ito, 2008), and no figure relies on colour alone.

Example:
    >>> plot_roc(evaluation, "runs/report/roc.png")
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import norm
from sklearn.metrics import roc_curve

from fakeface_jax.atomic_files import whole_file
from fakeface_jax.decision import sigmoid
from fakeface_jax.errors import DataError
from fakeface_jax.evaluation.metrics import Estimate, Evaluation, Measured
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.weighted_metrics import BINS, bin_index, point_metrics
from fakeface_jax.labels import Label

REAL, FAKE = "#0072B2", "#D55E00"
"""Colours of the classes."""

# Sources and splits are not classes, so they have other colours of the palette.
_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (9, 2)))
_OVERALL = "all sources"
_DPI = 120
_COLUMNS = 3

_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Error rates that are marked on the axes of a DET curve."""


def plot_roc(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Draws the ROC of every source with both classes, and of all faces, with AUC and interval in the legend.

    Raises:
        OpenError: the file cannot be written; so for every figure here.
    """
    figure, (axes,) = _figure(1, width=6.4, height=5.6)
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=1, linestyle=":", label="chance")
    for name, measured, fpr, tpr, style in _curves(evaluation):
        axes.plot(100 * fpr, 100 * tpr, label=f"{name}: {_interval(measured.metrics['auc'])}", **style)
    axes.set(xlim=(-1, 101), ylim=(-1, 101), aspect="equal", title="ROC")
    axes.set(xlabel="real faces called fake (FPR, %)", ylabel="fake faces called fake (TPR, %)")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=9, title="AUC [95 % interval]", title_fontsize=9)
    _write(figure, path)


def plot_det(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Draws both error rates against each other on probit axes, per source with both classes, with the EER marked.

    This is the detection error trade-off of Martin et al. (1997): normally distributed scores give straight lines, and
    the region with few errors, which an ROC squeezes into a corner, takes most of the area. An error rate of zero is
    beyond the axes; a curve then ends at their edge.
    """
    figure, (axes,) = _figure(1, width=6.4, height=5.6)
    curves = _curves(evaluation)
    # A rate below that of one face cannot be told from zero.
    most = max((max(measured.reals, measured.fakes) for _, measured, *_ in curves), default=1)
    low = max([rate for rate in _RATES if rate <= 0.5 / most], default=_RATES[0])
    limits = norm.ppf([low, _RATES[-1]])
    axes.plot(limits, -limits, color="0.6", linewidth=1, linestyle=":", label="chance")
    axes.plot(limits, limits, color="0.8", linewidth=0.8)  # where both error rates are equal
    for name, measured, fpr, tpr, style in curves:
        eer = measured.metrics["eer"]
        x, y = (norm.ppf(np.clip(rate, low / 2, 1 - low / 2)) for rate in (fpr, 1.0 - tpr))
        axes.plot(x, y, label=f"{name}: {_interval(eer)}", **style)
        if eer.value is not None:
            axes.plot(
                *[norm.ppf(np.clip(eer.value, low, 1 - low))] * 2,
                marker="o",
                markersize=8,
                markerfacecolor=style["color"],
                markeredgecolor="white",
                zorder=3,
            )
    marks = [rate for rate in _RATES if rate >= low]
    names = [f"{100 * rate:g}" for rate in marks]
    axes.set(xlim=limits, ylim=limits, aspect="equal", title="Detection error trade-off")
    axes.set(xticks=norm.ppf(marks), xticklabels=names, yticks=norm.ppf(marks), yticklabels=names)
    axes.set(xlabel="real faces called fake (FPR, %)", ylabel="fake faces called real (FNR, %)")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", fontsize=9, title="● EER [95 % interval]", title_fontsize=9)
    _write(figure, path)


def plot_reliability(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Draws the share of fakes against P(fake) in 15 equal-width bins, and below it the number of faces per bin.

    There is one panel before calibration and one after it, or a single one for a model without calibration.
    """
    predictions = evaluation.predictions
    panels = {"P(fake)": (_scores(evaluation, predictions), f"ECE {_interval(evaluation.overall.metrics['ece'])}")}
    if evaluation.calibration.method != "none":
        raw = np.asarray(sigmoid(predictions.logits.astype(np.float64)))
        before = point_metrics(predictions.labels.astype(np.int64), raw)["ece"]
        panels = {"sigmoid of the raw logit": (raw, f"Before calibration: ECE {before:.3f}")} | {
            name: (p_fake, f"After calibration: {text}") for name, (p_fake, text) in panels.items()
        }
    figure = Figure(figsize=(5.6 * len(panels), 6.4), dpi=_DPI, layout="constrained")
    grid = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for (upper, lower), (name, (p_fake, title)) in zip(grid.T, panels.items(), strict=True):
        bins = bin_index(p_fake)
        counts = np.bincount(bins, minlength=BINS)
        filled = counts > 0
        mean = np.bincount(bins, p_fake, BINS)[filled] / counts[filled]
        share = np.bincount(bins, predictions.labels, BINS)[filled] / counts[filled]
        # Normal approximation: it only shows how uncertain a bin with few faces is; the ECE has its own interval.
        error = np.sqrt(share * (1 - share) / counts[filled])
        upper.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":", label="perfectly calibrated")
        upper.errorbar(mean, share, yerr=error, fmt="o-", color="black", capsize=3, label="measured (± 1 std. error)")
        upper.set(xlim=(0, 1), ylim=(-0.03, 1.03))
        upper.set_title(title, fontsize=11)
        upper.grid(alpha=0.25)
        lower.bar((np.arange(BINS) + 0.5) / BINS, counts, width=0.9 / BINS, color="0.45")
        lower.set(xlabel=name)
        lower.grid(alpha=0.25, axis="y")
    grid[0, 0].legend(loc="upper left", fontsize=9)
    grid[0, 0].set(ylabel="share of faces that are fake")
    grid[1, 0].set(ylabel="faces")
    _write(figure, path)


def plot_confusion(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Draws confusion matrices at P(fake) >= 0.5, overall and per source; shading is the share of the true class."""
    parts = _parts(evaluation)
    figure, panels = _figure(len(parts), width=3.2, height=3.2)
    for axes, (name, measured, _) in zip(panels, parts, strict=True):
        counts = measured.confusion
        matrix = np.array(
            [[counts.true_negatives, counts.false_positives], [counts.false_negatives, counts.true_positives]]
        )
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row in range(2):
            for column in range(2):
                share = shares[row, column]
                text = f"{matrix[row, column]}\n{share:.1%}" if matrix[row].sum() else "none"
                axes.text(
                    column, row, text, ha="center", va="center", fontsize=11, color="white" if share > 0.6 else "black"
                )
        axes.set_title(name, fontsize=11)
        axes.set(xticks=[0, 1], xticklabels=["real", "fake"], yticks=[0, 1], yticklabels=["real", "fake"])
        axes.set(xlabel="called", ylabel="is")
    _write(figure, path)


def plot_score_histograms(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Draws the distributions of P(fake) over reals and fakes, overall and per source, with the verdict bands."""
    parts = _parts(evaluation)
    figure, panels = _figure(len(parts), width=3.8, height=3.0)
    edges = np.linspace(0, 1, 21)
    for axes, (name, _, part) in zip(panels, parts, strict=True):
        p_fake = _scores(evaluation, part)
        for label, colour, hatch in ((Label.REAL, REAL, None), (Label.FAKE, FAKE, "///")):
            mine = p_fake[part.labels == label]
            if len(mine):
                shares = 100 * np.histogram(mine, edges)[0] / len(mine)
                axes.stairs(
                    shares, edges, fill=True, facecolor=colour, edgecolor=colour, alpha=0.35, hatch=hatch, linewidth=0
                )
                axes.stairs(shares, edges, color=colour, linewidth=1.6, label=f"{label} ({len(mine)})")
        if evaluation.bands:
            axes.axvline(evaluation.bands.real_below, color="0.25", linestyle=":", linewidth=1.3)
            axes.axvline(evaluation.bands.fake_from, color="0.25", linestyle="--", linewidth=1.3)
        axes.set_title(name, fontsize=11)
        axes.set(xlim=(0, 1), xlabel="P(fake)", ylabel="faces of the class (%)")
        axes.set_ylim(top=1.22 * axes.get_ylim()[1])  # space for the legend
        axes.legend(fontsize=8, loc="upper center", ncols=2)
    if evaluation.bands:
        figure.suptitle("real below the dotted line, fake from the dashed line", fontsize=10)
    _write(figure, path)


def plot_history(rows: Sequence[Mapping[str, float | int]], path: str | os.PathLike[str]) -> None:
    """Draws loss and accuracy per epoch for training and validation, and marks the epoch of lowest validation loss.

    Args:
        rows: one row per epoch, with `epoch` (from 1), `loss`, `accuracy`, `val_loss` and `val_accuracy`, as in
            epochs.csv; losses in nats, accuracies in [0, 1]. Other keys are ignored.

    Raises:
        DataError: there are no rows, or a key is missing.
    """
    if not rows:
        raise DataError("no epoch has finished, so there is no history to draw; train at least one")
    try:
        columns = {
            name: np.array([float(row[name]) for row in rows])
            for name in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy")
        }
    except KeyError as error:
        raise DataError(f"the training history lacks {error}; it was written by another release") from error
    epochs = columns["epoch"]
    # The report's ModelCheckpoint kept the highest loss (mode="max"); here the epoch with the lowest is kept.
    best = int(np.argmin(np.where(np.isfinite(columns["val_loss"]), columns["val_loss"], np.inf)))
    figure, panels = _figure(2, width=5.2, height=3.9, columns=2)
    for axes, what, unit, factor in zip(panels, ("loss", "accuracy"), ("nats", "%"), (1.0, 100.0), strict=True):
        for prefix, split, colour, marker in (
            ("", "train", _COLOURS[0], "o"),
            ("val_", "validation", _COLOURS[1], "s"),
        ):
            values = factor * columns[prefix + what]
            axes.plot(epochs, values, color=colour, marker=marker, markersize=4, label=split)
        value = factor * columns[f"val_{what}"][best]
        axes.axvline(epochs[best], color="0.5", linestyle=":", linewidth=1.2)
        axes.plot(
            epochs[best],
            value,
            linestyle="none",
            zorder=3,
            marker="*",
            markersize=15,
            markerfacecolor="#F0E442",
            markeredgecolor="black",
            label=f"lowest validation loss, epoch {epochs[best]:.0f}: {value:.3g} {unit}",
        )
        axes.set(xlabel="epoch", ylabel=f"{what} ({unit})", title=what.capitalize())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=9)
    _write(figure, path)


def plot_class_histogram(counts: Mapping[str, Mapping[str, int]], path: str | os.PathLike[str]) -> None:
    """Draws the numbers of real and fake faces per split.

    Args:
        counts: split name to `{"real": n, "fake": n}`, in the order of drawing.

    Raises:
        DataError: there are no splits.
    """
    if not counts:
        raise DataError("there are no splits to draw; name at least one")
    figure, (axes,) = _figure(1, width=max(4.5, 1.7 * len(counts)), height=3.9)
    positions = np.arange(len(counts))
    for label, offset, colour, hatch in ((Label.REAL, -0.2, REAL, None), (Label.FAKE, 0.2, FAKE, "///")):
        heights = [int(split.get(str(label), 0)) for split in counts.values()]
        bars = axes.bar(
            positions + offset,
            heights,
            0.38,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
            label=str(label),
        )
        axes.bar_label(bars, labels=[f"{height:,}" for height in heights], fontsize=9, padding=2)
    axes.set(xticks=positions, xticklabels=list(counts), xlabel="split", ylabel="faces", title="Classes per split")
    axes.margins(y=0.12)
    axes.legend(fontsize=9)
    _write(figure, path)


def plot_batch(
    images: UInt8[np.ndarray, "n h w 3"], labels: Integer[np.ndarray, " n"], path: str | os.PathLike[str]
) -> None:
    """Draws the first 16 images of a batch as the network sees them, 4 x 4, each under its label.

    Args:
        images: RGB images; fewer than 16 leave the rest of the grid empty.
        labels: 0 for real, 1 for fake.
    """
    figure = Figure(figsize=(7.2, 7.8), dpi=_DPI, layout="constrained")
    panels = figure.subplots(4, 4).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, image, label in zip(panels, images, labels, strict=False):
        axes.imshow(image)
        axes.set_title(str(Label(int(label))), fontsize=12, color=FAKE if label == Label.FAKE else REAL)
    _write(figure, path)


def _parts(evaluation: Evaluation) -> list[tuple[str, Measured, Predictions]]:
    """Lists all faces together, then each source; a single source is listed only once."""
    predictions = evaluation.predictions
    sources = [(name, measured, predictions.select(name)) for name, measured in evaluation.sources.items()]
    return sources if len(sources) == 1 else [(_OVERALL, evaluation.overall, predictions), *sources]


def _curves(
    evaluation: Evaluation,
) -> list[tuple[str, Measured, Float[np.ndarray, " t"], Float[np.ndarray, " t"], dict[str, Any]]]:
    """Lists parts with both classes: name, figures, FPR and TPR of every threshold, and the style of the line."""
    curves = []
    for index, (name, measured, part) in enumerate(_parts(evaluation)):
        if not (measured.reals and measured.fakes):
            continue
        fpr, tpr, _ = roc_curve(part.labels, part.logits, drop_intermediate=False)
        turn = index - 1
        style = {"color": "black", "linewidth": 2.4, "linestyle": "-"}
        if index:
            dashes = _DASHES[turn % len(_DASHES)]
            style = {"color": _COLOURS[turn % len(_COLOURS)], "linewidth": 1.8, "linestyle": dashes}
        curves.append((name, measured, fpr, tpr, style))
    return curves


def _scores(evaluation: Evaluation, part: Predictions) -> Float[np.ndarray, " n"]:
    return np.asarray(evaluation.calibration(part.logits.astype(np.float64)))


def _interval(estimate: Estimate) -> str:
    if estimate.value is None:
        return "undefined"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _figure(panels: int, *, width: float, height: float, columns: int = _COLUMNS) -> tuple[Figure, list[Axes]]:
    """Creates a figure with a grid of the given number of axes, each `width` x `height` inches."""
    columns = 2 if panels == 4 else min(panels, columns)  # avoids a row with a single panel
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(width * columns, height * rows), dpi=_DPI, layout="constrained")
    grid = np.ravel(figure.subplots(rows, columns, squeeze=False)).tolist()
    for axes in grid[panels:]:
        axes.set_axis_off()
    return figure, grid[:panels]


def _write(figure: Figure, path: str | os.PathLike[str]) -> None:
    with whole_file(path) as temporary:
        # Without the software's version, the same figure gives the same bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None})

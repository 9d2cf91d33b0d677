import json
import re
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from fakeface_jax.atomic_files import whole_file
from fakeface_jax.bundle import BundleSpec
from fakeface_jax.decision import Calibration, VerdictBands, sigmoid
from fakeface_jax.errors import ConfigError, DataError, OpenError
from fakeface_jax.evaluation.evaluation_report import (
    _FIGURES,
    confusion_table,
    markdown_table,
    verdict_table,
    write_report,
)
from fakeface_jax.evaluation.metrics import METRICS, Estimate, evaluate
from fakeface_jax.evaluation.plots import (
    plot_batch,
    plot_class_histogram,
    plot_det,
    plot_history,
    plot_reliability,
    plot_roc,
)
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.evaluation.tables import ProtocolResult, Row
from fakeface_jax.faces import CropSpec
from fakeface_jax.training.card import model_card

FILES = {"report.md", "report.html", "metrics.json"} | {
    f"{name}.png" for name in ("roc", "det", "reliability", "confusion", "scores")
}


def make_evaluation(sources=("a", "b", "only fakes"), bands=True, count=60):
    rng = np.random.default_rng(0)
    source = np.repeat(np.array(sources), count)
    labels = rng.integers(0, 2, len(source))
    labels[source == "only fakes"] = 1
    predictions = Predictions(
        ids=np.arange(len(source)).astype(np.str_),
        sources=source,
        groups=(np.arange(len(source)) // 2).astype(np.str_),
        labels=labels.astype(np.int8),
        logits=(rng.normal(0, 1, len(source)) + 2 * labels - 1).astype(np.float32),
    )
    calibration = Calibration(scale=0.9, bias=-0.1, method="platt", split="validation", samples=180)
    limits = VerdictBands(real_below=0.3, fake_from=0.8, reason="chosen for the test") if bands else None
    return evaluate(predictions, calibration, limits, resamples=40)


@pytest.fixture(scope="module")
def evaluation():
    return make_evaluation()


def dot(evaluation, path):
    Image.new("RGB", (20, 10)).save(path, format="PNG")


FIGURES_AS_DOTS = {name: (dot, *rest) for name, (_, *rest) in _FIGURES.items()}
"""For tests of what is around the figures."""


@pytest.fixture
def dots(monkeypatch):
    monkeypatch.setattr("fakeface_jax.evaluation.evaluation_report._FIGURES", FIGURES_AS_DOTS)


def png_size(path):
    with Image.open(path) as image:
        image.verify()
        assert image.format == "PNG"
        return image.size


def test_report_writes_every_file_and_nothing_else(evaluation, tmp_path):
    directory = tmp_path / "runs" / "test report"
    paths = write_report(evaluation, directory, "Report CNN, test split", {"bundle": "abc", "data": {"seed": 1}})
    assert {path.name for path in directory.iterdir()} == FILES
    assert {path.name for path in paths.values()} == FILES
    for path in paths.values():
        if path.suffix == ".png":
            width, height = png_size(path)
            assert width > 400
            assert height > 250
    text = paths["report"].read_text(encoding="utf-8")
    for expected in ("# Report CNN, test split", "- bundle: abc", '- data: {"seed": 1}', "chosen for the test"):
        assert expected in text
    assert "fitted on 180 faces of validation" in text
    assert "nan" not in text.lower()
    for name in re.findall(r"\]\((\w+\.png)\)", text):
        assert (directory / name).is_file()


def test_report_json_holds_the_evaluation(evaluation, tmp_path, dots):
    paths = write_report(evaluation, tmp_path, "title", {"bundle": "abc"})

    def refuse(constant):
        raise AssertionError(constant)

    document = json.loads(paths["metrics"].read_text(encoding="utf-8"), parse_constant=refuse)
    assert document == {"title": "title", "context": {"bundle": "abc"}, **evaluation.to_dict(), "protocols": []}
    assert document["sources"]["only fakes"]["metrics"]["auc"]["value"] is None


def test_report_is_deterministic_and_replaces_an_earlier_one(evaluation, tmp_path):
    first = write_report(evaluation, tmp_path / "first", "title", {"a": 1})
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "report.md").write_text("of yesterday")
    second = write_report(make_evaluation(), tmp_path / "second", "title", {"a": 1})
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes(), name


@pytest.mark.parametrize("sources", [("only fakes",), tuple(f"source {index}" for index in range(7))])
def test_report_of_other_shapes(sources, tmp_path):
    paths = write_report(make_evaluation(sources, bands=False, count=10), tmp_path, "title", {})
    assert "No verdict bands were given." in paths["report"].read_text(encoding="utf-8")
    assert all(png_size(path) for path in paths.values() if path.suffix == ".png")


def test_report_errors_leave_nothing_behind(evaluation, tmp_path):
    for context in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(DataError, match="not JSON"):
            write_report(evaluation, tmp_path / "bad", "title", context)
    assert not (tmp_path / "bad").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OpenError, match="directory cannot be created"):
        write_report(evaluation, tmp_path / "file", "title", {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def fail():
        with whole_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("figure.png", b"old")]


def test_markdown_table(evaluation):
    lines = markdown_table(evaluation, ["auc", "recall"]).splitlines()
    assert lines[0] == "| source | reals | fakes | groups | AUC | recall |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| a", "| b", "| only fakes", "| all sources"]
    assert re.search(r"\| \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\] \|", lines[2])
    auc = evaluation.sources["a"].metrics["auc"]
    assert f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]" in lines[2]
    assert "| 0 | 60 | 30 | – | " in lines[4]
    with pytest.raises(ConfigError, match="unknown metrics roc"):
        markdown_table(evaluation, ["roc"])
    assert len(markdown_table(evaluation, list(METRICS)).splitlines()[0].split("|")) == 6 + len(METRICS)


def test_tables_escape_names_and_match_counts():
    evaluation = make_evaluation(sources=("a|b", "c"))
    assert "| a\\|b |" in markdown_table(evaluation)
    confusion = evaluation.overall.confusion
    assert f"| all sources | {confusion.true_negatives} | {confusion.false_positives} |" in confusion_table(evaluation)
    verdicts = verdict_table(evaluation)
    p_fake = sigmoid(evaluation.calibration.logit(evaluation.predictions.logits.astype(np.float64)))
    called = int((p_fake[evaluation.predictions.labels == 0] >= 0.8).sum())
    row = next(line for line in verdicts.splitlines() if line.startswith("| all sources | real ("))
    assert row.split(" | ")[-1].startswith(f"{called}, ")


def section(protocol, names=("all sources",), *, reals=5, **cells):
    rows = tuple(
        Row(
            names={"source": name, **cells},
            counts={"reals": reals, "fakes": 5},
            estimates={"auc": Estimate(value=0.625, low=0.5, high=0.75)},
        )
        for name in names
    )
    return ProtocolResult(
        protocol=protocol, title=f"About {protocol}", caption="What was done.", columns={"auc": "AUC"}, rows=rows
    )


def test_report_holds_the_protocols_in_both_forms(evaluation, tmp_path, dots):
    found = section("face-size", ("a", "b"))
    paths = write_report(evaluation, tmp_path, "title", {}, sections=[found])
    text = paths["report"].read_text(encoding="utf-8")
    assert f"## About face-size\n\nWhat was done.\n\n{found.table()}\n" in text
    assert json.loads(paths["metrics"].read_text(encoding="utf-8"))["protocols"] == [found.to_dict()]


def test_card_says_what_was_measured_and_what_was_not():
    spec = BundleSpec(
        name="net",
        model={"name": "report"},
        crop=CropSpec(size=64),
        detector="centerface",
        bands=VerdictBands(real_below=0.3, fake_from=0.7),
    )
    plain = model_card(spec, table="| t |")
    assert "What small, blurred, heavily compressed, masked or profile faces do to it was not measured." in plain
    assert "expect it to be close to guessing there" in plain
    assert "is in a table above" not in plain
    measured = [
        section("robustness", ("all sources",) * 20 + ("a",) * 20),
        section("face-size", reals=0, **{"face size": "< 64 px"}),
        section("leave-one-source-out"),
    ]
    card = model_card(spec, table="| t |", sections=measured)
    assert "What it makes of blurred, noisy, shrunk and compressed faces is in a table above." in card
    # Nobody's small faces were measured: that bin is empty.
    assert "What small, masked or profile faces do to it was not measured." in card
    assert "close to guessing" not in card
    assert card.index("### About robustness") < card.index("### About face-size") < card.index("## Calibration")
    # A long table is shortened, and that is said.
    assert card.count("| all sources | 5 | 5 | 0.625 [0.500, 0.750] |") == 21
    assert "| a | 5 |" not in card
    assert "Here of all sources together" in card
    small = model_card(spec, sections=[section("face-size", **{"face size": "< 64 px"})])
    assert "What it makes of small faces is in a table above." in small
    assert "What blurred, heavily compressed, masked or profile faces do to it was not measured." in small


def test_det_marks_the_equal_error_rates(evaluation, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("fakeface_jax.evaluation.plots._write", lambda figure, path: drawn.append(figure))
    plot_det(evaluation, tmp_path / "det.png")
    axes = drawn[0].axes[0]
    marked = [line for line in axes.lines if line.get_marker() == "o"]
    rates = [part.metrics["eer"].value for part in (evaluation.overall, *evaluation.sources.values())]
    expected = [rate for rate in rates if rate is not None]
    assert len(expected) == 3  # of two sources and all faces; one source has fakes only
    np.testing.assert_allclose([norm.cdf(line.get_xdata()[0]) for line in marked], expected)
    np.testing.assert_allclose([norm.cdf(line.get_ydata()[0]) for line in marked], expected)
    # The curve that belongs to a mark passes it.
    for line, mark in zip([line for line in axes.lines if len(line.get_xdata()) > 10], marked, strict=True):
        gap = np.hypot(line.get_xdata() - mark.get_xdata()[0], line.get_ydata() - mark.get_ydata()[0])
        assert gap.min() < 0.1


def test_reliability_shows_scores_before_and_after_calibration(evaluation, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("fakeface_jax.evaluation.plots._write", lambda figure, path: drawn.append(figure))
    plot_reliability(evaluation, tmp_path / "reliability.png")
    raw = evaluate(evaluation.predictions, resamples=1).overall.metrics["ece"].value
    assert drawn[0].axes[0].get_title() == f"Before calibration: ECE {raw:.3f}"
    assert drawn[0].axes[1].get_title().startswith("After calibration: ECE ")
    bars = [sum(bar.get_height() for bar in axes.patches) for axes in drawn[0].axes[2:]]
    assert bars == [len(evaluation.predictions)] * 2
    plot_reliability(evaluate(evaluation.predictions, resamples=5), tmp_path / "reliability.png")
    assert len(drawn[1].axes) == 2  # nothing was calibrated


def test_history_figure(tmp_path):
    rows = [
        {
            "epoch": epoch,
            "loss": 0.7 / epoch,
            "accuracy": 0.5 + 0.05 * epoch,
            "val_loss": loss,
            "val_accuracy": 0.6,
            "seconds": 3.0,
        }
        for epoch, loss in ((1, 0.69), (2, 0.5), (3, float("nan")), (4, 0.6))
    ]
    plot_history(rows, tmp_path / "history.png")
    plot_history(rows[:1], tmp_path / "one.png")
    width, height = png_size(tmp_path / "history.png")
    assert width > 2 * height
    assert png_size(tmp_path / "one.png") == (width, height)
    with pytest.raises(DataError, match="no epoch"):
        plot_history([], tmp_path / "none.png")
    with pytest.raises(DataError, match="lacks 'loss'"):
        plot_history([{"epoch": 1}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_history_marks_the_lowest_validation_loss(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("fakeface_jax.evaluation.plots._write", lambda figure, path: drawn.append(figure))
    losses = [0.7, 0.4, 0.5]
    plot_history(
        [
            {
                "epoch": epoch,
                "loss": 0.1,
                "accuracy": 0.9,
                "val_loss": loss,
                "val_accuracy": accuracy,
            }
            for epoch, loss, accuracy in zip((1, 2, 3), losses, (0.5, 0.6, 0.7), strict=True)
        ],
        tmp_path / "history.png",
    )
    # Not the epoch of the highest accuracy, and not the highest loss.
    texts = [text.get_text() for axes in drawn[0].axes for text in axes.get_legend().get_texts()]
    assert [text for text in texts if "lowest" in text] == [
        "lowest validation loss, epoch 2: 0.4 nats",
        "lowest validation loss, epoch 2: 60 %",
    ]


def test_class_histogram_figure(tmp_path):
    counts = {"train": {"real": 5000, "fake": 4900}, "validation": {"real": 600, "fake": 0}, "test": {"fake": 3}}
    plot_class_histogram(counts, tmp_path / "classes.png")
    assert png_size(tmp_path / "classes.png")[0] > 400
    with pytest.raises(DataError, match="no splits"):
        plot_class_histogram({}, tmp_path / "none.png")


@pytest.mark.parametrize("count", [0, 5, 32])
def test_batch_figure(count, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (count, 20, 20, 3)).astype(np.uint8)
    plot_batch(images, np.arange(count) % 2, tmp_path / "batch.png")
    assert png_size(tmp_path / "batch.png")[1] > 600
    assert [path.name for path in tmp_path.iterdir()] == ["batch.png"]


def test_batch_figure_shows_pixels_and_labels(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("fakeface_jax.evaluation.plots._write", lambda figure, path: drawn.append(figure))
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3)).astype(np.uint8)
    plot_batch(images, np.arange(16) % 2, tmp_path / "batch.png")
    assert [axes.get_title() for axes in drawn[0].axes] == ["real", "fake"] * 8
    np.testing.assert_array_equal(drawn[0].axes[5].images[0].get_array(), images[5])


def test_figures_leave_no_global_state(evaluation, tmp_path):
    plot_roc(evaluation, tmp_path / "roc.png")
    assert png_size(tmp_path / "roc.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()

"""The HTML report: one file that needs nothing else, escapes everything, and says what the Markdown says."""

import base64
import dataclasses
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image
from test_evaluation_report import FIGURES_AS_DOTS, make_evaluation

from fakeface_jax.evaluation.evaluation_page import LONG_TABLE, Chapter, Drawing, FaceCard, Faces, html_page
from fakeface_jax.evaluation.evaluation_report import worst_mistakes, write_report
from fakeface_jax.evaluation.metrics import Estimate
from fakeface_jax.evaluation.tables import ProtocolResult, Row
from fakeface_jax.labels import Label

VOID = {"meta", "img", "br", "link", "input"}


class Page(html.parser.HTMLParser):
    """Tags with attributes, text by tag, and whether every tag is closed in its place."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag):
        return [data for name, data in self.texts if name == tag]


@pytest.fixture(autouse=True, scope="module")
def _figures_as_dots():
    """Drawing takes seconds, and is another file's matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fakeface_jax.evaluation.evaluation_report._FIGURES", FIGURES_AS_DOTS)
        yield


def png(width=20, height=10):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def report(tmp_path_factory, _figures_as_dots):
    """The HTML and the Markdown of an evaluation with a protocol."""
    estimate = Estimate(value=0.25, low=0.1, high=0.4)
    rows = tuple(
        Row(
            names={"source": source, "degradation": f"blur {index}"},
            counts={"reals": 3},
            estimates={"auc": estimate, "auc_change": Estimate(value=-0.1, low=None, high=None)},
        )
        for source in ("all sources", "a")
        for index in range(LONG_TABLE)
    )
    section = ProtocolResult(
        protocol="robustness",
        title="Robustness",
        caption="Done to `all` faces.",
        columns={"auc": "AUC", "auc_change": "AUC less clean"},
        rows=rows,
    )
    directory = tmp_path_factory.mktemp("report")
    paths = write_report(make_evaluation(), directory, "A model", {"bundle": "abc"}, sections=[section])
    return paths["html"].read_text(encoding="utf-8"), paths["report"].read_text(encoding="utf-8")


def test_needs_no_other_file_host_or_script(report):
    page = Page(report[0])
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("data:image/", "#"))
    assert "url(" not in report[0]
    assert "http:" not in report[0]
    assert "https:" not in report[0]
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_says_what_the_markdown_says(report):
    page, markdown = Page(report[0]), report[1]
    assert page.text("h2") == re.findall(r"^## (.*)$", markdown, re.MULTILINE)
    assert page.text("h1") == ["A model"]
    cells = [cell.strip() for line in markdown.splitlines() if line.startswith("|") for cell in line.split("|")]
    numbers = [found[0] for cell in cells if (found := re.match(r"[+-]?\d(, )?[\d.]+(?= \[)", cell))]
    assert len(numbers) > 80
    assert set(numbers) <= set(page.text("b"))
    assert "Robustness" in page.text("a")
    assert "all" in page.text("code")


def test_can_be_read_without_eyes_or_mouse(report):
    page = Page(report[0])
    assert page.all("html")[0]["lang"] == "en"
    pictures = page.all("img")
    assert len(pictures) == 5
    assert all(len(picture["alt"]) > 20 for picture in pictures)
    assert re.search(r"AUC a \d\.\d{3} \[", pictures[0]["alt"])
    assert all("scope" in cell for cell in page.all("th"))
    regions = [one for one in page.all("div") if one.get("role") == "region"]
    assert len(regions) == len(page.all("table")) + len(pictures)
    assert all(one["tabindex"] == "0" and one["aria-label"] for one in regions)
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link["href"].removeprefix("#") for link in page.all("a")} <= targets
    assert "prefers-color-scheme: dark" in report[0]


def test_long_tables_are_folded_by_their_first_column(report):
    page = Page(report[0])
    assert page.text("summary") == ["all sources", "a"]
    assert ["open" in one for one in page.all("details")] == [True, False]
    assert "-0.100" in page.text("td")


def test_everything_is_escaped(tmp_path):
    nasty = '<script>alert("1")</script>\u202e&amp;'
    table = f"| source | AUC |\n| --- | --- |\n| {nasty} | 0.5 [0.4, 0.6] |"
    face = FaceCard(id=nasty, label=Label.FAKE, method=nasty, p_fake=0.25)
    drawing = Drawing(name="roc", png=png(), caption=nasty, alt=nasty)
    blocks = (f"{nasty} `{nasty}`", table, drawing, Faces(title=nasty, faces=(face,)))
    text = html_page(nasty, {nasty: nasty}, [Chapter(title=nasty, blocks=blocks)])
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "\u202e" not in text
    # The text is there as it was, except for what would turn its direction.
    shown = nasty.replace("\u202e", "\\u202e")
    for tag in ("title", "h1", "h2", "h3", "dt", "dd", "a", "th", "p", "code", "figcaption", "small"):
        assert any(shown in found for found in page.text(tag)), tag
    assert [picture["alt"] for picture in page.all("img")] == [shown]


def test_cells_keep_bars_and_names_stay_names():
    table = "| source | n |\n| --- | --- |\n| 2024 | 3 |\n| a\\|b | – |"
    page = Page(html_page("t", {}, [Chapter(title="c", blocks=(table, ""))]))
    assert page.text("th") == ["source", "n", "2024", "a|b"]
    assert page.text("td") == ["3", "–"]
    assert [cell.get("class") for cell in page.all("td")] == ["number", "number"]


def test_worst_mistakes_are_the_surest_wrong_ones():
    evaluation = make_evaluation()
    predictions = evaluation.predictions
    p_fake = np.asarray(evaluation.calibration(predictions.logits.astype(np.float64)))
    worst = worst_mistakes(evaluation, count=3)
    assert set(worst) == {"a", "b", "only fakes"}
    for source, cards in worst.items():
        mine = predictions.sources == source
        wrong = mine & ((p_fake >= 0.5) != (predictions.labels == 1))
        logits = np.abs(evaluation.calibration.logit(predictions.logits.astype(np.float64)))
        expected = predictions.ids[wrong][np.argsort(-logits[wrong])][:3]
        assert [card.id for card in cards] == expected.tolist()
        assert all((card.p_fake >= 0.5) != (card.label == Label.FAKE) for card in cards)


def test_pictures_are_there_only_when_asked_for(tmp_path):
    evaluation = make_evaluation(count=20)
    asked = []

    def crop(name):
        asked.append(name)
        return None if len(asked) == 1 else np.full((12, 10, 3), (200, 30, 30), np.uint8)

    without = write_report(evaluation, tmp_path / "without", "t", {})["html"].read_text(encoding="utf-8")
    assert "Pictures are left out" in without
    assert len(Page(without).all("img")) == 5
    paths = write_report(evaluation, tmp_path / "with", "t", {}, mistakes=crop)
    text = paths["html"].read_text(encoding="utf-8")
    faces = [one for one in Page(text).all("img") if one["src"].startswith("data:image/jpeg")]
    names = [card.id for cards in worst_mistakes(evaluation).values() for card in cards]
    assert asked == names
    assert [one["alt"].split(",")[0] for one in faces] == [f"the face {name}" for name in names[1:]]
    with Image.open(io.BytesIO(base64.b64decode(faces[0]["src"].partition(",")[2]))) as image:
        assert image.size == (10, 12)
        red, green, _ = image.getpixel((5, 6))
    assert red > 150 > green  # RGB, not BGR
    assert "keep that file to yourself" in text
    assert "Pictures are left out" not in text
    # The Markdown names the faces and holds no picture of them.
    assert paths["report"].read_text(encoding="utf-8").count("](") == 5


def test_no_mistakes_are_said_to_be_none(tmp_path):
    evaluation = make_evaluation(count=20)
    right = np.where(evaluation.predictions.labels == 1, 5.0, -5.0).astype(np.float32)
    perfect = dataclasses.replace(evaluation, predictions=dataclasses.replace(evaluation.predictions, logits=right))
    assert worst_mistakes(perfect) == {}
    text = write_report(perfect, tmp_path, "t", {})["html"].read_text(encoding="utf-8")
    assert "No face is on the wrong side of P(fake) = 0.5." in text

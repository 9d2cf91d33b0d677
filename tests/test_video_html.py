"""The page of a video or a picture: one file, everything escaped, and what it says is what the report says."""

import base64
import dataclasses
import io
import json
import re

import cv2
import numpy as np
import pytest
from PIL import Image
from test_html_report import Page
from test_timeline import people_report

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.decision import Calibration, OperatingPoint, VerdictBands, VideoDecision
from fakeface_jax.errors import OpenError
from fakeface_jax.faces import Face
from fakeface_jax.labels import Verdict
from fakeface_jax.video.reading.opencv import VideoFile
from fakeface_jax.video.render import page as html
from fakeface_jax.video.render.crops import cut, extremes, picture_crops, suspicious_crops
from fakeface_jax.video.render.page import save_image_html, save_video_html
from fakeface_jax.video.report.explanations import wording
from fakeface_jax.video.scoring import score_image

HOSTILE = "a\"><script>alert(1)</script>\u202egnp.exe'&b.avi"


@pytest.fixture(scope="module")
def classifier(tiny_bundle):
    return FaceClassifier.load(tiny_bundle)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A hundred frames; the red of each says its number."""
    path = tmp_path_factory.mktemp("html") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (240, 180))
    noise = np.random.default_rng(0).integers(0, 60, (180, 240, 3), dtype=np.uint8)
    for number in range(100):
        frame = noise.copy()
        frame[..., 2] = 2 * number
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture(scope="module")
def report(clip):
    return people_report(clip)


@pytest.fixture(scope="module")
def text(report, classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    save_video_html(report, path, classifier)
    return path.read_text(encoding="utf-8")


def prose(text):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", re.sub(r"<style>.*?</style>", "", text, flags=re.S)))


def pictures(page):
    found = []
    for image in page.all("img"):
        kind, data = image["src"].split(";base64,")
        assert kind == "data:image/jpeg"
        found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
    return found


def test_extremes_are_of_people_that_count_and_never_both(report):
    most, least = extremes(report, 6)
    assert [face.logit for _, face in most] == [3.0] * 5 + [0.0]
    assert [face.logit for _, face in least] == [-3.0] * 6
    everything = extremes(report, 12)
    assert [len(part) for part in everything] == [12, 5]
    assert not {id(face) for _, face in everything[0]} & {id(face) for _, face in everything[1]}
    everybody, _ = extremes(dataclasses.replace(report, people=()), 10)
    assert {face.person for _, face in everybody} == {3}


def test_crops_are_of_the_frames_that_were_scored(report, classifier):
    most, least = extremes(report, 6)
    cuts = cut(report, [*most, *least], classifier)
    assert [(one.time, one.face) for one in cuts] == [(frame.time, face) for frame, face in [*most, *least]]
    for one in cuts:
        assert one.crop[..., 0].mean() == pytest.approx(20 * one.time, abs=4)


def test_page_is_one_file_that_asks_nobody(text):
    page = Page(re.sub(r"<(line|rect|polyline|path)([^>]*)/>", r"<\1\2></\1>", text))
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"https?://|//[a-z]|url\(|@import", re.sub(r"base64,[A-Za-z0-9+/=]*", "", text))
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg["aria-label"] for svg in page.all("svg"))
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 400_000


def test_page_says_what_the_report_says(text, report):
    says = prose(text)
    assert "Fake P(fake) 0.80 P(fake) 0.800 reaches 0.700" in says
    for value in (report.media.sha256, report.model.id, "fps 1.0", "mean_of_logits", "tracking.iou0.3", "clip.avi"):
        assert value in says
    assert "fakeface verify report.json VIDEO" in says
    assert "4.5 s – 9.5 s (0.95 fake)" in says
    assert "main: fake, P(fake) 0.80" in says
    assert "background: fake, P(fake) 0.98" in says
    for title in ("Most suspicious", "Least suspicious", "What this means", "What it does not mean"):
        assert title in says


def test_every_crop_has_its_heat_map_beside_it(text):
    page = Page(re.sub(r"<(line|rect|polyline|path)([^>]*)/>", r"<\1\2></\1>", text))
    shown = pictures(page)
    assert len(shown) == 1 + 2 * 12
    assert shown[0].shape == (180, 240, 3)
    for crop, heat in zip(shown[1::2], shown[2::2], strict=True):
        assert crop.shape == heat.shape == (64, 64, 3)
        assert np.abs(crop.astype(int) - heat).mean() > 3


def test_timelines_have_a_dot_for_each_face_and_gaps(text):
    first, second, third = re.findall(r"<svg.*?</svg>", text, flags=re.S)
    assert [part.count("<path") for part in (first, second, third)] == [10, 7, 10]
    (seen,) = re.findall(r'class="seen" x="([\d.]+)" y="0" width="([\d.]+)"', second)
    assert tuple(map(float, seen)) == (250.0, 700.0)
    assert re.findall(r'class="segment" x="([\d.]+)" y="0" width="([\d.]+)"', second) == [("450.0", "500.0")]
    assert "segment" not in first
    assert 'class="dot fake" d="M800.0' in second
    limits = {float(y) for y in re.findall(r'class="limit"[^>]* y1="([\d.]+)"', first)}
    assert limits == {html._y(0.7), html._y(0.3)}


def test_a_person_who_comes_back_has_two_stretches(report):
    frames = tuple(
        frame if index != 6 else dataclasses.replace(frame, faces=()) for index, frame in enumerate(report.frames)
    )
    shown = html._lane(html.lane(dataclasses.replace(report, frames=frames), report.people[0]), 10.0)
    assert [(run["x"], run["width"]) for run in shown["runs"]] == [(0.0, 550.0), (650.0, 300.0)]


def test_names_are_hostile(report, classifier, clip, tmp_path):
    hostile = dataclasses.replace(report, input=f"folder/{HOSTILE}", reason="<b>\x1b[2J", frames=())
    save_video_html(hostile, tmp_path / "page.html", classifier, source=clip)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>\\x1b[2J" not in text
    assert not re.search("[\x00-\x08\x0e-\x1f\u202e]", text)
    assert "\\u202egnp.exe" in text
    surrogate = dataclasses.replace(hostile, input="bad\udcff.avi")
    save_video_html(surrogate, tmp_path / "page.html", classifier, source=clip)
    assert "bad\\udcff.avi" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("verdict", [Verdict.NO_FACE, Verdict.INCONCLUSIVE])
def test_without_a_face_there_is_no_timeline_and_no_crop(report, classifier, clip, tmp_path, verdict):
    frames = tuple(dataclasses.replace(frame, faces=()) for frame in report.frames)
    empty = dataclasses.replace(
        report, verdict=verdict, p_fake=None, reason="no face was found", frames=frames, people=()
    )
    save_video_html(empty, tmp_path / "page.html", classifier, source=clip)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<svg" not in text
    assert "<img" not in text
    assert "No face was scored, so nothing was judged: no face was found." in prose(text)
    assert report.media.sha256 in text


def test_the_same_report_is_the_same_page(report, classifier, text, tmp_path):
    save_video_html(report, tmp_path / "again.html", classifier)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_a_picture_has_a_page_too(classifier, face_picture, tmp_path):
    class TwoFaces:
        name = "two faces"

        def detect(self, image):
            return [
                Face(box=(180.0, 60.0, 280.0, 190.0), confidence=0.9),
                Face(box=(0.0, 0.0, 9.0, 9.0), confidence=1.0),
            ]

    found = score_image(classifier, TwoFaces(), face_picture, name="me.png")
    save_image_html(face_picture, found, tmp_path / "page.html", classifier)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    says = prose(text)
    assert "Picture me.png, 512 × 512" in says
    assert "Faces scored1Faces too small to score1" in says.replace(" Faces too", "Faces too").replace(
        "scored 1", "scored1"
    )
    assert text.count("<img") == 3
    assert "<svg" not in text


def test_crops_are_data_that_pages_are_made_of(report, classifier, clip, text, tmp_path, monkeypatch):
    crops = suspicious_crops(report, classifier, clip)
    most, least = extremes(report, 6)
    assert [one["kind"] for one in crops] == ["most"] * 6 + ["least"] * 6
    for one, (frame, face) in zip(crops, [*most, *least], strict=True):
        assert (one["frame"], one["time"], one["person"]) == (frame.index, frame.time, face.person)
        assert (one["box"], one["p_fake"], one["verdict"]) == (face.box, face.p_fake, str(face.verdict))
    assert json.loads(json.dumps(crops))[0]["heat"].startswith("data:image/jpeg;base64,")
    size = classifier.spec.crop.size
    assert {picture.shape for picture in pictures_of(crops)} == {(size, size, 3)}
    # They are not made twice, and the page is the one that it would be.
    monkeypatch.setattr("fakeface_jax.video.render.page.suspicious_crops", None)
    with VideoFile(clip) as video:
        save_video_html(report, tmp_path / "page.html", classifier, video, crops=crops)
        assert len(list(video.frames_at([0]))) == 1
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text


def test_crops_of_a_picture(classifier, face_picture, tmp_path, monkeypatch):
    class ThreeFaces:
        name = "three faces"

        def detect(self, image):
            boxes = [(180.0, 60.0, 280.0, 190.0), (0.0, 0.0, 9.0, 9.0), (20.0, 20.0, 120.0, 120.0)]
            return [Face(box=box, confidence=0.9) for box in boxes]

    found = score_image(classifier, ThreeFaces(), face_picture, name="me.png")
    crops = picture_crops(face_picture, found, classifier)
    scores = [one["p_fake"] for one in crops]
    assert scores == sorted((face.p_fake for face in found.faces if face.p_fake is not None), reverse=True)
    assert {(one["kind"], one["frame"], one["time"], one["person"]) for one in crops} == {("face", None, None, None)}
    save_image_html(face_picture, found, tmp_path / "one.html", classifier)
    monkeypatch.setattr("fakeface_jax.video.render.page.picture_crops", None)
    save_image_html(face_picture, found, tmp_path / "two.html", classifier, crops=crops)
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()


def pictures_of(crops):
    for one in crops:
        for uri in (one["crop"], one["heat"]):
            yield np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(";base64,")[2]))))


def test_targets_that_cannot_be_written(report, classifier, tmp_path):
    with pytest.raises(OpenError, match=r"name it \.htm or \.html"):
        save_video_html(report, tmp_path / "page.pdf", classifier)
    gone = dataclasses.replace(report, input=str(tmp_path / "gone.avi"))
    (tmp_path / "page.html").write_text("an older page")
    with pytest.raises(OpenError, match=r"gone\.avi"):
        save_video_html(gone, tmp_path / "page.html", classifier)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "an older page"


POINTS = (
    OperatingPoint(kind="fpr", rate=0.01, threshold=0.7, rate_low=0.002, rate_high=0.031, split="c", samples=418),
    OperatingPoint(kind="fnr", rate=0.05, threshold=0.3, rate_low=0.027, rate_high=0.082, split="c", samples=400),
)


def test_verdicts_are_told_with_the_error_rates_of_their_thresholds(report):
    bands = VerdictBands(real_below=0.3, fake_from=0.7)
    decision = VideoDecision(
        rule="mean_of_logits", calibration=Calibration(), bands=bands, operating_points=POINTS, fitted_on="40 clips"
    )
    model = dataclasses.replace(report.model, video=decision, calibration="platt")
    fake = " ".join(wording(dataclasses.replace(report, model=model)).means)
    assert "reaches 0.700. About 1 % of the real videos set aside to choose it reach that too" in fake
    assert "95 % interval 0.2 % to 3.1 %, from 418 videos" in fake
    assert "(40 clips)" in fake
    real = dataclasses.replace(report, model=model, verdict=Verdict.REAL, p_fake=0.1)
    assert "is below 0.300. About 5 % of the fake videos set aside" in wording(real).means[0]
    assert "may pass" in wording(real).means_not[0]
    between = dataclasses.replace(report, model=model, verdict=Verdict.INCONCLUSIVE, p_fake=0.5)
    assert "lies between 0.300" in wording(between).means[0]
    little = dataclasses.replace(between, p_fake=0.9, reason="faces scored in 2 frames, a verdict needs 5")
    assert "would be “fake”, and rests on too little: faces scored in 2 frames" in wording(little).means[0]


def test_thresholds_that_were_not_fitted_for_this_rule_are_called_those_of_faces(report):
    decision = VideoDecision(rule="another", calibration=Calibration(), bands=VerdictBands(real_below=0, fake_from=1))
    model = dataclasses.replace(report.model, video=decision, operating_points=POINTS)
    means = " ".join(wording(dataclasses.replace(report, model=model)).means)
    assert "1 % of the real faces" in means
    assert "fitted on single faces" in means
    assert "is no probability" in means  # the model of this report was never calibrated
    unknown = " ".join(wording(report).means)
    assert "How often that is wrong is not stated; the thresholds: chosen by hand for tests." in unknown

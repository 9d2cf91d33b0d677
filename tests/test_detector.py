"""The front door: one object, every kind of source, one answer for the same picture."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import fakeface_jax as ff
from fakeface_jax.video.detector import FakeFaceDetector, load
from fakeface_jax.video.report.video_report import ImageReport, VideoReport

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def detector(tiny_bundle) -> FakeFaceDetector:
    return load(tiny_bundle)


@pytest.fixture(scope="module")
def portrait(tmp_path_factory, face_picture):
    """A PNG file of the picture with a face."""
    path = tmp_path_factory.mktemp("pictures") / "portrait.png"
    Image.fromarray(face_picture).save(path)
    return path


def test_every_kind_of_picture_gets_the_same_score(detector, portrait, face_picture):
    wanted = detector.score_image(portrait).p_fake
    assert wanted is not None
    with Image.open(portrait) as picture:
        sources = [str(portrait), portrait.read_bytes(), face_picture, picture]
        scores = [detector.score_image(source).p_fake for source in sources]
    assert scores == [wanted] * 4
    assert detector.score_image(cv2.imread(str(portrait)), colour="bgr").p_fake == wanted


def test_colours_in_the_wrong_order_are_another_picture(detector, face_picture):
    assert (
        detector.score_image(face_picture).faces[0].logit
        != detector.score_image(face_picture, colour="bgr").faces[0].logit
    )


def test_a_file_is_a_picture_or_a_video_by_its_content(detector, portrait, tmp_path):
    disguised = tmp_path / "clip.jpg"
    disguised.write_bytes((REPOSITORY / "samples" / "real_collins_pan.mp4").read_bytes())
    assert isinstance(detector.score(portrait), ImageReport)
    assert isinstance(detector.score(disguised), VideoReport)


def test_several_pictures_come_back_in_order(detector, portrait, faceless_picture):
    found = list(detector.score_images([portrait, faceless_picture, portrait]))
    assert [str(report.verdict) == "no_face" for report in found] == [False, True, False]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3.5, "a float cannot be scored"),
        (np.zeros((8, 8)), "float64 of shape"),
        (np.zeros((8, 8, 4), np.uint8), "shape \\(8, 8, 4\\)"),
    ],
)
def test_what_is_not_a_picture_is_told(detector, source, message, unchecked_types):
    with pytest.raises(ff.ConfigError, match=message):
        detector.score_image(source)


def test_an_unknown_colour_order_is_told(detector, face_picture, unchecked_types):
    with pytest.raises(ff.ConfigError, match="colour='gbr' is unknown"):
        detector.score_image(face_picture, colour="gbr")


def test_a_missing_file_is_told(detector, tmp_path):
    with pytest.raises(ff.OpenError, match="No such file"):
        detector.score(tmp_path / "nothing.jpg")


def test_representations_are_short_and_say_the_answer(detector, portrait):
    report = detector.score_image(portrait)
    assert f"P(fake) {report.p_fake:.3f}" in repr(report)
    assert len(repr(report)) < 300
    assert str(report.verdict) in report._repr_html_()
    assert "tiny" in repr(detector)


def test_the_functions_of_the_package_use_the_model_that_ships(portrait):
    assert ff.score(str(portrait)).p_fake == ff.load().score_image(portrait).p_fake
    assert {"score", "load", "stream", "FakeFaceDetector"} <= set(dir(ff))

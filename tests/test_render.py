"""What is drawn, read back from the files that were written."""

import dataclasses
import itertools
import stat

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from test_timeline import a_face, people_report

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.decision import Calibration, VideoDecision
from fakeface_jax.errors import OpenError
from fakeface_jax.faces import Face
from fakeface_jax.labels import Verdict
from fakeface_jax.video.reading.opencv import VideoFile
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.render import annotate as render
from fakeface_jax.video.render.annotate import COLOURS, annotate, save_annotated_image, save_annotated_video
from fakeface_jax.video.report.records import Role
from fakeface_jax.video.report.video_report import FaceRecord
from fakeface_jax.video.scoring import score_image, score_video

BOX = (60.0, 60.0, 120.0, 140.0)
GREY = 90
BAR = 14
"""Height of the timeline of one person below a picture whose shorter side is 180 pixels."""


class OneFace:
    name = "one face"

    def detect(self, image):
        return [Face(box=BOX, confidence=0.9)]


@pytest.fixture(scope="module")
def classifier(tiny_bundle):
    return FaceClassifier.load(tiny_bundle)


def write_clip(path, code="MJPG", fps=29.97, count=60, size=(240, 180)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, size)
    for _ in range(count):
        writer.write(np.full((size[1], size[0], 3), GREY, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("render") / "clip.avi")


@pytest.fixture(scope="module")
def report(classifier, clip):
    return score_video(classifier, OneFace(), clip, Sampling(every=20, end=1.0))


def face(verdict=Verdict.FAKE, p_fake=0.93, box=BOX):
    return FaceRecord(box=box, p_fake=p_fake, verdict=verdict, confidence=0.9)


def changed(image, drawn):
    return (image != drawn).any(axis=2)


@pytest.mark.parametrize("verdict", [Verdict.FAKE, Verdict.REAL, Verdict.INCONCLUSIVE])
def test_box_has_the_colour_of_its_verdict_and_a_label(verdict):
    image = np.full((240, 320, 3), GREY, np.uint8)
    drawn = annotate(image, [face(verdict)])
    assert (image == GREY).all()  # the original is left alone
    assert tuple(drawn[100, 60]) == COLOURS[verdict]  # left edge
    assert tuple(drawn[140, 90]) == COLOURS[verdict]  # lower edge
    assert (drawn[70:130, 70:110] == GREY).all()  # the face itself stays visible
    assert changed(image, drawn)[40:58, 60:120].any()  # the label above it


def test_verdicts_can_be_told_apart_without_colour():
    image = np.full((240, 320, 3), GREY, np.uint8)
    labels = [annotate(image, [face(verdict)])[:58].mean(axis=2) > 127 for verdict in COLOURS]
    assert not any((one == other).all() for one, other in itertools.combinations(labels, 2))
    brightness = sorted(np.dot(COLOURS[v], (0.299, 0.587, 0.114)) for v in (Verdict.REAL, Verdict.FAKE))
    assert brightness[1] - brightness[0] > 25


@pytest.mark.parametrize("size", [(16, 16), (40, 300), (300, 40), (90, 160), (1080, 1920), (2160, 3840)])
def test_any_size_can_be_drawn_on(size):
    image = np.full((*size, 3), GREY, np.uint8)
    height, width = size
    boxes = [(0, 0, width, height), (width - 3, height - 3, width, height), (-5, -5, width + 5, 3), (0, 0, 1, 1)]
    faces = [face(box=tuple(map(float, box))) for box in boxes]
    faces.append(FaceRecord(box=BOX, p_fake=None, verdict=Verdict.INCONCLUSIVE, confidence=0.5))
    drawn = annotate(image, faces, banner="video: FAKE  P(fake) 0.93", banner_verdict=Verdict.FAKE)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert changed(image, drawn).any()


def test_lines_and_text_grow_with_the_picture():
    shares = []
    for scale in (1, 4):
        image = np.full((540 * scale, 960 * scale, 3), GREY, np.uint8)
        box = tuple(float(scale * corner) for corner in (200, 200, 400, 450))
        shares.append(changed(image, annotate(image, [face(box=box)])).mean())
    assert shares[1] == pytest.approx(shares[0], rel=0.35)


@pytest.mark.parametrize("ending", render.IMAGE_EXTENSIONS)
def test_annotated_image_is_written(classifier, face_picture, tmp_path, ending):
    report = score_image(classifier, OneFace(), face_picture)
    path = tmp_path / f"with space ü{ending}"
    save_annotated_image(face_picture, report, path)
    with Image.open(path) as picture:
        assert picture.size == (512, 512)
        assert changed(face_picture, np.asarray(picture.convert("RGB")))[60:140, 58:62].any()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_image_without_a_face_says_so(classifier, face_picture, tmp_path):
    report = score_image(classifier, OneFace(), face_picture)
    report = dataclasses.replace(report, faces=(), p_fake=None, verdict=Verdict.NO_FACE)
    save_annotated_image(face_picture, report, tmp_path / "none.png")
    with Image.open(tmp_path / "none.png") as picture:
        drawn = changed(face_picture, np.asarray(picture))
    assert drawn[:20].any()
    assert not drawn[40:].any()


@pytest.mark.parametrize("ending", render.VIDEO_CODECS)
def test_annotated_video_has_all_frames_at_the_same_rate(report, tmp_path, ending):
    path = tmp_path / f"out ü{ending}"
    save_annotated_video(report, path)
    with VideoFile(path) as video:
        assert video.frame_count == 60
        assert video.fps == pytest.approx(29.97, abs=1e-3)
        assert (video.width, video.height) == (240, 180 + BAR)
        frames = list(video.frames(Sampling(every=1)))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert all(frame.image[2].min() < 60 for frame in frames)  # the banner, everywhere

    def boxed(index):
        edge = frames[index].image[90:130, 59:62].astype(int)
        return np.abs(edge - GREY).max() > 40

    # Sampled at 0 and 20, held for one interval: up to 40, and gone behind it.
    assert all(boxed(index) for index in range(40))
    assert not any(boxed(index) for index in range(42, 60))


def test_annotated_frames_come_one_at_a_time(report):
    pairs = list(itertools.islice(render.annotated_frames(report), 3))
    assert [image.shape for image, _ in pairs] == [(180 + BAR, 240, 3)] * 3
    assert pairs[0][1] == pytest.approx(29.97)
    assert pairs[0][0][2].min() < 60  # the banner


def test_boxes_of_distant_samples_are_not_held(classifier, tmp_path):
    clip = write_clip(tmp_path / "slow.avi", fps=5, count=30)
    report = score_video(classifier, OneFace(), clip, Sampling(every=20))
    overlay = render._Overlay(report)
    shown = [bool(overlay.at(number / 5)[0]) for number in range(30)]
    assert shown == [True] * 6 + [False] * 14 + [True] * 6 + [False] * 4


def test_running_score_uses_only_what_was_seen(report):
    overlay = render._Overlay(report)
    first = report.frames[0].faces[0].p_fake
    assert f"so far {first:.2f}" in overlay.at(0.0)[1]
    assert overlay.at(5.0)[1].startswith(f"video: {str(report.verdict).upper()}  P(fake) {report.p_fake:.2f}")


def test_running_score_is_of_the_people_that_count():
    report = people_report()
    overlay = render._Overlay(report)
    assert "so far 0.05" in overlay.at(0.0)[1]  # sigmoid(-3): person 1 alone, whatever person 3 has
    assert "so far 0.08" in overlay.at(3.0)[1]  # four times -3 and once 0
    calibration = Calibration(scale=0.5, bias=1.0, method="platt")
    for rule, shown in (("mean_of_logits", "0.38"), ("another", "0.05")):
        decision = VideoDecision(rule=rule, calibration=calibration, bands=report.model.bands)
        fitted = dataclasses.replace(report, model=dataclasses.replace(report.model, video=decision))
        assert f"so far {shown}" in render._Overlay(fitted).at(0.0)[1]


def test_boxes_follow_a_person_between_two_samples():
    overlay = render._Overlay(people_report())
    at_sample, between = overlay.at(4.0)[0], overlay.at(4.25)[0]
    assert [one.person for one in between] == [1, 2, 3]
    assert at_sample[0].box[0] == 14.0
    assert between[0].box == pytest.approx((14.25, 20.0, 54.25, 70.0))
    assert between[0].p_fake == at_sample[0].p_fake  # a score is of a frame that was scored


def test_boxes_of_people_who_leave_do_not_move():
    report = people_report()
    frames = (report.frames[3], dataclasses.replace(report.frames[4], faces=(a_face(1, 0.0, left=50.0),)))
    (first, second, third) = render._Overlay(dataclasses.replace(report, frames=frames)).at(3.5)[0]
    assert first.box[0] == pytest.approx((13 + 50) / 2)
    assert (second.box, third.box) == tuple(one.box for one in report.frames[3].faces[1:])


def test_people_are_named_and_those_in_the_background_are_grey():
    report = people_report()
    image = np.full((720, 960, 3), GREY, np.uint8)
    scaled = [dataclasses.replace(one, box=tuple(4 * edge for edge in one.box)) for one in report.frames[5].faces]
    drawn = annotate(image, scaled, people=report.people)
    for one in scaled:
        x0, y0, _, y1 = map(round, one.box)
        background = report.people[one.person - 1].role is Role.BACKGROUND
        assert tuple(drawn[(y0 + y1) // 2, x0]) == ((160, 160, 160) if background else COLOURS[one.verdict])
    unnamed = annotate(image, [dataclasses.replace(one, person=None) for one in scaled])
    assert changed(drawn, unnamed)[40:80].any()
    assert render._labels(scaled[1])[0].startswith("person 2  FAKE  P(fake) 0.95")
    assert render._labels(scaled[1])[-1] == "2: FAKE 0.95"


def test_rotated_source_is_annotated_upright(classifier, clip, tmp_path):
    import subprocess

    rotated = tmp_path / "rotated.mp4"
    write_clip(tmp_path / "flat.mp4", code="mp4v", count=30)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-display_rotation", "90"]
    subprocess.run([*command, "-i", str(tmp_path / "flat.mp4"), "-c", "copy", str(rotated)], check=True)
    report = score_video(classifier, OneFace(), rotated, Sampling(frames=4))
    save_annotated_video(report, tmp_path / "out.mp4")
    with VideoFile(tmp_path / "out.mp4") as video:
        assert (video.width, video.height, video.frame_count) == (180, 240 + BAR, 30)


def test_targets_that_cannot_be_written(report, classifier, face_picture, tmp_path):
    still = score_image(classifier, OneFace(), face_picture)
    (tmp_path / "folder.png").mkdir()
    for name, message in (
        ("picture.xyz", "name it .jpeg or .jpg"),
        ("picture", "no ending"),
        ("missing/picture.png", "there is no directory"),
        ("folder.png", "is a directory"),
    ):
        with pytest.raises(OpenError, match=message):
            save_annotated_image(face_picture, still, tmp_path / name)
    with pytest.raises(OpenError, match=r"cannot write a file with '\.gif'"):
        save_annotated_video(report, tmp_path / "out.gif")
    assert [file.name for file in tmp_path.iterdir()] == ["folder.png"]


def test_no_permission_is_one_line(classifier, face_picture, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", refuse)  # root may write everywhere, so chmod would not show it
    with pytest.raises(OpenError, match=r"a\.png: cannot be written: Permission denied"):
        save_annotated_image(face_picture, score_image(classifier, OneFace(), face_picture), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_nothing_half_written_stays_and_an_older_file_survives(report, tmp_path, monkeypatch, interruption):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"an older result")
    calls = itertools.count()

    def interrupted(image, *_, **__):
        if next(calls) == 5:
            raise interruption
        return image

    monkeypatch.setattr(render, "annotate", interrupted)
    with pytest.raises(interruption):
        save_annotated_video(report, path)
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    assert path.read_bytes() == b"an older result"


def test_source_is_never_overwritten(report, clip):
    before = clip.read_bytes()
    with pytest.raises(OpenError, match="is the video that was scored"):
        save_annotated_video(report, clip)
    assert clip.read_bytes() == before

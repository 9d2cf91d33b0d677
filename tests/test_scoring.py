"""The pipeline on clips whose faces are known: a detector that finds what the test says, and the real one."""

import dataclasses
import hashlib
import io
import json
import weakref

import cv2
import numpy as np
import pytest
from PIL import Image

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.decision import VerdictBands
from fakeface_jax.detectors import create_detector
from fakeface_jax.errors import Cancelled, ConfigError, MediaError, OpenError
from fakeface_jax.faces import Face
from fakeface_jax.labels import Verdict
from fakeface_jax.video import scoring
from fakeface_jax.video.reading.opencv import VideoFile
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.scoring import score_image, score_video
from fakeface_jax.video.verdict.thresholds import MIN_FRAMES


class FixedDetector:
    """Finds the same boxes in every picture, and remembers how many pictures were alive at once."""

    name = "fixed"

    def __init__(self, *boxes):
        self.boxes = boxes
        self.calls = 0
        self.most_alive = 0
        self._seen: list[weakref.ref] = []

    def detect(self, image):
        self.calls += 1
        self._seen.append(weakref.ref(image))
        self.most_alive = max(self.most_alive, sum(reference() is not None for reference in self._seen))
        return [Face(box=box, confidence=0.9) for box in self.boxes]


class EveryOther(FixedDetector):
    def detect(self, image):
        faces = super().detect(image)
        return faces if self.calls % 2 else []


LARGE = (20.0, 20.0, 80.0, 100.0)
SECOND = (90.0, 10.0, 150.0, 80.0)
THIRD = (40.0, 50.0, 100.0, 118.0)
TINY = (5.0, 5.0, 30.0, 36.0)


@pytest.fixture(scope="module")
def classifier(tiny_bundle):
    return FaceClassifier.load(tiny_bundle)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, face_picture):
    """4 seconds at 25 per second, 160 x 120: a photograph that drifts to the left, so that frames differ."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    picture = cv2.cvtColor(cv2.resize(face_picture, (300, 300)), cv2.COLOR_RGB2BGR)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (160, 120))
    for number in range(100):
        writer.write(picture[10:130, number : number + 160])
    writer.release()
    return path


def with_bands(classifier, real_below, fake_from):
    bands = VerdictBands(real_below=real_below, fake_from=fake_from)
    bundle = dataclasses.replace(classifier.bundle, spec=dataclasses.replace(classifier.spec, bands=bands))
    return FaceClassifier(bundle)


def test_image_by_path_bytes_and_array_agree(classifier, face_picture, tmp_path):
    path = tmp_path / "a portrait ü.png"
    Image.fromarray(face_picture).save(path)
    detector = create_detector()
    data = path.read_bytes()
    by_path = score_image(classifier, detector, path)
    by_bytes = score_image(classifier, detector, data, name="upload")
    by_array = score_image(classifier, detector, face_picture)
    assert by_path.faces == by_bytes.faces == by_array.faces
    assert len(by_path.faces) == 1
    x0, y0, x1, y1 = by_path.faces[0].box
    assert x0 < 224 < x1
    assert y0 < 120 < y1
    assert (by_path.input, by_bytes.input, by_array.input) == (str(path), "upload", "<array>")
    assert by_path.media.sha256 == by_bytes.media.sha256 == hashlib.sha256(data).hexdigest()
    assert by_path.verdict is classifier.spec.bands.decide(by_path.p_fake)
    assert json.loads(json.dumps(by_path.to_dict()))["model"]["id"] == classifier.bundle.id


def test_video_by_path_bytes_and_open_file_agree(classifier, clip):
    data = clip.read_bytes()
    opened = io.BytesIO(data)
    reports = [
        score_video(classifier, FixedDetector(LARGE), source, Sampling(frames=5)) for source in (clip, data, opened)
    ]
    assert [report.input for report in reports] == [str(clip), "<bytes>", "<bytes>"]
    assert {report.media.sha256 for report in reports} == {hashlib.sha256(data).hexdigest()}
    assert reports[0].frames == reports[1].frames == reports[2].frames
    assert len(reports[0].frames) == 5
    assert not opened.closed


def test_image_takes_the_most_fake_face_and_leaves_tiny_ones_out(classifier, face_picture):
    report = score_image(classifier, FixedDetector(LARGE, SECOND, TINY), face_picture)
    scores = [face.p_fake for face in report.faces]
    assert scores[2] is None
    assert report.p_fake == max(scores[:2])
    alone = score_image(classifier, FixedDetector(SECOND), face_picture)
    assert alone.p_fake == pytest.approx(scores[1], abs=1e-5)  # the same crop, in another batch size


def test_image_without_a_face_has_no_score(classifier, faceless_picture):
    report = score_image(classifier, create_detector(), faceless_picture)
    assert (report.verdict, report.p_fake, report.faces) == (Verdict.NO_FACE, None, ())
    assert report.reason == "no face was found"


def test_image_with_tiny_faces_only_says_so(classifier, face_picture):
    report = score_image(classifier, FixedDetector(TINY), face_picture)
    assert (report.verdict, report.p_fake) == (Verdict.NO_FACE, None)
    assert "too small" in report.reason
    assert len(report.faces) == 1


def test_whole_image_needs_no_detector(classifier, face_picture):
    detector = FixedDetector()
    report = score_image(classifier, detector, face_picture[40:70, 200:230], whole_image=True)
    assert detector.calls == 0
    assert report.faces[0].box == (0.0, 0.0, 30.0, 30.0)
    assert report.p_fake is not None
    assert report.to_dict()["detector"] == "none (whole image)"


def test_bad_images_are_media_errors(unchecked_types, classifier, tmp_path):
    detector = FixedDetector(LARGE)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    for bad in (tmp_path / "missing.jpg", b"", b"no image", buffer.getvalue()[:60]):
        with pytest.raises(MediaError):
            score_image(classifier, detector, bad)
    with pytest.raises(OpenError, match="float64"):
        score_image(classifier, detector, np.zeros((64, 64, 3)))
    assert detector.calls == 0


def test_video_score_is_the_mean_logit_of_the_most_fake_person(classifier, clip):
    report = score_video(classifier, FixedDetector(LARGE, SECOND, TINY), clip, Sampling(fps=5))
    means = [np.mean([frame.faces[place].logit for frame in report.frames]) for place in (0, 1)]
    assert [person.p_fake for person in report.people[:2]] == pytest.approx([1 / (1 + np.exp(-mean)) for mean in means])
    assert report.p_fake == max(person.p_fake for person in report.people[:2])
    assert (report.people[2].p_fake, report.people[2].verdict) == (None, Verdict.NO_FACE)
    assert all([face.person for face in frame.faces[:2]] == [1, 2] for frame in report.frames)
    evidence = report.evidence
    assert (evidence.frames_sampled, evidence.faces_scored, evidence.faces_too_small) == (20, 40, 20)
    assert (evidence.frames_with_face, evidence.frames_dropped) == (20, 0)
    assert evidence.seconds == pytest.approx(95 / 25 + 1 / 25)
    assert [frame.index for frame in report.frames] == list(range(0, 100, 5))
    assert report.media.sha256 == hashlib.sha256(clip.read_bytes()).hexdigest()
    assert (report.media.frames, report.media.fps) == (100, 25.0)
    assert report.aggregation == "worst_person"


def test_batching_over_frames_changes_no_score(classifier, clip):
    """Each face gets the score it has when its frame is scored alone: crops are never mixed up."""
    report = score_video(classifier, FixedDetector(LARGE, TINY, SECOND, THIRD), clip, Sampling(every=3))
    with VideoFile(clip) as video:
        for record, frame in zip(report.frames, video.frames(Sampling(every=3)), strict=True):
            alone = classifier.score_faces(
                frame.image, [Face(box=box, confidence=0.9) for box in (LARGE, SECOND, THIRD)]
            )
            assert [record.faces[number].logit for number in (0, 2, 3)] == pytest.approx(
                [score.logit for score in alone], abs=1e-4
            )
            assert record.faces[1].p_fake is None
    logits = [frame.faces[0].logit for frame in report.frames]
    assert len(set(logits)) == len(logits)  # the frames do differ


def test_memory_holds_some_frames_however_long_the_video(classifier, clip):
    detector = EveryOther(LARGE)
    report = score_video(classifier, detector, clip, Sampling(every=1))
    # Where a face comes or goes between two detections, each frame between them is looked at.
    assert detector.calls == len(report.frames) == 100
    assert detector.most_alive <= 7


def test_faces_are_carried_between_detections(classifier, clip):
    detector = FixedDetector(LARGE)
    report = score_video(classifier, detector, clip, Sampling(every=1))
    assert detector.calls == 21
    assert [frame.index for frame in report.frames] == list(range(100))
    assert [frame.faces[0].carried for frame in report.frames[:6]] == [False, True, True, True, True, False]
    assert {frame.faces[0].box for frame in report.frames} == {LARGE}


def test_frames_are_looked_for_until_enough_have_a_face(classifier, clip):
    every_other = score_video(classifier, EveryOther(LARGE), clip, Sampling(faces=8))
    assert every_other.evidence.frames_with_face >= 8
    assert len(every_other.frames) > 8
    times = [frame.time for frame in every_other.frames]
    assert times == sorted(set(times))
    assert len(score_video(classifier, FixedDetector(LARGE), clip, Sampling(faces=8)).frames) == 8
    nobody = score_video(classifier, FixedDetector(), clip, Sampling(faces=8))
    assert nobody.verdict is Verdict.NO_FACE
    assert nobody.frames_read <= nobody.media.frames
    with pytest.raises(MediaError, match="choose another window"):
        score_video(classifier, FixedDetector(LARGE), clip, Sampling(faces=8, start=100.0))


def test_callbacks_come_in_order(classifier, clip):
    seen, progress = [], []
    report = score_video(
        classifier,
        EveryOther(LARGE),
        clip,
        Sampling(frames=50),
        progress=lambda done, total: progress.append((done, total)),
        on_frame=seen.append,
    )
    assert tuple(seen) == report.frames
    assert progress == [(done, 50) for done in range(1, 51)]


def test_scoring_is_deterministic(classifier, clip):
    first, second = (score_video(classifier, FixedDetector(LARGE), clip) for _ in range(2))
    assert first.frames == second.frames
    assert first.p_fake == second.p_fake
    assert first.sampling.frames == 32  # the report states the default that was used


def test_stages_are_timed(classifier, clip):
    report = score_video(classifier, FixedDetector(LARGE), clip)
    stages = dataclasses.asdict(report.seconds)
    assert list(stages) == ["open", "decode", "detect", "classify", "track", "aggregate"]
    assert all(seconds > 0 for seconds in stages.values())
    assert report.fps == pytest.approx(report.frames_read / report.seconds.total)


def test_no_face_is_its_own_verdict(classifier, clip):
    report = score_video(classifier, FixedDetector(), clip)
    assert (report.verdict, report.p_fake, report.reason) == (Verdict.NO_FACE, None, "no face was found")
    assert report.evidence.seconds == 0
    tiny = score_video(classifier, FixedDetector(TINY), clip)
    assert (tiny.verdict, tiny.p_fake) == (Verdict.NO_FACE, None)
    assert tiny.evidence.faces_too_small == 32
    assert "too small" in tiny.reason


@pytest.mark.parametrize(("bands", "verdict"), [((0.0, 0.0), Verdict.FAKE), ((1.0, 1.0), Verdict.REAL)])
def test_little_evidence_is_inconclusive(classifier, clip, bands, verdict):
    sure = with_bands(classifier, *bands)
    assert score_video(sure, FixedDetector(LARGE), clip).verdict is verdict
    few = score_video(sure, FixedDetector(LARGE), clip, Sampling(frames=MIN_FRAMES - 1))
    assert few.verdict is Verdict.INCONCLUSIVE
    assert few.reason.endswith("a verdict needs 5")
    assert few.p_fake is not None
    short = score_video(sure, FixedDetector(LARGE), clip, Sampling(every=1, end=0.8))
    assert short.verdict is Verdict.INCONCLUSIVE
    assert "0.80 s" in short.reason
    just = score_video(sure, FixedDetector(LARGE), clip, Sampling(every=1, end=1.0))
    assert just.verdict is verdict


def test_unknown_rule_is_refused_before_any_work(classifier, tmp_path):
    with pytest.raises(ConfigError, match="unknown aggregation rule"):
        score_video(classifier, FixedDetector(LARGE), tmp_path / "missing.mp4", rule="nonsense")


def test_bad_videos_are_media_errors(classifier, tmp_path):
    bad = tmp_path / "text.mp4"
    bad.write_text("hello " * 100)
    for path in (bad, tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(OpenError):
            score_video(classifier, FixedDetector(LARGE), path)


def test_real_clip(classifier, shared_data):
    report = score_video(
        classifier, create_detector(), shared_data / "videos/real/videoretalking_face_1.mp4", Sampling(frames=6)
    )
    assert report.evidence.faces_scored >= 6
    assert report.evidence.frames_with_face == 6
    assert report.media.frames == 135


def test_many_faces_in_one_frame_are_little_evidence(classifier, tmp_path):
    path = tmp_path / "group.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 1, (320, 240))
    writer.write(np.full((240, 320, 3), 90, np.uint8))
    writer.release()
    boxes = [(x, y, x + 60, y + 60) for x in (0, 80, 160, 240) for y in (0, 80, 160)]
    report = score_video(with_bands(classifier, 0.0, 0.0), FixedDetector(*boxes), path)
    assert report.evidence.faces_scored == 12
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.reason == "nobody is seen enough; person 1: faces scored in 1 frame, a verdict needs 5"


def test_the_hash_is_of_the_bytes_that_were_decoded(classifier, tmp_path, face_picture, monkeypatch):
    path = tmp_path / "face.png"
    Image.fromarray(face_picture).save(path)
    data = path.read_bytes()
    decode = scoring.decode_image

    def replaced_meanwhile(given, **settings):
        path.write_bytes(b"another file")
        return decode(given, **settings)

    monkeypatch.setattr(scoring, "decode_image", replaced_meanwhile)
    report = score_image(classifier, FixedDetector(LARGE), path)
    assert report.media.sha256 == hashlib.sha256(data).hexdigest()


def test_a_video_that_is_open_gives_the_same_report_and_stays_open(classifier, clip):
    here = score_video(classifier, FixedDetector(LARGE, SECOND), clip, Sampling(fps=5))
    with VideoFile(clip) as video:
        detector = FixedDetector(LARGE, SECOND)
        there = score_video(classifier, detector, video, Sampling(fps=5), name="upload", sha256="0" * 64)
        nameless = score_video(classifier, FixedDetector(LARGE), video, Sampling(frames=2))
        assert len(list(video.frames(Sampling(frames=3)))) == 3
    assert (there.frames, there.people, there.evidence) == (here.frames, here.people, here.evidence)
    assert (there.input, there.media.sha256) == ("upload", "0" * 64)
    assert there.media == dataclasses.replace(here.media, sha256="0" * 64)
    assert (nameless.input, nameless.media.sha256) == (str(clip), None)


def test_a_path_can_have_another_name(classifier, clip):
    report = score_video(classifier, FixedDetector(LARGE), clip, Sampling(frames=2), name="as it was uploaded")
    assert report.input == "as it was uploaded"
    assert report.media.sha256 == hashlib.sha256(clip.read_bytes()).hexdigest()


@pytest.mark.parametrize("sampling", [Sampling(every=1), Sampling(faces=64)])
def test_work_ends_between_frames_when_asked_to(classifier, clip, sampling):
    detector = FixedDetector(LARGE)
    with pytest.raises(Cancelled, match="clip: stopped before the end"):
        score_video(classifier, detector, clip, sampling, name="clip", stop=lambda: detector.calls >= 3)
    assert detector.calls == 3
    with pytest.raises(Cancelled):
        score_video(classifier, detector, clip, sampling, stop=lambda: True)
    assert detector.calls == 3
    whole = score_video(classifier, FixedDetector(LARGE), clip, Sampling(frames=4), stop=lambda: False)
    assert len(whole.frames) == 4


def test_bytes_are_decoded_by_whom_the_caller_names(classifier, face_picture):
    given = []

    def decode(data, name):
        given.append((data, name))
        return face_picture

    report = score_image(classifier, FixedDetector(LARGE), b"some bytes", name="upload", decode=decode)
    assert given == [(b"some bytes", "upload")]
    assert report.media.sha256 == hashlib.sha256(b"some bytes").hexdigest()
    assert (report.media.width, report.media.height) == (512, 512)

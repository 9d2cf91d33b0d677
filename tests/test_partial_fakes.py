"""Three seconds of a fake inside a real video, spliced from published clips and scored by the shipped model."""

from fractions import Fraction

import av
import cv2
import pytest

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.detectors import create_detector
from fakeface_jax.labels import Verdict
from fakeface_jax.video.reading.opencv import VideoFile
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.scoring import score_video

START, SECONDS, LENGTH, FPS = 12.0, 3.0, 30.0, 25
REAL, FAKE = "real/liveportrait_driving_d10.mp4", "fake/ffpp_Deepfakes_519_515.mp4"


@pytest.fixture(scope="module")
def spliced(shared_data, tmp_path_factory):
    """Half a minute of a real clip, again and again, with three seconds of a fake one in it."""
    path = tmp_path_factory.mktemp("spliced") / "partial.mp4"
    with av.open(str(path), "w") as container, VideoFile(shared_data / "videos" / FAKE) as fake:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = 512, 512, "yuv420p"
        faked, real = fake.frames(Sampling(every=1)), again(shared_data / "videos" / REAL)
        for number in range(round(LENGTH * FPS)):
            inside = START <= number / FPS < START + SECONDS
            image = cv2.resize(next(faked).image[:, 80:560], (512, 512)) if inside else next(real)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def again(path):
    while True:
        with VideoFile(path) as video:
            for frame in video.frames(Sampling(fps=FPS)):
                yield frame.image


def test_a_partial_fake_is_localised_within_half_a_second(spliced):
    classifier = FaceClassifier.load()
    report = score_video(classifier, create_detector(classifier.spec.detector), spliced, Sampling(fps=5))
    parts = [(person.number, part) for person in report.people for part in person.segments]
    assert len(parts) == 1
    number, part = parts[0]
    assert part.start == pytest.approx(START, abs=0.5)
    assert part.end == pytest.approx(START + SECONDS, abs=0.5)
    # Whether three seconds are enough for `fake` is a matter of the weights; that they stand out is not.
    assert part.p_fake > 0.8
    assert part.verdict is not Verdict.REAL
    # It is the most suspicious person, and the video is not called real.
    assert number == max(report.people, key=lambda person: person.p_fake or 0.0).number
    assert report.verdict is not Verdict.REAL

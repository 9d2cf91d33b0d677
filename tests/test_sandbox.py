"""Media decoded in another process: the same frames and reports, and nothing of its troubles reaches the parent."""

import collections
import dataclasses
import io
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from clips import CLIPS, encode, number_of
from mjpeg_server import MjpegServer
from PIL import Image
from test_scoring import LARGE, SECOND, FixedDetector

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.errors import Cancelled, ConfigError, DecodeError, LimitExceeded, MediaError, OpenError
from fakeface_jax.images import decode_image
from fakeface_jax.server.sandbox import child as child_module
from fakeface_jax.server.sandbox import seccomp
from fakeface_jax.server.sandbox.budget import DecoderPlaces, default_budget
from fakeface_jax.server.sandbox.child import Child
from fakeface_jax.server.sandbox.pool import DecodeLimits, Decoders
from fakeface_jax.server.sandbox.protocol import DecoderCrashed, DecoderKilled, DecoderUnavailable
from fakeface_jax.server.service_config import Limits
from fakeface_jax.video.live.capture import ConnectionLost, StreamSource
from fakeface_jax.video.live.stream import State, Stream
from fakeface_jax.video.live.stream_config import StreamConfig
from fakeface_jax.video.reading.opencv import FrameSource, open_video
from fakeface_jax.video.reading.pyav import PyAVFile
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.render.annotate import save_annotated_video
from fakeface_jax.video.scoring import file_sha256, score_image, score_video

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE = REPOSITORY / "samples" / "real_collins_pan.mp4"
ALL = Sampling(every=1)

linux = pytest.mark.skipif(sys.platform != "linux", reason="what is enforced is Linux's")


@pytest.fixture(scope="module")
def decoders():
    with Decoders() as found:
        yield found


@pytest.fixture(scope="module")
def classifier(tiny_bundle):
    return FaceClassifier.load(tiny_bundle)


@pytest.fixture(scope="module")
def portrait(face_picture):
    return encoded(face_picture)


def encoded(picture, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format=form)
    return file.getvalue()


def gone(pid):
    """Whether a process has ended; one that nobody has waited for yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def same(one, other):
    return one.index == other.index and one.time == other.time and np.array_equal(one.image, other.image)


# ---- the same as in this process


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_pictures_are_those_that_this_process_decodes(decoders, face_picture, form):
    data = encoded(face_picture[::2, ::2], form)
    assert np.array_equal(decoders.image(data, "a"), decode_image(data))


def test_a_large_picture_comes_over_the_socket(decoders):
    picture = np.random.default_rng(0).integers(0, 255, (4200, 4100, 3), np.uint8)
    assert np.array_equal(decoders.image(encoded(picture, "BMP"), "large"), picture)


@pytest.mark.parametrize(
    "name",
    ["variable-rate", "portrait", "edit-list", "damaged-h264", "cut-mp4", "joined-recordings", "gif", "h264-raw"],
)
def test_frames_are_those_that_this_process_decodes(decoders, tmp_path, name):
    path = tmp_path / CLIPS[name].file
    CLIPS[name].make(path)
    with open_video(path) as here, decoders.open_video(path) as there:
        assert isinstance(there, FrameSource)
        for what in ("name", "width", "height", "fps", "frame_count", "frame_count_stated", "times_from", "duration"):
            assert getattr(there, what) == getattr(here, what), what
        for sampling in (ALL, Sampling(frames=4, start=0.2)):
            assert there.expected_samples(sampling) == here.expected_samples(sampling)
            for one, other in zip(here.frames(sampling), there.frames(sampling), strict=True):
                assert same(one, other)
                assert there.counters == here.counters
            assert there.counters == here.counters
            assert there.window(sampling) == here.window(sampling)
        assert there.passes(Sampling(faces=4)) == here.passes(Sampling(faces=4))


@pytest.mark.parametrize("name", ["interlaced-h264", "interlaced-dv"])
def test_what_opencv_cannot_convert_is_read_there_too(decoders, tmp_path, name):
    path = tmp_path / CLIPS[name].file
    CLIPS[name].make(path)
    with open_video(path) as here, decoders.open_video(path, "clip") as there:
        assert type(here) is PyAVFile
        frames = list(there.frames(ALL))
        assert [number_of(frame.image) for frame in frames] == list(range(len(CLIPS[name].times)))
        assert all(same(*pair) for pair in zip(here.frames(ALL), frames, strict=True))
        assert there.counters == here.counters
    with Decoders(DecodeLimits(max_frames=20), spare=False) as few, pytest.raises(LimitExceeded):
        few.open_video(path, "clip")


def test_without_shared_memory_the_frames_are_the_same(monkeypatch):
    monkeypatch.setattr(child_module, "shared_memory", lambda size: None)
    with Decoders(spare=False) as decoders, open_video(SAMPLE) as here, decoders.open_video(SAMPLE) as there:
        sampling = Sampling(frames=6)
        assert all(same(*pair) for pair in zip(here.frames(sampling), there.frames(sampling), strict=True))


@pytest.mark.parametrize("sampling", [Sampling(fps=5.0), Sampling(faces=6)])
def test_reports_are_the_same(decoders, classifier, sampling):
    detector = FixedDetector(LARGE, SECOND)
    with open_video(SAMPLE) as video:
        here = score_video(classifier, detector, video, sampling, sha256=file_sha256(SAMPLE)).to_dict()
    with decoders.open_video(SAMPLE) as video:
        there = score_video(classifier, detector, video, sampling, sha256=here["media"]["sha256"]).to_dict()
    for report in (here, there):
        del report["seconds"], report["fps"]
    assert there == here


def test_reports_of_shared_clips_are_the_same(decoders, classifier, shared_data):
    clip = min(path for path in (shared_data / "videos").rglob("*") if path.is_file())
    detector = FixedDetector(LARGE)
    with open_video(clip) as video:
        here = score_video(classifier, detector, video, sha256=file_sha256(clip)).to_dict()
    with decoders.open_video(clip, "as it was named") as video:
        there = score_video(classifier, detector, video).to_dict()
    assert there["input"] == "as it was named"
    assert there["media"].pop("sha256") is None
    assert here["media"].pop("sha256")
    for report in (here, there):
        del report["seconds"], report["fps"], report["input"]
    assert there == here


def test_pictures_are_scored_through_a_decoder(decoders, classifier, portrait):
    report = score_image(classifier, FixedDetector(LARGE), portrait, decode=decoders.image)
    here = score_image(classifier, FixedDetector(LARGE), portrait)
    assert [face.logit for face in report.faces] == [face.logit for face in here.faces]
    assert report.media == here.media


def test_errors_are_those_of_this_process(decoders, tmp_path):
    with pytest.raises(OpenError, match=r"^upload: not an image that can be read"):
        decoders.image(b"no picture", "upload")
    with pytest.raises(LimitExceeded, match=r"^tiny: 8 x 8 pixels, too small"):
        decoders.image(encoded(np.zeros((8, 8, 3), np.uint8)), "tiny")
    (tmp_path / "text").write_text("a text\n" * 100)
    for path, problem in (
        (tmp_path / "text", "is a text file or a playlist"),
        (tmp_path / "none", "no such file"),
        (tmp_path, "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
    ):
        with pytest.raises(OpenError, match=f"^clip.mp4: {problem}"):
            decoders.open_video(path, "clip.mp4")
    assert not any(decoders.kills.values())


def test_walks_follow_one_another_and_end_early(decoders):
    with decoders.open_video(SAMPLE) as video:
        first = video.frames(ALL)
        assert next(first).index == 0
        first.close()
        assert [frame.index for frame in video.frames_at([3, 50])] == [3, 50]
        first = video.frames(ALL)
        next(first)
        second = video.frames(Sampling(every=30))
        assert next(second).index == 0
        with pytest.raises(OpenError, match="another walk"):
            next(first)
        assert [frame.index for frame in second] == [30, 60, 90]
        with pytest.raises(DecodeError, match="no frame could be sampled from 99 s"):
            next(video.frames(Sampling(start=99.0)))
        with pytest.raises(ConfigError):
            video.frames_at([5, 3])
        assert len(list(video.frames(Sampling(frames=5)))) == 5
    video.close()
    with pytest.raises(OpenError, match="was closed"):
        next(video.frames(ALL))


def test_annotated_videos_are_the_same(decoders, classifier, tmp_path):
    report = score_video(classifier, FixedDetector(LARGE), SAMPLE, Sampling(fps=2.0))
    here, there, beats = tmp_path / "here.mp4", tmp_path / "there.mp4", []
    save_annotated_video(report, here)
    decoders.annotate(report, SAMPLE, there, progress=beats.append)
    with open_video(here) as one, open_video(there) as other:
        assert all(same(*pair) for pair in zip(one.frames(ALL), other.frames(ALL), strict=True))
    assert beats == sorted(beats)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.mp4", "there.mp4"]
    with pytest.raises(Cancelled):
        decoders.annotate(report, SAMPLE, there, stop=lambda: True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.mp4", "there.mp4"]


def test_annotated_videos_have_a_largest_size(classifier, tmp_path):
    report = score_video(classifier, FixedDetector(LARGE), SAMPLE, Sampling(fps=2.0))
    limits = DecodeLimits(output_bytes=20_000)
    with Decoders(limits, spare=False) as decoders, pytest.raises(MediaError):
        decoders.annotate(report, SAMPLE, tmp_path / "there.mp4")
    assert not list(tmp_path.iterdir())


# ---- what goes wrong stays there


def test_a_killed_decoder_fails_its_own_video_only(decoders, portrait):
    before = decoders.kills["killed"]
    with decoders.open_video(SAMPLE) as video, decoders.open_video(SAMPLE, "another") as another:
        frames, others = video.frames(ALL), another.frames(ALL)
        next(frames), next(others)
        os.kill(video.pid, signal.SIGKILL)
        with pytest.raises(DecoderKilled, match="the decoder was killed from outside"):
            list(frames)
        assert len(list(others)) == 99
        with pytest.raises(DecoderKilled):  # and not that the video is at fault
            next(video.frames(ALL))
        assert gone(video.pid)
    assert decoders.kills["killed"] == before + 1
    assert decoders.image(portrait, "a").shape == (512, 512, 3)


def test_a_decoder_that_crashes_is_not_taken_for_one_that_was_killed(decoders):
    with decoders.open_video(SAMPLE) as video:
        frames = video.frames(ALL)
        next(frames)
        os.kill(video.pid, signal.SIGSEGV)
        with pytest.raises(DecoderCrashed, match="the decoder ended by SIGSEGV"):
            list(frames)


def test_with_room_no_decoder_is_kept_ready(portrait):
    with Decoders() as decoders:
        decoders.image(portrait, "a")
        idle = {child.pid for child in decoders._live}
        with decoders.with_room():
            assert all(map(gone, idle))
            with decoders.open_video(SAMPLE) as video:
                assert [child.pid for child in decoders._live] == [video.pid]
        with decoders.open_video(SAMPLE):
            wait_for(lambda: len(decoders._live) == 2)  # one is kept ready again


def test_a_hanging_decoder_is_ended():
    limits = DecodeLimits(wall_seconds=1.0, image_seconds=1.0)
    with Decoders(limits, images=1, spare=False) as decoders:
        video = decoders.open_video(SAMPLE)
        frames = video.frames(ALL)
        next(frames)
        os.kill(video.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(DecodeError, match="no progress for 1 s and was ended"):
            list(frames)
        assert time.monotonic() - began < 5
        assert gone(video.pid)
        video.close()

        data = encoded(np.zeros((64, 64, 3), np.uint8))
        decoders.image(data, "a")
        os.kill(decoders._idle[0].pid, signal.SIGSTOP)
        with pytest.raises(DecodeError, match="b: the decoder made no progress"):
            decoders.image(data, "b")
        assert decoders.image(data, "c").shape == (64, 64, 3)
        assert decoders.kills == {**dict.fromkeys(decoders.kills, 0), "timeout": 2}


@linux
def test_memory_has_a_limit():
    # 80 megapixels with transparency need more than 1 GB to be laid onto white, and 10 kB in a file.
    file = io.BytesIO()
    Image.new("1", (10000, 8000)).save(file, format="PNG", transparency=0)
    data = file.getvalue()
    with Decoders(DecodeLimits(memory_bytes=2**30), images=1, spare=False) as decoders:
        with pytest.raises(LimitExceeded, match="more memory to decode than the 1024 MiB allowed"):
            decoders.image(data, "bomb.png")
        assert decoders.kills["memory"] == 1
        assert decoders.image(encoded(np.zeros((64, 64, 3), np.uint8)), "a").shape == (64, 64, 3)


@linux
def test_processor_time_has_a_limit():
    def work(video):
        for _ in range(200):
            list(video.frames(ALL))

    with Decoders(DecodeLimits(cpu_seconds=1), spare=False) as decoders, decoders.open_video(SAMPLE) as video:
        with pytest.raises(LimitExceeded, match="too much processor time"):
            work(video)
        assert decoders.kills["cpu"] == 1


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"max_pixels": 640 * 480 - 1}, "640 x 480 pixels, more than 0.307199 megapixels"),
        ({"max_frames": 99}, "more than 99 frames"),
        ({"max_seconds": 3.5}, "4 s long, more than 3.5 s"),
    ],
)
def test_videos_have_limits(limits, problem):
    with (
        Decoders(DecodeLimits(**limits), spare=False) as decoders,
        pytest.raises(LimitExceeded, match=f"^clip: {problem}"),
    ):
        decoders.open_video(SAMPLE, "clip")


def test_pictures_have_limits(portrait):
    limits = DecodeLimits(max_pixels=512 * 511, image_bytes=len(portrait))
    with Decoders(limits, spare=False) as decoders:
        with pytest.raises(LimitExceeded, match=r"512 x 512 pixels, more than 0\.261632 megapixels"):
            decoders.image(portrait, "a")
        with pytest.raises(LimitExceeded, match="bytes, more than"):
            decoders.image(portrait + b"0", "a")
        assert not any(decoders.kills.values())


def test_work_is_stopped_between_frames_and_while_waiting(decoders, classifier):
    seen = []
    with decoders.open_video(SAMPLE) as video, pytest.raises(Cancelled, match="stopped before the end"):
        score_video(
            classifier,
            FixedDetector(LARGE),
            video,
            ALL,
            progress=lambda done, total: seen.append(done),
            stop=lambda: len(seen) >= 5,
        )
    assert 5 <= len(seen) <= 30

    due = threading.Event()
    with decoders.open_video(SAMPLE, stop=due.is_set) as video:
        frames = video.frames(ALL)
        next(frames)
        os.kill(video.pid, signal.SIGSTOP)
        threading.Timer(0.3, due.set).start()
        with pytest.raises(Cancelled, match="stopped before the end"):
            list(frames)
        assert gone(video.pid)

    video = decoders.open_video(SAMPLE)
    frames = video.frames(ALL)
    next(frames)
    os.kill(video.pid, signal.SIGSTOP)
    threading.Timer(0.3, video.kill).start()
    with pytest.raises(OpenError, match="was closed"):
        list(frames)
    video.close()


def test_a_decoder_that_does_not_start_is_an_error_that_says_so(monkeypatch, portrait):
    monkeypatch.setattr(child_module.sys, "executable", "/bin/false")
    with Decoders(spare=False) as decoders:
        with pytest.raises(DecoderUnavailable, match=r"^a: the decoder cannot be started: it did not start"):
            decoders.image(portrait, "a")
        monkeypatch.setattr(child_module.sys, "executable", "/no/such/program")
        with pytest.raises(DecoderUnavailable, match="No such file"):
            decoders.image(portrait, "a")
        assert decoders.kills["start"] == 1
        monkeypatch.undo()
        assert decoders.image(portrait, "a").shape == (512, 512, 3)


def test_pictures_wait_for_a_decoder_and_each_gets_its_own(face_picture):
    pictures = [np.roll(face_picture[:64, :64], number, axis=1) for number in range(12)]
    with Decoders(DecodeLimits(image_uses=3), images=2) as decoders, ThreadPoolExecutor(6) as pool:
        answers = pool.map(lambda picture: decoders.image(encoded(picture), "a"), pictures)
        assert all(np.array_equal(*pair) for pair in zip(answers, pictures, strict=True))
        assert not any(decoders.kills.values())


def test_no_decoder_sees_pictures_of_two_owners(portrait):
    with Decoders(images=1, spare=False, memory=16 * 2**30) as decoders:

        def decoded_by(owner):
            decoders.image(portrait, "a", owner=owner)
            return decoders._idle[-1].pid

        assert decoders.isolation, "a picture of nobody"
        desk = decoded_by("desk")
        assert decoders.places.taken == 1, "what has seen a picture of nobody is anybody's"
        agency = decoded_by("agency")
        assert agency != desk
        assert (decoded_by("desk"), decoded_by("agency"), decoded_by("")) == (desk, agency, decoders._idle[-1].pid)
        # Those that were not asked for the longest time make room where there is memory for eight.
        others = [decoded_by(f"other {number}") for number in range(6)]
        assert len({desk, agency, *others}) == decoders.places.most == 8
        assert gone(desk)
        assert decoded_by("desk") != desk


def test_all_decoders_together_have_a_limit_of_memory(portrait, monkeypatch):
    limits = DecodeLimits(memory_bytes=2**30)
    with Decoders(limits, memory=3 * 2**30) as decoders:
        monkeypatch.setattr(decoders.places, "_patience", 0.5)
        decoders.image(portrait, "a", owner="desk")
        videos = [decoders.open_video(SAMPLE, f"video {number}") for number in range(3)]
        assert (decoders.places.taken, decoders.places.most) == (3, 3), "what did nothing has made room"
        for ask in (lambda: decoders.open_video(SAMPLE, "b"), lambda: decoders.image(portrait, "b", owner="desk")):
            with pytest.raises(DecoderUnavailable, match="b: 3 decoders are at work, as many as their memory allows"):
                ask()
        with pytest.raises(ConnectionLost, match="3 decoders are at work"):
            decoders.open_capture(StreamSource.parse("http://127.0.0.1:9/none"), 2.0, 1.0)
        # Who waits gets the place of the one that ends.
        monkeypatch.setattr(decoders.places, "_patience", 60.0)
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(decoders.image, portrait, "c", owner="desk")
            videos.pop().close()
            assert waits.result().shape == (512, 512, 3)
        os.kill(videos[0].pid, signal.SIGKILL)  # however it ends, its place is free again
        for video in videos:
            video.close()
        decoders.close()
    assert decoders.places.taken == 0


def test_the_limit_follows_from_what_the_machine_has():
    assert 0 < default_budget() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert DecoderPlaces(1, each=2**31).most == 2, "a picture and a video"
    places = DecoderPlaces(5 * 2**31 - 1, each=2**31)
    assert [places.try_take() for _ in range(5)] == [True] * 4 + [False]
    places.give_back()
    assert places.try_take()


@pytest.mark.long
def test_the_largest_pictures_that_the_service_takes_fit_into_a_decoder(face_picture):
    side = math.isqrt(Limits().pixels)
    large = Image.fromarray(face_picture).resize((side, side))
    # Memory is what is looked at, and not how fast this machine is.
    with Decoders(DecodeLimits(image_seconds=240.0, image_cpu_seconds=240), images=1) as decoders:
        for form, picture in (("JPEG", large), ("PNG", large.convert("RGBA")), ("TIFF", large.convert("CMYK"))):
            file = io.BytesIO()
            picture.save(file, format=form, **({"compress_level": 1} if form == "PNG" else {}))
            assert decoders.image(file.getvalue(), form).shape == (side, side, 3), form
        assert not any(decoders.kills.values())


def test_closing_ends_every_decoder(portrait):
    decoders = Decoders()
    decoders.image(portrait, "a")
    video = decoders.open_video(SAMPLE)
    pids = [child.pid for child in decoders._live]
    assert len(pids) >= 2
    decoders.close()
    decoders.close()
    assert all(map(gone, pids))
    with pytest.raises(OpenError):
        list(video.frames(ALL))
    video.close()
    with pytest.raises(DecoderUnavailable, match="the decoders are closed"):
        decoders.image(portrait, "a")


@linux
def test_decoders_end_with_their_parent():
    program = f"""
        import time
        from fakeface_jax.server.sandbox.pool import Decoders
        decoders = Decoders()
        video = decoders.open_video({str(SAMPLE)!r})
        while len(decoders._live) < 2:  # the spare starts beside it
            time.sleep(0.01)
        print(*[child.pid for child in decoders._live], flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True
    )
    with parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    wait_for(lambda: all(map(gone, pids)))


# ---- live sources


def test_a_live_source_is_read_in_a_child_and_connected_again(decoders):
    config = StreamConfig(backoff=0.05, backoff_max=0.1)
    with (
        MjpegServer(fps=40) as server,
        Stream(server.url, config, open_source=decoders.open_capture) as stream,
    ):
        frame = stream.take(timeout=20.0)
        assert frame.image.shape == (120, 160, 3)
        stream.done(frame)
        (pid,) = (child.pid for child in decoders._live if child.isolation.get("own_network") is False)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: stream.counters.reconnects == 1, 20.0)
        wait_for(lambda: stream.state is State.LIVE)
    # The one that was connected to is gone with the stream.
    wait_for(
        lambda: not [child for child in decoders._live if child.alive and child.isolation.get("own_network") is False]
    )


def test_a_live_source_that_hangs_is_given_up(decoders):
    with MjpegServer(fps=40) as server:
        capture = decoders.open_capture(StreamSource.parse(server.url), 10.0, 0.5)
        assert capture.read().image.shape == (120, 160, 3)
        server.mode = "stall"
        with pytest.raises(ConnectionLost, match=r"nothing came for 0\.5 s|no progress"):
            collections.deque(iter(capture.read, None), maxlen=0)  # what was sent before comes first
        capture.release()
    with pytest.raises(ConnectionLost, match="could not be opened"):
        decoders.open_capture(StreamSource.parse("http://127.0.0.1:9/none"), 2.0, 1.0)


def test_a_file_as_a_live_source_needs_no_network(decoders, tmp_path):
    encode(tmp_path / "a.mp4", count=3)
    capture = decoders.open_capture(StreamSource.parse(str(tmp_path / "a.mp4")), 10.0, 10.0)
    assert capture.finite
    assert [round(capture.read().time, 2) for _ in range(3)] == [0.0, 0.04, 0.08]
    assert capture.read() is None
    capture.release()


# ---- what a decoder gave up


@linux
def test_a_decoder_has_no_secrets_and_no_descriptors_of_its_parent(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKEN", "hunter2")
    with (tmp_path / "private").open("w") as private, Decoders(spare=False) as decoders:
        os.set_inheritable(private.fileno(), True)
        with decoders.open_video(SAMPLE) as video:
            assert b"hunter2" not in Path(f"/proc/{video.pid}/environ").read_bytes()
            links = [str(link.readlink()) for link in Path(f"/proc/{video.pid}/fd").iterdir()]
        assert not [link for link in links if "private" in link]
        assert len([link for link in links if link.startswith("socket:")]) == 1


@linux
def test_all_is_enforced_here(decoders):
    if seccomp.platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("no filter for this processor")
    found = decoders.isolation
    assert {name for name, enforced in found.items() if not enforced} <= {"own_network", "files", "landlock_abi"}
    assert {"memory", "cpu", "open_files", "written_files", "no_new_rights", "rights", "network"} <= set(found)


def test_a_decoder_that_answers_nonsense_is_ended():
    reasons = []
    whole = {"width": 4, "height": 4, "slot": 0}
    with Child(DecodeLimits(), network=False, killed=reasons.append) as child:
        assert child.picture(whole, bytearray(48), "a").shape == (4, 4, 3)
        for change in ({"width": -4}, {"width": 2**40}, {"height": "4"}, {"width": True}, {"width": 5}, {"slot": None}):
            with pytest.raises(DecodeError, match="answered nonsense"):
                child.picture({**whole, **change}, bytearray(48), "a")
        with pytest.raises(DecodeError, match="answered nonsense"):
            child.picture(whole, bytearray(), "a")
        assert reasons == ["protocol"]
        assert not child.alive


@pytest.mark.parametrize(
    "change", [{"memory_bytes": 2**20}, {"cpu_seconds": 0}, {"wall_seconds": float("nan")}, {"open_files": 3}]
)
def test_limits_are_checked(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        DecodeLimits(**change)
    assert dataclasses.replace(DecodeLimits(), max_frames=1).max_frames == 1

"""What streams are read from: addresses without their secrets, files, and a camera that fails in every way."""

import dataclasses
import functools
import http.server
import itertools
import threading
import time

import cv2
import numpy as np
import pytest
from mjpeg_server import MjpegServer
from simulated_stream import agrees

from fakeface_jax.errors import ConfigError, MediaError
from fakeface_jax.video.live.capture import StreamSource
from fakeface_jax.video.live.redaction import display_address, display_host
from fakeface_jax.video.live.stream import Skip, State, Stream
from fakeface_jax.video.live.stream_config import StreamConfig

SECRET = "hunter2"
ADDRESS = f"rtsp://admin:{SECRET}@camera.local:554/live"


# ---- addresses


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://camera.local/live", "rtsp://camera.local/live"),
        (f"rtsp://admin:{SECRET}@camera.local:554/live", "rtsp://***@camera.local:554/live"),
        (f"rtsp://{SECRET}@camera.local", "rtsp://***@camera.local"),
        (f"rtsp://a:p@{SECRET}@camera.local/live", "rtsp://***@camera.local/live"),
        (f"rtsp://a:p/{SECRET}@camera.local/live", "rtsp://***"),
        (f"rtsp://a:p#{SECRET}?@camera.local/live", "rtsp://***"),
        (f"http://c/live?token={SECRET}&w=3", "http://c/live?token=***&w=***"),
        (f"http://c/live?{SECRET}#{SECRET}", "http://c/live?***#***"),
        (f"http://c?to={SECRET}@host", "http://***"),
        (f"rtsp://c/user=admin_password={SECRET}_channel=1.sdp", "rtsp://c/user=***"),
        ("rtsp://c/live/a8Kq03hunter2zz9x/1", "rtsp://c/live/***/1"),
        (f"rtsp://[broken:{SECRET}@c/x", "rtsp://***@c/x"),
        (f"rtsp://admin:{SECRET}", "rtsp://***"),
        ("rtsp://[fe80::1]:554/live", "rtsp://[fe80::1]:554/live"),
        (f"admin:{SECRET}@camera.local/live", "***@camera.local/live"),
        (f"camera.local/live?token={SECRET}", "camera.local/live?token=***"),
        ("clips/a clip.mp4", "clips/a clip.mp4"),
    ],
)
def test_addresses_are_shown_without_secrets(address, shown):
    assert display_address(address) == shown
    assert SECRET not in display_address(address)
    assert SECRET not in display_host(address)


def test_a_webhook_is_shown_by_its_host_alone():
    assert display_host("https://me:pw@hooks.example/T0/B0/abc?k=v") == "https://hooks.example/***"


@pytest.mark.parametrize(
    "source",
    [
        f"rtmp://a:{SECRET}@c/live",
        f"file:///etc/{SECRET}@x",
        f"concat:a.mp4|{SECRET}@b.mp4",
        f"a:{SECRET}@camera/live",
        f"rtsp://a:{SECRET}@",
        f"rtsp://a:{SECRET}",
        f"rtsp://a:{SECRET}@/live",
        f"rtsp://a:{SECRET}@c/a b",
        "missing.mp4",
        "1234567",
        "-1",
        "",
        "http://",
        "a\0b",
    ],
)
def test_other_sources_are_refused_without_their_secrets(source):
    with pytest.raises(ConfigError) as refused:
        StreamSource.parse(source)
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_sources_are_known_by_their_form(tmp_path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"x")
    assert StreamSource.parse("0").kind == "camera"
    assert StreamSource.parse(str(file)).kind == "file"
    assert StreamSource.parse("RTSP://c/live").place == "rtsp://c/live"
    assert SECRET not in repr(StreamSource.parse(ADDRESS))
    assert str(StreamSource.parse("0")) == "camera 0"


# ---- files


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """30 pictures in 1.5 s, each with its number as its grey level."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for number in range(30):
        writer.write(np.full((48, 64, 3), 8 * number, np.uint8))
    writer.release()
    return path


def consume(stream, seconds=0.0):
    frames = []
    until = time.monotonic() + 20
    while (frame := stream.take(timeout=0.2)) is not None or stream.state is not State.ENDED:
        assert time.monotonic() < until
        if frame is not None:
            time.sleep(seconds)
            frames.append((round(float(frame.image.mean()) / 8), frame.number, frame.time))
            stream.done(frame)
        assert agrees(stream.counters)
    return frames


def test_a_file_is_played_at_its_own_speed(clip):
    began = time.monotonic()
    with Stream(str(clip), StreamConfig(mode="lossless")) as stream:
        frames = consume(stream)
    assert 1.4 < time.monotonic() - began < 4.0
    assert [grey for grey, _, _ in frames] == list(range(30))
    assert [at for _, _, at in frames] == pytest.approx([0.05 * number for number in range(30)], abs=1e-3)
    assert [change.state for change in stream.changes()] == [State.CONNECTING, State.LIVE, State.ENDED]
    assert stream.counters.read == stream.counters.scored == 30


def test_lossless_playing_waits_for_a_slow_model(clip):
    with Stream(str(clip), StreamConfig(mode="lossless", queue=2)) as stream:
        frames = consume(stream, seconds=0.08)
    assert [number for _, number, _ in frames] == list(range(30))
    assert stream.counters.lag > 0.5  # the model is behind, and says so


def test_latest_playing_does_not_wait(clip):
    began = time.monotonic()
    with Stream(str(clip)) as stream:
        frames = consume(stream, seconds=0.2)
    assert time.monotonic() - began < 4.0
    assert 3 <= len(frames) <= 12
    assert stream.counters.skipped[Skip.NEWER_FRAME] == 30 - len(frames)
    assert all(grey == number for grey, number, _ in frames)


def test_a_file_that_is_no_video_is_an_error(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("hello " * 100)
    with Stream(str(path)) as stream, pytest.raises(MediaError, match="text file"):
        stream.take(timeout=10.0)
    assert stream.state is State.ENDED


# ---- a camera on this machine

QUICK = StreamConfig(stall_after=0.5, read_timeout=1.0, open_timeout=2.0, backoff=0.05, backoff_max=0.1)


def until(stream, met, seconds=15.0):
    """Takes pictures until the condition is met; what was taken."""
    frames, end = [], time.monotonic() + seconds
    while not met(frames):
        assert time.monotonic() < end, (stream.state, stream.counters, stream.changes())
        frame = stream.take(timeout=0.05)
        if frame is not None:
            frames.append(frame)
            stream.done(frame)
        assert agrees(stream.counters)
    return frames


def test_a_camera_that_closes_stalls_sends_garbage_changes_size_and_comes_back():
    with MjpegServer(fps=25) as server, Stream(server.url, QUICK) as stream:
        until(stream, lambda frames: len(frames) >= 5)
        server.size = (320, 180)
        frames = until(stream, lambda frames: frames and frames[-1].image.shape == (180, 320, 3))
        assert {frame.image.shape for frame in frames} <= {(120, 160, 3), (180, 320, 3)}
        assert stream.counters.reconnects == 0

        server.mode = "garbage"
        until(stream, lambda _: stream.counters.decode_errors >= 5)
        server.mode = "send"
        until(stream, lambda frames: len(frames) >= 3)

        server.mode = "close"
        until(stream, lambda _: stream.state is State.BACKOFF)
        attempts = stream.counters.attempts
        until(stream, lambda _: stream.counters.attempts >= attempts + 2)
        server.mode = "send"
        until(stream, lambda frames: len(frames) >= 3)
        reconnects = stream.counters.reconnects
        assert reconnects >= 1

        server.mode = "stall"
        until(stream, lambda _: stream.state is State.STALLED)
        until(stream, lambda _: stream.state is State.BACKOFF)
        server.mode = "send"
        until(stream, lambda frames: len(frames) >= 3)
        assert stream.counters.reconnects > reconnects

        server.mode = "silent"
        with Stream(server.url, dataclasses.replace(QUICK, open_timeout=0.5)) as other:
            until(other, lambda _: other.counters.attempts >= 2)
            assert State.BACKOFF in {change.state for change in other.changes()}
    assert stream.state is State.ENDED
    assert agrees(stream.counters)


def test_pictures_arrive_once_and_in_order():
    """The server counts up the grey level of its pictures: each is seen once at most."""
    with MjpegServer(fps=25) as server, Stream(server.url, dataclasses.replace(QUICK, mode="lossless")) as stream:
        frames = until(stream, lambda frames: len(frames) >= 20)
    greys = [round(float(frame.image.mean()) / 8) for frame in frames]
    assert greys == [(greys[0] + number) % 32 for number in range(len(greys))]
    assert all(later.time > earlier.time for earlier, later in itertools.pairwise(frames))


def test_a_file_behind_an_address_is_played_once(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for number in range(20):
        writer.write(np.full((48, 64, 3), 8 * number, np.uint8))
    writer.release()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}/clip.mp4"
        with Stream(address, StreamConfig(mode="lossless")) as stream:
            frames = consume(stream)
        server.shutdown()
        thread.join()
    assert [at for _, _, at in frames] == pytest.approx([0.05 * number for number in range(20)], abs=1e-3)
    assert (stream.counters.attempts, stream.changes()[-1].reason) == (1, "the source ended")


def test_the_password_reaches_the_camera_and_nobody_else(capfd):
    with MjpegServer(fps=25) as server:
        server.user = f"admin:{SECRET}"
        address = server.url.replace("http://", f"http://admin:{SECRET}@") + f"?token={SECRET}"
        with Stream(address, QUICK) as stream:
            until(stream, lambda frames: len(frames) >= 2)
            server.mode = "close"
            until(stream, lambda _: stream.counters.attempts >= 3)
        assert server.requests[0] == f"/live?token={SECRET}"
    told = [repr(stream.changes()), repr(stream.counters), stream.name, repr(stream.source), *capfd.readouterr()]
    assert not [text for text in told if SECRET in text]
    assert stream.name.startswith("http://***@127.0.0.1:")

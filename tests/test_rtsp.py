"""RTSP as a camera speaks it: pictures, passwords and failures, for streams, the command and the service's decoders."""

import asyncio
import dataclasses
import functools
import itertools
import json
import time

import pytest
from clips import is_upright, number_of
from rtsp_server import COUNT, KEYS, RtspServer
from running_service import shipped
from simulated_stream import agrees

from fakeface_jax.cli.main import main
from fakeface_jax.detectors import create_detector
from fakeface_jax.server.events import EventHub
from fakeface_jax.server.live_sources import Watchers
from fakeface_jax.server.sandbox.pool import Decoders
from fakeface_jax.server.service_config import ServiceConfig
from fakeface_jax.video.live.stream import State, Stream
from fakeface_jax.video.live.stream_config import StreamConfig

SECRET = "hunter2"
USER = f"admin:{SECRET}"
FPS = 50.0
"""A connection is probed for some 27 pictures before the first comes."""

# Opening waits for real pictures, which a busy computer sends late.
QUICK = StreamConfig(
    mode="lossless", stall_after=0.5, read_timeout=1.0, open_timeout=8.0, backoff=0.05, backoff_max=0.1
)


def until(stream, met, seconds=20.0):
    """Takes pictures until the condition is met: what was taken."""
    frames, end = [], time.monotonic() + seconds
    while not met(frames):
        assert time.monotonic() < end, (stream.state, stream.counters, stream.changes())
        frame = stream.take(timeout=0.02)
        if frame is not None:
            frames.append(frame)
            stream.done(frame)
        assert agrees(stream.counters)
    return frames


def numbers(frames):
    return [number_of(frame.image) for frame in frames]


def told(stream, capfd, caplog):
    """All that anybody gets to see."""
    parts = map(repr, (stream, stream.source, stream.changes(), stream.counters))
    return "\n".join([stream.name, *parts, caplog.text, *capfd.readouterr()])


def test_pictures_arrive_once_in_order_and_in_time():
    with RtspServer(fps=25) as server:
        server.patience = 2
        with Stream(server.url, QUICK) as stream:
            frames = until(stream, lambda frames: len(frames) >= 60)
        until(stream, lambda _: f"TEARDOWN {server.url}/" in server.requests)
    assert numbers(frames) == [number % COUNT for number in range(len(frames))]
    assert all(is_upright(frame.image) for frame in frames)
    assert all(later.time > earlier.time for earlier, later in itertools.pairwise(frames))
    # What was held back while the stream was probed comes first, all at once.
    late = [frame.time - number / 25 for number, frame in enumerate(frames)][40:]
    assert max(late) - min(late) < 0.3
    assert stream.counters.decode_errors == 0
    assert {1, 28} <= set(server.packets)  # whole and in fragments
    assert set(server.transports) == {"RTP/AVP/TCP;unicast;interleaved=0-1"}
    assert f"GET_PARAMETER {server.url}/" in server.requests  # else a camera ends the session


def test_a_camera_that_closes_stalls_sends_garbage_hangs_and_comes_back():
    with RtspServer(fps=FPS) as server, Stream(server.url, QUICK) as stream:
        until(stream, lambda frames: len(frames) >= 5)

        server.mode = "close"
        until(stream, lambda _: stream.state is State.BACKOFF)
        assert "the connection ended" in next(one for one in stream.changes() if one.state is State.BACKOFF).reason
        assert stream.counters.decode_errors == 0
        until(stream, lambda _: stream.counters.attempts >= 3)
        server.mode = "send"
        frames = until(stream, lambda frames: len(frames) >= 40)
        found = numbers(frames)
        assert found == [(found[0] + number) % COUNT for number in range(len(found))]
        assert found[0] % KEYS == 0
        assert stream.counters.reconnects == 1

        server.mode = "garbage"
        until(stream, lambda _: stream.counters.decode_errors >= 3)
        server.mode = "send"
        until(stream, lambda frames: len(frames) >= 3)

        stream.changes()
        server.mode = "stall"
        until(stream, lambda _: stream.state is State.BACKOFF)
        changes = stream.changes()
        # Pictures that the decoder still holds are no sign of life, once time is over.
        assert [change.state for change in changes][-2:] == [State.STALLED, State.BACKOFF]
        assert [change.state for change in changes].count(State.STALLED) == 1
        assert "nothing came for 1 s" in changes[-1].reason
        server.mode = "send"
        until(stream, lambda frames: len(frames) >= 3)
        assert stream.counters.reconnects >= 2

        server.mode = "silent"
        with Stream(server.url, dataclasses.replace(QUICK, open_timeout=0.5)) as other:
            until(other, lambda _: other.counters.attempts >= 3)
            assert {change.state for change in other.changes()} == {State.CONNECTING, State.BACKOFF}
            assert other.counters.stuck == 0
    assert stream.state is State.ENDED
    assert agrees(stream.counters)


@pytest.mark.parametrize("scheme", ["Digest", "Basic"])
def test_the_password_reaches_the_camera_and_nobody_else(scheme, capfd, caplog):
    with RtspServer(fps=FPS) as server:
        server.user, server.scheme = USER, scheme
        with Stream(server.url_for(USER) + f"?key={SECRET}", QUICK) as stream:
            until(stream, lambda frames: len(frames) >= 3)
            assert server.admitted >= 3  # DESCRIBE, SETUP, PLAY
            server.mode = "close"
            until(stream, lambda _: stream.counters.attempts >= 2)
            # The camera's password was changed.
            server.user, server.mode = "admin:another", "send"
            refused = server.refused
            until(stream, lambda _: server.refused >= refused + 4)
            shown = told(stream, capfd, caplog)
            assert "could not be opened" in shown
            server.user = USER
            until(stream, lambda frames: len(frames) >= 3)
        shown += told(stream, capfd, caplog)
    assert SECRET not in shown
    assert any(f"?key={SECRET}" in request for request in server.requests)
    assert not any(USER in request for request in server.requests)
    assert stream.name.startswith("rtsp://***@127.0.0.1:")


@pytest.fixture(scope="module")
def face(face_picture):
    """As many pictures as a camera of these tests repeats."""
    return [face_picture[:256, 96:352]] * KEYS


def test_the_command_prints_scores(face, capfd):
    with RtspServer(fps=FPS, pictures=face) as server:
        server.user = USER
        words = ["--stall-after", "1"]
        assert main(["stream", server.url_for(USER), "--seconds", "2.5", *words]) == 0
        out, err = capfd.readouterr()
        wrong = server.url_for(f"admin:{SECRET}x")
        assert main(["stream", wrong, "--give-up", "1", "--format", "jsonl", *words]) == 4
        refused, error = capfd.readouterr()
    assert "-- live" in out
    assert any("  live  " in line and "person 1 P(fake) 0." in line for line in out.splitlines())
    assert out.splitlines()[-4].startswith(server.url.replace("rtsp://", "rtsp://***@"))
    assert err == ""
    records = [json.loads(line) for line in refused.splitlines()]
    assert {record["input"] for record in records} == {server.url.replace("rtsp://", "rtsp://***@")}
    reasons = [record["reason"] for record in records if record.get("state") == "backoff"]
    assert any("could not be opened" in reason for reason in reasons)
    assert error.endswith(": no picture was received; check that the source is on\n")
    assert server.refused >= 2
    assert SECRET not in out + refused + error


def test_a_decoder_of_its_own_reads_it(capfd, caplog):
    with Decoders(spare=False) as decoders, RtspServer(fps=FPS) as server:
        server.user = USER
        with Stream(server.url_for(USER), QUICK, open_source=decoders.open_capture) as stream:
            found = numbers(until(stream, lambda frames: len(frames) >= 40))
            assert found == [number % COUNT for number in range(len(found))]
            server.mode = "close"
            until(stream, lambda _: stream.state is State.BACKOFF)
            assert stream.counters.decode_errors == 0
            server.mode = "send"
            until(stream, lambda frames: len(frames) >= 3)
            server.mode = "stall"
            until(stream, lambda _: stream.state is State.STALLED)
            until(stream, lambda _: stream.state is State.BACKOFF)
        assert SECRET not in told(stream, capfd, caplog)
        assert not any(decoders.kills.values())


async def all_of(channel):
    return [event async for event in channel.follow()]


def test_the_service_watches_what_its_operator_named(face, capfd, caplog):
    with RtspServer(fps=FPS, pictures=face) as server, Decoders(spare=False) as decoders:
        server.user = USER
        config, classifier, hub = ServiceConfig(streams=(f"entrance={server.url_for(USER)}",)), shipped(), EventHub()
        make_detector = functools.partial(create_detector, classifier.spec.detector)
        watchers = Watchers(classifier, make_detector, decoders, hub, config)
        one = watchers.start("entrance", "token:desk")
        channel = hub.channel(one.id)
        end = time.monotonic() + 30
        while not one.to_dict()["people"]:
            assert time.monotonic() < end, one
            time.sleep(0.05)
        found = one.to_dict()
        watchers.close()
        events = asyncio.run(all_of(channel))
        assert not any(decoders.kills.values())
        assert server.admitted >= 3
    assert {"state", "second", "summary", "end"} <= {event.kind for event in events}
    assert (found["state"], found["error"]) == ("live", None)
    assert found["counters"]["scored"] > 0
    assert 0 <= found["people"][0]["p_fake"] <= 1
    shown = json.dumps([found, one.to_dict()]) + repr(events) + caplog.text + "".join(capfd.readouterr())
    assert SECRET not in shown
    assert "127.0.0.1" not in shown

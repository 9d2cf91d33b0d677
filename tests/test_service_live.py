"""Pictures of a browser's camera over a WebSocket."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import cv2
import pytest
from running_service import Running, running_service
from test_service import CLIP
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fakeface_jax.server.service_config import Limits, ServiceConfig
from fakeface_jax.video.reading.opencv import VideoFile
from fakeface_jax.video.reading.sampling import Sampling


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = ServiceConfig(limits=Limits(live_sessions=1, frame_bytes=2**20))
    with running_service(tmp_path_factory.mktemp("state"), config) as running:
        yield running


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    with VideoFile(CLIP) as video:
        frames = [frame.image for frame in video.frames(Sampling(frames=12))]
    return [cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes() for image in frames]


def opened(service: Running, **settings: Any) -> ClientConnection:
    return connect(service.url.replace("http", "ws") + "/v1/live", proxy=None, **settings)


def heard(socket: ClientConnection) -> dict[str, Any]:
    return json.loads(socket.recv(30))


def closed_with(socket: ClientConnection) -> int:
    with contextlib.suppress(ConnectionClosed):
        while True:
            socket.recv(30)
    assert socket.close_code is not None
    return socket.close_code


def test_each_picture_is_answered_and_the_verdict_follows(service: Running, pictures: list[bytes]) -> None:
    with opened(service) as socket:
        socket.send(json.dumps({"token": None}))
        assert heard(socket) == {"type": "ready", "size_limit": 2**20}
        answers = []
        for data in pictures:
            socket.send(data)
            answers.append(heard(socket))
    assert [answer["type"] for answer in answers] == ["frame"] * len(pictures)
    assert [answer["number"] for answer in answers] == list(range(len(pictures)))
    times = [answer["time"] for answer in answers]
    assert times == sorted(times)
    last = answers[-1]
    assert last["faces"][0]["person"] == 1
    assert 0 <= last["faces"][0]["p_fake"] <= 1
    assert last["people"][0]["number"] == 1


def test_a_bad_picture_is_an_error_and_the_next_one_counts(service: Running, pictures: list[bytes]) -> None:
    with opened(service) as socket:
        socket.send('{"token": null}')
        heard(socket)
        socket.send(b"no picture")
        found = heard(socket)
        assert (found["type"], found["number"]) == ("error", 0)
        assert "frame 0" in found["detail"]
        socket.send(pictures[0])
        assert heard(socket)["type"] == "frame"


def test_pictures_that_come_too_fast_are_skipped_and_told(service: Running, pictures: list[bytes]) -> None:
    with opened(service) as socket:
        socket.send('{"token": null}')
        heard(socket)
        for data in pictures[:6]:
            socket.send(data)
        answers, scored = [], -1
        while scored < 5:
            answers.append(heard(socket))
            if answers[-1]["type"] == "frame":
                scored = answers[-1]["number"]
    assert sorted(answer["number"] for answer in answers) == list(range(6))
    assert {answer["type"] for answer in answers} == {"frame", "skipped"}


def test_of_a_flood_each_picture_is_answered(service: Running, pictures: list[bytes]) -> None:
    with opened(service) as socket:
        socket.send('{"token": null}')
        heard(socket)
        for number in range(60):
            socket.send(pictures[number % len(pictures)])
        answers = [heard(socket) for _ in range(60)]
    assert sorted(answer["number"] for answer in answers) == list(range(60))


@pytest.mark.parametrize("first", ["no json", '{"token": 5}', '{"token": "ff_wrong"}'])
def test_a_wrong_first_message_ends_it(service: Running, first: str) -> None:
    with opened(service) as socket:
        socket.send(first)
        found = heard(socket)
        assert found["type"] == "error"
        assert closed_with(socket) == 1008


def test_too_many_cameras_too_large_pictures_and_text_are_refused(service: Running, pictures: list[bytes]) -> None:
    with opened(service) as socket:
        socket.send('{"token": null}')
        heard(socket)
        with opened(service) as another:
            another.send('{"token": null}')
            assert "later" in heard(another)["detail"]
            assert closed_with(another) == 1013
        socket.send("text")
        assert heard(socket)["type"] == "error"
        assert closed_with(socket) == 1008
    with opened(service) as socket:
        socket.send('{"token": null}')
        assert heard(socket)["type"] == "ready"
        socket.send(bytes(2**20 + 1))
        assert closed_with(socket) == 1009
    until = time.monotonic() + 10  # the place is given back after the client has been told
    while service.state.live_sessions.taken and time.monotonic() < until:
        time.sleep(0.01)
    assert service.state.live_sessions.taken == 0


def test_a_page_of_another_site_cannot_use_the_camera(service: Running) -> None:
    with opened(service, origin="https://attacker.example") as socket:
        socket.send('{"token": null}')
        assert "another site" in heard(socket)["detail"]
        assert closed_with(socket) == 1008


def test_leaving_in_the_middle_frees_the_place(service: Running, pictures: list[bytes]) -> None:
    for _ in range(3):
        with opened(service) as socket:
            socket.send('{"token": null}')
            assert heard(socket)["type"] == "ready"
            socket.send(pictures[0])
        until = time.monotonic() + 10  # the picture that is being scored is not interrupted
        while service.state.live_sessions.taken and time.monotonic() < until:
            time.sleep(0.01)
        assert service.state.live_sessions.taken == 0

"""What an attacker found in the service once, and does not find again."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from running_service import Running, running_service
from test_service import CLIP, PICTURE, problem, send_video
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import service.http.camera
import service.http.following
import service.http.protocol
from service.settings import Limits, ServiceConfig
from service.storage.tokens import TokenLimits


@pytest.fixture(scope="module", autouse=True)
def impatient() -> Iterator[None]:
    """Seconds become tenths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.http.protocol, "HEADER_SECONDS", 1.0)
        patch.setattr(service.http.following, "STILL_ALLOWED", 0.2)
        patch.setattr(service.http.camera, "STILL_ALLOWED", 0.2)
        yield


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = ServiceConfig(limits=Limits(idle=3.0, uploads=2, frame_bytes=2**20))
    with running_service(tmp_path_factory.mktemp("state"), config) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    """A service that has tokens, and one of them."""
    with running_service(tmp_path_factory.mktemp("state"), ServiceConfig(limits=Limits(idle=3.0))) as running:
        yield running, running.state.store.tokens.create("somebody")


def client_of(running: Running, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=running.url, timeout=30, trust_env=False, headers=headers)


def connected(running: Running) -> socket.socket:
    address = urlsplit(running.url)
    return socket.create_connection((address.hostname, address.port), timeout=15)


def closed_after(connection: socket.socket) -> float:
    """Seconds until the service closes."""
    began = time.monotonic()
    while connection.recv(65536):
        pass
    return time.monotonic() - began


def test_a_camera_may_stay_longer_than_a_request_may_take_to_begin(running: Running) -> None:
    with connect(running.url.replace("http", "ws") + "/v1/live", proxy=None) as socket_:
        assert socket_.protocol.extensions == [], "zeros would be inflated for anybody"
        socket_.send('{"token": null}')
        assert json.loads(socket_.recv(30))["type"] == "ready"
        for _ in range(4):
            time.sleep(0.6)
            socket_.send(PICTURE.read_bytes())
            assert json.loads(socket_.recv(30))["type"] == "frame"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HT",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nG",
        b"POST /v1/nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nabc",
    ],
    ids=["nothing", "half a head", "a letter of the next", "a body that nobody reads"],
)
def test_who_sends_no_request_is_let_go(running: Running, sent: bytes) -> None:
    with connected(running) as connection:
        connection.sendall(sent)
        assert closed_after(connection) < 8


def test_a_long_answer_is_not_cut_off(running: Running) -> None:
    with client_of(running) as client:
        job = send_video(client, frames="10", start="0.01").json()  # with crops: longer than a head may take
        with client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
            lines = list(answer.iter_lines())
    assert "event: end" in lines


def test_a_body_without_end_is_not_read_before_it_is_known_who_asks(guarded: tuple[Running, str]) -> None:
    running, secret = guarded

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(2**20)

    # It may be closed while it is still sending, as it should be.
    with client_of(running) as nobody, contextlib.suppress(httpx.TransportError):
        assert nobody.post("/v1/streams", content=endless()).status_code == 401
    with client_of(running, Authorization=f"Bearer {secret}") as somebody:
        with contextlib.suppress(httpx.TransportError):
            assert somebody.post("/v1/streams", content=endless()).status_code == 413
        problem(somebody.post("/v1/streams", content=b"[]"), 422)
        problem(somebody.post("/v1/streams", json={"source": "none"}), 404)


def test_uploads_at_once_are_bounded(running: Running) -> None:
    head = b"POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\nabc"
    slow = [connected(running) for _ in range(2)]
    for connection in slow:
        connection.sendall(head)
    with client_of(running) as client:
        until = time.monotonic() + 2
        while running.state.uploads.taken < 2 and time.monotonic() < until:
            time.sleep(0.01)
        answer = client.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())})
        assert "uploads at once" in problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        for connection in slow:
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
            connection.close()
        assert client.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())}).status_code == 200


def test_bytes_in_memory_are_bounded(tmp_path: Path) -> None:
    config = ServiceConfig(limits=Limits(upload_memory=2**19))
    with running_service(tmp_path / "state", config) as running, client_of(running) as client:
        answer = client.post("/v1/images", content=bytes(2**20), headers={"Content-Type": "image/png"})
        assert "being received" in problem(answer, 503)
        assert running.state.upload_memory == 0
        assert client.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())}).status_code == 200


def test_a_disk_that_is_nearly_full_takes_no_videos(tmp_path: Path) -> None:
    config = ServiceConfig(limits=Limits(free_bytes=2**60))
    with running_service(tmp_path / "state", config) as running, client_of(running) as client:
        answer = send_video(client)
        assert "full" in problem(answer, 507)
        assert int(answer.headers["retry-after"]) >= 1
        assert client.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())}).status_code == 200


def test_bytes_count_when_they_come_and_not_when_they_are_used(guarded: tuple[Running, str]) -> None:
    running, _ = guarded
    store = running.state.store
    secret = store.tokens.create("quota", TokenLimits(bytes_per_day=200_000))
    with client_of(running, Authorization=f"Bearer {secret}") as client:
        # Malformed, but received.
        problem(client.post("/v1/images", content=bytes(50_000), headers={"Content-Type": "image/jpeg"}), 422)
        assert store.received.today("quota") == 50_000
        # Too much for today: not even begun.
        began = time.monotonic()
        problem(client.post("/v1/images", content=bytes(300_000)), 429)
        assert time.monotonic() - began < 5
        assert store.received.today("quota") == 50_000
    # Aborted: what came is counted, and no more.
    with connected(running) as connection:
        head = (
            f"POST /v1/images HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Length: 100000\r\n\r\n"
        )
        connection.sendall(head.encode() + bytes(30_000))
        time.sleep(0.5)
    until = time.monotonic() + 5
    while store.received.today("quota") != 80_000 and time.monotonic() < until:
        time.sleep(0.05)
    assert store.received.today("quota") == 80_000


def test_a_revoked_token_ends_what_it_had_open(guarded: tuple[Running, str]) -> None:
    running, _ = guarded
    secret = running.state.store.tokens.create("leaver")
    with (
        client_of(running, Authorization=f"Bearer {secret}") as client,
        connect(running.url.replace("http", "ws") + "/v1/live", proxy=None) as camera,
    ):
        camera.send(json.dumps({"token": secret}))
        assert json.loads(camera.recv(30))["type"] == "ready"
        running.state.runner.stop()  # so that the job waits
        job = send_video(client, CLIP.read_bytes(), frames="3").json()
        with client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
            running.state.store.tokens.revoke("leaver")
            began = time.monotonic()
            assert "event: end" not in list(answer.iter_lines())
            assert time.monotonic() - began < 5
        answers = []
        with contextlib.suppress(ConnectionClosed):
            while len(answers) < 5:
                camera.send(PICTURE.read_bytes())
                answers.append(json.loads(camera.recv(30)))
        assert "revoked" in answers[-1]["detail"]
    until = time.monotonic() + 5
    while running.state.live_sessions.taken and time.monotonic() < until:
        time.sleep(0.01)
    assert running.state.event_readers.taken == running.state.live_sessions.taken == 0


def test_methods_that_clients_make_up_are_one_series(running: Running) -> None:
    with client_of(running) as client:
        for number in range(5):
            client.request(f"MADEUP{number}", "/healthz")
        text = client.get("/metrics").text
    assert "MADEUP" not in text
    assert 'method="other"' in text


def test_malformed_headers_are_no_errors_of_ours(running: Running) -> None:
    with client_of(running) as client:
        problem(client.get("/v1/jobs", headers={"Host": "["}), 403)
        problem(client.get("/v1/jobs", headers={"Origin": "http://["}), 403)
        form = {"Content-Type": f"multipart/form-data; boundary={'b' * 300}"}
        problem(client.post("/v1/images", content=b"abc", headers=form), 400)


def test_a_raw_video_may_have_a_name(running: Running) -> None:
    with client_of(running) as client:
        answer = client.post("/v1/videos?name=holiday.mp4&frames=2&crops=false", content=CLIP.read_bytes())
        assert answer.status_code == 202
        assert answer.json()["name"] == "holiday.mp4"
        assert "name" not in answer.json()["settings"]

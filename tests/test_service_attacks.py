"""What an attacker found in the service once, and does not find again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from running_service import Running, running_service
from test_service import CLIP, PICTURE, problem, send_video
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import fakeface_jax.server.http.camera
import fakeface_jax.server.http.sse
import fakeface_jax.server.http.timeouts
from fakeface_jax.server.http.middleware import Edge
from fakeface_jax.server.service_config import Limits, ServiceConfig
from fakeface_jax.server.storage.tokens import TokenLimits


@pytest.fixture(scope="module", autouse=True)
def impatient() -> Iterator[None]:
    """Seconds become tenths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakeface_jax.server.http.timeouts, "HEADER_SECONDS", 1.0)
        patch.setattr(fakeface_jax.server.http.sse, "STILL_ALLOWED", 0.2)
        patch.setattr(fakeface_jax.server.http.camera, "STILL_ALLOWED", 0.2)
        yield


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = ServiceConfig(limits=Limits(idle=3.0, image_uploads=4, frame_bytes=2**20))
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
        while running.state.image_uploads.taken < 2 and time.monotonic() < until:
            time.sleep(0.01)
        answer = client.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())})
        assert "uploads at once" in problem(answer, 429)
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


def chunks(size: int, piece: int = 2**16) -> Iterator[bytes]:
    """A body without a length."""
    for _ in range(size // piece):
        yield bytes(piece)


def test_a_body_without_a_length_counts_as_it_comes(guarded: tuple[Running, str]) -> None:
    running, _ = guarded
    store = running.state.store
    secret = store.tokens.create("chunks", TokenLimits(bytes_per_day=3 * 2**20))
    raw = {"Content-Type": "image/jpeg"}
    with client_of(running, Authorization=f"Bearer {secret}") as client:
        problem(client.post("/v1/images", content=chunks(2**20), headers=raw), 422)
        assert store.received.today("chunks") == 2**20
        # Refused while it comes, and what came is counted.
        with contextlib.suppress(httpx.TransportError):  # it may close while there is still something to be sent
            assert "today" in problem(client.post("/v1/images", content=chunks(16 * 2**20), headers=raw), 429)
        used = store.received.today("chunks")
        assert 2 * 2**20 < used <= 4 * 2**20
        for path in ("/v1/images", "/v1/videos"):
            with contextlib.suppress(httpx.TransportError):
                assert "today" in problem(client.post(path, content=chunks(2**17), headers=raw), 429)
        # A length beside chunks says nothing.
        with contextlib.suppress(httpx.TransportError):
            both = raw | {"Content-Length": "4", "Transfer-Encoding": "chunked"}
            assert client.post("/v1/images", content=chunks(2**17), headers=both).status_code in (400, 429)
        assert store.received.today("chunks") <= used + 3 * 2**17


def test_a_file_that_is_said_to_be_too_long_is_just_that(guarded: tuple[Running, str]) -> None:
    running, _ = guarded
    secret = running.state.store.tokens.create("long", TokenLimits(bytes_per_day=1000))
    for path in ("images", "videos"):
        with connected(running) as connection:
            head = f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
            connection.sendall(f"{head}Content-Length: {10**15}\r\n\r\n".encode())
            assert b" 413 " in connection.recv(65536).split(b"\r\n")[0]


def test_chunks_and_promises_leave_the_disk_its_room(guarded: tuple[Running, str], monkeypatch: Any) -> None:
    running, secret = guarded
    limits = dataclasses.replace(running.state.config.limits, free_bytes=10**9)
    monkeypatch.setattr(running.state, "config", dataclasses.replace(running.state.config, limits=limits))
    asked = 0

    def usage(path: Any) -> Any:
        nonlocal asked
        asked += 1
        return types.SimpleNamespace(free=limits.free_bytes + 20 * 2**20 - (asked > 2) * 30 * 2**20)

    monkeypatch.setattr("fakeface_jax.server.http.uploads.shutil.disk_usage", usage)
    with client_of(running, Authorization=f"Bearer {secret}") as client:
        with contextlib.suppress(httpx.TransportError):
            assert "full" in problem(client.post("/v1/videos", content=chunks(64 * 2**20, 2**20)), 507)
        assert asked == 3  # at first, and after each 8 MiB
        asked = 0
        # Two that promise more together than there is room for.
        with connected(running) as connection:
            head = f"POST /v1/videos HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
            connection.sendall(f"{head}Content-Length: {15 * 2**20}\r\n\r\n".encode() + bytes(100))
            until = time.monotonic() + 5
            while running.state.upload_disk == 0 and time.monotonic() < until:
                time.sleep(0.01)
            assert "full" in problem(client.post("/v1/videos", content=bytes(10 * 2**20)), 507)
        until = time.monotonic() + 5
        while running.state.upload_disk and time.monotonic() < until:
            time.sleep(0.01)
    assert running.state.upload_disk == 0


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


def test_what_is_cut_off_by_the_end_of_the_service_is_told_so() -> None:
    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    async def story() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(Edge(waits)), base_url="http://x") as client:
            asked = asyncio.ensure_future(client.post("/v1/videos"))
            await asyncio.sleep(0.05)
            asked.cancel()
            return await asked

    answer = asyncio.run(story())
    assert "being stopped" in problem(answer, 503)
    assert answer.headers["retry-after"] == "10"


EARLY = """
import os, signal
from fakeface_jax.cli.serve import _ended_in_order

try:
    with _ended_in_order():
        signal.raise_signal(signal.{name})
finally:
    print("cleaned up", flush=True)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_before_it_listens_ends_it_in_order(name: str) -> None:
    ended = subprocess.run([sys.executable, "-c", EARLY.format(name=name)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "cleaned up\n", "")

"""What hostile clients get from the service: a reason each, and the service goes on. `-s` prints what each got."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from hostile import BOMBS, Canary, mutated, requests, seeds
from running_service import Running, running_service
from test_service import CLIP, PICTURE, ended, problem, send_video

from fakeface_jax.server.service_config import Limits, ServiceConfig

MUTATIONS = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = Limits(image_bytes=2**23, video_bytes=2**23, pixels=50_000_000, video_seconds=600, idle=2.0, faces=3)
    with running_service(tmp_path_factory.mktemp("state"), ServiceConfig(limits=limits)) as running:
        yield running


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=90, trust_env=False) as client:
        yield client
        # Whatever was done to it, it scores as before.
        ready = client.get("/readyz")
        assert ready.status_code == 200, ready.text
        assert client.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())}).json()["verdict"] != "no_face"


def got(client: httpx.Client, name: str, data: bytes) -> tuple[str, str]:
    """What a file gets as a picture and as a video, in words."""
    answer = client.post("/v1/images", files={"file": (name, data)})
    if answer.status_code == 200:
        picture = f"200 {answer.json()['verdict']}"
    else:
        picture = f"{answer.status_code} {problem(answer, answer.status_code)}"
    sent = send_video(client, data, name=name, frames="8", crops="false")
    assert sent.status_code in (200, 202), sent.text
    job = ended(client, sent.json(), 90)
    video = f"done {job['verdict']}" if job["state"] == "done" else f"failed {job['error']}"
    print(f"{name:24} picture: {picture[:100]}\n{'':24} video:   {video[:100]}")
    return picture, video


@pytest.mark.long
def test_bombs(client: httpx.Client) -> None:
    for name, make in BOMBS.items():
        picture, video = got(client, name, make())
        assert picture.startswith(("422", "413", "200 no_face")), name
        assert video.startswith(("failed", "done no_face")), name
        if name.endswith("-header"):
            assert not picture.startswith("200"), name


def test_nothing_makes_the_service_open_another_place(client: httpx.Client, tmp_path: Path) -> None:
    with Canary() as canary:
        threading.Thread(target=canary.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        for name, data in requests(tmp_path, canary.port):
            picture, video = got(client, f"{name}.mp4", data)
            assert picture.startswith("422"), name
            assert video.startswith(("failed", "done no_face")), name
        hits = canary.hits
        canary.shutdown()
    print(f"canary hits: {hits}")
    assert hits == 0


@pytest.mark.long
def test_damaged_media(client: httpx.Client, service: Running, tmp_path: Path) -> None:
    chance, (pictures, videos) = random.Random(7), seeds(tmp_path)
    everything = sorted(pictures | videos)
    answers: Counter[str] = Counter()
    for number in range(MUTATIONS):
        name = everything[number % len(everything)]
        data = mutated((pictures | videos)[name], chance)
        if not data:
            continue
        if name in pictures:
            answers[f"picture {client.post('/v1/images', files={'file': (name, data)}).status_code}"] += 1
        else:
            answers[
                f"video {ended(client, send_video(client, data, name=name, frames='4', crops='false').json())['state']}"
            ] += 1
    print(dict(answers))
    assert set(answers) <= {"picture 200", "picture 422", "picture 413", "video done", "video failed"}
    assert service.state.decoders.kills["protocol"] == 0


@pytest.mark.parametrize(
    "name",
    [
        "../../../../etc/passwd",
        "..\\..\\windows\\system32\\config",
        "/etc/passwd",
        "con\x00.mp4",
        "\u202e4pm.exe",
        "a" * 3000 + ".mp4",
        "a" * 5000 + ".mp4",
        '"; rm -rf / #.mp4',
        "<img src=x onerror=alert(1)>.mp4",
        "%2e%2e%2f%2e%2e%2fetc",
        "\r\nX-Injected: yes.mp4",
    ],
)
def test_names_are_words_and_never_places(client: httpx.Client, service: Running, name: str) -> None:
    job = ended(client, send_video(client, name=name, frames="2", crops="false").json())
    assert job["state"] == "done"
    assert len(job["name"]) <= 200
    assert not {"/", "\\", "\x00", "\r", "\n", "\u202e"} & set(job["name"])
    assert job["name"].endswith(".mp4") == name.endswith(".mp4")
    for answer in (client.get(f"/v1/jobs/{job['id']}"), client.get("/v1/jobs")):
        assert "x-injected" not in answer.headers
    folder = service.state.store.directory
    assert {path.name for path in folder.iterdir()} <= {
        *("jobs", "incoming", "server.lock", "reserve", "state.sqlite3", "state.sqlite3-wal", "state.sqlite3-shm"),
    }


def test_a_picture_of_too_many_faces_is_refused(client: httpx.Client) -> None:
    import cv2
    import numpy as np

    face = cv2.imread(str(PICTURE))
    crowd = cv2.imencode(".jpg", np.vstack([np.hstack([cv2.resize(face, (320, 320))] * 3)] * 3))[1].tobytes()
    assert "faces, more than 3" in problem(client.post("/v1/images", files={"file": ("crowd.jpg", crowd)}), 413)


def raw(service: Running, data: bytes, seconds: float = 15.0) -> bytes:
    """What the service answers to bytes that no HTTP library would send; empty when it just closes."""
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=seconds) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
                if b"\r\n\r\n" in answer:
                    break
        except ConnectionResetError:
            pass
        return answer


def test_malformed_http(client: httpx.Client, service: Running) -> None:
    host = b"Host: 127.0.0.1\r\n"
    for name, data, allowed in [
        (
            "huge header",
            b"GET /healthz HTTP/1.1\r\n" + host + b"X: " + b"y" * 2**20 + b"\r\n\r\n",
            (b"", b"HTTP/1.1 4"),
        ),
        ("many headers", b"GET /healthz HTTP/1.1\r\n" + host + b"X: y\r\n" * 50_000 + b"\r\n", (b"", b"HTTP/1.1 4")),
        ("no HTTP", b"\x16\x03\x01\x02\x00" * 50 + b"\r\n\r\n", (b"", b"HTTP/1.1 400")),
        ("wrong length", b"POST /v1/images HTTP/1.1\r\n" + host + b"Content-Length: -5\r\n\r\n", (b"HTTP/1.1 4",)),
        (
            "two lengths",
            b"POST /v1/images HTTP/1.1\r\n" + host + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
            (b"HTTP/1.1 4",),
        ),
        (
            "length beyond the limit",
            b"POST /v1/images HTTP/1.1\r\n" + host + b"Content-Length: 99999999999\r\n\r\nabc",
            (b"HTTP/1.1 413",),
        ),
        (
            "chunks without end",
            b"POST /v1/images HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nabcde\r\n" * 3,
            (b"HTTP/1.1 408",),
        ),
    ]:
        answer = raw(service, data)
        print(f"{name:24} {answer.split(bytes([13]))[0]!r}")
        assert answer.startswith(allowed), (name, answer[:200])


def test_slow_clients_do_not_hold_up_others(client: httpx.Client, service: Running) -> None:
    address = urlsplit(service.url)
    slow = []
    for _ in range(100):
        connection = socket.create_connection((address.hostname, address.port))
        connection.sendall(b"POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n")
        slow.append(connection)
    assert client.get("/healthz").status_code == 200
    assert client.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())}).status_code == 200
    # Each is told that it was too slow, and let go.
    for connection in slow:
        connection.settimeout(20)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
        connection.close()


def test_clients_that_leave_in_the_middle_leave_nothing_behind(client: httpx.Client, service: Running) -> None:
    address = urlsplit(service.url)
    head = b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: video/mp4\r\nContent-Length: 900000\r\n\r\n"
    for _ in range(20):
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(head + CLIP.read_bytes()[:50_000])
    until = time.monotonic() + 10
    while list((service.state.store.directory / "incoming").iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert list((service.state.store.directory / "incoming").iterdir()) == []
    assert all(job["name"] != "upload" for job in client.get("/v1/jobs").json()["jobs"])

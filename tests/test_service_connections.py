"""Clients that hold what others need, connections and places for uploads, and those others, who are served."""

from __future__ import annotations

import contextlib
import dataclasses
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from running_service import Running, running_service
from test_service import CLIP, PICTURE, problem, send_video

from fakeface_jax.errors import ConfigError
from fakeface_jax.server.http.connections import ConnectionGate, address_key
from fakeface_jax.server.service_config import Limits, ServiceConfig

SLOW_VIDEO = b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\nab"
SLOW_PICTURE = SLOW_VIDEO.replace(b"/v1/videos", b"/v1/images")


class Known:
    """A connection that the gate knows."""

    def __init__(self, address: str = "a", *, waits: bool = True, served: bool = False) -> None:
        self.address, self.waits, self.served = address, waits, served
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True


# ---- the gate


def test_the_oldest_that_asks_nothing_makes_room() -> None:
    gate = ConnectionGate(total=10, per_address=3)
    busy, kept_alive, silent = Known(waits=False), Known(served=True), Known()
    assert all(gate.enter(one) for one in (busy, kept_alive, silent))
    assert gate.enter(Known())
    assert [one.dropped for one in (busy, kept_alive, silent)] == [False, False, True]
    assert (gate.open, gate.dropped, gate.refused) == (3, 1, 0)


def test_where_all_are_at_work_a_new_one_is_refused() -> None:
    gate = ConnectionGate(total=10, per_address=2)
    busy = [Known(waits=False), Known(waits=False)]
    assert all(gate.enter(one) for one in busy)
    assert not gate.enter(Known())
    assert not any(one.dropped for one in busy)
    assert (gate.open, gate.refused) == (2, 1)
    assert gate.enter(Known("another address"))
    gate.leave(busy[0])
    gate.leave(busy[0])
    assert gate.enter(Known())


def test_where_all_places_are_taken_who_has_most_gives_one_up() -> None:
    gate = ConnectionGate(total=4, per_address=3)
    one, many = Known("one"), [Known("many") for _ in range(3)]
    assert all(gate.enter(known) for known in (one, *many))
    assert gate.enter(Known("new"))
    assert [known.dropped for known in (one, *many)] == [False, True, False, False]
    assert gate.open == 4


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        (None, ""),
    ],
)
def test_a_customer_of_ipv6_is_one_address(host: str | None, key: str) -> None:
    assert address_key(host) == key


# ---- the service


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = Limits(
        connections=20, connections_per_address=16, uploads=12, image_uploads=8, idle=60.0, body_rate=1000.0
    )
    config = ServiceConfig(limits=limits, health_port=0)
    with running_service(tmp_path_factory.mktemp("state"), config) as running:
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
        yield client


def connected(url: str, source: str = "127.0.0.1") -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=60, source_address=(source, 0))


def answer_of(connection: socket.socket) -> bytes:
    """What came until the service closed the connection, or nothing more came for a while."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            answer += chunk
            if b"\r\n\r\n" in answer and answer.endswith(b"}"):
                break
    return answer


def number_in(text: str, name: str) -> float:
    """A value of the metrics."""
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[-1])


def test_sockets_that_say_nothing_keep_nobody_out(running: Running, client: httpx.Client) -> None:
    with contextlib.ExitStack() as stack:
        for source in ("127.0.0.1", "127.0.0.2"):
            for _ in range(40):
                stack.enter_context(connected(running.url, source))
        assert client.get("/healthz").status_code == 200
        with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as another:
            assert another.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())}).status_code == 200
        text = client.get("/metrics").text
    assert number_in(text, 'fakeface_connections_ended_total{reason="dropped"}') >= 80 - 20
    assert number_in(text, "fakeface_connections") <= 20


def test_health_has_a_port_that_answers_where_the_other_one_is_exhausted(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(20):  # as many as may be, of several clients, all at work
            one = stack.enter_context(connected(running.url, f"127.0.0.{10 + number // 4}"))
            one.sendall(SLOW_PICTURE if number % 5 < 2 else SLOW_VIDEO)
        while running.state.image_uploads.taken + running.state.uploads.taken < 20:
            threading.Event().wait(0.01)
        refused = stack.enter_context(connected(running.url, "127.0.0.99"))
        with contextlib.suppress(ConnectionError):
            refused.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert answer_of(refused) == b""
        with httpx.Client(base_url=running.health_url, timeout=60, trust_env=False) as health:
            assert health.get("/healthz").json() == {"status": "alive"}
            assert health.get("/readyz").json()["status"] == "ready"
            assert number_in(health.get("/metrics").text, "fakeface_connections") == 20
            # The rest of the service is not there.
            for path in ("/", "/v1/jobs", "/healthz/"):
                assert health.get(path).status_code == 404, path
            assert "other port" in health.post("/v1/images", content=b"abc").json()["detail"]


def test_metrics_need_a_token_on_both_ports(tmp_path: Path) -> None:
    with running_service(tmp_path / "state", ServiceConfig(health_port=0), ready=False) as running:
        secret = running.state.store.tokens.create("prometheus")
        with httpx.Client(base_url=running.health_url, timeout=60, trust_env=False) as health:
            assert health.get("/healthz").status_code == 200
            assert health.get("/metrics").status_code == 401
            assert health.get("/metrics", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_slow_uploads_of_one_address_leave_pictures_and_other_addresses_their_places(
    running: Running, client: httpx.Client
) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(running.url)) for _ in range(12)]
        for one in slow:
            one.sendall(SLOW_VIDEO)
        answered: set[socket.socket] = set()
        while len(answered) < 6:
            answered |= set(select.select(slow, [], [], 60)[0])
        assert all(answer_of(one).startswith(b"HTTP/1.1 429") for one in answered)
        assert running.state.uploads.taken == 6, "half of the places"
        # Pictures have places of their own.
        assert client.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())}).status_code == 200
        assert "uploads" in problem(send_video(client, frames="2", crops="false"), 429)
        # So has everybody else.
        transport = httpx.HTTPTransport(local_address="127.0.0.9")
        with httpx.Client(base_url=running.url, timeout=60, trust_env=False, transport=transport) as other:
            assert send_video(other, CLIP.read_bytes(), frames="2", crops="false").status_code in (200, 202)


@pytest.fixture
def impatient(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service waits five seconds for a client that sends nothing, or too little."""
    limits = dataclasses.replace(running.state.config.limits, idle=5.0)
    monkeypatch.setattr(running.state, "config", dataclasses.replace(running.state.config, limits=limits))


@pytest.mark.usefixtures("impatient")
def test_a_byte_now_and_then_holds_no_place(running: Running) -> None:
    ended = threading.Event()
    with connected(running.url) as one:
        one.sendall(SLOW_PICTURE)

        def dribble() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(0.2):  # far more often than silence may last
                    one.sendall(b"x")

        thread = threading.Thread(target=dribble)
        thread.start()
        answer = answer_of(one)
        ended.set()
        thread.join()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"slower than 1000 bytes a second for 5 s" in answer
    assert running.state.image_uploads.taken == 0


@pytest.mark.usefixtures("impatient")
def test_what_comes_slowly_but_fast_enough_is_taken(running: Running) -> None:
    data = PICTURE.read_bytes()
    step = len(data) // 12 + 1

    def slowly() -> Iterator[bytes]:
        for at in range(0, len(data), step):
            threading.Event().wait(0.5)  # six seconds in all: longer than silence may last
            yield data[at : at + step]

    with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
        answer = client.post("/v1/images", content=slowly(), headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200, answer.text


def test_ports_are_numbers_of_ports() -> None:
    with pytest.raises(ConfigError, match="health_port 70000"):
        ServiceConfig(health_port=70_000)

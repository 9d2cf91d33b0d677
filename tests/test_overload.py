"""Far more pictures than can be scored: who is let in is answered in time, and who is not costs next to nothing."""

from __future__ import annotations

import collections
import heapq
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from running_service import Running, running_service
from test_service import PICTURE, problem

from fakeface_jax.server.admission import Admission
from fakeface_jax.server.batching import Busy
from fakeface_jax.server.service_config import Limits, ServiceConfig


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def overloaded(times: float, seconds: float, *, at_once: int = 4, within: float = 4.0) -> tuple[float, list[float]]:
    """What becomes of pictures that come so many times as fast as they can be scored, in simulated time.

    Args:
        times: the offered load, in capacities.
        seconds: that each picture takes, `at_once` of them at the same time.
        at_once: pictures that are worked on at the same time.
        within: what is promised.

    Returns:
        Pictures done while they came in relation to what can be done, and the seconds of each from its arrival to its
        answer.
    """
    clock = Clock()
    admission = Admission(at_once=at_once, waiting=1000, within=within, clock=clock)
    admission.enter()
    admission.leave(seconds)  # one alone has told how long a picture takes
    capacity, length = at_once / seconds, 300 * seconds
    waiting: collections.deque[float] = collections.deque()
    working: list[tuple[float, float]] = []
    latencies: list[float] = []
    in_time = 0
    arrivals = [100.0 + number / (times * capacity) for number in range(int(length * times * capacity))]
    for arrival in [*arrivals, float("inf")]:
        while working and working[0][0] <= arrival:
            done, came = heapq.heappop(working)
            admission.leave(seconds)
            latencies.append(done - came)
            in_time += done <= 100.0 + length
            if waiting:
                heapq.heappush(working, (done + seconds, waiting.popleft()))
        clock.now = arrival
        if arrival == float("inf"):
            break
        try:
            with admission.reserve():
                pass
            admission.enter()
        except Busy:
            continue
        if len(working) < at_once:
            heapq.heappush(working, (arrival + seconds, arrival))
        else:
            waiting.append(arrival)
    return in_time / (length * capacity), latencies


@pytest.mark.parametrize("times", [2.0, 10.0])
@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.0])
def test_who_is_let_in_is_answered_in_time_and_as_much_is_done_as_can_be(times: float, seconds: float) -> None:
    done, latencies = overloaded(times, seconds)
    assert done >= 0.9
    assert max(latencies) <= 4.0 + seconds


def test_what_is_slower_than_promised_is_done_all_the_same() -> None:
    done, latencies = overloaded(10.0, 10.0, at_once=2)
    assert done >= 0.9
    assert max(latencies) == pytest.approx(10.0), "nobody waits for anybody"


def test_fewer_may_wait_where_pictures_take_longer() -> None:
    admission = Admission(at_once=2, waiting=8, within=4.0)
    assert admission.allowed == 10, "nothing is known yet"
    for seconds, allowed in ((0.1, 10), (2.0, 4), (60.0, 2), (0.2, 10)):
        for _ in range(200):
            admission.enter()
            admission.enter()
            admission.leave(seconds)
            admission.leave()  # given up, which tells nothing
        assert admission.allowed == allowed, seconds
    assert admission.inside == 0


def test_pictures_that_are_being_received_count_for_a_moment() -> None:
    clock = Clock()
    admission = Admission(at_once=1, waiting=1, within=4.0, clock=clock)
    slow = admission.reserve()
    admission.enter()
    with pytest.raises(Busy) as refused:
        admission.reserve()
    assert 1 <= refused.value.retry_after <= 30
    clock.now += 1.5  # whoever sends as slowly as that keeps nobody out
    with admission.reserve(), pytest.raises(Busy):
        admission.reserve()
    slow.release()
    slow.release()
    admission.enter()
    with pytest.raises(Busy):
        admission.enter()


def test_heads_of_requests_that_nothing_follows_take_nobodys_place() -> None:
    admission = Admission(at_once=8, waiting=32, within=4.0, clock=Clock())
    for _ in range(200):  # all in the same moment
        admission.reserve()
    admission.enter()
    for _ in range(35):
        admission.enter()
    with pytest.raises(Busy):  # those that are on their way fill the rest
        admission.reserve()


# ---- the service


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = ServiceConfig(limits=Limits(images_at_once=1, images_waiting=0, image_deadline=120.0))
    with running_service(tmp_path_factory.mktemp("state"), config) as running:
        yield running


@pytest.fixture
def full(running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The service works on a picture, as many as it may, until the event is set."""
    go, begun = threading.Event(), threading.Event()

    def decode_for(owner: str) -> Any:
        def decode(data: bytes, name: str) -> Any:
            begun.set()
            assert go.wait(60)
            return running.state.decoders.image(data, name, owner=owner)

        return decode

    monkeypatch.setattr(running.state.pictures, "_decode_for", decode_for)
    answers: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=running.url, timeout=90, trust_env=False) as one:
            answers.append(one.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())}).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(60)
    yield go
    go.set()
    thread.join()
    assert answers == [200], "who was inside is answered"


@pytest.mark.parametrize("path", ["/v1/images", "/v1/images/crops"])
def test_a_full_queue_refuses_by_the_head_of_a_request(
    running: Running, full: threading.Event, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(running.state.store, "authenticate", lambda secret: asked.append(secret))
    refused = running.state.metrics.refused.labels("images")._value.get()
    address = urlsplit(running.url)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ff_x\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(head.encode())  # and not a byte of the body
        answer = b""
        while not answer.endswith(b"}"):  # of the problem's JSON
            answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: " in answer.lower()
    assert b"can be answered in time" in answer
    assert running.state.image_uploads.taken == 0, "no place was taken"
    assert asked == [], "no token was looked up"
    assert running.state.metrics.refused.labels("images")._value.get() == refused + 1
    with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
        # What does not wait for the model is answered as always.
        for other in ("/", "/static/app.js", "/healthz", "/readyz", "/v1/jobs"):
            assert client.get(other).status_code == 200, other
        assert f'fakeface_requests_total{{code="503",method="POST",route="{path}"}}' in client.get("/metrics").text


def test_there_is_room_again_when_a_picture_is_done(running: Running, full: threading.Event) -> None:
    files = {"file": ("x.jpg", PICTURE.read_bytes())}
    with httpx.Client(base_url=running.url, timeout=90, trust_env=False) as client:
        assert int(client.post("/v1/images", files=files).headers["retry-after"]) >= 1
        full.set()
        while running.state.pictures.admission.inside:
            threading.Event().wait(0.01)
        for _ in range(3):  # one after the other: nothing that was reserved stays
            assert client.post("/v1/images", files=files).status_code == 200
        problem(client.post("/v1/images", content=b"nothing that is a picture"), 422)
        assert client.post("/v1/images", files=files).status_code == 200

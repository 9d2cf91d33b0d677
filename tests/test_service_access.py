"""Who may ask the service what: tokens, their limits, and what one token sees of another."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_service import Running, running_service
from test_service import PICTURE, ended, problem, send_video
from websockets.sync.client import connect

from fakeface_jax.server import logs
from fakeface_jax.server.service_config import ServiceConfig
from fakeface_jax.server.storage.store import Store
from fakeface_jax.server.storage.tokens import TokenLimits


@pytest.fixture(scope="module")
def log() -> Iterator[io.StringIO]:
    """What an operator would see."""
    stream = io.StringIO()
    logs.configure("json", stream)
    yield stream
    for name in ("fakeface", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("uvicorn.access").disabled = False


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, log: io.StringIO) -> Iterator[Running]:
    config = ServiceConfig(streams=("entrance=rtsp://127.0.0.1:9/live",))
    with running_service(tmp_path_factory.mktemp("state"), config) as running:
        yield running


def client_of(service: Running, secret: str | None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return httpx.Client(base_url=service.url, timeout=60, trust_env=False, headers=headers)


def test_the_first_token_closes_the_service_to_those_without(service: Running) -> None:
    with client_of(service, None) as nobody:
        assert nobody.get("/v1/jobs").status_code == 200
        secret = service.state.store.tokens.create("first")
        assert "token" in problem(nobody.get("/v1/jobs"), 401)
        assert nobody.get("/v1/jobs").headers["www-authenticate"] == "Bearer"
        assert "token" in problem(nobody.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())}), 401)
        assert "token" in problem(nobody.get("/metrics"), 401)
        # What a page and a load balancer need before anybody has a token.
        for path in ("/", "/healthz", "/readyz", "/v1/info", "/openapi.json"):
            assert nobody.get(path).status_code == 200, path
        assert nobody.get("/v1/info").json()["auth_required"] is True
    with client_of(service, secret) as somebody:
        assert somebody.get("/v1/jobs").status_code == 200
        # With a token, a proxy may be in between, and the host may have another name.
        headers = {"Host": "detector.example.org", "X-Forwarded-For": "203.0.113.7"}
        assert somebody.get("/v1/jobs", headers=headers).status_code == 200
    for wrong in ("ff_wrong", "x" * 5000, secret[:-1], secret.upper(), ""):
        with client_of(service, wrong or None) as other:
            problem(other.get("/v1/jobs"), 401)


def test_one_tokens_jobs_do_not_exist_for_another(service: Running) -> None:
    mine, yours = (service.state.store.tokens.create(name) for name in ("mine", "yours"))
    with client_of(service, mine) as me, client_of(service, yours) as you:
        job = ended(me, send_video(me, frames="2", crops="false", key="same").json())
        for path in ("", "/events", "/report", "/crops", "/annotated", "/media"):
            problem(you.get(f"/v1/jobs/{job['id']}{path}"), 404)
        problem(you.delete(f"/v1/jobs/{job['id']}"), 404)
        assert you.get("/v1/jobs").json()["jobs"] == []
        # Neither the same key nor the same media tells that somebody else was here before.
        other = send_video(you, frames="2", crops="false", key="same")
        assert other.status_code == 202
        assert other.json()["cached"] is False
        assert me.get(f"/v1/jobs/{job['id']}").status_code == 200


def test_a_token_that_asks_too_often_is_told_when_to_come_back(service: Running) -> None:
    secret = service.state.store.tokens.create("eager", TokenLimits(requests_per_minute=12))
    with client_of(service, secret) as client:
        answers = [client.get("/v1/jobs") for _ in range(6)]
    assert [answer.status_code for answer in answers[:3]] == [200, 200, 200]
    problem(answers[-1], 429)
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 6


def test_a_tokens_bytes_and_jobs_are_bounded(service: Running) -> None:
    size = len(PICTURE.read_bytes())
    secret = service.state.store.tokens.create("small", TokenLimits(bytes_per_day=size + 1000))
    with client_of(service, secret) as client:
        assert client.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())}).status_code == 200
        answer = client.post("/v1/images", files={"file": ("x.jpg", PICTURE.read_bytes())})
        assert "today" in problem(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 86401
    few = service.state.store.tokens.create("few", TokenLimits(waiting_jobs=1))
    with client_of(service, few) as client:
        answers = [send_video(client, every="1", start=str(n / 10), crops="false") for n in range(4)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert "1 jobs of yours wait" in problem(refused[0], 429)
        assert int(refused[0].headers["retry-after"]) >= 1
        for answer in answers:
            if answer.status_code == 202:
                client.delete(f"/v1/jobs/{answer.json()['id']}")


def test_pictures_of_a_camera_count_towards_the_bytes_of_a_day(service: Running) -> None:
    data = PICTURE.read_bytes()
    store = service.state.store
    secret = store.tokens.create("camera", TokenLimits(bytes_per_day=len(data) + 1000))

    def converse() -> dict[str, Any]:
        with connect(service.url.replace("http", "ws") + "/v1/live", proxy=None) as socket:
            socket.send(json.dumps({"token": secret}))
            assert json.loads(socket.recv(30))["type"] == "ready"
            socket.send(data)
            return json.loads(socket.recv(30))

    assert converse()["type"] == "frame"
    refused = converse()
    assert (refused["type"], refused["status"]) == ("error", 429)
    assert "today" in refused["detail"]
    assert store.received.today("camera") == 2 * len(data)  # also what was refused has come


def test_the_names_of_streams_are_for_those_with_a_token(service: Running) -> None:
    with client_of(service, None) as nobody:
        assert "entrance" not in nobody.get("/v1/info").text
        problem(nobody.get("/v1/streams"), 401)
    with client_of(service, service.state.store.tokens.create("viewer")) as client:
        assert client.get("/v1/streams").json()["sources"] == ["entrance"]


def test_a_revoked_token_is_refused_at_once(service: Running) -> None:
    secret = service.state.store.tokens.create("gone")
    with client_of(service, secret) as client:
        assert client.get("/v1/jobs").status_code == 200
        service.state.store.tokens.revoke("gone")
        problem(client.get("/v1/jobs"), 401)


def test_secrets_and_names_of_files_are_not_in_the_log_or_the_store(service: Running, log: io.StringIO) -> None:
    secret = service.state.store.tokens.create("quiet")
    with client_of(service, secret) as client:
        client.post(
            "/v1/images?name=private-name.jpg", content=PICTURE.read_bytes(), headers={"X-Request-ID": "known-to-me"}
        )
        client.get("/v1/jobs", headers={"Authorization": f"Basic {secret}"})
        client.get(f"/v1/jobs/{secret}")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    found = [line for line in lines if line.get("request_id") == "known-to-me"]
    assert found[0]["route"] == "/v1/images"
    assert found[0]["status"] == 200
    assert {"method", "seconds", "bytes", "time", "level"} <= set(found[0])
    assert "private-name" not in log.getvalue()
    assert secret not in log.getvalue()
    for path in service.state.store.directory.glob("state.sqlite3*"):
        assert secret.encode() not in path.read_bytes()


def test_beyond_this_machine_it_needs_a_token_even_where_there_is_none(tmp_path: Path) -> None:
    config = ServiceConfig(host="0.0.0.0")
    with running_service(tmp_path / "state", config, ready=False) as running, client_of(running, None) as nobody:
        problem(nobody.get("/v1/jobs"), 401)


def test_another_server_cannot_have_the_same_directory(service: Running) -> None:
    with pytest.raises((Exception, SystemExit)), running_service(service.state.store.directory, ready=False):
        pass


def test_what_was_scored_is_there_after_a_restart_and_what_waited_goes_on(tmp_path: Path) -> None:
    with running_service(tmp_path / "state") as running, client_of(running, None) as client:
        done = ended(client, send_video(client, frames="2", crops="false").json())
        waits = send_video(client, every="1", crops="false").json()
    # Stopped in the middle: it went back into the queue.
    store = Store(tmp_path / "state")
    job = store.job("", waits["id"])
    assert job is not None
    assert str(job.state) == "queued"
    store.close()
    with running_service(tmp_path / "state") as running, client_of(running, None) as client:
        assert client.get(f"/v1/jobs/{done['id']}/report").status_code == 200
        assert ended(client, waits, 120)["state"] == "done"


def test_reports_expire(tmp_path: Path) -> None:
    config = ServiceConfig(keep_reports=1e-5)
    with running_service(tmp_path / "state", config) as running, client_of(running, None) as client:
        job = ended(client, send_video(client, frames="2", crops="false").json())
        time.sleep(1.0)
        running.state.store.sweep()
        problem(client.get(f"/v1/jobs/{job['id']}/report"), 404)

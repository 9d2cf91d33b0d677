"""The thread that scores videos, where the store or the machine fails it."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running_service import running_service
from test_service import CLIP, send_video

import fakeface_jax.server.jobs
from fakeface_jax.server.jobs import JobRunner
from fakeface_jax.server.sandbox.protocol import DecoderCrashed
from fakeface_jax.server.service_config import ServiceConfig
from fakeface_jax.server.storage.database import StoreError
from fakeface_jax.server.storage.tokens import TokenLimits
from fakeface_jax.video.reading.sampling import Sampling


def until(said: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_full_disk_neither_loses_a_job_nor_leaves_it_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    monkeypatch.setattr(fakeface_jax.server.jobs, "_POLL", 0.2)
    with running_service(tmp_path / "state") as running, httpx.Client(base_url=running.url, trust_env=False) as client:
        store, broken = running.state.store, {"finish": 2, "requeue": 1}

        def breaks(name: str) -> None:
            whole = getattr(store, name)

            def sometimes(*values: object, **named: object) -> object:
                if broken[name]:
                    broken[name] -= 1
                    raise StoreError("a result cannot be stored: No space left on device")
                return whole(*values, **named)

            monkeypatch.setattr(store, name, sometimes)

        for name in broken:
            breaks(name)
        job = send_video(client, CLIP.read_bytes(), frames="2", crops="false").json()
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "done")
        assert broken == {"finish": 0, "requeue": 0}
        assert client.get(f"/v1/jobs/{job['id']}").json()["attempt"] == 3
        assert running.state.problems() == []


def test_a_video_that_takes_too_long_fails_and_the_next_one_is_scored(tmp_path: Path) -> None:
    import httpx

    with running_service(tmp_path / "state") as running, httpx.Client(base_url=running.url, trust_env=False) as client:
        runner = running.state.runner
        usual = runner._config
        runner._config = dataclasses.replace(usual, limits=dataclasses.replace(usual.limits, job_seconds=0.05))
        job = send_video(client, CLIP.read_bytes(), every="1", crops="false").json()
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "failed")
        assert "more than 0.05 s of work" in client.get(f"/v1/jobs/{job['id']}").json()["error"]
        runner._config = usual
        job = send_video(client, CLIP.read_bytes(), frames="2", crops="false").json()
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "done")


def test_a_decoder_killed_from_outside_is_no_fault_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel does it when the machine has no memory left; and named a fault once it was alone."""
    import httpx

    monkeypatch.setattr(fakeface_jax.server.jobs, "_POLL", 0.2)
    kills = 2
    seen: list[tuple[int | None, int]] = []

    def killed_before_drawing(self: JobRunner, job: Any, report: Any, video: Any) -> None:
        seen.append((job.apart, job.failures))
        if len(seen) <= kills:
            os.kill(video.pid, signal.SIGKILL)
        assert list(video.frames(Sampling(frames=2)))  # as drawing does, which takes longer

    monkeypatch.setattr(JobRunner, "_draw", killed_before_drawing)
    with running_service(tmp_path / "state") as running, httpx.Client(base_url=running.url, trust_env=False) as client:
        job = send_video(client, CLIP.read_bytes(), frames="2").json()
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] in ("done", "failed"))
        assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "done"
        assert [(apart is not None, failures) for apart, failures in seen] == [(False, 0), (True, 0), (True, 1)]
        assert running.state.decoders.kills["killed"] == kills

        kills = 99
        seen.clear()
        job = send_video(client, CLIP.read_bytes(), frames="3").json()
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] in ("done", "failed"))
        failed = client.get(f"/v1/jobs/{job['id']}").json()
        assert "its decoder was killed 3 times while no other video was decoded" in failed["error"]
        assert len(seen) == 4
        kills = 0
        assert client.post(f"/v1/jobs/{job['id']}/retry").status_code == 202
        until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "done")


def test_a_failed_job_is_retried_by_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    broken = threading.Event()
    broken.set()
    whole = JobRunner._score

    def crashes(self: JobRunner, job: Any) -> None:
        if broken.is_set():
            raise DecoderCrashed(job.name, "the decoder ended by SIGSEGV", "get it again")
        whole(self, job)

    monkeypatch.setattr(JobRunner, "_score", crashes)
    config = ServiceConfig(attempts=2)
    with (
        running_service(tmp_path / "state", config) as running,
        httpx.Client(base_url=running.url, trust_env=False) as client,
    ):
        secret = running.state.store.tokens.create("newsroom", TokenLimits())
        other = running.state.store.tokens.create("other", TokenLimits())
        client.headers["Authorization"] = f"Bearer {secret}"
        job = send_video(client, CLIP.read_bytes(), frames="2", crops="false").json()
        path = f"/v1/jobs/{job['id']}"
        until(lambda: client.get(path).json()["state"] == "failed")
        failed = client.get(path).json()
        assert (failed["attempt"], failed["retry_until"] is None) == (2, False)
        assert client.post(f"{path}/retry", headers={"Authorization": f"Bearer {other}"}).status_code == 404
        assert client.post(f"/v1/jobs/{'0' * 32}/retry").status_code == 404
        broken.clear()
        again = client.post(f"{path}/retry")
        assert again.status_code == 202
        assert again.json()["error"] is None
        until(lambda: client.get(path).json()["state"] == "done")
        refused = client.post(f"{path}/retry")
        assert (refused.status_code, refused.json()["detail"]) == (
            409,
            "the job is done; only one that failed can be retried",
        )

        broken.set()
        job = send_video(client, CLIP.read_bytes(), frames="3", crops="false").json()
        path = f"/v1/jobs/{job['id']}"
        until(lambda: client.get(path).json()["state"] == "failed")
        running.state.store.drop_media(job["id"])
        refused = client.post(f"{path}/retry")
        assert refused.status_code == 409
        assert "send it again" in refused.json()["detail"]

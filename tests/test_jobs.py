"""The thread that scores videos, where the store or the machine fails it."""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from running_service import running_service
from test_service import CLIP, send_video

import fakeface_jax.server.jobs
from fakeface_jax.errors import OpenError
from fakeface_jax.server.jobs import _for_want
from fakeface_jax.server.storage.database import StoreError


def until(said: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_is_missing_now_may_be_there_later() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    opened = OpenError("clip.mp4", "cannot be read")
    opened.__cause__ = OSError(errno.EMFILE, "Too many open files")
    assert _for_want(full)
    assert _for_want(opened)
    assert _for_want(StoreError("a result cannot be stored"))
    assert not _for_want(OpenError("clip.mp4", "is text"))
    assert not _for_want(OSError(errno.ENOENT, "no such file"))


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

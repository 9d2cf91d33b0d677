"""Kills the service repeatedly at random moments and counts the fate of its jobs.

The service runs in a process of its own, as in use. While jobs are sent, it is killed (SIGKILL, together with its
decoders) and started again on the same state directory. At the end each accepted job must exist and be done, with
one report, and each report must belong to its media.

python scripts/kill_loop.py samples/real_collins_pan.mp4 --kills 20 --jobs 24
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx


class Service:
    """A `fakeface serve` process on a port that can be killed and started again."""

    def __init__(self, state: Path, port: int) -> None:
        self._command = [
            sys.executable,
            "-m",
            "fakeface_jax.cli.main",
            "serve",
            "--state",
            str(state),
            "--port",
            str(port),
        ]
        self.url = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (state.parent / "service.log").open("ab")

    def start(self) -> None:
        """Starts the service, again on the same state."""
        self._process = subprocess.Popen(self._command, stderr=self._log, start_new_session=True)

    def kill(self) -> None:
        """Kills the service without warning."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait_ready(self, seconds: float = 120.0) -> None:
        """Waits until the service can score."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return
            assert self._process is not None
            if self._process.poll() is not None:
                raise SystemExit(f"the service ended by itself with {self._process.returncode}")
            time.sleep(0.05)
        raise SystemExit("the service was not ready in time")

    def stop(self) -> int:
        """Stops the service as an operator does, and returns its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)


def send(url: str, video: bytes, number: int) -> str:
    """Sends one job with the same idempotency key until it is accepted."""
    # One more byte each time, so that no job is answered with the report of another.
    media = video + bytes(number)
    while True:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(
                f"{url}/v1/videos",
                files={"file": (f"{number}.mp4", media)},
                data={"frames": "16", "crops": "false"},
                headers={"Idempotency-Key": f"job-{number}"},
                timeout=30,
                trust_env=False,
            )
            if answer.status_code in (200, 202):
                return str(answer.json()["id"])
            if answer.status_code != 503:
                raise SystemExit(f"job {number}: {answer.status_code} {answer.text}")
        time.sleep(0.1)


def run(video: Path, kills: int, jobs: int, seed: int, port: int) -> dict[str, Any]:
    """Runs the loop and returns the fate of the jobs."""
    draw, data = random.Random(seed), video.read_bytes()
    with tempfile.TemporaryDirectory(prefix="fakeface-kill-") as folder:
        state = Path(folder) / "state"
        service = Service(state, port)
        service.start()
        ids: dict[int, str] = {}

        def send_all() -> None:
            for number in range(jobs):
                ids[number] = send(service.url, data, number)
                time.sleep(draw.uniform(0.0, 0.3))

        sender = threading.Thread(target=send_all)
        sender.start()
        for _ in range(kills):
            # Sometimes before the service is ready, mostly while it scores.
            if draw.random() < 0.8:
                service.wait_ready()
            time.sleep(draw.uniform(0.0, 1.5))
            service.kill()
            service.start()
        sender.join()
        service.wait_ready()
        reports = {number: wait_for(service.url, job_id) for number, job_id in ids.items()}
        listed = len(list_all(service.url))
        code = service.stop()
        database = sqlite3.connect(state / "state.sqlite3")
        stored = database.execute("SELECT count(*) FROM reports").fetchone()[0]
        attempts = database.execute("SELECT max(attempt), sum(attempt) FROM jobs").fetchone()
        database.close()
        right = sum(
            report is not None and report["media"]["sha256"] == hashlib.sha256(data + bytes(number)).hexdigest()
            for number, report in reports.items()
        )
        return {
            "kills": kills,
            "jobs_accepted": len(ids),
            "jobs_distinct": len(set(ids.values())),
            "jobs_listed": listed,
            "done_with_the_right_report": right,
            "reports_stored": stored,
            "attempts": attempts[1],
            "most_attempts_of_a_job": attempts[0],
            "left_in_incoming": len(list((state / "incoming").iterdir())),
            "media_left": len(list(state.glob("jobs/*/media"))),
            "ended_in_order": code == 0,
        }


def wait_for(url: str, job_id: str, seconds: float = 300.0) -> dict[str, Any] | None:
    """Waits for a report; returns None if the job is lost or failed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        job = httpx.get(f"{url}/v1/jobs/{job_id}", trust_env=False).json()
        if job.get("state") == "done":
            report: dict[str, Any] = httpx.get(f"{url}/v1/jobs/{job_id}/report", trust_env=False).json()
            return report
        if job.get("state") not in ("queued", "running"):
            print(f"{job_id}: {job}", file=sys.stderr)
            return None
        time.sleep(0.1)
    return None


def list_all(url: str) -> list[str]:
    """Returns the ids of all jobs."""
    found: list[str] = []
    before = None
    while True:
        params = {"limit": "100"} | ({"before": before} if before else {})
        page = httpx.get(f"{url}/v1/jobs", params=params, trust_env=False).json()
        found += [job["id"] for job in page["jobs"]]
        before = page["next"]
        if before is None:
            return found


def main() -> int:
    """Runs the kill loop and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8765)
    given = parser.parse_args()
    found = run(given.video, given.kills, given.jobs, given.seed, given.port)
    print(json.dumps(found, indent=2))
    whole = all(
        found[key] == given.jobs
        for key in ("jobs_accepted", "jobs_distinct", "jobs_listed", "done_with_the_right_report", "reports_stored")
    )
    return 0 if whole and found["left_in_incoming"] == found["media_left"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())

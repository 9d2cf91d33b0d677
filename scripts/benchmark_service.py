"""Compares pictures per second through the service with the same pictures through the library, in one run.

The service runs in a process of its own, and this program is its client. In each round the library scores pictures one
after the other, and then some clients ask the service for as many, each one the next picture as soon as it has its
answer. Last, pictures come at twice and at ten times the rate that the service was found to manage, and do not wait for
answers: how much is done of what could be, what is refused, how long those wait that are not, and how long the page
takes meanwhile.

python scripts/benchmark_service.py --pictures samples/real_collins.jpg --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np


def through_library(pictures: list[bytes], count: int) -> float:
    """Measures pictures per second, one after the other, with everything the service does except HTTP and isolation."""
    from fakeface_jax.classifier import FaceClassifier
    from fakeface_jax.detectors import create_detector
    from fakeface_jax.video.scoring import score_image

    if not _LOADED:
        classifier = FaceClassifier.load()
        _LOADED.extend((classifier, create_detector(classifier.spec.detector)))
        score_image(*_LOADED, pictures[0])
    began = time.perf_counter()
    for number in range(count):
        score_image(*_LOADED, pictures[number % len(pictures)])
    return count / (time.perf_counter() - began)


_LOADED: list[Any] = []


async def closed_loop(url: str, pictures: list[bytes], count: int, clients: int) -> tuple[float, list[float]]:
    """Measures pictures per second and seconds of each, with clients that wait for their answers."""
    seconds: list[float] = []
    numbers = iter(range(count))

    async def ask(client: httpx.AsyncClient) -> None:
        for number in numbers:
            began = time.perf_counter()
            answer = await client.post("/v1/images", files={"file": ("x.jpg", pictures[number % len(pictures)])})
            answer.raise_for_status()
            seconds.append(time.perf_counter() - began)

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as client:
        began = time.perf_counter()
        await asyncio.gather(*(ask(client) for _ in range(clients)))
        return count / (time.perf_counter() - began), seconds


async def open_loop(url: str, pictures: list[bytes], rate: float, seconds: float) -> list[tuple[int, float, bool]]:
    """Sends pictures at a fixed rate without waiting; returns status, seconds and presence of Retry-After for each."""
    found: list[tuple[int, float, bool]] = []

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        began = time.perf_counter()
        try:
            answer = await client.post("/v1/images", files={"file": ("x.jpg", pictures[number % len(pictures)])})
        except httpx.TransportError:
            found.append((0, time.perf_counter() - began, False))
            return
        found.append((answer.status_code, time.perf_counter() - began, "retry-after" in answer.headers))

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as client:
        began, tasks = time.perf_counter(), []
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(client, number)))
        await asyncio.gather(*tasks)
    return found


async def page_while(url: str, done: asyncio.Event) -> list[float]:
    """Seconds of each visit to the page, one after the other, until the event is set."""
    found: list[float] = []
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        while not done.is_set():
            began = time.perf_counter()
            (await client.get("/")).raise_for_status()
            found.append(time.perf_counter() - began)
            await asyncio.sleep(0.25)
    return found


async def overload(url: str, pictures: list[bytes], capacity: float, times: float, seconds: float) -> dict[str, Any]:
    """Sends pictures so many times as fast as they can be scored, and counts what becomes of them.

    Args:
        url: of the service.
        pictures: image files.
        capacity: pictures a second that the service manages.
        times: the rate at which they come, in capacities.
        seconds: for how long.
    """
    done = asyncio.Event()
    visits = asyncio.create_task(page_while(url, done))
    began = time.perf_counter()
    found = await open_loop(url, pictures, times * capacity, seconds)
    took = time.perf_counter() - began
    done.set()
    page = await visits
    accepted = [one for status, one, _ in found if status == 200]
    refused = [(one, told) for status, one, told in found if status in (429, 503)]
    return {
        "asked_per_second": round(times * capacity, 2),
        "requests": len(found),
        "statuses": dict(collections.Counter(status for status, *_ in found)),
        "share_refused": round(len(refused) / len(found), 3),
        "done_per_second": round(len(accepted) / took, 2),
        "done_of_capacity": round(len(accepted) / took / capacity, 3),
        "refused_with_retry_after": all(told for _, told in refused),
        "p99_seconds_of_accepted": percentile(accepted, 99),
        "p50_seconds_of_refused": percentile([one for one, _ in refused], 50),
        "p99_seconds_of_refused": percentile([one for one, _ in refused], 99),
        "p95_seconds_of_page": percentile(page, 95),
    }


def percentile(values: list[float], which: float) -> float | None:
    """Returns a percentile of seconds, rounded; None for no values."""
    return round(float(np.percentile(values, which)), 4) if values else None


def wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Waits until the service can score."""
    for _ in range(1200):
        if process.poll() is not None:
            raise SystemExit("the service ended by itself")
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("the service was not ready in time")


def main() -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=100, help="number of pictures per round")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--overload", type=float, default=20.0, help="seconds at twice and at ten times the rate")
    parser.add_argument("--port", type=int, default=8766)
    given = parser.parse_args()
    pictures = [path.read_bytes() for path in given.pictures]
    url = f"http://127.0.0.1:{given.port}"
    with tempfile.TemporaryDirectory(prefix="fakeface-load-") as folder:
        command = [
            sys.executable,
            "-m",
            "fakeface_jax.cli.main",
            "serve",
            "--state",
            f"{folder}/state",
            "--port",
            str(given.port),
        ]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_ready(url, process)
            rounds: dict[str, list[float]] = collections.defaultdict(list)
            latencies: list[float] = []
            for _ in range(given.rounds):
                rounds["library"].append(through_library(pictures, given.count))
                rounds["one client"].append(asyncio.run(closed_loop(url, pictures, given.count, 1))[0])
                rate, seconds = asyncio.run(closed_loop(url, pictures, given.count, given.clients))
                rounds["service"].append(rate)
                latencies += seconds
            capacity = statistics.median(rounds["service"])
            overloads = {
                f"{times:g} times": asyncio.run(overload(url, pictures, capacity, times, given.overload))
                for times in (2.0, 10.0)
            }
            healthy = httpx.get(f"{url}/readyz", trust_env=False).status_code
        finally:
            process.terminate()
            process.wait(60)
    print(
        json.dumps(
            {
                "pictures_per_second": {name: [round(one, 2) for one in found] for name, found in rounds.items()},
                "ratio_service_to_library": round(
                    statistics.median(
                        one / other for one, other in zip(rounds["service"], rounds["library"], strict=True)
                    ),
                    3,
                ),
                "clients": given.clients,
                "p50_seconds": round(float(np.percentile(latencies, 50)), 4),
                "p99_seconds": round(float(np.percentile(latencies, 99)), 4),
                "overload": overloads,
                "ready_afterwards": healthy == 200,
            },
            indent=2,
        )
    )
    return 0 if healthy == 200 else 1


if __name__ == "__main__":
    sys.exit(main())

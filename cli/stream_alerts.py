"""Alerts when a verdict of a stream turns fake: calls a webhook and saves the faces.

Alerts never delay the scoring: the webhook has a thread and a bounded queue of its own, and failures are counted and
printed. Chat services put the secret into the webhook's address, so the whole address is secret and only its host is
shown.

Example:
    >>> with Webhook("https://hooks.example/T0/B0/key", tell=print) as webhook:
    ...     webhook.send({"type": "alert", "input": "camera 0", "verdict": "fake"})
"""

from __future__ import annotations

import base64
import collections
import contextlib
import http.client
import json
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fakeface_jax.atomic_files import make_directory, whole_file
from fakeface_jax.errors import ConfigError
from fakeface_jax.video.live.redaction import display_host, is_host

if TYPE_CHECKING:
    from fakeface_jax.video.live.scorer import Evidence

TIMEOUT = 5.0
"""Seconds that one call may take."""

ATTEMPTS = 3
"""Calls per alert; the first pause between them is `PAUSE`, each further one twice as long."""

PAUSE = 1.0
"""Seconds before the second call of an alert."""

QUEUE = 32
"""Alerts that may wait; further ones are dropped, counted and reported."""

LAST_CHANCE = 6.0
"""Seconds that waiting alerts get when the stream ends."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Refuses redirects: an alert goes only to the address that the user named."""


class Webhook:
    """A sender of JSON to an address, with a thread of its own.

    Args:
        address: an http or https address.
        tell: called from the thread with a line about each alert that is not delivered.
        pause: seconds before the second attempt; for tests.

    Attributes:
        name: the part of the address that may be shown.
        delivered: number of alerts that were answered with a status of 2xx.
        failed: number of alerts that were given up, or dropped because too many were waiting.

    Raises:
        ConfigError: the scheme is another one, or the address is not valid.
    """

    def __init__(self, address: str, *, tell: Callable[[str], None], pause: float = PAUSE) -> None:
        self.name = display_host(address)
        self.delivered = self.failed = 0
        self._address, self._headers = _split(address)
        self._tell, self._pause = tell, pause
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._waiting: collections.deque[bytes] = collections.deque()
        self._changed = threading.Condition()
        self._closing, self._busy, self._until = threading.Event(), False, float("inf")
        self._thread = threading.Thread(target=self._work, name="fakeface-webhook", daemon=True)
        self._thread.start()

    def send(self, record: Mapping[str, Any]) -> None:
        """Queues an alert and returns at once."""
        with self._changed:
            if len(self._waiting) >= QUEUE:
                self.failed += 1
                self._tell(f"fakeface: {self.name}: an alert was dropped, because {QUEUE} are already waiting")
                return
            self._waiting.append(json.dumps(record, allow_nan=False).encode())
            self._changed.notify_all()

    def close(self, patience: float = LAST_CHANCE) -> None:
        """Waits `patience` seconds for the remaining alerts, then ends the thread."""
        with self._changed:
            self._until = time.monotonic() + patience
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(patience)
        with self._changed:
            lost = len(self._waiting) + self._busy
            self.failed += lost
            self._waiting.clear()
        if lost:
            self._tell(f"fakeface: {self.name}: {lost} alerts were not delivered before the end")

    def __enter__(self) -> Webhook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closing.is_set():
                        return
                    self._changed.wait()
                body, self._busy = self._waiting.popleft(), True
            problem = self._deliver(body)
            with self._changed:
                if time.monotonic() >= self._until:
                    return  # counted already, by whoever closed
                self._busy = False
                self.delivered += not problem
                self.failed += bool(problem)
            if problem:
                self._tell(f"fakeface: {self.name}: an alert was not delivered: {problem}")

    def _deliver(self, body: bytes) -> str:
        """Sends an alert and returns the error of the last attempt, or an empty string."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                # When the stream ends, the remaining attempts follow without a pause.
                self._closing.wait(self._pause * 2 ** (attempt - 1))
            request = urllib.request.Request(self._address, body, self._headers, method="POST")
            try:
                with self._opener.open(request, timeout=TIMEOUT):
                    return ""
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}"
                error.close()
                if 400 <= error.code < 500 and error.code != 429:
                    return problem  # the same request would be refused again
            except (OSError, http.client.HTTPException, ValueError) as error:
                # Only the operating system's text is quoted: other messages may contain the address.
                reason = getattr(error, "reason", error)
                problem = getattr(reason, "strerror", None) or type(reason).__name__
        return problem


def _split(address: str) -> tuple[str, dict[str, str]]:
    """Returns the address without user and password, and the headers that carry them."""
    shown = display_host(address)
    try:
        parts = urllib.parse.urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"--alert-url {shown}: not a valid address; write https://host/path") from None
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"--alert-url {shown}: only http and https addresses can be called; write https://host/path")
    if not host or not is_host(parts.netloc.rpartition("@")[2]) or not re.fullmatch(r"[!-~]+", address):
        raise ConfigError(f"--alert-url {shown}: not a valid address; write https://host/path")
    headers = {"Content-Type": "application/json", "User-Agent": "fakeface-jax"}
    user, at, place = parts.netloc.rpartition("@")
    if at:
        token = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    return parts._replace(netloc=place, fragment="").geturl(), headers


def save_evidence(directory: Path, record: Mapping[str, Any], faces: Mapping[int, Sequence[Evidence]]) -> Path:
    """Writes a folder for one alert: each crop as a PNG file and, last, `alert.json`, which lists them.

    Args:
        directory: parent of the new folder; created if it is missing.
        record: record of the alert; its `utc` names the folder.
        faces: the crops, by the number of the person.

    Returns:
        The path of the folder.

    Raises:
        OpenError: the folder cannot be written.
    """
    from PIL import Image

    folder = _new_folder(make_directory(directory), str(record["utc"]).replace(":", ""))
    listed = []
    for person, kept in faces.items():
        for one in kept:
            name = f"person-{person}-frame-{one.frame}.png"
            with whole_file(folder / name) as temporary:
                Image.fromarray(one.crop).save(temporary, "PNG")
            details = {"logit": round(one.logit, 4), "time": round(one.time, 3), "frame": one.frame}
            listed.append({"file": name, "person": person, **details, "box": [round(side, 1) for side in one.box]})
    with whole_file(folder / "alert.json") as temporary:
        temporary.write_text(json.dumps({**record, "faces": listed}, indent=2, allow_nan=False) + "\n", "utf-8")
    return folder


def _new_folder(directory: Path, name: str) -> Path:
    """Creates a folder of its own: two alerts may come within a second, and two streams may share a directory."""
    number = 1
    while True:
        folder = directory / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1

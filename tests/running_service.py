"""Runs the service in a thread of this process on a free port, with the bundled model."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.detectors import create_detector
from fakeface_jax.server.http.app import create_app
from fakeface_jax.server.http.server import HttpServer
from fakeface_jax.server.http.service_state import State
from fakeface_jax.server.service_config import ServiceConfig
from fakeface_jax.server.storage.store import Store


@functools.cache
def shipped() -> FaceClassifier:
    """Loads the bundled model once per process."""
    return FaceClassifier.load()


class Running:
    """The running service as tests use it."""

    def __init__(self, url: str, state: State, health_url: str) -> None:
        self.url, self.state, self.health_url = url, state, health_url


@contextlib.contextmanager
def running_service(
    directory: Path, config: ServiceConfig = ServiceConfig(), *, ready: bool = True
) -> Iterator[Running]:
    """Runs the service until the end of the block."""
    store = Store(directory)
    held = store.exclusive()
    held.__enter__()
    classifier = shipped()
    app = create_app(config, store, classifier, functools.partial(create_detector, classifier.spec.detector))
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    health = None if config.health_port is None else socket.create_server(("127.0.0.1", 0))
    server = HttpServer(app, dataclasses.replace(config, grace=5.0), health=health)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(server.serve([listening]))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        if errors:
            raise errors[0]
        state: Any = app.state.service
        if ready:
            assert state.ready.wait(120), "the model was not ready in two minutes"
        url, health_url = (f"http://127.0.0.1:{one.getsockname()[1]}" if one else "" for one in (listening, health))
        yield Running(url, state, health_url)
    finally:
        state_of = getattr(app.state, "service", None)
        if state_of is not None:
            state_of.hub.close()
        server.should_exit = True
        thread.join(60)
        for one in (listening, health):
            if one is not None:
                one.close()
        held.__exit__(None, None, None)
        store.close()
        assert not thread.is_alive(), "the server did not end"

"""`fakeface serve`: serves the HTTP API and the web page until it is stopped.

Example:
    >>> Serve(config=ServiceConfig(port=8080)).run()
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Literal

import tyro

from fakeface_jax.cli.output import tell
from fakeface_jax.errors import ConfigError
from fakeface_jax.server.service_config import ServiceConfig
from fakeface_jax.server.storage.state_directory import default_state_directory

_DESCRIPTORS = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serve:
    """Starts the service: an HTTP API for pictures, videos and live sources, and a web page.

    Attributes:
        config: address, limits and allowed sources.
        state: directory for jobs, reports and tokens. If omitted: FAKEFACE_STATE, or the user's state directory.
        model: bundle directory, or the name of a bundled model: lite0, clip-lite0 or report-cnn. If omitted: lite0 for
            pictures and live sources, clip-lite0 for videos.
        log: format of the log lines: json for programs, text for people.
    """

    config: tyro.conf.OmitArgPrefixes[ServiceConfig] = ServiceConfig()
    state: Path | None = None
    model: Path | None = None
    log: Literal["json", "text"] = "text"

    def run(self) -> int:
        """Serves until SIGTERM or Ctrl-C, which end it with 0, and returns the exit code."""
        try:
            import fastapi  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise ConfigError("fakeface serve needs the serving extra: pip install '.[serve]'") from error
        from fakeface_jax.classifier import FaceClassifier
        from fakeface_jax.detectors import create_detector
        from fakeface_jax.server import logs, tracing
        from fakeface_jax.server.http.app import create_app
        from fakeface_jax.server.http.server import HttpServer
        from fakeface_jax.server.sandbox.isolation import require
        from fakeface_jax.server.sandbox.pool import Decoders
        from fakeface_jax.server.storage.store import Store

        logs.configure(self.log)
        _raise_descriptors()
        store = Store(self.state or default_state_directory())
        if not self.config.on_loopback and not store.has_tokens():
            raise ConfigError(
                f"{self.config.host} can be reached from other machines, but there is no access token yet; "
                "create one first: fakeface token create NAME"
            )
        with contextlib.ExitStack() as stack:
            stack.callback(store.close)
            stack.enter_context(_ended_in_order())
            # Before the model is loaded, which takes seconds: if the directory or the port is in use, the user learns
            # it at once.
            stack.enter_context(store.exclusive())
            store.check()
            listening = stack.enter_context(_listen(self.config.host, self.config.port))
            health = None
            if self.config.health_port is not None:
                health = stack.enter_context(_listen(self.config.host, self.config.health_port))
            if self.config.require_isolation:
                with Decoders(spare=False) as decoders:
                    require(decoders.isolation)
            classifier = FaceClassifier.load(self.model)
            make_detector = functools.partial(create_detector, classifier.spec.detector)
            make_detector()  # reports an unknown detector before the service starts
            for_videos = classifier if self.model is not None else FaceClassifier.load(medium="video")
            app = create_app(self.config, store, classifier, make_detector, video_classifier=for_videos)
            if tracing.wanted():
                stack.callback(tracing.instrument(app).shutdown)
            server = HttpServer(app, self.config, health=health, tell=tell)
            asyncio.run(server.serve([listening]))
        return 0 if server.started else 1


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Ends the process with 0 and a cleanup on signals that arrive before or after the server handles them itself.

    The first process of a container has no other way to end.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --host or --port"
        ) from error


def _raise_descriptors() -> None:
    """Raises the limit of open files as far as allowed: each connection is one file, and each decoder has several."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

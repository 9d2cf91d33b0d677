"""`fakeface serve`: the service over HTTP, until it is stopped.

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
from typing import TYPE_CHECKING, Any, Literal

import tyro

from fakeface_jax.cli.output import tell
from fakeface_jax.errors import ConfigError
from fakeface_jax.server.service_config import ServiceConfig
from fakeface_jax.server.storage.state_directory import default_state_directory

if TYPE_CHECKING:
    from fastapi import FastAPI

_DESCRIPTORS = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serve:
    """Starts the service: pictures and videos over HTTP, live sources, a web page.

    Attributes:
        config: limits, address, sources.
        state: directory of jobs, reports and tokens; FAKEFACE_STATE, or the user's state directory if not given.
        model: bundle directory, or the name of a model that ships: lite0 (default) or report-cnn.
        detector: centerface, haar, mtcnn, or yunet:MODEL.onnx; the one the model was trained with if not given.
        log: json for machines, text for people.
    """

    config: tyro.conf.OmitArgPrefixes[ServiceConfig] = ServiceConfig()
    state: Path | None = None
    model: Path | None = None
    detector: str | None = None
    log: Literal["json", "text"] = "text"

    def run(self) -> int:
        """Serves until SIGTERM or Ctrl-C, which is no error; the exit code."""
        try:
            import fastapi  # noqa: F401
            import uvicorn
        except ImportError as error:
            raise ConfigError("fakeface serve needs more: pip install 'fakeface-jax[serve]'") from error
        from fakeface_jax.classifier import FaceClassifier
        from fakeface_jax.detectors import create_detector
        from fakeface_jax.server import logs, tracing
        from fakeface_jax.server.http.app import create_app
        from fakeface_jax.server.http.timeouts import PatientProtocol
        from fakeface_jax.server.storage.store import Store

        logs.configure(self.log)
        _raise_descriptors()
        store = Store(self.state or default_state_directory())
        if not self.config.on_loopback and not store.has_tokens():
            raise ConfigError(
                f"{self.config.host} can be reached from elsewhere and there is no token yet; "
                "make one first: fakeface token create NAME"
            )
        with contextlib.ExitStack() as stack:
            stack.callback(store.close)
            stack.enter_context(_ended_in_order())
            # Before the model, which takes seconds: whoever cannot have them is told at once.
            stack.enter_context(store.exclusive())
            store.check()
            listening = stack.enter_context(_listen(self.config.host, self.config.port))
            classifier = FaceClassifier.load(self.model)
            make_detector = functools.partial(create_detector, self.detector or classifier.spec.detector)
            make_detector()  # a wrong name is found now
            app = create_app(self.config, store, classifier, make_detector)
            if tracing.wanted():
                stack.callback(tracing.instrument(app).shutdown)
            config = uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws_max_size=self.config.limits.frame_bytes,
                # Pictures are compressed already; zeros would be inflated before anybody is asked for a token.
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=round(self.config.grace),
                h11_max_incomplete_event_size=32 * 1024,
                http=PatientProtocol,
            )
            server = _server(config, app)
            asyncio.run(server.serve([listening]))
        return 0 if server.started else 1


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Signals that come before or after the server hears them itself end the process with 0 too, cleaned up; the first
    process of a container has no other way out."""

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
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


def _raise_descriptors() -> None:
    """As many open files as may be: each connection is one, and each decoder takes some."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _server(config: Any, app: FastAPI) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """Says where it listens, and lets those go who follow events: they would be waited for."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals end it in order; uvicorn would send them to itself again afterwards, and skip our cleaning up."""
            before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for one, handler in before.items():
                    signal.signal(one, handler)

        async def startup(self, sockets: list[Any] | None = None) -> None:
            self._loop = asyncio.get_running_loop()
            await super().startup(sockets)
            if self.started:
                host, port, *_ = (sockets or self.servers[0].sockets)[0].getsockname()
                shown = f"[{host}]" if ":" in host else host
                tell(f"fakeface: http://{shown}:{port}/  (Ctrl-C ends it)")

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            super().handle_exit(sig, frame)
            state = getattr(app.state, "service", None)
            if state is not None:
                # Not from here: a signal comes at any moment, also while its locks are held by this very thread.
                self._loop.call_soon_threadsafe(state.hub.close)

    return Server(config)

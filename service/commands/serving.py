"""`fakeface serve`: the service over HTTP, until it is stopped.

Example:
    >>> Serve(config=ServiceConfig(port=8080)).run()
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import tyro

from fakeface_jax.errors import ConfigError
from service.commands.output import tell
from service.settings import ServiceConfig
from service.storage.state_directory import default_state_directory

if TYPE_CHECKING:
    from fastapi import FastAPI

_HEADER_SECONDS = 10.0
"""That a new connection has for its first request; uvicorn itself would wait for ever."""

_CONNECTIONS = 512
"""More are answered 503 by the server itself."""


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
        """Serves until SIGTERM or Ctrl-C; the exit code."""
        try:
            import fastapi  # noqa: F401
            import uvicorn
        except ImportError as error:
            raise ConfigError("fakeface serve needs more: pip install 'fakeface-jax[serve]'") from error
        from fakeface_jax.classifier import FaceClassifier
        from fakeface_jax.faces import create_detector
        from service import logs, tracing
        from service.http.app import create_app
        from service.storage.store import Store

        logs.configure(self.log)
        store = Store(self.state or default_state_directory())
        if not self.config.on_loopback and not store.has_tokens():
            raise ConfigError(
                f"{self.config.host} can be reached from elsewhere and there is no token yet; "
                "make one first: fakeface token create NAME"
            )
        classifier = FaceClassifier.load(self.model)
        make_detector = functools.partial(create_detector, self.detector or classifier.spec.detector)
        make_detector()  # a wrong name is found now
        app = create_app(self.config, store, classifier, make_detector)
        tracer = tracing.instrument(app) if tracing.wanted() else None
        config = uvicorn.Config(
            app,
            host=self.config.host,
            port=self.config.port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws_max_size=self.config.limits.image_bytes + 1,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=round(self.config.grace),
            h11_max_incomplete_event_size=32 * 1024,
            http=_protocol(),
        )
        server = _server(config, app)
        try:
            asyncio.run(server.serve())
        except SystemExit as error:
            # uvicorn's way to say that it could not listen; the reason is in its log.
            raise ConfigError(f"cannot listen on {self.config.host} port {self.config.port}") from error
        finally:
            store.close()
            if tracer is not None:
                tracer.shutdown()
        return 0 if server.started else 1


def _server(config: Any, app: FastAPI) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """Says where it listens, and lets those go who follow events: they would be waited for."""

        async def startup(self, sockets: list[Any] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                host, port, *_ = self.servers[0].sockets[0].getsockname()
                shown = f"[{host}]" if ":" in host else host
                tell(f"fakeface: http://{shown}:{port}/  (Ctrl-C ends it)")

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            super().handle_exit(sig, frame)
            state = getattr(app.state, "service", None)
            if state is not None:
                state.hub.close()

    return Server(config)


def _protocol() -> type:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Patient(H11Protocol):
        """Closes a connection that sends no whole request in time; bodies have limits of their own."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._waited_for = self.loop.call_later(_HEADER_SECONDS, self._give_up)

        def _give_up(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self._waited_for.cancel()
            super().connection_lost(exc)

    return Patient

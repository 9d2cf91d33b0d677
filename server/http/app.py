"""The application: routes, errors, the page, and the description of it all.

Example:
    >>> app = create_app(ServiceConfig(), Store(directory), FaceClassifier.load(), create_detector)
    >>> uvicorn.run(app)
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from fakeface_jax import __version__
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.faces import FaceDetector
from fakeface_jax.server.http import camera, health, image_routes, stream_routes, video_routes
from fakeface_jax.server.http.connections import ConnectionGate
from fakeface_jax.server.http.file_response import FileAnswer
from fakeface_jax.server.http.middleware import Edge
from fakeface_jax.server.http.problems import ProblemDetails, answer_errors
from fakeface_jax.server.http.schemas import StreamRequest, VideoByUrl, report_schemas
from fakeface_jax.server.http.service_state import State
from fakeface_jax.server.http.shedding import Shed
from fakeface_jax.server.service_config import ServiceConfig
from fakeface_jax.server.storage.store import Store

_log = logging.getLogger("fakeface.service")

_ABOUT = """How likely is it that a face in a picture, a video or a live source is fake, and how far can that answer be
trusted? fake = 1: P(fake) is a calibrated probability; the verdict is real, fake, inconclusive or no_face.

Errors are problem details (RFC 9457). Requests carry `Authorization: Bearer TOKEN` where `auth_required` of /v1/info
says so."""


def create_app(
    config: ServiceConfig,
    store: Store,
    classifier: FaceClassifier,
    make_detector: Callable[[], FaceDetector],
    *,
    video_classifier: FaceClassifier | None = None,
) -> FastAPI:
    """The service as an ASGI application. Its threads and processes live as long as its lifespan.

    Args:
        config: what the operator set.
        store: jobs, reports, tokens.
        classifier: scores pictures and live sources.
        make_detector: makes a detector for one thread.
        video_classifier: scores videos; by default the same.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with contextlib.ExitStack() as stack:
            app.state.service = state = stack.enter_context(
                State.create(config, store, classifier, make_detector, video_classifier=video_classifier or classifier)
            )
            state.register_connections(app.state.connections)
            # It answers meanwhile, and says that it is not ready.
            warming = threading.Thread(target=_warm_up, args=(state,), name="warm-up", daemon=True)
            warming.start()
            yield
            # A compiler that still runs while the process ends takes it down with an error.
            await asyncio.to_thread(warming.join)
            await asyncio.to_thread(stack.close)

    app = FastAPI(
        title="fakeface-jax",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    # Made before its lifespan begins: the listeners need it first.
    app.state.connections = ConnectionGate(config.limits.connections, config.limits.connections_per_address)
    answer_errors(app)
    for part in (health, image_routes, video_routes, stream_routes, camera):
        app.include_router(part.router)
    web = importlib.resources.files("fakeface_jax.server").joinpath("web")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(importlib.resources.as_file(web))
        app.mount("/static", _Static(directory=folder), name="static")

        @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
        async def page() -> FileAnswer:
            return FileAnswer(folder / "index.html", media_type="text/html")

    app.add_middleware(Shed)
    app.add_middleware(Edge)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]
    return app


class _Static(StaticFiles):
    """Files whose ranges are refused as everywhere."""

    def file_response(
        self, full_path: Any, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """One of them."""
        found = super().file_response(full_path, stat_result, scope, status_code)
        if not isinstance(found, FileResponse):
            return found  # not modified
        return FileAnswer(full_path, status_code=status_code, stat_result=stat_result)


def _warm_up(state: State) -> None:
    try:
        state.note_isolation()
    except Exception:
        # Readiness says that no decoder can be started.
        _log.exception("what isolates decoders cannot be found out")
    try:
        state.warm_up()
    except Exception:
        # Readiness goes on saying that it is not ready.
        _log.exception("the model cannot score")


def _describe(app: FastAPI) -> dict[str, Any]:
    """OpenAPI, with the schema of reports in it."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    parts = schema["components"]["schemas"]
    parts |= report_schemas()
    for model in (ProblemDetails, VideoByUrl, StreamRequest):
        parts[model.__name__] = model.model_json_schema(ref_template="#/components/schemas/{model}")
    # FastAPI's own form of an invalid request, which this service never sends.
    for name in ("HTTPValidationError", "ValidationError"):
        parts.pop(name, None)
    for path in schema["paths"].values():
        for operation in path.values():
            invalid = operation.get("responses", {}).get("422", {}).get("content", {}).get("application/json")
            if invalid is not None:
                operation["responses"]["422"] = {
                    "description": "Unprocessable Content",
                    "content": {
                        "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
                    },
                }
    app.openapi_schema = schema
    return schema

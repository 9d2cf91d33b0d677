"""Whether it works, what it is, what it counts."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from fakeface_jax import __version__
from fakeface_jax.server.http.auth import Caller
from fakeface_jax.server.http.problems import responses
from fakeface_jax.server.http.schemas import Info
from fakeface_jax.server.http.service_state import State, state_of
from fakeface_jax.server.prometheus_metrics import CONTENT_TYPE
from fakeface_jax.server.sandbox.isolation import missing
from fakeface_jax.video.report.video_report import plain

router = APIRouter()

StateHere = Annotated[State, Depends(state_of)]


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", tags=["health"], summary="Whether the process lives")
async def healthz() -> dict[str, str]:
    """It answers, so it lives."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    tags=["health"],
    summary="Whether it can score",
    responses={
        503: {
            "description": "It cannot, and why.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
)
async def readyz(state: StateHere) -> JSONResponse:
    """The model has scored, both workers live, the store can be written.

    Says what isolates the decoders, too: `missing` names what should and does not, null until that is known;
    `landlock_abi` is a version; all others are whether something is enforced.
    """
    found = await state.health.problems()
    body: dict[str, Any] = {
        "status": "not ready" if found else "ready",
        "problems": found,
        "isolation": {"missing": missing(state.isolation) if state.isolation else None, **state.isolation},
    }
    return JSONResponse(body, 503 if found else 200)


@router.get(
    "/metrics",
    tags=["health"],
    summary="Counters, for Prometheus",
    response_class=Response,
    responses={
        200: {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **responses(401, 403, 429),
    },
)
async def metrics(caller: Caller, state: StateHere) -> Response:
    """Needs a token as everything else does."""
    return Response(await asyncio.to_thread(state.metrics.text), media_type=CONTENT_TYPE)


@router.get("/v1/info", tags=["health"], summary="What this service is, and what it takes", response_model=Info)
async def info(state: StateHere) -> JSONResponse:
    """For the page, and for clients that want to know before they send."""
    spec, limits = state.classifier.spec, state.config.limits
    return JSONResponse(
        {
            "version": __version__,
            "model": {"name": spec.name, "id": state.classifier.bundle.id},
            "video_model": {"name": state.video_classifier.spec.name, "id": state.video_classifier.bundle.id},
            "auth_required": await asyncio.to_thread(state.needs_token),
            "limits": {
                "image_bytes": limits.image_bytes,
                "video_bytes": limits.video_bytes,
                "pixels": limits.pixels,
                "video_seconds": limits.video_seconds,
                "video_frames": limits.video_frames,
                "faces": limits.faces,
            },
            "bands": plain(spec.bands),
            "operating_points": plain(spec.operating_points),
            "video": plain(state.video_classifier.spec.video),
            "urls": bool(state.config.url_hosts),
        }
    )

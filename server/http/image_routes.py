"""Pictures: sent, scored, answered in one request."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from fakeface_jax.server.batching import Busy
from fakeface_jax.server.http.auth import Asker, Caller
from fakeface_jax.server.http.problems import Problem, responses
from fakeface_jax.server.http.schemas import Crop
from fakeface_jax.server.http.service_state import State, state_of
from fakeface_jax.server.http.shedding import release_reservation
from fakeface_jax.server.http.uploads import file_body, place, take_in
from fakeface_jax.server.pictures import Scored, Work

router = APIRouter(prefix="/v1", tags=["pictures"])

_LOOK = 0.25
"""Seconds between two looks whether the client is still there."""

_UPLOAD = 120.0
"""Seconds that a whole picture may take to come."""

_BODY = file_body("image/jpeg", "image/png", "image/webp")

_PAGE_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-downloads"
)
"""Of reports: one file with its style in it, and without any script."""

Name = Annotated[str | None, Query(description="What the report calls a file that is the body itself.")]
WholeImage = Annotated[bool, Query(description="The picture is a face crop already: score it as a whole.")]


class ImageCrops(BaseModel):
    """A picture's report, and its faces as pictures."""

    report: dict[str, Any]
    crops: list[Crop]


def page_response(text: str) -> HTMLResponse:
    """A report as a page, which may do nothing but be looked at."""
    return HTMLResponse(text, headers={"Content-Security-Policy": _PAGE_CSP})


def wants_html(request: Request) -> bool:
    """Whether the client names HTML as what it accepts; JSON is what others get."""
    accepted = [part.split(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    return "text/html" in accepted and "application/json" not in accepted


@router.post(
    "/images",
    summary="Score the faces of one picture",
    response_class=JSONResponse,
    responses={
        200: {
            "description": "The report, as `fakeface classify --format json` writes it.",
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/Report.image"}},
                "text/html": {"schema": {"type": "string"}},
            },
        },
        **responses(400, 401, 403, 408, 413, 422, 429, 503),
    },
    openapi_extra=_BODY,
)
async def score_picture(
    request: Request,
    caller: Caller,
    state: Annotated[State, Depends(state_of)],
    name: Name = None,
    whole_image: WholeImage = False,
) -> Response:
    """Finds every face and says how likely each is fake.

    Send the file as the field `file` of a form, or as the body. With `Accept: text/html` the answer is a page.
    """
    page = wants_html(request)
    scored = await _score(request, caller, state, name, whole_image=whole_image, page=page)
    return page_response(scored.page or "") if page else JSONResponse(scored.report.to_dict())


@router.post(
    "/images/crops",
    summary="Score the faces of one picture, and show where the scores come from",
    response_model=ImageCrops,
    responses=responses(400, 401, 403, 408, 413, 422, 429, 503),
    openapi_extra=_BODY,
)
async def score_picture_with_crops(
    request: Request,
    caller: Caller,
    state: Annotated[State, Depends(state_of)],
    name: Name = None,
    whole_image: WholeImage = False,
) -> JSONResponse:
    """The same, with each face as the model saw it and a map of what its score rests on."""
    scored = await _score(request, caller, state, name, whole_image=whole_image, crops=True)
    return JSONResponse({"report": scored.report.to_dict(), "crops": scored.crops})


async def _score(
    request: Request, caller: Asker, state: State, name: str | None, *, whole_image: bool, **wanted: bool
) -> Scored:
    limits = state.config.limits
    if not state.ready.is_set():
        raise Problem(503, "the model is being loaded", {"Retry-After": "5"})
    async with place(request, state, caller, most=limits.image_bytes, on_disk=False):
        upload = await take_in(request, state, caller, most=limits.image_bytes, total=_UPLOAD, name=name)
    release_reservation(request.scope)
    try:
        work = state.pictures.submit(upload.data, upload.name, owner=caller.owner, whole_image=whole_image, **wanted)
    except Busy:
        state.metrics.refused.labels("images").inc()
        raise
    scored = await _wait(request, work)
    state.metrics.scored_image(scored.report)
    return scored


async def _wait(request: Request, work: Work) -> Scored:
    """The result; the work is cancelled once the client has left."""
    result = asyncio.wrap_future(work.result)
    try:
        while True:
            done, _ = await asyncio.wait([result], timeout=_LOOK)
            if done:
                return result.result()
            if await request.is_disconnected():
                raise Problem(503, "the client has left")  # nobody reads it
    finally:
        work.ticket.cancel()
        result.cancel()  # what has not begun never will, and nobody misses its result

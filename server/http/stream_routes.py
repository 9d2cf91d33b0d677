"""Live sources that the operator named: started, followed, stopped."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from fakeface_jax.errors import ConfigError
from fakeface_jax.server.batching import Busy
from fakeface_jax.server.http.auth import Asker, Caller
from fakeface_jax.server.http.multipart import receive
from fakeface_jax.server.http.problems import Problem, responses
from fakeface_jax.server.http.schemas import StreamData, StreamList, StreamRequest
from fakeface_jax.server.http.service_state import State, state_of
from fakeface_jax.server.http.sse import follow
from fakeface_jax.server.live_sources import Watched

router = APIRouter(prefix="/v1", tags=["streams"])

StateHere = Annotated[State, Depends(state_of)]

_BODY_BYTES = 4096


@router.post(
    "/streams",
    summary="Watch a live source",
    status_code=201,
    response_model=StreamData,
    responses={
        201: {"headers": {"Location": {"description": "Of the stream.", "schema": {"type": "string"}}}},
        **responses(400, 401, 403, 404, 408, 413, 422, 429, 503),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/StreamRequest"}}},
        }
    },
)
async def start_stream(request: Request, caller: Caller, state: StateHere) -> JSONResponse:
    """One that the operator of this service named; addresses of clients are never opened."""
    idle = state.config.limits.idle
    # Not left to FastAPI, which would read a body of any length before it is known who asks.
    body = await receive(request, most=_BODY_BYTES, idle=idle, total=idle)
    try:
        wanted = StreamRequest.model_validate_json(body.data)
    except ValidationError as error:
        found = error.errors()[0]
        raise Problem(422, f"{'.'.join(map(str, found['loc'])) or 'body'}: {found['msg']}") from None
    try:
        one = await asyncio.to_thread(state.watchers.start, wanted.source, caller.owner)
    except ConfigError as error:
        raise Problem(404, str(error)) from error
    except Busy:
        state.metrics.refused.labels("streams").inc()
        raise
    return JSONResponse(one.to_dict(), 201, headers={"Location": f"/v1/streams/{one.id}"})


@router.get("/streams", summary="List watched sources", response_model=StreamList, responses=responses(401, 403, 429))
async def list_streams(caller: Caller, state: StateHere) -> JSONResponse:
    """Those of the token that asks, the newest first; and the names of what may be watched."""
    streams = [one.to_dict() for one in state.watchers.list(caller.owner)]
    return JSONResponse({"streams": streams, "sources": state.watchers.names})


@router.get(
    "/streams/{stream_id}",
    summary="A watched source",
    response_model=StreamData,
    responses=responses(401, 403, 404, 429),
)
async def get_stream(stream_id: str, caller: Caller, state: StateHere) -> JSONResponse:
    """Its rolling scores."""
    return JSONResponse(_find(state, caller, stream_id).to_dict())


@router.get(
    "/streams/{stream_id}/events",
    summary="Follow a watched source",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: state, second (rolling scores), verdict (changes), summary, end.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **responses(401, 403, 404, 429, 503),
    },
)
async def stream_events(
    stream_id: str,
    caller: Caller,
    state: StateHere,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Response:
    """What happened so far, as far as it is kept, and what happens, until it ends."""
    one = _find(state, caller, stream_id)
    channel = state.hub.find(one.id)
    if channel is None or one.ended is not None:
        return follow(state, caller, None, [("end", one.to_dict())], last_event_id)
    return follow(state, caller, channel, [], last_event_id)


@router.delete(
    "/streams/{stream_id}",
    summary="Stop watching",
    status_code=204,
    response_class=Response,
    responses=responses(401, 403, 404, 429),
)
async def stop_stream(stream_id: str, caller: Caller, state: StateHere) -> Response:
    """Ends it, and forgets it."""
    state.watchers.forget(_find(state, caller, stream_id))
    return Response(status_code=204)


def _find(state: State, caller: Asker, stream_id: str) -> Watched:
    one = state.watchers.find(caller.owner, stream_id)
    if one is None:
        raise Problem(404, "no such stream, or it was stopped")
    return one

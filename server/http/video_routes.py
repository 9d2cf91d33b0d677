"""Videos: sent, queued as jobs, followed, fetched, deleted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import ValidationError

from fakeface_jax.errors import ConfigError, LimitExceeded
from fakeface_jax.server.http.auth import Asker, Caller
from fakeface_jax.server.http.file_response import FileAnswer
from fakeface_jax.server.http.image_routes import page_response, wants_html
from fakeface_jax.server.http.multipart import receive
from fakeface_jax.server.http.problems import Problem, responses
from fakeface_jax.server.http.schemas import Crops, JobData, JobList, VideoByUrl, VideoFields
from fakeface_jax.server.http.service_state import State, state_of
from fakeface_jax.server.http.sse import follow
from fakeface_jax.server.http.uploads import book, file_body, no_room_on_disk, place, room_on_disk, take_in
from fakeface_jax.server.jobs import SAMPLING_FIELDS
from fakeface_jax.server.storage.job_records import IdempotencyConflict, InvalidCursor, Job, NotRetryable, QueueFull
from fakeface_jax.server.url_fetch import fetch
from fakeface_jax.server.url_policy import AllowList
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.verdict.aggregation import check_rule

router = APIRouter(prefix="/v1", tags=["videos"])

_RETRY_QUEUE = "30"

StateHere = Annotated[State, Depends(state_of)]


_FIELDS_SCHEMA: dict[str, Any] = {
    name: {key: value for key, value in part.items() if key != "title"}
    for name, part in VideoFields.model_json_schema()["properties"].items()
}

_BODY = file_body("video/mp4", fields=_FIELDS_SCHEMA)
_BODY["requestBody"]["content"]["application/json"] = {"schema": {"$ref": "#/components/schemas/VideoByUrl"}}

_JOB_LOCATION = {"Location": {"description": "Of the job.", "schema": {"type": "string"}}}


@router.post(
    "/videos",
    summary="Have a video scored",
    status_code=202,
    response_model=JobData,
    responses={
        200: {
            "description": "This was asked before: by the same key, or of the same media with the same settings.",
            "model": JobData,
            "headers": _JOB_LOCATION,
        },
        202: {"description": "The job is in the queue.", "headers": _JOB_LOCATION},
        **responses(400, 401, 403, 408, 413, 422, 429, 503, 507),
    },
    openapi_extra=_BODY,
)
async def create_job(
    request: Request,
    caller: Caller,
    state: StateHere,
    fields: Annotated[VideoFields, Query()],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255, pattern=r"^[!-~ ]+$")] = None,
) -> JSONResponse:
    """Takes the video, puts it into the queue, and answers at once.

    Send the file as the field `file` of a form, or as the body with the settings in the query; or, where `urls` of
    /v1/info says so, its address as JSON. A request that is repeated with its `Idempotency-Key` makes no second job.
    """
    limits = state.config.limits
    room = _room(caller, state)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_no_room(state))
        await stack.enter_async_context(place(request, state, caller, most=limits.video_bytes, on_disk=True))
        # Before the upload, so that it is not sent in vain; a request that is repeated finds its job in any case.
        if idempotency_key is None:
            await asyncio.to_thread(state.store.check_room, caller.owner, **room)
        target = await asyncio.to_thread(state.store.incoming)
        stack.callback(target.unlink, missing_ok=True)
        if request.headers.get("content-type", "").split(";")[0].strip().lower() == "application/json":
            shown, size, sha256, settings = await _fetch(request, caller, state, target)
        else:
            upload = await take_in(
                request, state, caller, most=limits.video_bytes, total=limits.upload, target=target, name=fields.name
            )
            shown, size, sha256 = upload.name, upload.size, upload.sha256
            settings = _settings({**request.query_params, **upload.fields} if upload.fields else fields)
        try:
            job, created = await asyncio.to_thread(
                state.store.create_job,
                owner=caller.owner,
                name=shown,
                media=target,
                media_sha256=sha256,
                media_bytes=size,
                settings=settings | {"detector": state.detector},
                model_id=state.video_classifier.bundle.id,
                idempotency_key=idempotency_key,
                **room,
            )
        except IdempotencyConflict as error:
            raise Problem(422, str(error)) from error
    if created and job.state == "queued":
        state.runner.wake()
    fresh = created and not job.cached
    return JSONResponse(state.job_data(job), 202 if fresh else 200, headers={"Location": f"/v1/jobs/{job.id}"})


def _room(caller: Asker, state: State) -> dict[str, int | None]:
    """How many jobs may wait: of the one who asks, and of all."""
    return {
        "max_waiting": caller.token.waiting_jobs if caller.token is not None else None,
        "max_waiting_total": state.config.limits.jobs_waiting,
    }


@contextlib.contextmanager
def _no_room(state: State) -> Iterator[None]:
    try:
        yield
    except QueueFull as error:
        state.metrics.refused.labels("jobs").inc()
        # A client that has enough in the queue is told apart from a service that has: only the latter is to be scaled.
        raise Problem(429 if error.own else 503, str(error), {"Retry-After": _RETRY_QUEUE}) from error


def _settings(fields: VideoFields | Mapping[str, str]) -> dict[str, Any]:
    """Settings in one spelling, so that the same ones are known again.

    Raises:
        Problem: 422 for one that cannot be used.
    """
    try:
        if not isinstance(fields, VideoFields):
            fields = VideoFields.model_validate(dict(fields))
        sampling = Sampling(**{name: getattr(fields, name) for name in SAMPLING_FIELDS}).resolved()
        if fields.rule is not None:
            check_rule(fields.rule)
    except ValidationError as error:
        found = error.errors()[0]
        raise Problem(422, f"{'.'.join(map(str, found['loc']))[:64]}: {found['msg']}") from None
    except ConfigError as error:
        raise Problem(422, str(error)) from None
    chosen = {name: getattr(sampling, name) for name in SAMPLING_FIELDS if getattr(sampling, name) is not None}
    rest = {name: getattr(fields, name) for name in ("annotate", "crops", "keep_media")}
    return chosen | rest | ({"rule": fields.rule} if fields.rule is not None else {})


async def _fetch(request: Request, caller: Asker, state: State, target: Path) -> tuple[str, int, str, dict[str, Any]]:
    hosts, limits = state.config.url_hosts, state.config.limits
    if not hosts:
        raise Problem(403, "this service opens no addresses; send the file itself")
    body = await receive(request, most=64 * 1024, idle=limits.idle, total=limits.idle)
    try:
        wanted = VideoByUrl.model_validate_json(body.data)
    except ValidationError as error:
        found = error.errors()[0]
        raise Problem(422, f"{'.'.join(map(str, found['loc'])) or 'body'}: {found['msg']}") from None
    settings = _settings(VideoFields(**wanted.model_dump(exclude={"url"})))
    await book(state, caller, 1)  # nothing is fetched for a token that has had its share
    room = await room_on_disk(state)
    most = min(limits.video_bytes, room)
    if most <= 0:
        raise no_room_on_disk()
    came = 0

    def count(size: int) -> None:
        nonlocal came
        came += size

    try:
        file = await fetch(wanted.url, target, allow=AllowList(hosts=hosts), max_bytes=most, on_bytes=count)
    except LimitExceeded:
        if most < limits.video_bytes:
            raise no_room_on_disk() from None
        raise
    finally:
        await book(state, caller, came - 1, late=True)
    return file.name, file.bytes, file.sha256, settings


async def _job(state: State, caller: Asker, job_id: str) -> Job:
    job = await asyncio.to_thread(state.store.job, caller.owner, job_id)
    if job is None:
        raise Problem(404, "no such job, or it was deleted")
    return job


@router.get(
    "/jobs", summary="List jobs, the newest first", response_model=JobList, responses=responses(401, 403, 422, 429)
)
async def list_jobs(
    caller: Caller,
    state: StateHere,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    before: Annotated[str | None, Query(max_length=200, description="`next` of the list before.")] = None,
) -> JSONResponse:
    """Those of the token that asks."""
    try:
        jobs, cursor = await asyncio.to_thread(state.store.jobs, caller.owner, limit=limit, before=before)
    except InvalidCursor as error:
        raise Problem(422, str(error)) from error
    listed = await asyncio.to_thread(lambda: [state.job_data(job) for job in jobs])
    return JSONResponse({"jobs": listed, "next": cursor})


@router.get("/jobs/{job_id}", summary="A job", response_model=JobData, responses=responses(401, 403, 404, 429))
async def get_job(job_id: str, caller: Caller, state: StateHere) -> JSONResponse:
    """Where it stands, and its verdict once there is one."""
    return JSONResponse(await asyncio.to_thread(state.job_data, await _job(state, caller, job_id)))


@router.delete(
    "/jobs/{job_id}",
    summary="Delete a job, its media and its report",
    status_code=204,
    response_class=Response,
    responses=responses(401, 403, 404, 429),
)
async def delete_job(job_id: str, caller: Caller, state: StateHere) -> Response:
    """A job that runs is stopped."""
    if not await asyncio.to_thread(state.store.delete, caller.owner, job_id):
        raise Problem(404, "no such job, or it was deleted")
    state.runner.cancel(job_id)
    state.hub.drop(job_id)
    return Response(status_code=204)


@router.post(
    "/jobs/{job_id}/retry",
    summary="Run a failed job again",
    status_code=202,
    response_model=JobData,
    responses=responses(401, 403, 404, 409, 429, 503),
)
async def retry_job(job_id: str, caller: Caller, state: StateHere) -> JSONResponse:
    """Puts a failed job back into the queue, as long as the service has its video (`retry_until`)."""
    with _no_room(state):
        try:
            job = await asyncio.to_thread(state.store.retry, caller.owner, job_id, **_room(caller, state))
        except NotRetryable as error:
            raise Problem(409, str(error)) from error
    if job is None:
        raise Problem(404, "no such job, or it was deleted")
    state.runner.wake()
    return JSONResponse(await asyncio.to_thread(state.job_data, job), 202)


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: state, progress, frame (scores of one frame), verdict, end.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **responses(401, 403, 404, 429, 503),
    },
)
async def job_events(
    job_id: str,
    caller: Caller,
    state: StateHere,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Response:
    """What happened so far, and what happens, until the job ends."""
    await _job(state, caller, job_id)
    channel = state.hub.channel(job_id)
    # Asked again, now that there is a channel: a job that ends from here on tells it, one that has ended does not.
    job = await asyncio.to_thread(state.store.job, caller.owner, job_id)
    if job is None or job.state in ("done", "failed"):
        state.hub.drop(job_id)
    if job is None:
        raise Problem(404, "no such job, or it was deleted")
    told: list[tuple[str, dict[str, Any]]] = []
    if job.state != "running":  # the channel has that
        told.append(("state", {"state": str(job.state), "attempt": job.attempt}))
    if job.state in ("done", "failed"):
        return follow(state, caller, None, [*told, ("end", state.job_data(job))], last_event_id)
    return follow(state, caller, channel, told, last_event_id)


@router.get(
    "/jobs/{job_id}/report",
    summary="What was found in the video",
    response_class=JSONResponse,
    responses={
        200: {
            "description": "The report, as `fakeface score --format json` writes it, or the page to read.",
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/Report.video"}},
                "text/html": {"schema": {"type": "string"}},
            },
        },
        **responses(401, 403, 404, 409, 422, 429),
    },
)
async def get_report(
    request: Request,
    job_id: str,
    caller: Caller,
    state: StateHere,
    format: Annotated[str | None, Query(pattern="^(json|html)$")] = None,
) -> Response:
    """JSON, or HTML by `Accept: text/html` or `format=html`."""
    job = await _done(state, caller, job_id)
    if format == "html" or (format is None and wants_html(request)):
        path = _artefact(state, job, "page.html", "it was made with crops=false")
        return page_response((await _content(path)).decode())
    text = await asyncio.to_thread(state.store.report, caller.owner, job_id)
    if text is None:
        raise Problem(404, "no such job, or it was deleted")
    return Response(text, media_type="application/json")


@router.get(
    "/jobs/{job_id}/crops",
    summary="The most and the least suspicious faces",
    response_model=Crops,
    responses=responses(401, 403, 404, 409, 429),
)
async def get_crops(job_id: str, caller: Caller, state: StateHere) -> Response:
    """As the model saw them, with a map of what each score rests on."""
    path = _artefact(state, await _done(state, caller, job_id), "crops.json", "it was made with crops=false")
    return Response(await _content(path), media_type="application/json")


@router.get(
    "/jobs/{job_id}/annotated",
    summary="The video with boxes, scores and a timeline",
    response_class=FileResponse,
    responses={200: {"content": {"video/mp4": {}}}, **responses(400, 401, 403, 404, 409, 416, 429)},
)
async def get_annotated(job_id: str, caller: Caller, state: StateHere) -> FileAnswer:
    """Where it was asked for with `annotate`."""
    job = await _done(state, caller, job_id)
    path = _artefact(state, job, "annotated.mp4", "ask for it with annotate=true")
    return FileAnswer(path, media_type="video/mp4", filename="annotated.mp4")


@router.get(
    "/jobs/{job_id}/media",
    summary="The video itself",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}, **responses(400, 401, 403, 404, 409, 416, 429)},
)
async def get_media(job_id: str, caller: Caller, state: StateHere) -> FileAnswer:
    """Where it was kept with `keep_media`."""
    job = await _done(state, caller, job_id)
    if not job.keep_media:
        raise Problem(404, "the video was deleted after the job; keep_media=true keeps it")
    path = _artefact(state, job, "media", "it was deleted")
    return FileAnswer(path, media_type="application/octet-stream", filename="media")


async def _done(state: State, caller: Asker, job_id: str) -> Job:
    job = await _job(state, caller, job_id)
    if job.state == "failed":
        raise Problem(409, f"the job failed: {job.error}")
    if job.state != "done":
        raise Problem(409, f"the job is {job.state}; follow its events", {"Retry-After": "2"})
    return job


async def _content(path: Path) -> bytes:
    try:
        return await asyncio.to_thread(path.read_bytes)
    except FileNotFoundError:
        raise Problem(404, "no such job, or it was deleted") from None


def _artefact(state: State, job: Job, kind: Any, remedy: str) -> Path:
    path = state.store.artefact(job.id, kind)
    if not path.is_file():
        raise Problem(404, f"this job has none ({remedy})")
    return path

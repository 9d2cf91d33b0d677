"""Errors as problem details (RFC 9457), whatever raised them.

Example:
    >>> raise Problem(409, "the video is not scored yet")
    HTTP/1.1 409 Conflict
    content-type: application/problem+json
    {"type": "about:blank", "title": "Conflict", "status": 409, "detail": "the video is not scored yet"}
"""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from fakeface_jax.errors import ConfigError, LimitExceeded, MediaError, printable
from fakeface_jax.server.batching import Busy, GivenUp
from fakeface_jax.server.logs import request_id
from fakeface_jax.server.sandbox.protocol import DecoderUnavailable
from fakeface_jax.server.storage.database import StoreError

_log = logging.getLogger("fakeface.http")

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status code.
        detail: one line: what happened and what to do.
        headers: more headers, as `Retry-After`.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = "about:blank"
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["holiday.txt: not an image that can be read (convert it to JPEG or PNG)"])
    instance: str | None = Field(default=None, description="The id of the request, as it is in the service's logs.")
    errors: list[dict[str, Any]] | None = Field(default=None, description="What is wrong with which field.")


def responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of these errors. Where somebody is asked for, the store may be out of reach."""
    codes = (*codes, 503) if 401 in codes and 503 not in codes else codes
    return {
        code: {
            "description": http.HTTPStatus(code).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
        }
        for code in codes
    }


def problem_response(
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> JSONResponse:
    """The answer itself."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": printable(detail),
    }
    if (current := request_id.get()) is not None:
        body["instance"] = f"urn:request:{current}"
    if errors:
        body["errors"] = errors
    return JSONResponse(body, status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def answer_errors(app: FastAPI) -> None:
    """Registers what becomes of exceptions; those that nobody expects, `edge` answers."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        return problem_response(error.status, error.detail, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return problem_response(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = [{"field": ".".join(map(str, one["loc"])), "detail": one["msg"]} for one in error.errors()]
        detail = "; ".join(f"{one['field']}: {one['detail']}" for one in found[:3]) or "the request is not valid"
        return problem_response(422, detail, errors=found)

    @app.exception_handler(MediaError)
    async def media(_: Request, error: MediaError) -> JSONResponse:
        return problem_response(413 if isinstance(error, LimitExceeded) else 422, str(error))

    @app.exception_handler(ConfigError)
    async def setting(_: Request, error: ConfigError) -> JSONResponse:
        return problem_response(422, str(error))

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> JSONResponse:
        status = 429 if error.own else 503
        return problem_response(status, str(error), headers={"Retry-After": str(error.retry_after)})

    @app.exception_handler(GivenUp)
    async def given_up(_: Request, error: GivenUp) -> JSONResponse:
        return problem_response(503, str(error), headers={"Retry-After": "2"})

    @app.exception_handler(StoreError)
    async def store(_: Request, error: StoreError) -> JSONResponse:
        _log.error("the store cannot be used", exc_info=error)
        return problem_response(503, "the store cannot be used at the moment", headers={"Retry-After": "30"})

    @app.exception_handler(DecoderUnavailable)
    async def no_decoder(_: Request, error: DecoderUnavailable) -> JSONResponse:
        _log.error("no decoder", exc_info=error)
        return problem_response(503, "no decoder can be had at the moment", headers={"Retry-After": "10"})

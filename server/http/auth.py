"""Who asks, and whether they may: bearer tokens, or anybody on this machine while there are none.

Without a token, a service on loopback answers this machine alone, and takes care that a web page from elsewhere does
not speak through the reader's browser: requests must name this machine as their host (no rebinding of names), must not
come from another site, and not through a proxy, behind which everybody looks like this machine.

Example:
    >>> @router.get("/v1/jobs")
    ... def list_jobs(caller: Caller): ...
"""

from __future__ import annotations

import dataclasses
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from fakeface_jax.server.http.problems import Problem
from fakeface_jax.server.http.service_state import State, state_of
from fakeface_jax.server.storage.job_records import OPEN_OWNER
from fakeface_jax.server.storage.tokens import Token

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
STILL_ALLOWED = 5.0
"""Seconds after which whoever stays connected is asked for again."""

_BY_PROXIES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asker:
    """Who asks.

    Attributes:
        owner: of jobs; askers see their own alone.
        token: None on loopback without tokens.
        secret: of the token, to ask again.
    """

    owner: str
    token: Token | None
    secret: str | None = dataclasses.field(default=None, repr=False)


bearer = HTTPBearer(auto_error=False, description="A token made by `fakeface token create NAME`.")


def admit(connection: HTTPConnection, state: State, secret: str | None) -> Asker:
    """Who is behind a connection.

    Args:
        connection: its headers are looked at.
        state: of the service.
        secret: the token that came with it, if any.

    Raises:
        Problem: 401, 403, or 429 where a token asks too often.
    """
    if secret is not None:
        token = state.store.authenticate(secret)
        if token is None:
            raise Problem(401, "this token is unknown or revoked", {"WWW-Authenticate": 'Bearer error="invalid_token"'})
        wait = state.rates.take(token.name, token.requests_per_minute)
        if wait > 0:
            detail = f"more than {token.requests_per_minute} requests a minute with this token; try later"
            raise Problem(429, detail, {"Retry-After": str(max(1, round(wait + 0.5)))})
        return Asker(owner=token.name, token=token, secret=secret)
    if state.needs_token():
        raise Problem(
            401,
            "a token is needed: Authorization: Bearer ff_...; its operator makes them",
            {"WWW-Authenticate": "Bearer"},
        )
    _check_is_local(connection, state.config.host)
    return Asker(owner=OPEN_OWNER, token=None)


def still_allowed(state: State, asker: Asker) -> bool:
    """Whether one who was admitted would be again; for what lasts longer than a request."""
    if asker.secret is not None:
        return state.store.authenticate(asker.secret) is not None
    return not state.needs_token()


def _check_is_local(connection: HTTPConnection, own: str) -> None:
    headers = connection.headers
    if any(name in headers for name in _BY_PROXIES):
        raise Problem(403, "behind a proxy, requests need tokens: fakeface token create NAME")
    try:
        host = urlsplit(f"//{headers.get('host', '')}")
        origin = urlsplit(headers["origin"]).netloc if "origin" in headers else host.netloc
    except ValueError:
        raise Problem(403, "the header Host or Origin is malformed") from None
    if host.hostname not in _LOCAL_HOSTS and host.hostname != own:
        raise Problem(403, "without tokens, this service answers as localhost alone")
    if origin != host.netloc:
        raise Problem(403, "a page of another site may not ask this service")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Problem(403, "a page of another site may not ask this service")


def caller(
    connection: HTTPConnection,
    state: Annotated[State, Depends(state_of)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None,
) -> Asker:
    """Who asks; for routes."""
    return admit(connection, state, credentials.credentials if credentials is not None else None)


Caller = Annotated[Asker, Depends(caller)]

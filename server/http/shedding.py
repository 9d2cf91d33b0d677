"""Pictures that find no room are refused by the head of their request, before anything else is done for them.

Under many times the load that can be managed, what is refused must cost next to nothing: its body is not read, its form
not parsed, its token not looked up. What the page and health need is answered as always.

Example:
    >>> app.add_middleware(Shed)
"""

from __future__ import annotations

import types

from starlette.types import ASGIApp, Receive, Scope, Send

from fakeface_jax.server.admission import Reservation
from fakeface_jax.server.batching import Busy
from fakeface_jax.server.http.problems import problem_response
from fakeface_jax.server.http.service_state import State

_PATHS = frozenset({"/v1/images", "/v1/images/crops"})

_KEY = "fakeface.reservation"


class Shed:
    """Refuses pictures at the door.

    Args:
        app: what answers the others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or hands it on."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _PATHS:
            await self._app(scope, receive, send)
            return
        state: State = scope["app"].state.service
        try:
            reservation = state.pictures.admission.reserve()
        except Busy as error:
            state.metrics.refused.labels("images").inc()
            scope["route"] = types.SimpleNamespace(path=scope["path"])  # for the counts of requests
            answer = problem_response(503, str(error), headers={"Retry-After": str(error.retry_after)})
            await answer(scope, receive, send)
            return
        with reservation:
            scope[_KEY] = reservation
            await self._app(scope, receive, send)


def release_reservation(scope: Scope) -> None:
    """Gives back the room that was kept for a picture, which is here and counts by itself from now on."""
    reservation = scope.get(_KEY)
    if isinstance(reservation, Reservation):
        reservation.release()

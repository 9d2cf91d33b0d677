"""A file as an answer, or the part of it that a player asks for.

Example:
    >>> return FileAnswer(path, media_type="video/mp4", filename="annotated.mp4")
"""

from __future__ import annotations

from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from service.http.problems import problem_response

_REFUSALS = {
    400: "the header Range is malformed; write bytes=FIRST-LAST",
    416: "the file has no such bytes; Content-Range says how many there are",
}


class FileAnswer(FileResponse):
    """Starlette's, whose refusals of a range are texts; here they are problem details as all others."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        refused: Message | None = None

        async def watch(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] in _REFUSALS:
                refused = message
            if refused is None:
                await send(message)

        await super().__call__(scope, receive, watch)
        if refused is not None:
            size = Headers(raw=refused["headers"]).get("content-range")
            headers = {} if size is None else {"Content-Range": size}
            answer = problem_response(refused["status"], _REFUSALS[refused["status"]], headers=headers)
            await answer(scope, receive, send)

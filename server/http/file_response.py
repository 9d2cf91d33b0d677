"""A file as an answer, or the part of it that a player asks for.

Example:
    >>> return FileAnswer(path, media_type="video/mp4", filename="annotated.mp4")
"""

from __future__ import annotations

import re
from pathlib import Path

from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from fakeface_jax.server.http.problems import problem_response

_RANGE = re.compile(r"bytes=[0-9, \t-]*", re.IGNORECASE)

_REFUSALS = {
    400: "the header Range is malformed; write bytes=FIRST-LAST",
    416: "the file has no such bytes; Content-Range says how many there are",
}


class FileAnswer(FileResponse):
    """Starlette's, whose refusals of a range are texts; here they are problem details as all others.

    A file that is deleted before it was opened is a problem too, 404; once it is open, it is sent to its end.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        start: Message | None = None
        refused: Message | None = None
        sent = False
        asked = Headers(scope=scope).get("range")
        if asked is not None and not _RANGE.fullmatch(asked):
            if asked.lower().startswith("bytes="):
                await problem_response(400, _REFUSALS[400])(scope, receive, send)
                return
            # RFC 9110, 14.2: a unit that is not understood is ignored.
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}

        async def watch(message: Message) -> None:
            # The head waits for the first bytes: the file is opened between them.
            nonlocal start, refused, sent
            if message["type"] == "http.response.start":
                if message["status"] in _REFUSALS:
                    refused = message
                else:
                    start = message
            elif refused is None:
                if start is not None:
                    sent = True
                    await send(start)
                    start = None
                await send(message)

        try:
            await super().__call__(scope, receive, watch)
        except (FileNotFoundError, RuntimeError):  # Starlette raises the second where it looks before it opens
            if sent or Path(self.path).exists():
                raise
            await problem_response(404, "it was deleted")(scope, receive, send)
            return
        if refused is not None:
            size = Headers(raw=refused["headers"]).get("content-range")
            headers = {} if size is None else {"Content-Range": size}
            answer = problem_response(refused["status"], _REFUSALS[refused["status"]], headers=headers)
            await answer(scope, receive, send)

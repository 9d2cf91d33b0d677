"""One JSON object a line on stderr, each with the id of the request it belongs to.

What clients send is not logged: no bodies, no file names, no query strings, no headers but the request's id. Secrets
therefore cannot be in there.

Example:
    >>> configure()
    >>> logging.getLogger("fakeface.jobs").info("scored", extra={"job": job.id, "seconds": 2.1})
    {"time": "2026-01-31T12:00:00.123Z", "level": "info", "logger": "fakeface.jobs", "message": "scored", ...}
"""

from __future__ import annotations

import contextvars
import datetime
import json
import logging
import sys
from typing import Literal, TextIO

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
"""Of the request that is being answered."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def utc(seconds: float | None) -> str | None:
    """A moment as ISO 8601, from seconds since 1970; None stays None."""
    if seconds is None:
        return None
    time = datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
    return time.replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """A record, with all that was given as `extra`, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry: dict[str, object] = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if (current := request_id.get()) is not None:
            entry.setdefault("request_id", current)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        extra = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        time = datetime.datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line = f"{time} {record.levelname.lower():<7} {record.getMessage()} {extra}".rstrip()
        return line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


def configure(style: Literal["json", "text"], stream: TextIO | None = None) -> None:
    """Sends the logs of service and server to stderr. For the program that owns the process.

    Args:
        style: json for machines, text for people.
        stream: instead of stderr.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    # What libraries warn of has this form too. The parser of forms complains of what clients send, which they are told.
    logging.getLogger().handlers = [handler]
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    for name in ("fakeface", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = (
            ([handler] if name in ("fakeface", "uvicorn") else []),
            name == "uvicorn.error",
        )
        logger.setLevel(logging.INFO)
    # Requests are logged by us, without their query strings; uvicorn would log those of WebSockets here.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").addFilter(_no_addresses)


def _no_addresses(record: logging.LogRecord) -> bool:
    return '"WebSocket' not in str(record.msg)

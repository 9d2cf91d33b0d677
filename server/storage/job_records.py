"""A job as the store keeps it, and what can be wrong with a request for one.

Example:
    >>> job, created = store.create_job(owner="newsroom", name="clip.mp4", media=path, ...)
    >>> job.state is JobState.QUEUED
    True
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from fakeface_jax.errors import UNPRINTABLE, FakeFaceError

OPEN_OWNER = ""
"""Who owns jobs where no token is asked for; no token can have this name."""

ARTEFACTS = ("page.html", "crops.json", "annotated.mp4")
"""Files that are made of a job. `media` is the one it is made from."""

_ID = re.compile(r"[0-9a-f]{32}")
_CURSOR = re.compile(r"job_([0-9]{1,15})", re.ASCII)

_NAME_LETTERS = 200
_ENDING_LETTERS = 16


class JobState(enum.StrEnum):
    """Where a job is on its way; `done` and `failed` are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class IdempotencyConflict(FakeFaceError):
    """The key was used for other media or other settings."""


class QueueFull(FakeFaceError):
    """As many jobs wait as may wait.

    Attributes:
        own: as many of the one who asks; False where it is all owners together.
    """

    def __init__(self, message: str, *, own: bool) -> None:
        super().__init__(message)
        self.own = own


class NotRetryable(FakeFaceError):
    """The job cannot be run again: it has not failed, or its media are gone."""


class InvalidCursor(FakeFaceError):
    """Where a list shall go on is nothing that the service gave out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One video to score, or scored.

    Attributes:
        id: 32 hexadecimal digits that cannot be guessed.
        owner: the token's name; `OPEN_OWNER` where none is asked for.
        name: of the media, as the client named it; shown, never opened.
        created, started, finished, expires: seconds since 1970, UTC; None before it happened, or for never.
        owner_number: the owner's jobs in the order in which they came; clocks are set back, this is not.
        attempt: how often the job was begun, whatever ended those runs. Who works on it hands the number back, so that
            the result of a run that was given up is refused.
        failures: runs that its own decoder or its scoring is known to have ended. Only these count against the job.
        interrupted: runs that ended with the death of the service, whatever that died of.
        wants: runs that ended for want of space, memory or descriptors.
        apart: None, or its place among the jobs that run last and alone; see `fair_queue`.
        settings: what was asked for; `keep_media` among them.
        media_sha256: hexadecimal.
        media_bytes: size.
        model_id: of the bundle that scores it.
        verdict, p_fake, reason: of the whole video, once it is done.
        error: one line, once it failed.
        retry_until: how long the media of a failed job stay, so that it can be retried; None where they are gone.
        cached: answered from the report of an earlier job.
    """

    id: str
    owner: str
    name: str
    state: JobState
    created: float
    started: float | None = None
    finished: float | None = None
    attempt: int = 0
    owner_number: int = 0
    settings: Mapping[str, Any]
    media_sha256: str
    media_bytes: int
    model_id: str
    verdict: str | None = None
    p_fake: float | None = None
    reason: str | None = None
    error: str | None = None
    cached: bool = False
    failures: int = 0
    interrupted: int = 0
    wants: int = 0
    apart: int | None = None
    retry_until: float | None = None
    expires: float | None = None

    @property
    def keep_media(self) -> bool:
        """The media stays after the job."""
        return bool(self.settings.get("keep_media", False))

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Job:
        """From a row of the table `jobs`."""
        values = {field.name: row[field.name] for field in dataclasses.fields(cls)}
        values |= {"state": JobState(row["state"]), "settings": json.loads(row["settings"])}
        return cls(**values | {"cached": bool(row["cached"])})


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueueState:
    """What waits and what runs.

    Attributes:
        depth: jobs that wait.
        oldest_age: seconds that the oldest of them waits since it was created; 0 if none does.
        running: jobs that are worked on.
    """

    depth: int
    oldest_age: float
    running: int


def is_job_id(text: str) -> bool:
    """Whether the text can be a job's id; it becomes the name of a directory."""
    return _ID.fullmatch(text) is not None


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as JSON in one spelling, so that equal ones are equal texts."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def cursor_after(job: Job) -> str:
    """Where a list goes on after this job. It stays right when the job is deleted, and tells nothing of others."""
    return f"job_{job.owner_number}"


def parse_cursor(cursor: str) -> int:
    """The owner's number of the job in a cursor.

    Raises:
        InvalidCursor: the service gave out no such cursor.
    """
    if (found := _CURSOR.fullmatch(cursor)) is None:
        raise InvalidCursor("before: not a cursor of this service; take it from `next` of the list")
    return int(found[1])


def job_of(connection: sqlite3.Connection, job_id: str) -> Job:
    """The job of an id that is known to be there."""
    return Job.from_row(connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone())


def storable(text: str) -> str:
    """Text that can be stored: names of files may hold bytes that are no valid text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown_name(name: str) -> str:
    """The name of a client's file as it is stored and shown, also by programs that print it raw in a terminal.

    Control characters, and what turns the direction of writing (`U+202E` makes `exe.4pm` of `mp4.exe`), become
    `U+FFFD`. A name of more than 200 letters is cut; it keeps its ending.
    """
    text = UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", storable(name))
    if len(text) > _NAME_LETTERS:
        _, dot, ending = text.rpartition(".")
        kept = f".{ending}" if dot and len(ending) <= _ENDING_LETTERS else ""
        text = text[: _NAME_LETTERS - len(kept)] + kept
    return text

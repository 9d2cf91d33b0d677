"""How media that was received becomes a job: a new one, the first of its key again, or one that is answered already.

The media lies in the job's directory before the row that names it is committed. A crash in between leaves a directory
that no row names; an exception leaves nothing.

Example:
    >>> job, created = take_in(database, files, time.time(), new, upload, idempotency_key=None, room=Room(own=20))
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fakeface_jax.server.storage import fair_queue, retention
from fakeface_jax.server.storage.database import Database, StoreError
from fakeface_jax.server.storage.fair_queue import Room
from fakeface_jax.server.storage.job_records import (
    ARTEFACTS,
    IdempotencyConflict,
    Job,
    JobState,
    job_of,
    settings_text,
    shown_name,
)
from fakeface_jax.server.storage.state_directory import StateDirectory, link_or_copy, sync


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewJob:
    """What was asked for; fields as in `Job`."""

    owner: str
    name: str
    settings: Mapping[str, Any]
    media_sha256: str
    media_bytes: int
    model_id: str


def take_in(
    database: Database,
    files: StateDirectory,
    now: float,
    new: NewJob,
    media: Path,
    idempotency_key: str | None,
    room: Room,
) -> tuple[Job, bool]:
    """See `Store.create_job`."""
    job_id, settings = secrets.token_hex(16), settings_text(new.settings)
    fingerprint = hashlib.sha256(f"{new.media_sha256} {settings}".encode()).hexdigest()
    values = dataclasses.asdict(new) | {
        "id": job_id,
        "name": shown_name(new.name),
        "settings": settings,
        "created": now,
    }
    with _moved(files, media, job_id), database.writing() as connection:
        first = None
        if idempotency_key is not None:
            first = _job_of_key(connection, new.owner, idempotency_key, fingerprint, now)
        if first is None:
            if (source := _answered(connection, values)) is not None:
                _share(connection, files, source, values)
            else:
                fair_queue.check_room(connection, new.owner, room)
                _insert(connection, values | {"state": JobState.QUEUED})
            if idempotency_key is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO idempotency (owner, key, fingerprint, job_id, created) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (new.owner, idempotency_key, fingerprint, job_id, now),
                )
        job = job_of(connection, first or job_id)
    # The row is committed: from here on, what fails must not take the job's files away.
    if first is not None:
        files.remove(job_id)
    elif job.state is JobState.DONE and not job.keep_media:
        (files.job(job_id) / "media").unlink(missing_ok=True)
    return job, first is None


@contextlib.contextmanager
def _moved(files: StateDirectory, media: Path, job_id: str) -> Iterator[None]:
    """The media lies in the job's directory; after an exception it is nowhere."""
    try:
        files.take_in(media, job_id)
        yield
    except BaseException as error:
        files.remove(job_id)
        media.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"the media cannot be stored: {error.strerror}; check disk and space") from error
        raise


def _job_of_key(connection: sqlite3.Connection, owner: str, key: str, fingerprint: str, now: float) -> str | None:
    """The id of the first job of an idempotency key that is not too old."""
    row = connection.execute(
        "SELECT fingerprint, job_id FROM idempotency WHERE owner = ? AND key = ? AND created > ?",
        (owner, key, now - retention.KEYS_KEPT),
    ).fetchone()
    if row is None:
        return None
    if row["fingerprint"] != fingerprint:
        raise IdempotencyConflict("this Idempotency-Key was used for other media or settings; use a new one")
    return row["job_id"]


def _answered(connection: sqlite3.Connection, values: Mapping[str, Any]) -> sqlite3.Row | None:
    """The newest job of the owner that answers the same question already."""
    return connection.execute(
        "SELECT * FROM jobs WHERE owner = :owner AND media_sha256 = :media_sha256 AND settings = :settings AND "
        "model_id = :model_id AND state = 'done' AND (expires IS NULL OR expires > :created) "
        "ORDER BY number DESC LIMIT 1",
        values,
    ).fetchone()


def _share(
    connection: sqlite3.Connection, files: StateDirectory, source: sqlite3.Row, values: Mapping[str, Any]
) -> None:
    """Inserts a job that is done, with the source's report. Whoever deletes the source waits for this transaction."""
    now, folder = values["created"], files.job(values["id"])
    for kind in ARTEFACTS:
        with contextlib.suppress(FileNotFoundError):
            link_or_copy(files.job(source["id"]) / kind, folder / kind)
    sync(folder)
    # Its report lives as long as that of the first job did, from now on.
    expires = None if source["expires"] is None else now + source["expires"] - source["finished"]
    shared = {key: source[key] for key in ("verdict", "p_fake", "reason", "report_id")}
    done = {"state": JobState.DONE, "started": now, "finished": now, "expires": expires, "cached": 1}
    _insert(connection, {**values, **shared, **done})


def _insert(connection: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    columns = ", ".join(values)
    marks = ", ".join(f":{column}" for column in values)
    number = "(SELECT coalesce(max(owner_number), 0) + 1 FROM jobs WHERE owner = :owner)"
    connection.execute(f"INSERT INTO jobs ({columns}, owner_number) VALUES ({marks}, {number})", values)

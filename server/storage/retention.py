"""What the store keeps, and what it removes: after a crash, and when time is up.

Rows go first and files after them, so that no row ever names a file that is not there.

Example:
    >>> removed = sweep(database, files, time.time())
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from fakeface_jax.server.storage.database import Database
from fakeface_jax.server.storage.job_records import ARTEFACTS, Job, JobState
from fakeface_jax.server.storage.state_directory import StateDirectory, discard

KEYS_KEPT = 86_400.0
"""Seconds that an idempotency key is known."""

_AT_ONCE = 200  # jobs a transaction, so that others get to write in between


def recover(
    database: Database, files: StateDirectory, now: float, max_attempts: int, *, expires: float
) -> tuple[int, int]:
    """See `Store.recover`; `expires` is for jobs that fail here."""
    failed: list[str] = []
    requeued = 0
    with database.writing() as connection:
        for row in connection.execute("SELECT * FROM jobs WHERE state IN ('queued', 'running')").fetchall():
            job = Job.from_row(row)
            interrupted = row["interrupted"] + (job.state is JobState.RUNNING)
            error = None
            if not (files.job(job.id) / "media").is_file():
                error = "the media is missing from the state directory"
            elif job.state is JobState.RUNNING and interrupted >= max_attempts:
                error = f"the service died {interrupted} times while scoring it"
            if error is not None:
                connection.execute(
                    "UPDATE jobs SET state = 'failed', finished = ?, error = ?, expires = ?, interrupted = ? "
                    "WHERE id = ?",
                    (now, error, expires, interrupted, job.id),
                )
                failed.append(job.id)
            elif job.state is JobState.RUNNING:
                connection.execute(
                    "UPDATE jobs SET state = 'queued', started = NULL, interrupted = ? WHERE id = ?",
                    (interrupted, job.id),
                )
                requeued += 1
        jobs = {row["id"]: Job.from_row(row) for row in connection.execute("SELECT * FROM jobs")}
    files.clear_incoming()
    for folder in files.entries():
        if folder.name in jobs:
            _tidy(folder, jobs[folder.name])
        else:
            discard(folder)
    return requeued, len(failed)


def _tidy(folder: Path, job: Job) -> None:
    """Removes what a job in this state has not: half-made results, media that was to go, temporary files."""
    if job.state is JobState.QUEUED:
        wanted = {"media"}
    else:
        wanted = {*ARTEFACTS} if job.state is JobState.DONE else set()
        wanted |= {"media"} if job.keep_media else set()
    for entry in folder.iterdir():
        if entry.name not in wanted:
            discard(entry)


def sweep(database: Database, files: StateDirectory, now: float) -> int:
    """Removes jobs that expired, with their files, and idempotency keys that are too old; the number of jobs."""
    with database.writing() as connection:
        connection.execute("DELETE FROM idempotency WHERE created <= ?", (now - KEYS_KEPT,))
    count = 0
    while True:
        with database.writing() as connection:
            rows = connection.execute(
                "SELECT id FROM jobs WHERE expires <= ? AND state IN ('done', 'failed') LIMIT ?", (now, _AT_ONCE)
            ).fetchall()
            gone = [row["id"] for row in rows]
            delete_rows(connection, gone)
        for job_id in gone:
            files.remove(job_id)
        count += len(gone)
        if len(gone) < _AT_ONCE:
            return count


def delete_rows(connection: sqlite3.Connection, job_ids: Sequence[str]) -> None:
    """Removes jobs, their idempotency keys, and reports that no other job shares."""
    for job_id in job_ids:
        row = connection.execute("DELETE FROM jobs WHERE id = ? RETURNING report_id", (job_id,)).fetchone()
        if row is not None and row["report_id"] is not None:
            connection.execute(
                "DELETE FROM reports WHERE id = :id AND NOT EXISTS (SELECT 1 FROM jobs WHERE report_id = :id)",
                {"id": row["report_id"]},
            )

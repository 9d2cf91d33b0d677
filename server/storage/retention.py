"""What the store keeps, and what it removes: after a crash, and when time is up.

Rows go first and files after them, so that no row ever names a file that is not there.

Example:
    >>> removed = sweep(database, files, time.time())
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from fakeface_jax.server.storage import fair_queue
from fakeface_jax.server.storage.database import Database
from fakeface_jax.server.storage.job_records import ARTEFACTS, Job, JobState
from fakeface_jax.server.storage.state_directory import StateDirectory, discard

KEYS_KEPT = 86_400.0
"""Seconds that an idempotency key is known."""

MOST_INTERRUPTIONS = 20
"""Deaths of the service after which a job that was being scored each time is given up. A death is no attempt of the
job: deploys, power cuts and the machine's want of memory kill the innocent too. But a job that takes the process down
each time must end some day. Since it runs last and alone (see APART_AFTER), it has by then harmed little else, and a
job that was only there each time has had twenty chances."""

APART_AFTER = 2
"""Deaths of the service after which a job runs last and alone: once is chance, twice is a suspicion."""

_AT_ONCE = 200  # jobs a transaction, so that others get to write in between


def recover(
    database: Database, files: StateDirectory, now: float, most: int, *, expires: float, retry_until: float
) -> tuple[int, int]:
    """See `Store.recover`; `expires` and `retry_until` are for jobs that fail here."""
    failed: list[str] = []
    requeued = 0
    with database.writing() as connection:
        for row in connection.execute("SELECT * FROM jobs WHERE state IN ('queued', 'running')").fetchall():
            job = Job.from_row(row)
            interrupted = row["interrupted"] + (job.state is JobState.RUNNING)
            error = kept = None
            if not (files.job(job.id) / "media").is_file():
                error = "the media is missing from the state directory"
            elif job.state is JobState.RUNNING and interrupted >= most:
                error = f"the service died {interrupted} times while scoring it, also when nothing else was scored"
                kept = expires if job.keep_media else retry_until
            if error is not None:
                connection.execute(
                    "UPDATE jobs SET state = 'failed', finished = ?, error = ?, expires = ?, interrupted = ?, "
                    "retry_until = ? WHERE id = ?",
                    (now, error, expires, interrupted, kept, job.id),
                )
                failed.append(job.id)
            elif job.state is JobState.RUNNING:
                place = fair_queue.NEXT_APART if interrupted >= APART_AFTER else "apart"
                connection.execute(
                    f"UPDATE jobs SET state = 'queued', started = NULL, interrupted = ?, apart = {place} WHERE id = ?",
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
        wanted |= {"media"} if job.keep_media or job.retry_until is not None else set()
    for entry in folder.iterdir():
        if entry.name not in wanted:
            discard(entry)


def sweep(database: Database, files: StateDirectory, now: float) -> int:
    """Removes what is too old: jobs with their files, media of failed jobs, idempotency keys; the number of jobs."""
    with database.writing() as connection:
        connection.execute("DELETE FROM idempotency WHERE created <= ?", (now - KEYS_KEPT,))
        # `recover` removes the media where this is all that comes to pass.
        rows = connection.execute(
            "UPDATE jobs SET retry_until = NULL WHERE retry_until <= ? RETURNING *", (now,)
        ).fetchall()
    for job in map(Job.from_row, rows):
        if not job.keep_media:
            (files.job(job.id) / "media").unlink(missing_ok=True)
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

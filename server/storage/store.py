"""The store: jobs with their media and reports, tokens and quotas, in one directory that survives `kill -9`.

What a call promises has happened when it returns: media and rows are on the disk. Files are moved into place before
the row that names them is committed, and removed after the row is gone; so a crash leaves at most files that no row
names, and `recover` removes those.

Calls wait for the disk, some of them for milliseconds; an event loop makes them in a thread. Any number of threads may
call, and other processes may work in the same directory (`fakeface token`), but one server only (`exclusive`).

Example:
    >>> store = Store(default_state_directory())
    >>> with store.exclusive():
    ...     store.recover()
    ...     while (job := store.claim()) is not None:
    ...         report = score(store.artefact(job.id, "media"))
    ...         store.finish(job.id, job.attempt, report_json=report, verdict="real", p_fake=0.1, ...)
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fakeface_jax.errors import ConfigError
from fakeface_jax.server.rate_limits import ReceivedBytes
from fakeface_jax.server.storage import create_job, fair_queue, retention, state_backup
from fakeface_jax.server.storage.create_job import NewJob
from fakeface_jax.server.storage.database import DamagedDatabase, Database, StoreError
from fakeface_jax.server.storage.fair_queue import Room
from fakeface_jax.server.storage.job_records import (
    ARTEFACTS,
    Job,
    JobState,
    NotRetryable,
    QueueState,
    cursor_after,
    job_of,
    parse_cursor,
    storable,
)
from fakeface_jax.server.storage.retention import MOST_INTERRUPTIONS
from fakeface_jax.server.storage.state_directory import StateDirectory, sync
from fakeface_jax.server.storage.tokens import Token, Tokens

FAILED_KEPT = 7 * 86_400.0
"""Seconds that a failed job is listed if nobody says otherwise."""

FAILED_MEDIA_KEPT = 86_400.0
"""Seconds that the media of a failed job stay, for another try, if nobody says otherwise."""

_BEYOND = 2**62
"""More than any job's number."""

_SPACE_NEEDED = 64 * 2**20  # bytes; with less a report or the log may not fit


class Store:
    """Everything that outlives the server.

    Args:
        directory: the state directory; made where it is missing, closed to others.
        clock: seconds since 1970, for tests.

    Raises:
        ConfigError: the directory cannot be used, or is of a newer version.

    Attributes:
        tokens: make, list, revoke.
        received: bytes a day.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._files = StateDirectory(directory)
        self._full_disk = threading.Lock()
        try:
            self._database = Database(self._files.database)
        except DamagedDatabase as error:
            raise self._damaged(error) from error
        self.tokens = Tokens(self._database, clock)
        self.received = ReceivedBytes(self._database, clock)

    @property
    def directory(self) -> Path:
        """The state directory."""
        return self._files.path

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; calls after it raise StoreError."""
        self._database.close()

    def check(self) -> None:
        """Reads all of the database; for the start of a server, which would stumble over the damage later.

        Raises:
            ConfigError: it is damaged; says where the latest backup is and how to restore it.
        """
        try:
            self._database.check()
        except DamagedDatabase as error:
            raise self._damaged(error) from error

    def back_up(self, target: Path) -> int:
        """Copies all that outlives the server, as it is at one moment, while the server works.

        Args:
            target: a new directory; it is a state directory itself.

        Returns:
            How many jobs are in it.

        Raises:
            ConfigError: something is there already, or it cannot be written, or the database is damaged.
            StoreError: the database cannot be read.
        """
        self.check()
        return state_backup.back_up(self._database, self._files, target, self._clock())

    def _damaged(self, error: DamagedDatabase) -> ConfigError:
        return ConfigError(f"{error}; {state_backup.how_to_restore(self._files.path)}")

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Held by a server as long as it works here.

        Raises:
            ConfigError: another server has the directory.
        """
        return self._files.exclusive()

    def recover(
        self, max_interruptions: int = MOST_INTERRUPTIONS, *, keep_failed: float = FAILED_MEDIA_KEPT
    ) -> tuple[int, int]:
        """Puts right what a crash left; for the start of a server, under `exclusive`.

        Running jobs wait again: a death of the service is no attempt of theirs. One that was running each time runs
        last and alone, and fails after many such deaths. Jobs whose media is missing fail. Files that belong to no job
        are removed.

        Args:
            max_interruptions: deaths of the service, while it scored a job, after which the job fails.
            keep_failed: seconds that the media of a job that fails here stay.

        Returns:
            How many jobs wait again, and how many failed.
        """
        if not self._files.held:
            raise RuntimeError("recover() is for a server that holds the directory: call it under exclusive()")
        now = self._clock()
        self._files.make_reserve()
        return retention.recover(
            self._database,
            self._files,
            now,
            max_interruptions,
            expires=now + max(FAILED_KEPT, keep_failed),
            retry_until=now + keep_failed,
        )

    def sweep(self) -> int:
        """Removes expired jobs with all their files, media of jobs that failed long ago, old idempotency keys and
        quotas; the number of jobs."""
        gone = retention.sweep(self._database, self._files, self._clock())
        self.received.forget()
        self._database.shrink_log()
        self._files.make_reserve()
        return gone

    # Making jobs.

    def incoming(self) -> Path:
        """A new, empty, private file for an upload. Whoever asked removes it, unless `create_job` took it."""
        return self._files.incoming()

    def check_room(self, owner: str, *, max_waiting: int | None = None, max_waiting_total: int | None = None) -> None:
        """Says no before an upload is received in vain; `create_job` checks again.

        Raises:
            QueueFull: no more jobs may wait.
        """
        with self._database.reading() as connection:
            fair_queue.check_room(connection, owner, Room(own=max_waiting, total=max_waiting_total))

    def create_job(
        self,
        *,
        owner: str,
        name: str,
        media: Path,
        media_sha256: str,
        media_bytes: int,
        settings: Mapping[str, Any],
        model_id: str,
        idempotency_key: str | None = None,
        max_waiting: int | None = None,
        max_waiting_total: int | None = None,
    ) -> tuple[Job, bool]:
        """A job for media that was received; it survives `kill -9` from the moment that this returns.

        The same media, settings and model with a report that is stored and not expired: a job that is done at once and
        shares it, with files of its own.

        Args:
            owner: a token's name, or `OPEN_OWNER`.
            name: of the media, to be shown.
            media: a file from `incoming`. It is taken over: whatever happens, also an error, it is not there any more.
            media_sha256, media_bytes: of the file.
            settings: JSON values; `keep_media` (bool) is known here.
            model_id: of the bundle.
            idempotency_key: the same key again within 24 hours gives the first job.
            max_waiting, max_waiting_total: how many jobs of this owner, and of all, may wait.

        Returns:
            The job, and whether it is new; False for the first job of a key.

        Raises:
            IdempotencyConflict: the key was used for other media or settings.
            QueueFull: no more jobs may wait.
            StoreError: disk full, no permission.
        """
        new = NewJob(
            owner=owner,
            name=name,
            settings=settings,
            media_sha256=media_sha256,
            media_bytes=media_bytes,
            model_id=model_id,
        )
        room = Room(own=max_waiting, total=max_waiting_total)
        return create_job.take_in(self._database, self._files, self._clock(), new, media, idempotency_key, room)

    # Working on jobs.

    def claim(self) -> Job | None:
        """The next job, which is running from now on; None if none waits, or none may begin beside those that run.

        Owners take turns; among the jobs of one, the oldest is first; jobs set apart are last, and alone. Pass
        `attempt` of the job on to what ends it.
        """
        with self._database.writing() as connection:
            number = fair_queue.take_turn(connection)
            if number is None:
                return None
            connection.execute(
                "UPDATE jobs SET state = 'running', attempt = attempt + 1, started = ? WHERE number = ?",
                (self._clock(), number),
            )
            return Job.from_row(connection.execute("SELECT * FROM jobs WHERE number = ?", (number,)).fetchone())

    def finish(
        self,
        job_id: str,
        attempt: int,
        *,
        report_json: str,
        verdict: str,
        p_fake: float | None,
        reason: str,
        expires: float | None,
        model_id: str,
    ) -> bool:
        """Stores the report of a running job, all or nothing. Artefacts are written before; media goes unless kept.

        Args:
            job_id, attempt: as claimed.
            report_json: the report.
            verdict, p_fake, reason: of the whole video.
            expires: when the job is removed, seconds since 1970; None for never.
            model_id: of what scored it, which may be another model than the job was made for.

        Returns:
            False if the job is not running with this attempt any more (deleted, claimed again): nothing is stored then.
        """
        compressed = zlib.compress(report_json.encode("utf-8", "surrogatepass"))
        if not self._sync_artefacts(job_id):
            return False
        with self._database.writing() as connection:
            if not _is_current(connection, job_id, attempt):
                return False
            report = connection.execute("INSERT INTO reports (compressed) VALUES (?)", (compressed,)).lastrowid
            connection.execute(
                "UPDATE jobs SET state = 'done', finished = ?, verdict = ?, p_fake = ?, reason = ?, expires = ?, "
                "model_id = ?, report_id = ? WHERE id = ?",
                (self._clock(), verdict, p_fake, storable(reason), expires, model_id, report, job_id),
            )
            keep = job_of(connection, job_id).keep_media
        if not keep:
            self.drop_media(job_id)
        return True

    def fail(
        self,
        job_id: str,
        attempt: int,
        error: str,
        *,
        expires: float | None = None,
        keep_failed: float = FAILED_MEDIA_KEPT,
    ) -> bool:
        """Ends a running job without a report. Its media stay for a while, so that it can be retried.

        Args:
            job_id, attempt: as claimed.
            error: why, in one line.
            expires: when the job is removed, seconds since 1970; a week from now if not given.
            keep_failed: seconds that its media stay; 0 removes them at once. Media that were to be kept stay as long
                as the job.

        Returns:
            False as for `finish`.
        """
        now = self._clock()
        if expires is None:
            expires = now + max(FAILED_KEPT, keep_failed)
        with self._database.writing() as connection:
            if not _is_current(connection, job_id, attempt):
                return False
            keep = job_of(connection, job_id).keep_media
            until = expires if keep else now + keep_failed if keep_failed > 0 else None
            connection.execute(
                "UPDATE jobs SET state = 'failed', finished = ?, error = ?, expires = ?, retry_until = ? WHERE id = ?",
                (now, storable(error), expires, until, job_id),
            )
        self._drop_artefacts(job_id)
        if until is None:
            self.drop_media(job_id)
        return True

    def requeue(self, job_id: str, attempt: int, *, failures: int = 0, wants: int = 0, apart: bool = False) -> bool:
        """Lets a running job wait again, at its old place among its owner's.

        Args:
            job_id, attempt: as claimed.
            failures: 1 where its own decoder or scoring is known to have ended the run.
            wants: 1 where it ended for want of space, memory or descriptors. Both 0 where the server shuts down.
            apart: from now on it runs last and alone; see `fair_queue`.

        Returns:
            False as for `finish`.
        """
        place = fair_queue.NEXT_APART if apart else "apart"
        with self._database.writing() as connection:
            if not _is_current(connection, job_id, attempt):
                return False
            connection.execute(
                "UPDATE jobs SET state = 'queued', started = NULL, failures = failures + ?, wants = wants + ?, "
                f"apart = {place} WHERE id = ?",
                (failures, wants, job_id),
            )
        self._drop_artefacts(job_id)
        return True

    def retry(
        self, owner: str, job_id: str, *, max_waiting: int | None = None, max_waiting_total: int | None = None
    ) -> Job | None:
        """Lets a failed job wait again, with nothing counted against it; it stays apart if it was.

        Args:
            owner: whose job it is.
            job_id: of it.
            max_waiting, max_waiting_total: how many jobs of this owner, and of all, may wait.

        Returns:
            The job, which waits; None if the owner has no such job.

        Raises:
            NotRetryable: it has not failed, or its media are gone.
            QueueFull: no more jobs may wait.
        """
        with self._database.writing() as connection:
            row = connection.execute("SELECT * FROM jobs WHERE id = ? AND owner = ?", (job_id, owner)).fetchone()
            if row is None:
                return None
            job = Job.from_row(row)
            if job.state is not JobState.FAILED:
                raise NotRetryable(f"the job is {job.state}; only one that failed can be retried")
            if job.retry_until is None or not self.artefact(job_id, "media").is_file():
                raise NotRetryable("the video was deleted some time after the job failed; send it again")
            fair_queue.check_room(connection, owner, Room(own=max_waiting, total=max_waiting_total))
            place = "NULL" if job.apart is None else fair_queue.NEXT_APART
            connection.execute(
                "UPDATE jobs SET state = 'queued', started = NULL, finished = NULL, expires = NULL, error = NULL, "
                f"retry_until = NULL, failures = 0, interrupted = 0, wants = 0, apart = {place} WHERE id = ?",
                (job_id,),
            )
            return job_of(connection, job_id)

    def _drop_artefacts(self, job_id: str) -> None:
        """What was made before the end, of which nobody is told."""
        for kind in ARTEFACTS:
            self.artefact(job_id, kind).unlink(missing_ok=True)

    def _sync_artefacts(self, job_id: str) -> bool:
        folder = self._files.job(job_id)
        try:
            for kind in ARTEFACTS:
                with contextlib.suppress(FileNotFoundError):
                    sync(folder / kind)
            sync(folder)
        except FileNotFoundError:
            return False  # deleted meanwhile
        except OSError as error:
            raise StoreError(f"a result cannot be stored: {error.strerror}; check disk and space") from error
        return True

    # Looking at jobs. The owner is part of every question: one token's jobs do not exist for another.

    def job(self, owner: str, job_id: str) -> Job | None:
        """The owner's job of this id."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT * FROM jobs WHERE id = ? AND owner = ?", (job_id, owner)).fetchone()
        return None if row is None else Job.from_row(row)

    def jobs(self, owner: str, *, limit: int, before: str | None = None) -> tuple[list[Job], str | None]:
        """The owner's jobs, newest first, in the order in which they came: the clock may have been set back.

        Args:
            owner: whose.
            limit: how many, 1 or more.
            before: the cursor that came with the last ones.

        Returns:
            Jobs, and the cursor for the next; None if there are no more.

        Raises:
            InvalidCursor: `before` is nothing that came from here.
        """
        last = parse_cursor(before) if before is not None else _BEYOND
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT * FROM jobs WHERE owner = ? AND owner_number < ? ORDER BY owner_number DESC LIMIT ?",
                (owner, last, limit + 1),
            ).fetchall()
        found = [Job.from_row(row) for row in rows[:limit]]
        return found, cursor_after(found[-1]) if len(rows) > limit else None

    def position(self, job: Job) -> int | None:
        """The place in the queue, 1 for the next one; None if the job does not wait."""
        with self._database.reading() as connection:
            return fair_queue.position(connection, job)

    def queue(self) -> QueueState:
        """What waits and runs, of all owners."""
        with self._database.reading() as connection:
            return fair_queue.state(connection, self._clock())

    def report(self, owner: str, job_id: str) -> str | None:
        """The report as JSON, exactly as it was stored; None if the owner has no such job or it is not done."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT compressed FROM jobs JOIN reports ON reports.id = report_id WHERE jobs.id = ? AND owner = ?",
                (job_id, owner),
            ).fetchone()
        try:
            return None if row is None else zlib.decompress(row["compressed"]).decode("utf-8", "surrogatepass")
        except (zlib.error, UnicodeDecodeError) as error:
            raise StoreError(
                f"the report of job {job_id} is damaged; restore a backup, or send the video again"
            ) from error

    def artefact(self, job_id: str, kind: str) -> Path:
        """Where a file of the job lies, or belongs; there is one if `exists()` says so.

        Raises:
            ValueError: no id of ours, or another kind than page.html, crops.json, annotated.mp4 and media.
        """
        if kind not in (*ARTEFACTS, "media"):
            raise ValueError(f"{kind!r} is no file of a job")
        return self._files.job(job_id) / kind

    def has(self, job: Job) -> dict[str, bool]:
        """What can be fetched of a job: report, page, crops, annotated, media."""
        done = job.state is JobState.DONE
        there = {kind.split(".")[0]: done and self.artefact(job.id, kind).exists() for kind in ARTEFACTS}
        kept = job.keep_media and self.artefact(job.id, "media").exists()
        return {"report": done, **there, "media": kept}

    def drop_media(self, job_id: str) -> None:
        """Removes the media of a job; again does no harm."""
        self.artefact(job_id, "media").unlink(missing_ok=True)

    def delete(self, owner: str, job_id: str) -> bool:
        """Removes the owner's job: row, report and files. Who works on it gets False from what ends it.

        It works on a full disk too, where SQLite can write no row: people come to delete then.
        """
        try:
            there = self._delete_rows(owner, job_id)
        except StoreError as error:
            if not error.no_space:
                raise
            return self._delete_on_full_disk(owner, job_id)
        if there:
            self._files.remove(job_id)
        return there

    def _delete_on_full_disk(self, owner: str, job_id: str) -> bool:
        with self._full_disk:
            self._files.release_reserve()
            try:
                try:
                    there = self._delete_rows(owner, job_id)
                except StoreError as error:
                    if not error.no_space:
                        raise
                    if self.job(owner, job_id) is None:
                        return False
                    # Others took what was set aside. The job is to go in any case: its files may as well be the first.
                    self._files.remove(job_id)
                    there = self._delete_rows(owner, job_id)
                if there:
                    self._files.remove(job_id)
                return there
            finally:
                # What the log has taken of the disk goes back, for the next one who deletes.
                with contextlib.suppress(StoreError):
                    self._database.shrink_log()
                self._files.make_reserve()

    def _delete_rows(self, owner: str, job_id: str) -> bool:
        with self._database.writing() as connection:
            if not connection.execute("SELECT 1 FROM jobs WHERE id = ? AND owner = ?", (job_id, owner)).fetchone():
                return False
            retention.delete_rows(connection, [job_id])
        return True

    # Access and health.

    def authenticate(self, secret: str) -> Token | None:
        """The token that has this secret, unless it was revoked."""
        return self.tokens.authenticate(secret)

    def has_tokens(self) -> bool:
        """Whether there is or ever was a token: revoking the last one does not open the service to everybody."""
        return self.tokens.exist()

    def check_writable(self) -> None:
        """Writes a row and a file.

        Raises:
            StoreError: jobs could not be stored now.
        """
        try:
            free = shutil.disk_usage(self.directory).free
            self._files.incoming().unlink()
        except OSError as error:
            raise StoreError(f"the state directory cannot be written: {error.strerror}; check the disk") from error
        if free < _SPACE_NEEDED:
            raise StoreError(f"only {free // 2**20} MiB are free in the state directory; make room")
        with self._database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO written (one, at) VALUES (1, ?)", (self._clock(),))


def _is_current(connection: sqlite3.Connection, job_id: str, attempt: int) -> bool:
    query = "SELECT 1 FROM jobs WHERE id = ? AND attempt = ? AND state = 'running'"
    return connection.execute(query, (job_id, attempt)).fetchone() is not None

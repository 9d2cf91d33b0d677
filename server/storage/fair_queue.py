"""Whose job is next: owners take turns, so that one with a thousand videos does not keep others from their first.

A job that may be what takes the service or its decoders down is set apart: it runs after all that waited when it was
set apart, so that it keeps nobody from a result, and alone, so that the next time it is known who was to blame. What
comes later does not go before it, so that an innocent job on a busy service has its turn too.

Functions over an open transaction of the store.

Example:
    a1 a2 a3 wait, then b1 comes: scored in the order a1 b1 a2 a3.
    a1 is set apart, then b2 comes: scored in the order b1 a2 a3 a1 b2.
"""

from __future__ import annotations

import dataclasses
import sqlite3

from fakeface_jax.server.storage.job_records import Job, QueueFull, QueueState

_FIRST_APART = "(SELECT min(apart) FROM jobs WHERE state = 'queued')"
"""The place of the job set apart that runs first, in SQL; NULL where there is none."""

_BY_TURN = f"""
    SELECT owner, count(*) AS waiting, min(number) AS first, coalesce(max(turn), 0) AS turn
    FROM jobs LEFT JOIN turns USING (owner)
    WHERE state = 'queued' AND apart IS NULL AND ({_FIRST_APART} IS NULL OR number < {_FIRST_APART})
    GROUP BY owner ORDER BY 4, 3
"""
"""Lists owners who wait, in the order of their turns; who never had one comes first. Jobs that are set apart are left
out, and so are those that came after one of them."""

NEXT_APART = "(SELECT max(coalesce(max(apart), 0), max(number)) + 1 FROM jobs)"
"""The place of a job that is set apart now, in SQL: behind every job that there is, also those set apart before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """How many jobs may wait.

    Attributes:
        own: of one owner; None for any number.
        total: of all owners together; None for any number.
    """

    own: int | None = None
    total: int | None = None


def take_turn(connection: sqlite3.Connection) -> int | None:
    """The number of the next job, whose owner goes to the end of the line; None if none may begin now."""
    running = connection.execute("SELECT count(*), count(apart) FROM jobs WHERE state = 'running'").fetchone()
    if running[1]:
        return None  # it is to be alone
    row = _first_apart(connection)
    if row is not None and running[0]:
        return None  # it will be alone once those have ended, and nothing new is begun before it
    if row is None:
        row = connection.execute(f"{_BY_TURN} LIMIT 1").fetchone()
    if row is None:
        return None
    connection.execute(
        "INSERT INTO turns (owner, turn) SELECT ?, coalesce(max(turn), 0) + 1 FROM turns WHERE true "
        "ON CONFLICT DO UPDATE SET turn = excluded.turn",
        (row["owner"],),
    )
    return row["first"]


def position(connection: sqlite3.Connection, job: Job) -> int | None:
    """How many jobs are claimed until this one is, with it; None if it does not wait.

    Exact, but for jobs that came after one that is set apart: they are counted in the order in which they came.
    """
    query = f"SELECT number, apart, {_FIRST_APART} AS barrier FROM jobs WHERE id = ? AND state = 'queued'"
    found = connection.execute(query, (job.id,)).fetchone()
    if found is None:
        return None
    waiting = "SELECT count(*) FROM jobs WHERE state = 'queued'"
    if found["apart"] is not None:
        before = f"{waiting} AND (apart <= :place OR (apart IS NULL AND number < :place))"
        return connection.execute(before, {"place": found["apart"]}).fetchone()[0]
    if found["barrier"] is not None and found["number"] >= found["barrier"]:
        return connection.execute(f"{waiting} AND coalesce(apart, number) <= ?", (found["number"],)).fetchone()[0]
    earlier = connection.execute(
        f"{waiting} AND apart IS NULL AND owner = ? AND number < ?", (job.owner, found["number"])
    ).fetchone()[0]
    ahead, before_us = earlier, True
    for row in connection.execute(_BY_TURN):
        if row["owner"] == job.owner:
            before_us = False
        else:
            # In each of our `earlier` rounds others get one, and those before us one more in the round that is ours.
            ahead += min(row["waiting"], earlier + before_us)
    return ahead + 1


def _first_apart(connection: sqlite3.Connection) -> sqlite3.Row | None:
    """The number and owner of the job set apart whose time has come: all that came before its place have begun."""
    return connection.execute(
        "SELECT owner, number AS first FROM jobs AS one WHERE state = 'queued' AND apart IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM jobs WHERE state = 'queued' AND apart IS NULL AND number < one.apart) ORDER BY apart LIMIT 1"
    ).fetchone()


def check_room(connection: sqlite3.Connection, owner: str, room: Room) -> None:
    """Whether one more job may wait.

    Raises:
        QueueFull: it may not.
    """
    query = "SELECT count(*) FROM jobs WHERE state = 'queued'"
    if room.own is not None and connection.execute(f"{query} AND owner = ?", (owner,)).fetchone()[0] >= room.own:
        message = f"{room.own} jobs of yours wait already; try again when one is done, or delete one"
        raise QueueFull(message, own=True)
    if room.total is not None and connection.execute(query).fetchone()[0] >= room.total:
        raise QueueFull("the service has as many waiting jobs as it takes; try again later", own=False)


def state(connection: sqlite3.Connection, now: float) -> QueueState:
    """What waits and runs, of all owners."""
    waiting = connection.execute("SELECT count(*), min(created) FROM jobs WHERE state = 'queued'").fetchone()
    running = connection.execute("SELECT count(*) FROM jobs WHERE state = 'running'").fetchone()[0]
    oldest = 0.0 if waiting[1] is None else max(0.0, now - waiting[1])
    return QueueState(depth=waiting[0], oldest_age=oldest, running=running)

"""Whose job is next: owners take turns, so that one with a thousand videos does not keep others from their first.

Functions over an open transaction of the store.

Example:
    a1 a2 a3 wait, then b1 comes: scored in the order a1 b1 a2 a3.
"""

from __future__ import annotations

import dataclasses
import sqlite3

from fakeface_jax.server.storage.job_records import Job, QueueFull, QueueState

_BY_TURN = """
    SELECT owner, count(*) AS waiting, min(number) AS first, coalesce(max(turn), 0) AS turn
    FROM jobs LEFT JOIN turns USING (owner) WHERE state = 'queued' GROUP BY owner ORDER BY 4, 3
"""
"""Owners who wait, in the order of their turns; who never had one comes first."""


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
    """The number of the next job; its owner goes to the end of the line."""
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
    """How many jobs are claimed until this one is, with it; None if it does not wait."""
    found = connection.execute("SELECT number FROM jobs WHERE id = ? AND state = 'queued'", (job.id,)).fetchone()
    if found is None:
        return None
    earlier = connection.execute(
        "SELECT count(*) FROM jobs WHERE state = 'queued' AND owner = ? AND number < ?", (job.owner, found["number"])
    ).fetchone()[0]
    ahead, before_us = earlier, True
    for row in connection.execute(_BY_TURN):
        if row["owner"] == job.owner:
            before_us = False
        else:
            # In each of our `earlier` rounds others get one, and those before us one more in the round that is ours.
            ahead += min(row["waiting"], earlier + before_us)
    return ahead + 1


def check_room(connection: sqlite3.Connection, owner: str, room: Room) -> None:
    """Whether one more job may wait.

    Raises:
        QueueFull: it may not.
    """
    query = "SELECT count(*) FROM jobs WHERE state = 'queued'"
    if room.own is not None and connection.execute(f"{query} AND owner = ?", (owner,)).fetchone()[0] >= room.own:
        raise QueueFull(f"{room.own} jobs of yours wait already; try again when one is done, or delete one")
    if room.total is not None and connection.execute(query).fetchone()[0] >= room.total:
        raise QueueFull("the service has as many waiting jobs as it takes; try again later")


def state(connection: sqlite3.Connection, now: float) -> QueueState:
    """What waits and runs, of all owners."""
    waiting = connection.execute("SELECT count(*), min(created) FROM jobs WHERE state = 'queued'").fetchone()
    running = connection.execute("SELECT count(*) FROM jobs WHERE state = 'running'").fetchone()[0]
    oldest = 0.0 if waiting[1] is None else max(0.0, now - waiting[1])
    return QueueState(depth=waiting[0], oldest_age=oldest, running=running)

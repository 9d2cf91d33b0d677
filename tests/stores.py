"""Helpers for tests of the store: jobs in various states, and the files that they leave behind."""

from __future__ import annotations

import hashlib
import os
import sqlite3


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


def create(store, owner="a", content=None, settings=None, model="lite0", **more):
    """Creates a job; returns it, and True if it is new, like `create_job`; `content` is random if not given."""
    content = os.urandom(16) if content is None else content
    media = store.incoming()
    media.write_bytes(content)
    return store.create_job(
        owner=owner,
        name="clip.mp4",
        media=media,
        media_sha256=hashlib.sha256(content).hexdigest(),
        media_bytes=len(content),
        settings=settings or {},
        model_id=model,
        **more,
    )


def finish(store, job, *, report='{"verdict": "real"}', expires=None, page=None):
    """Finishes a claimed job, with or without a page."""
    if page is not None:
        store.artefact(job.id, "page.html").write_text(page)
    return store.finish(
        job.id,
        job.attempt,
        report_json=report,
        verdict="real",
        p_fake=0.25,
        reason="few fakes",
        expires=expires,
        model_id=job.model_id,
    )


def files(store):
    """Lists everything below incoming/ and jobs/, as relative paths."""
    root = store.directory
    found = [path for folder in ("incoming", "jobs") for path in (root / folder).rglob("*") if not path.is_dir()]
    return sorted(str(path.relative_to(root)) for path in found)


def reports_stored(store):
    """Counts the reports in the tables, of any owner."""
    with sqlite3.connect(store.directory / "state.sqlite3") as connection:
        count = connection.execute("SELECT count(*) FROM reports").fetchone()[0]
    connection.close()
    return count

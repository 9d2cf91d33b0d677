"""Jobs for tests of the store: made, finished, and what they leave behind."""

from __future__ import annotations

import hashlib
import os
import sqlite3


class Clock:
    """A time that a test sets."""

    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


def create(store, owner="a", content=None, settings=None, model="lite0", **more):
    """A job and whether it is new, as `create_job` answers; `content` is random if not given."""
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
    """Finishes a claimed job, with a page or without."""
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
    """Everything below incoming/ and jobs/, as relative paths."""
    root = store.directory
    found = [path for folder in ("incoming", "jobs") for path in (root / folder).rglob("*") if not path.is_dir()]
    return sorted(str(path.relative_to(root)) for path in found)


def reports_stored(store):
    """How many reports the tables hold, whoever they belong to."""
    with sqlite3.connect(store.directory / "state.sqlite3") as connection:
        count = connection.execute("SELECT count(*) FROM reports").fetchone()[0]
    connection.close()
    return count

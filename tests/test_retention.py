"""What the store makes of a crash: at any moment, again and again, in the middle of any call."""

import json
import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from stores import create, files, finish, reports_stored

from fakeface_jax.errors import ConfigError
from fakeface_jax.server.storage.database import StoreError
from fakeface_jax.server.storage.retention import APART_AFTER, MOST_INTERRUPTIONS
from fakeface_jax.server.storage.store import Store

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "state") as store:
        yield store


def test_the_death_of_the_service_is_no_attempt_of_the_job_but_not_without_end(store):
    made, _ = create(store)
    for died in range(1, MOST_INTERRUPTIONS):
        job = store.claim()
        store.artefact(job.id, "page.html").write_text("half")
        with store.exclusive():
            assert store.recover() == (1, 0), died
        assert not store.artefact(job.id, "page.html").exists()
        job = store.claim()  # a shutdown in good order does not count
        assert (job.interrupted, job.failures) == (died, 0)
        store.requeue(job.id, job.attempt)
    job = store.claim()
    with store.exclusive():
        assert store.recover() == (0, 1)
        assert store.recover() == (0, 0)
    failed = store.job("a", job.id)
    assert failed.state == "failed"
    assert failed.error.startswith(f"the service died {MOST_INTERRUPTIONS} times while scoring it")
    assert failed.expires is not None
    assert not finish(store, job)
    # Its media stay for a while, so that it can be retried.
    assert files(store) == [f"jobs/{made.id}/media"]
    assert store.retry("a", made.id).interrupted == 0
    job = store.claim()
    with store.exclusive():
        assert store.recover() == (1, 0)


def test_a_job_that_was_there_whenever_the_service_died_keeps_no_other_from_its_result(store):
    suspect, _ = create(store)
    others = [create(store, owner)[0].id for owner in "aab"]
    done = []
    while len(done) < len(others):
        job = store.claim()
        if job.id == suspect.id:
            with store.exclusive():
                store.recover()
            continue
        finish(store, job)
        done.append(job.id)
    assert sorted(done) == sorted(others)
    assert store.job("a", suspect.id).interrupted == APART_AFTER
    assert store.claim().id == suspect.id


def test_recovery_fails_jobs_without_media_and_removes_what_belongs_to_none(store):
    kept, _ = create(store)
    lost, _ = create(store)
    store.drop_media(lost.id)
    done, _ = create(store, "b")
    while (job := store.claim()) is not None and job.id != done.id:
        store.requeue(job.id, job.attempt)
    finish(store, job, page="page")
    # What a crash at the worst moments leaves:
    store.artefact(done.id, "media").write_bytes(b"not removed yet")
    (store.directory / "jobs" / done.id / ".fakeface-1-2.html").write_text("temporary")
    (store.directory / "jobs" / ("f" * 32)).mkdir()
    (store.directory / "jobs" / ("f" * 32) / "media").write_bytes(b"never committed")
    (store.directory / "jobs" / ".deleted-1").mkdir()
    (store.directory / "jobs" / ".deleted-1" / "media").write_bytes(b"half deleted")
    store.incoming().write_bytes(b"half an upload")
    with store.exclusive():
        assert store.recover() == (0, 1)
        assert store.recover() == (0, 0)
    assert store.job("a", lost.id).error == "the media is missing from the state directory"
    assert files(store) == sorted([f"jobs/{kept.id}/media", f"jobs/{done.id}/page.html"])
    names = {path.name for path in (store.directory / "jobs").iterdir()}
    assert names == {kept.id, lost.id, done.id}


def test_recovery_is_for_the_server_alone(store):
    with pytest.raises(RuntimeError, match="exclusive"):
        store.recover()


def test_one_server_per_directory(store, tmp_path):
    with Store(tmp_path / "state") as other:
        with store.exclusive(), pytest.raises(ConfigError, match="another server"), other.exclusive():
            pass
        with other.exclusive():
            assert other.recover() == (0, 0)


def test_an_error_while_a_job_is_made_leaves_nothing(store, monkeypatch):
    monkeypatch.setattr("fakeface_jax.server.storage.create_job._insert", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        create(store)
    monkeypatch.undo()
    assert files(store) == []
    assert store.queue().depth == 0
    full = OSError(28, "No space")
    monkeypatch.setattr("fakeface_jax.server.storage.state_directory.os.fsync", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(StoreError, match="No space"):
        create(store)
    monkeypatch.undo()
    assert files(store) == []
    create(store)


def test_content_is_on_the_disk_before_the_row_that_names_it(store, monkeypatch):
    """The order that a power cut needs: media, its name, the name of its directory, and only then the commit."""
    import fakeface_jax.server.storage.state_directory as state_directory
    from fakeface_jax.server.storage.database import Database

    events = []
    sync = state_directory.sync
    monkeypatch.setattr(state_directory, "sync", lambda path: (events.append(path), sync(path)))
    monkeypatch.setattr("fakeface_jax.server.storage.store.sync", lambda path: (events.append(path), sync(path)))
    writing = Database.writing
    monkeypatch.setattr(Database, "writing", lambda self: (events.append("transaction"), writing(self))[1])
    job, _ = create(store)
    jobs = store.directory / "jobs"
    assert [str(event) for event in events[1:]] == [str(jobs / job.id), str(jobs), "transaction"]
    assert events[0].parent == store.directory / "incoming"
    running = store.claim()
    events.clear()
    finish(store, running, page="page")
    assert [event for event in events if event in (jobs / job.id / "page.html", jobs / job.id, "transaction")] == [
        jobs / job.id / "page.html",
        jobs / job.id,
        "transaction",
    ]
    with sqlite3.connect(store.directory / "state.sqlite3") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    connection.close()
    with store._database.reading() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1


SERVER = """
import hashlib, os, random, sys, threading, time
from pathlib import Path
from fakeface_jax.server.storage.store import Store

store, first, make = Store(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3] == "make"

def tell(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # one write: a line is whole or not there

def receive():
    for number in range(first, first + 100_000):
        content, media = b"%d " % number * 500, store.incoming()
        media.write_bytes(content)
        job, _ = store.create_job(
            owner="ab"[number % 2], name=f"{number}.mp4", media=media, media_bytes=len(content), model_id="m",
            media_sha256=hashlib.sha256(content).hexdigest(), idempotency_key=str(number),
            settings={"keep_media": number % 3 == 0})
        tell("made", number, job.id)
        time.sleep(random.uniform(0, 0.02))

with store.exclusive():
    store.recover()
    tell("ready")
    if make:
        threading.Thread(target=receive, daemon=True).start()
    while True:
        job = store.claim()
        if job is None:
            if not make:
                break
            time.sleep(0.005)
            continue
        content = store.artefact(job.id, "media").read_bytes()
        store.artefact(job.id, "page.html").write_text("page of " + job.name)
        time.sleep(random.uniform(0, 0.015))
        if store.finish(job.id, job.attempt, report_json='{"sha256": "%s"}' % hashlib.sha256(content).hexdigest(),
                        verdict="real", p_fake=0.5, reason="", expires=None, model_id=job.model_id):
            tell("finished", job.id)
store.close()
"""


def test_no_job_is_lost_or_done_twice_when_the_server_is_killed_again_and_again(tmp_path):
    """A server that takes and scores jobs, killed 25 times at random moments, also while it starts and recovers."""
    rng = random.Random(0)
    state, kills = tmp_path / "state", 25
    made, finished = {}, []

    def run(make, kill_after):
        command = [sys.executable, "-c", SERVER, str(state), str(max(made, default=-1) + 1), "make" if make else "-"]
        server = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
        timer = None
        for line in server.stdout:
            word, *values = line.decode().split()
            if word == "ready" and kill_after is not None:
                timer = threading.Timer(kill_after, server.kill)
                timer.start()
            elif word == "made":
                made[int(values[0])] = values[1]
            elif word == "finished":
                finished.append(values[0])
            if word == "ready" and kill_after == 0.0:
                server.kill()
        server.stdout.close()
        if timer is not None:
            timer.join()
        return server.wait(30)

    for number in range(kills):
        assert run(True, 0.0 if number % 8 == 7 else rng.uniform(0.005, 0.25)) == -9
    assert run(False, None) == 0

    with Store(state) as store:
        jobs = [job for owner in "ab" for job in store.jobs(owner, limit=100_000)[0]]
        assert len(made) > kills  # it did work
        assert set(made.values()) <= {job.id for job in jobs}  # none that was promised is lost
        assert len({job.name for job in jobs}) == len(jobs)  # none was made twice
        assert {job.state for job in jobs} == {"done"}
        assert max(job.attempt for job in jobs) > 1  # some were interrupted
        assert len(finished) == len(set(finished))  # none ended twice
        assert reports_stored(store) == len(jobs)
        expected = []
        for job in jobs:
            assert json.loads(store.report(job.owner, job.id)) == {"sha256": job.media_sha256}
            assert store.artefact(job.id, "page.html").read_text() == f"page of {job.name}"
            expected += [f"jobs/{job.id}/page.html"] + ([f"jobs/{job.id}/media"] if job.keep_media else [])
        assert files(store) == sorted(expected)
        with store.exclusive():
            assert store.recover() == (0, 0)
    check = sqlite3.connect(state / "state.sqlite3")
    assert check.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    check.close()


STEPS = """
import contextlib, hashlib, os, shutil, sqlite3, sys
from pathlib import Path
from fakeface_jax.server.storage.store import Store

directory = Path(sys.argv[1])

def create(store, content, keep):
    media = store.incoming()
    media.write_bytes(content)
    return store.create_job(
        owner="a", name=content.decode(), media=media, media_bytes=len(content), model_id="m",
        media_sha256=hashlib.sha256(content).hexdigest(), settings={"keep_media": keep},
        idempotency_key=content.decode())[0]

def work(store):
    job = store.claim()
    store.artefact(job.id, "page.html").write_text(job.name)
    done = store.finish(job.id, job.attempt, report_json=job.name, verdict="real", p_fake=None, reason="", expires=None,
                        model_id=job.model_id)
    return job, done

def live(tell):
    with Store(directory) as store, store.exclusive():
        store.recover()
        first = create(store, b"one", True)
        tell("made", first.id)
        second = create(store, b"two", False)
        tell("made", second.id)
        for _ in range(2):
            job, done = work(store)
            assert done
            tell("finished", job.id)
        media = store.incoming()
        media.write_bytes(b"one")
        cached, _ = store.create_job(
            owner="a", name="one", media=media, media_bytes=3, model_id="m",
            media_sha256=hashlib.sha256(b"one").hexdigest(), settings={"keep_media": True})
        assert cached.cached
        tell("made", cached.id)
        assert store.delete("a", first.id)
        tell("deleted", first.id)
        third = create(store, b"three", False)
        tell("made", third.id)
        job = store.claim()
        assert store.fail(job.id, job.attempt, "damaged", expires=0)
        tell("failed", job.id)
        assert store.sweep() == 1
        tell("deleted", job.id)
        fourth = create(store, b"four", True)
        tell("made", fourth.id)

def die_before(step):
    '''Ends the process, as kill -9 would, before its call number `step` to the system or to SQLite.'''
    count = 0
    def look(frame, event, called):
        nonlocal count
        if event == "c_call" and (
            called.__module__ == "posix" or isinstance(getattr(called, "__self__", None), sqlite3.Connection)):
            count += 1
            if count == step:
                os._exit(9)
    sys.setprofile(look)

def check(told):
    promised = {word: [line.split()[1] for line in told if line.startswith(word)] for word in
                ("made", "finished", "failed", "deleted")}
    with Store(directory) as store:
        with store.exclusive():
            store.recover()
            for job_id in promised["deleted"]:
                assert store.job("a", job_id) is None
            for job_id in set(promised["made"]) - set(promised["deleted"]):
                # The call that deletes it may have been the one that did not return.
                assert store.job("a", job_id) is not None or job_id in (promised["made"][0], *promised["failed"])
            for job_id in promised["finished"]:
                assert store.job("a", job_id) is None or store.report("a", job_id) is not None
            while store.queue().depth:
                assert work(store)[1]
        expected = set()
        for job in store.jobs("a", limit=99)[0]:
            assert job.state in ("done", "failed"), job
            if job.state == "done":
                assert store.report("a", job.id) == job.name
                assert store.artefact(job.id, "page.html").read_text() == job.name
                expected.add(f"{job.id}/page.html")
                if job.keep_media:
                    assert store.artefact(job.id, "media").read_bytes() == job.name.encode()
                    expected.add(f"{job.id}/media")
            elif job.retry_until is not None:
                expected.add(f"{job.id}/media")
        jobs = directory / "jobs"
        assert {str(path.relative_to(jobs)) for path in jobs.rglob("*") if path.is_file()} == expected
        assert list((directory / "incoming").iterdir()) == []
        with store._database.reading() as connection:
            orphans = "SELECT count(*) FROM reports WHERE id NOT IN (SELECT report_id FROM jobs WHERE report_id > 0)"
            assert connection.execute(orphans).fetchone()[0] == 0
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"

step = 0
while True:
    step += int(sys.argv[2])
    shutil.rmtree(directory, ignore_errors=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        die_before(step)
        live(lambda *words: os.write(writer, (" ".join(words) + "\\n").encode()))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        told = file.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), status
    check(told)
    if status == 0:
        print(step)
        break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.long)])
def test_a_crash_before_any_call_to_the_system_loses_nothing(tmp_path, stride):
    """Jobs are made, scored, shared, failed, deleted; the process ends before its 1st, 2nd, 3rd, ... system call."""
    script = [sys.executable, "-c", STEPS, str(tmp_path / "state"), str(stride)]
    done = subprocess.run(script, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200  # calls that were the last one, each once

"""What counts against a job: what it did itself, and nothing else."""

from __future__ import annotations

import dataclasses
import errno
from typing import Any

import pytest

from fakeface_jax.errors import DecodeError, OpenError
from fakeface_jax.server.sandbox.protocol import DecoderCrashed, DecoderKilled, DecoderUnavailable
from fakeface_jax.server.setbacks import MOST_WANTS, Setback, after, for_want
from fakeface_jax.server.storage.database import StoreError
from fakeface_jax.server.storage.job_records import Job, JobState

JOB = Job(
    id="0" * 32,
    owner="a",
    name="clip.mp4",
    state=JobState.RUNNING,
    created=0.0,
    attempt=40,  # runs that others ended
    interrupted=12,
    settings={},
    media_sha256="0",
    media_bytes=1,
    model_id="m",
)
KILLED = DecoderKilled("clip.mp4: the decoder was killed from outside")
CRASHED = DecoderCrashed("clip.mp4", "the decoder ended by SIGSEGV", "get it again")


def ended(error: BaseException, attempts: int = 3, **job: Any) -> Setback:
    return after(error, dataclasses.replace(JOB, **job), attempts)


def test_what_the_media_are_is_so_each_time() -> None:
    assert ended(OpenError("clip.mp4", "is text", "send a video")).error == "clip.mp4: is text (send a video)"


@pytest.mark.parametrize("error", [CRASHED, ZeroDivisionError()], ids=["decoder", "scoring"])
def test_a_crash_counts_once_it_happened_and_fails_the_job_at_last(error: Exception) -> None:
    assert ended(error) == Setback(failures=1)
    assert ended(error, failures=1) == Setback(failures=1)
    last = ended(error, failures=2)
    assert last.error is not None
    assert ("SIGSEGV" in last.error) == isinstance(error, DecoderCrashed)
    assert "ZeroDivisionError" not in last.error  # clients get no insides
    assert ended(error, attempts=1).error is not None


def test_a_decoder_that_was_killed_counts_only_when_it_was_alone() -> None:
    assert ended(KILLED, failures=2) == Setback(apart=True)
    assert ended(KILLED, apart=7) == Setback(failures=1, apart=True)
    last = ended(KILLED, apart=7, failures=2).error
    assert last is not None
    assert "killed 3 times while no other video was decoded" in last
    wrapped = DecodeError("clip.mp4", "no frame could be decoded", "convert it")
    wrapped.__cause__ = KILLED
    assert ended(wrapped) == Setback(apart=True)


def test_what_is_missing_now_may_be_there_later() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    opened = OpenError("clip.mp4", "cannot be read")
    opened.__cause__ = OSError(errno.EMFILE, "Too many open files")
    for error in (full, opened, StoreError("a result cannot be stored"), DecoderUnavailable("none"), MemoryError()):
        assert for_want(error)
        assert ended(error, failures=2) == Setback(wants=1)
    assert ended(full, wants=MOST_WANTS - 1).error == "the service has no room for it; try another day"
    assert not for_want(OpenError("clip.mp4", "is text"))
    assert not for_want(OSError(errno.ENOENT, "no such file"))

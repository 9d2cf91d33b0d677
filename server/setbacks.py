"""What becomes of a job whose work ended without a result: it waits again, or it fails, and what is counted against it.

Only what the job's own decoder or scoring did counts as a failure of the job. Space, memory and descriptors come back,
so that a job that lacked them is tried many times. A decoder that was killed from outside, by the machine that ran out
of memory or by an operator, may have been the wrong one: its job runs again last and alone, with the memory of
decoders that were kept ready, and only then such a kill is counted. The death of the whole service is none of these:
`storage.retention` has that.

Example:
    >>> after(DecoderKilled("clip.mp4: the decoder was killed from outside"), job, attempts=3)
    Setback(error=None, failures=0, wants=0, apart=True)
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator

from fakeface_jax.errors import FakeFaceError
from fakeface_jax.server.sandbox.protocol import DecoderCrashed, DecoderKilled, DecoderUnavailable
from fakeface_jax.server.storage.database import StoreError
from fakeface_jax.server.storage.job_records import Job

MOST_WANTS = 50
"""Runs that may end for want of something that comes back, until the job fails."""

_WANTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setback:
    """The end of a run without a result.

    Attributes:
        error: the job fails, for this reason in one line; None where it waits again.
        failures: 1 where its own decoder or scoring ended the run.
        wants: 1 where something was missing that comes back.
        apart: from now on it runs last and alone.
    """

    error: str | None = None
    failures: int = 0
    wants: int = 0
    apart: bool = False

    @property
    def wanting(self) -> bool:
        """Whether another job would probably lack the same thing now."""
        return self.wants > 0 or self.apart


def after(error: BaseException, job: Job, attempts: int) -> Setback:
    """Judges a run of a job by the exception that ended it.

    Args:
        error: what the work raised; not `Cancelled`.
        job: as it was claimed.
        attempts: failures of its own after which the job fails.
    """
    last = job.failures + 1 >= attempts
    causes = list(_causes(error))
    if any(isinstance(cause, DecoderKilled) for cause in causes):
        if job.apart is None:
            return Setback(apart=True)
        if not last:
            return Setback(failures=1, apart=True)
        times = f"{attempts} times" if attempts > 1 else "once"
        return Setback(
            error=f"{job.name}: its decoder was killed {times} while no other video was decoded; the machine has too "
            "little memory for it (make the video smaller, or give the service more memory)"
        )
    if for_want(error):
        if job.wants + 1 < MOST_WANTS:
            return Setback(wants=1)
        return Setback(error="the service has no room for it; try another day")
    # What the decoder says of the media is so each time; a crash may be chance, and so may an error nobody thought of.
    if isinstance(error, FakeFaceError) and not isinstance(error, DecoderCrashed):
        return Setback(error=str(error))
    if not last:
        return Setback(failures=1)
    if isinstance(error, FakeFaceError):
        return Setback(error=str(error))
    return Setback(error="an error in the service; its log has it under the id of this job")


def for_want(error: BaseException) -> bool:
    """Whether it was raised for want of what comes back: space, memory, descriptors. The next try may succeed."""
    return any(
        isinstance(cause, StoreError | DecoderUnavailable | MemoryError)
        or (isinstance(cause, OSError) and cause.errno in _WANTS)
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__

"""Contenders as processes that take turns: one works, all others stand still.

Each has an interpreter and an environment of its own (a peer's packages need not agree with ours, and glibc reads its
malloc setting before a process starts). While one is asked, the others are stopped by a signal, so that nobody's idle
threads spin on the cores that another one is measured on. Questions and answers are lines of JSON; the other end is
`contenders/serving.py`.

Example:
    >>> with Workers(tell) as workers:
    ...     workers.start("ours", Program("jax_steps.py", ("folder", "ours")))
    ...     rounds = workers.take_turns(5, {"steps": 3})
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

CORES = 2
"""So many cores are used by everybody, however many the machine has."""

TUNED = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000:"
    "glibc.malloc.top_pad=1000000000"
}
"""Huge pages and a heap that is not given back: what `make train` sets, and what PyTorch gains by even more."""

_THREADS = {name: str(CORES) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")}

_CONTENDERS = Path(__file__).with_name("contenders")
_ROOT = Path(__file__).resolve().parents[2]


class ContenderFailed(Exception):
    """A contender ended, or answered with an error; the text is the last line that it wrote."""


def use_cores() -> None:
    """Keeps this process, and all that it starts, on the first `CORES` cores, where the system lets it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def environment(*, tuned: bool = False) -> dict[str, str]:
    """Of a contender: our packages are found, thread counts are set, and the malloc setting if asked for."""
    kept = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    return kept | _THREADS | {"PYTHONPATH": str(_ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"} | (TUNED if tuned else {})


@dataclasses.dataclass(frozen=True)
class Program:
    """How a contender is started.

    Attributes:
        file: in `contenders/`.
        arguments: of its command line.
        python: the interpreter; this one by default.
        tuned: with the malloc setting.
    """

    file: str
    arguments: tuple[str, ...] = ()
    python: Path | None = None
    tuned: bool = False


class Workers:
    """Running contenders, in the order in which they were started.

    Args:
        tell: hears of progress and of contenders that failed.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._workers: dict[str, _Worker] = {}
        self.failed: dict[str, str] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that run."""
        return tuple(self._workers)

    def start(self, name: str, program: Program, *, needed: bool = False) -> None:
        """Starts one and waits until it is ready. One that cannot start is noted in `failed`, and raised if needed."""
        self._tell(f"starting {name}")
        try:
            self._workers[name] = _Worker(program)
        except ContenderFailed as error:
            if needed:
                raise
            self._drop(name, error)

    def take_turns(
        self, rounds: int, question: Mapping[str, Any], *, waking: Mapping[str, Any] | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """Asks everybody once for warming up, then in each round; the order turns from round to round.

        Args:
            rounds: how many.
            question: what is asked in each turn.
            waking: asked first in each turn, and not counted: for work that goes on for hours, of which a turn is a
                short piece. The first step after a stop took up to four times as long as the next ones.

        Returns:
            One answer per round of each contender that did not fail.
        """
        for name in self.names:
            self._tell(f"warming {name}")
            self.try_ask(name, question)
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in self.names}
        for number in range(rounds):
            self._tell(f"round {number + 1} of {rounds}")
            order = self.names
            for name in order[number % len(order) :] + order[: number % len(order)]:
                if waking is not None:
                    self.try_ask(name, waking)
                answer = self.try_ask(name, question)
                if answer is not None:
                    answers[name].append(answer)
        return {name: answers[name] for name in self.names}

    def ask(self, name: str, question: Mapping[str, Any]) -> dict[str, Any]:
        """One answer of one contender. Raises `ContenderFailed`."""
        return self._workers[name].ask(question)

    def try_ask(self, name: str, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """One answer of one contender; None of one that failed, which is noted in `failed` and asked no more."""
        if name in self.failed:
            return None
        try:
            return self._workers[name].ask(question)
        except ContenderFailed as error:
            self._drop(name, error)
            return None

    def _drop(self, name: str, error: ContenderFailed) -> None:
        self._tell(f"{name} failed: {error}")
        self.failed[name] = str(error)
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker.close()


class _Worker:
    """One process, stopped except while it is asked."""

    def __init__(self, program: Program) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        command = [str(program.python or sys.executable), str(_CONTENDERS / program.file), *program.arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment(tuned=program.tuned),
        )
        try:
            self._read()
        except BaseException:
            self.close()
            raise
        self._stop()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdin is not None  # opened above
        try:
            self._process.stdin.write(json.dumps(dict(question)) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ContenderFailed(self._last_words()) from error
        answer = self._read()
        self._stop()
        return answer

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()  # ends a stopped process too
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None  # opened above
            with contextlib.suppress(OSError):  # what was still to be written has no reader any more
                pipe.close()

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # on Linux
            # Until all of its threads stand still; a process that ended meanwhile stays to be waited for.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # opened above
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise ContenderFailed(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderFailed(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self._process.returncode}"

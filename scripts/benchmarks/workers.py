"""Runs contenders as processes that take turns: one works while all others are stopped.

Each has an interpreter and an environment of its own (a peer's packages may conflict with ours, and glibc reads its
malloc setting before a process starts). While one is measured, the others are stopped by a signal, so that their idle
threads do not use its cores. Questions and answers are lines of JSON; the other end is `contenders/serving.py`.

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
"""Number of cores that every contender uses, even if the machine has more."""

TUNED = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000:"
    "glibc.malloc.top_pad=1000000000"
}
"""Huge pages and a heap that is not returned: the settings of `make train`, from which PyTorch gains even more."""

_THREADS = {name: str(CORES) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")}

_CONTENDERS = Path(__file__).with_name("contenders")
_ROOT = Path(__file__).resolve().parents[2]


class ContenderFailed(Exception):
    """Raised when a contender ends or answers with an error; the text is the last line that it wrote."""


def use_cores() -> None:
    """Keeps this process and its children on the first `CORES` cores, if the system allows it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def environment(*, tuned: bool = False) -> dict[str, str]:
    """Returns a contender's environment: path of our packages, thread counts and, if asked for, the malloc setting."""
    kept = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    return kept | _THREADS | {"PYTHONPATH": str(_ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"} | (TUNED if tuned else {})


@dataclasses.dataclass(frozen=True)
class Program:
    """The command that starts a contender.

    Attributes:
        file: file in `contenders/`.
        arguments: arguments of its command line.
        python: the interpreter; this one by default.
        tuned: use the malloc setting.
    """

    file: str
    arguments: tuple[str, ...] = ()
    python: Path | None = None
    tuned: bool = False


class Workers:
    """The running contenders, in the order in which they were started.

    Args:
        tell: called with messages about progress and failed contenders.
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
        """Returns the names of the running contenders."""
        return tuple(self._workers)

    def start(self, name: str, program: Program, *, needed: bool = False) -> None:
        """Starts one and waits until it is ready. A failure is noted in `failed`, and raised if it is needed."""
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
        """Asks all contenders once to warm up, then once per round; the order rotates from round to round.

        Args:
            rounds: number of rounds.
            question: the question of each turn.
            waking: question that precedes each turn and is not counted, for work that lasts hours, of which a turn is a
                short piece. The first step after a stop took up to four times as long as the next ones.

        Returns:
            One answer per round from each contender that did not fail.
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
        """Asks one contender and returns its answer. Raises `ContenderFailed`."""
        return self._workers[name].ask(question)

    def try_ask(self, name: str, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """Asks one contender; returns None if it fails, which is noted in `failed`, and then never asks it again."""
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
    """One process, which is stopped except while it is asked."""

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
            with contextlib.suppress(OSError):  # the remaining output has no reader
                pipe.close()

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # on Linux
            # Until all of its threads are stopped; a process that has ended remains a zombie until it is waited for.
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

"""The command `fakeface`: parses the command line, runs one subcommand and returns its exit code.

    fakeface classify PATH...      score every face in pictures
    fakeface score VIDEO...        score videos
    fakeface verify REPORT VIDEO   check that a video's report can be reproduced
    fakeface stream SOURCE         score a camera or a network stream, live
    fakeface train ...             train a network
    fakeface features MANIFEST...  cache the features that frozen networks compute for faces
    fakeface fit ...               fit a detector on cached features
    fakeface evaluate ...          measure a model: per source, robustness, held-out sources
    fakeface compare OLD NEW       compare two evaluations of the same faces
    fakeface calibrate ...         fit a model's thresholds to pictures of your own
    fakeface update ...            continue a model's training with new fakes
    fakeface data merge|audit|build|stills ...   prepare training data
    fakeface serve                 serve the HTTP API and its web page
    fakeface backup DIRECTORY      copy the service's state
    fakeface token create|list|revoke   manage access to the service

Exit codes: 0 done; 1 a check failed (audit, update, verify) or training diverged; 2 wrong usage, configuration, model
or data set; 3 some inputs failed; 4 no input could be read; 128 + signal when a signal stopped the command
(a service that is stopped ends with 0).

Results go to stdout or `--output`, everything else to stderr. Heavy libraries are imported only when a command runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from fakeface_jax import __version__
from fakeface_jax.errors import FakeFaceError, MediaError

USAGE_ERROR = 2
NOTHING_READ = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code; usage errors exit with 2.

    Args:
        argv: the arguments after `fakeface`; None reads those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        _replace_closed_streams()
        if sys.stdout is None:
            problem = "standard output is closed; redirect it to a file, or to /dev/null to discard the results"
            print(f"fakeface: {problem}", file=sys.stderr)
            return USAGE_ERROR
        if argv in (["--version"], ["-V"]):
            print(f"fakeface-jax {__version__}")
            return 0
        return _run(argv)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print("fakeface: interrupted", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT


def _run(argv: list[str]) -> int:
    # Imported here, so that Ctrl-C during the imports is as quiet as it is later.
    from fakeface_jax.cli.arguments import parse
    from fakeface_jax.cli.output import discard, tell
    from fakeface_jax.cli.score import Common
    from fakeface_jax.errors import printable

    try:
        command = parse(argv)
        # Training handles these signals itself: it saves its state before it ends.
        with _signals_that_exit() if isinstance(command, Common) else contextlib.nullcontext():
            return command.run()
    except FakeFaceError as error:
        tell(f"fakeface: {printable(str(error))}")
        return _exit_code(error)
    except BrokenPipeError:
        # Whoever reads our output has gone (`| head`), which is not our error. Python would complain at exit.
        discard(sys.stdout)
        return 0


def _replace_closed_streams() -> None:
    """Reopens a closed stdin, stdout or stderr, so that no other file gets its number and receives printed text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for the rest of the process


@contextlib.contextmanager
def _signals_that_exit() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into an exception inside the block, so that no temporary file is left behind."""
    previous: dict[int, Any] = {}

    def stop(signum: int, _: FrameType | None) -> None:
        # A second signal must not interrupt the cleanup.
        for one in previous:
            signal.signal(one, signal.SIG_IGN)
        raise SystemExit(128 + signum)

    try:
        for wanted in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
            # An ignored signal stays ignored, as nohup wants.
            if signal.getsignal(wanted) is not signal.SIG_IGN:
                previous[wanted] = signal.signal(wanted, stop)
    except ValueError:
        pass  # not the main thread: whoever owns the process handles its signals
    try:
        yield
    finally:
        for wanted, handler in previous.items():
            signal.signal(wanted, handler)


def _exit_code(error: FakeFaceError) -> int:
    signum = getattr(error, "signum", None)
    if signum is not None:
        return 128 + signum
    if getattr(error, "diverged", False):
        return 1
    return NOTHING_READ if isinstance(error, MediaError) else USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())

"""The command `fakeface`: from words on the command line to an exit code.

    fakeface classify PATH...      every face in pictures
    fakeface score VIDEO...        videos
    fakeface verify REPORT VIDEO   whether a report of a video is reproduced
    fakeface stream SOURCE         a camera or a network stream, live
    fakeface train ...             a network
    fakeface features MANIFEST...  what frozen networks make of faces, cached
    fakeface fit ...               a detector on cached features
    fakeface evaluate ...          a model: per source, robustness, sources left out
    fakeface compare OLD NEW       two evaluations of the same faces
    fakeface calibrate ...         a model's thresholds on pictures of your own
    fakeface update ...            a model, with new fakes
    fakeface data merge|audit|build|stills ...
    fakeface serve                 the service over HTTP, and its web page
    fakeface backup DIRECTORY      a copy of the service's state
    fakeface token create|list|revoke   who may use the service

Exit codes: 0 done; 1 a check failed (audit, update, verify) or training diverged; 2 usage, configuration, model or data
set; 3 some inputs failed; 4 none could be read; 128 + signal when stopped by one
(a service that is stopped ends with 0).

Results go to stdout or `--output`, everything else to stderr. Nothing heavy is imported before a command runs.
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
        argv: the words after `fakeface`; None for those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        _replace_closed_streams()
        if sys.stdout is None:
            print("fakeface: standard output is closed; >/dev/null throws results away", file=sys.stderr)
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
    # Here, so that Ctrl-C during the imports is as quiet as it is later.
    from fakeface_jax.cli.arguments import parse
    from fakeface_jax.cli.output import discard, tell
    from fakeface_jax.cli.score import Common
    from fakeface_jax.errors import printable

    try:
        command = parse(argv)
        # Training saves where it was stopped and does so itself.
        with _signals_that_exit() if isinstance(command, Common) else contextlib.nullcontext():
            return command.run()
    except FakeFaceError as error:
        tell(f"fakeface: {printable(str(error))}")
        return _exit_code(error)
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): that is no failure of ours. Python would complain at exit.
        discard(sys.stdout)
        return 0


def _replace_closed_streams() -> None:
    """Gives a closed stdin, stdout or stderr its number back, so that no file gets it and is written by a print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for the rest of the process


@contextlib.contextmanager
def _signals_that_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as an exception would, so that no temporary file stays behind."""
    previous: dict[int, Any] = {}

    def stop(signum: int, _: FrameType | None) -> None:
        # A second one must not interrupt the cleaning up.
        for one in previous:
            signal.signal(one, signal.SIG_IGN)
        raise SystemExit(128 + signum)

    try:
        for wanted in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
            # What is ignored stays so, as nohup wants it.
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

"""The command `fakeface`: from words on the command line to an exit code.

    fakeface classify PATH...      every face in pictures
    fakeface score VIDEO...        videos
    fakeface train ...             a model
    fakeface evaluate ...          a model
    fakeface data merge|audit|build ...

Exit codes: 0 done; 1 a check failed (audit) or training diverged; 2 usage, configuration, model or data set; 3 some
inputs failed; 4 none could be read; 128 + signal when stopped by one.

Results go to stdout or `--output`, everything else to stderr. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from fakeface_jax import __version__
from fakeface_jax.errors import FakeFaceError, MediaError
from service.commands.data import Audit, Build, Merge
from service.commands.scoring import Classify, Score
from service.commands.training import Evaluate, Train

USAGE_ERROR = 2
NOTHING_READ = 4

_Data = (
    Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Build, tyro.conf.subcommand("build")]
)
_Command = (
    Annotated[Classify, tyro.conf.subcommand("classify")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[_Data, tyro.conf.subcommand("data", description="Merge, audit and build training data.")]
)

_DESCRIPTION = """How likely is it that this face is fake, and how far can that answer be trusted?

fake = 1: P(fake) is a calibrated probability; the verdict is real, fake, inconclusive or no_face."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code; usage errors exit with 2.

    Args:
        argv: the words after `fakeface`; None for those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv in (["--version"], ["-V"]):
        print(f"fakeface-jax {__version__}")
        return 0
    try:
        # Inside the try: settings check themselves while they are made.
        command = tyro.cli(
            _Command,
            prog="fakeface",
            description=_DESCRIPTION,
            args=argv,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        return command.run()
    except FakeFaceError as error:
        print(f"fakeface: {error}", file=sys.stderr)
        return _exit_code(error)
    except KeyboardInterrupt:
        print("fakeface: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): that is no failure of ours. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _exit_code(error: FakeFaceError) -> int:
    signum = getattr(error, "signum", None)
    if signum is not None:
        return 128 + signum
    if getattr(error, "diverged", False):
        return 1
    return NOTHING_READ if isinstance(error, MediaError) else USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())

"""Parses the command line into a command object that holds its settings.

Example:
    >>> parse(["classify", "portrait.jpg", "--format", "json"]).run()
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import tyro

from fakeface_jax.cli.backup import Backup
from fakeface_jax.cli.compare import Compare
from fakeface_jax.cli.data import Audit, Build, Merge
from fakeface_jax.cli.evaluate import Evaluate
from fakeface_jax.cli.fit_command import Features, Fit, Stills
from fakeface_jax.cli.score import Classify, Score
from fakeface_jax.cli.serve import Serve
from fakeface_jax.cli.stream_command import Streaming
from fakeface_jax.cli.token import CreateToken, ListTokens, RevokeToken
from fakeface_jax.cli.train import Train
from fakeface_jax.cli.update_command import Calibrate, Update
from fakeface_jax.cli.verify import Verify

_Data = (
    Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Build, tyro.conf.subcommand("build")]
    | Annotated[Stills, tyro.conf.subcommand("stills")]
)
_Token = (
    Annotated[CreateToken, tyro.conf.subcommand("create")]
    | Annotated[ListTokens, tyro.conf.subcommand("list")]
    | Annotated[RevokeToken, tyro.conf.subcommand("revoke")]
)
_Command = (
    Annotated[Classify, tyro.conf.subcommand("classify")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Streaming, tyro.conf.subcommand("stream")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Backup, tyro.conf.subcommand("backup")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Features, tyro.conf.subcommand("features")]
    | Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Calibrate, tyro.conf.subcommand("calibrate")]
    | Annotated[Update, tyro.conf.subcommand("update")]
    | Annotated[_Data, tyro.conf.subcommand("data", description="Merge, audit and build training data.")]
    | Annotated[_Token, tyro.conf.subcommand("token", description="Create, list and revoke the service's tokens.")]
)

_DESCRIPTION = """How likely is it that this face is fake, and how far can that answer be trusted?

fake = 1: P(fake) is a calibrated probability; the verdict is real, fake, inconclusive or no_face."""


Command = (
    Classify
    | Score
    | Verify
    | Streaming
    | Serve
    | Backup
    | Train
    | Features
    | Fit
    | Evaluate
    | Compare
    | Calibrate
    | Update
    | Merge
    | Audit
    | Build
    | Stills
    | CreateToken
    | ListTokens
    | RevokeToken
)
"""The result of `parse`: settings with a `run` method that returns the exit code."""


def parse(words: Sequence[str]) -> Command:
    """Parses the arguments after `fakeface` into a command; usage errors exit with 2.

    Raises:
        ConfigError: a setting is not valid; every command checks its settings when it is created.
    """
    return tyro.cli(
        _Command,
        prog="fakeface",
        description=_DESCRIPTION,
        args=words,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )

"""`fakeface backup`: a copy of the service's state, made while it works.

Example:
    >>> Backup(target=Path("/backups/monday")).run()
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fakeface_jax.cli.output import tell
from fakeface_jax.errors import ConfigError
from fakeface_jax.server.storage.state_directory import default_state_directory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backup:
    """Copies jobs, reports, tokens and media that are kept, as they are at one moment; the service may go on working.

    The copy is a state directory: to restore it, stop the service and put it where the state was.

    Attributes:
        target: a new directory; it is closed to others.
        state: the service's state directory; FAKEFACE_STATE, or the user's state directory if not given.
    """

    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIRECTORY")]
    state: Path | None = None

    def run(self) -> int:
        """Copies; the exit code."""
        from fakeface_jax.server.storage.store import Store

        state = self.state or default_state_directory()
        if not (state / "state.sqlite3").is_file():
            raise ConfigError(f"{state}: holds no state of the service; name its directory with --state")
        with Store(state) as store:
            jobs = store.back_up(self.target)
        tell(f"fakeface: {self.target}: the state with {jobs} {'job' if jobs == 1 else 'jobs'}; see docs/service.md")
        return 0

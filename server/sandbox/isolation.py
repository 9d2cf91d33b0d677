"""What of the decoders' isolation this machine really enforces, in words for operators, and what of it is missing.

Example:
    >>> missing(decoders.isolation)
    ['files']
    >>> require(decoders.isolation)
    ConfigError: decoders would not be isolated on this machine: they could open other files (Landlock); ...
"""

from __future__ import annotations

from collections.abc import Mapping

from fakeface_jax.errors import ConfigError

LANDLOCK_ABI = "landlock_abi"
"""Key of the version of Landlock's interface, 0 where there is none; all other keys are whether something holds."""

_REQUIRED = {
    "memory": "could use any amount of memory (RLIMIT_AS)",
    "cpu": "could use any amount of processor time (RLIMIT_CPU)",
    "open_files": "could open any number of files (RLIMIT_NOFILE)",
    "written_files": "could fill the disk (RLIMIT_FSIZE)",
    "no_new_rights": "could gain rights (no_new_privs)",
    "ends_with_parent": "would outlive the service (PR_SET_PDEATHSIG)",
    "rights": "keep capabilities (capset)",
    "files": "could open other files (Landlock)",
    "system_calls": "could start programs and change files (seccomp)",
    "network": "could use the network (seccomp or a network namespace)",
}
"""What a decoder must not be able to do. A network namespace of its own is one of two ways to have no network, and
shown as `own_network`."""


def missing(found: Mapping[str, int]) -> list[str]:
    """The names of what is needed and not enforced.

    Args:
        found: `Decoders.isolation`.
    """
    return [name for name in _REQUIRED if not found.get(name)]


def in_words(found: Mapping[str, int]) -> str:
    """What decoders could do here that they should not be able to; empty where nothing is missing."""
    return ", ".join(_REQUIRED[name] for name in missing(found))


def require(found: Mapping[str, int]) -> None:
    """Checks that nothing is missing.

    Raises:
        ConfigError: something is; the message says what, in one line.
    """
    if words := in_words(found):
        raise ConfigError(
            f"decoders would not be isolated on this machine: they {words}; run it on Linux 5.13 or newer, in a "
            "container that allows Landlock and seccomp, or start it without --require-isolation"
        )

"""What a bundle has never seen: a claim of the trainings that made it, of its own and of those before it.

Example:
    >>> left_out(load_bundle("runs/lite0-first/bundle").spec)
    ('oldgan',)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fakeface_jax.bundle import BundleSpec


def left_out(spec: BundleSpec) -> tuple[str, ...]:
    """Sources, or `source/method`, that a bundle's provenance says were left out of its training.

    What the bundle that it was trained from has seen is not left out; nor is anything where that is not recorded.
    """
    return _left_out(spec.provenance)


def _left_out(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    names = tuple(provenance.get("config", {}).get("loader", {}).get("leave_out", ()))
    start = provenance.get("start")
    if start is None:
        return names
    earlier = _left_out(start["provenance"])
    # Either may have left out a source and the other one method of it: neither has seen that method.
    both = [name for name in names if name in earlier or name.partition("/")[0] in earlier]
    return (*both, *(name for name in earlier if name not in both and name.partition("/")[0] in names))

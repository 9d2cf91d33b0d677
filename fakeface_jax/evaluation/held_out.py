"""Lists sources that were held out of a model's training, including the models from which it was fine-tuned.

Example:
    >>> left_out(load_bundle("runs/lite0-first/bundle").spec)
    ('oldgan',)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fakeface_jax.bundle import BundleSpec


def left_out(spec: BundleSpec) -> tuple[str, ...]:
    """Returns sources, or `source/method`, that a bundle's provenance records as left out of its training.

    Anything that its starting bundle was trained on is not left out; if that is not recorded, nothing is.
    """
    return _left_out(spec.provenance)


def _left_out(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    names = tuple(provenance.get("config", {}).get("loader", {}).get("leave_out", ()))
    start = provenance.get("start")
    if start is None:
        return names
    earlier = _left_out(start["provenance"])
    # One training may have left out a source, the other a method of it: neither has seen that method.
    both = [name for name in names if name in earlier or name.partition("/")[0] in earlier]
    return (*both, *(name for name in earlier if name not in both and name.partition("/")[0] in names))

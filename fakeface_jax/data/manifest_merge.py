"""Adds a new source to a finished merge: its groups and splits follow the old ones, and no old picture moves.

A complete new merge would give the same result except for groups that a new picture joins: they would end in one split,
but crops that are cut already cannot move. Here such a picture is excluded.

Example:
    >>> old = load_manifest("manifest.parquet")
    >>> new = extend(old, merge(["folder:new-fakes"]))
    >>> Manifest(old.rows + new.rows).save("extended.parquet")
"""

from __future__ import annotations

import collections
import dataclasses

from fakeface_jax.data.duplicates import group_samples
from fakeface_jax.data.manifest import CONFLICT, EXACT, Manifest, Row
from fakeface_jax.errors import ConfigError
from fakeface_jax.labels import Label

BRIDGE = "near duplicate of older pictures in several splits"


def extend(old: Manifest, new: Manifest) -> Manifest:
    """Returns the rows of a new merge, with splits that respect an old one.

    A picture whose bytes are already there is excluded, and so are pictures related to old ones of several splits.
    Pictures related to old ones of one split go to that split; the others keep the split of their own merge.

    Args:
        old: the manifest that a model was trained on.
        new: a merge of the new sources alone.

    Returns:
        The new rows only, in their order.

    Raises:
        ConfigError: a new picture has the source and the name of another, old picture.
    """
    labels: dict[str, set[Label]] = collections.defaultdict(set)
    for row in old.rows:
        if row.facts.sha256:
            labels[row.facts.sha256].add(row.sample.label)
    rows = [*old.rows, *new.rows]
    groups = group_samples([row.sample for row in rows], [row.facts for row in rows])
    # Excluded rows have no split of their own; an excluded copy has that of the picture it copies, which is also in
    # `old`.
    homes: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for row, group in zip(old.rows, groups, strict=False):
        if not row.left_out:
            homes[group].setdefault(row.split, row.group)
    found = [
        _placed(row, labels[row.facts.sha256], homes[group])
        for row, group in zip(new.rows, groups[len(old.rows) :], strict=True)
    ]
    known = {row.id for row in old.used()}
    twice = next((row for row in found if not row.left_out and row.id in known), None)
    if twice is not None:
        raise ConfigError(f"{twice.id}: another picture of that source and name is in the data; rename the source")
    return Manifest(tuple(found))


def _placed(row: Row, labels: set[Label], homes: dict[str, str]) -> Row:
    """Places a new row, given the labels of its old copies and the splits, with their groups, that it is related to."""
    if row.left_out:
        return row
    if labels:
        reason = EXACT if labels == {row.sample.label} else CONFLICT
    elif len(homes) > 1:
        reason = BRIDGE
    else:
        for split, group in homes.items():
            return dataclasses.replace(row, split=split, group=group)
        return row
    return dataclasses.replace(row, split="", left_out=reason)

"""A new source beside a finished merge: its groups and splits follow the old ones, and no old picture moves.

Merging everything anew would do the same but for the groups that a new picture joins into one: they would end in one
split, and crops that are cut already cannot move. Here such a picture is left out.

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
    """The rows of a new merge, as they may stand beside an old one.

    A picture whose bytes are there already is left out, as are those that belong together with old pictures of several
    splits. What belongs together with old pictures goes to their split; the rest stays where its own merge put it.

    Args:
        old: what a model was trained on.
        new: a merge of new sources alone.

    Returns:
        New rows only, in their order.

    Raises:
        ConfigError: a new picture has the source and the name of another old one.
    """
    labels: dict[str, set[Label]] = collections.defaultdict(set)
    for row in old.rows:
        if row.facts.sha256:
            labels[row.facts.sha256].add(row.sample.label)
    rows = [*old.rows, *new.rows]
    groups = group_samples([row.sample for row in rows], [row.facts for row in rows])
    # What is left out has no split, and only a copy tells of one: that of the picture it copies, which is here too.
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
    """A new row beside the labels of its old copies and the splits, with their groups, that it belongs to."""
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

"""Groups pictures that must share a split: the same bytes, nearly the same picture, or related according to the source.

Near duplicates are pairs whose 256-bit perceptual hashes differ in at most `NEAR` bits. All pairs are compared: that
takes a second for 13,000 pictures and about three minutes for 140,000, which is less than reading them.

Example:
    >>> groups = group_samples(samples, facts)      # a group id per sample
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from fakeface_jax.data.image_metadata import FileFacts
    from fakeface_jax.data.samples import Sample

NEAR = 45
"""Bits of 256 in which near duplicates may differ. Among 13,454 faces of six sources, pairs from sources that share no
picture begin at 50 bits; a real photograph and its retouched fake, or a clip and its face swap, are mostly below."""


def group_samples(samples: Sequence[Sample], facts: Sequence[FileFacts]) -> list[str]:
    """Returns the group id of every sample: the key of the group's first member, which later samples do not change."""
    parent = list(range(len(samples)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    def unite(a: int, b: int) -> None:
        a, b = find(a), find(b)
        # The smaller index stays the root, because it was listed first.
        parent[max(a, b)] = min(a, b)

    keys: dict[tuple[str, str], int] = {}
    for index, (sample, fact) in enumerate(zip(samples, facts, strict=True)):
        for key in (("sha256", fact.sha256), (f"hint {sample.source}", sample.hint)):
            if key[1]:
                unite(keys.setdefault(key, index), index)
    hashed = [index for index, fact in enumerate(facts) if fact.phash]
    if hashed:
        bits = np.stack([np.frombuffer(bytes.fromhex(facts[index].phash), np.uint8) for index in hashed])
        for a, b in near_pairs(bits):
            unite(hashed[a], hashed[b])
    names = []
    for index in range(len(samples)):
        root = find(index)
        sample, fact = samples[root], facts[root]
        names.append(f"{sample.source}:{sample.hint}" if sample.hint else fact.sha256 or f"unreadable {index}")
    return names


def near_pairs(hashes: UInt8[np.ndarray, "n b"], *, near: int = NEAR) -> Iterator[tuple[int, int]]:
    """Yields pairs of rows that differ in at most `near` bits, each pair once and with the smaller index first.

    Args:
        hashes: one hash per row, as bytes; their number is a multiple of 8.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64)
    for row in range(len(words) - 1):
        distance = np.bitwise_count(words[row] ^ words[row + 1 :]).sum(axis=1, dtype=np.int64)
        for other in np.flatnonzero(distance <= near):
            yield row, row + 1 + int(other)

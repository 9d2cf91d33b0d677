"""Which pictures must share a split: the same bytes, nearly the same picture, or the same by what the source says.

Near duplicates are pairs whose 256-bit perceptual hashes differ in at most `NEAR` bits. Every pair is compared: 13,000
pictures take a second, 140,000 some three minutes, which is less than reading them.

Example:
    >>> groups = group_samples(samples, facts)      # one id per sample
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
"""Bits of 256 in which near duplicates may differ. Among 13,454 faces of six sources, pairs of sources that share no
picture begin at 50 bits; a real photograph and its retouched fake, or a clip and its face swap, lie mostly below."""


def group_samples(samples: Sequence[Sample], facts: Sequence[FileFacts]) -> list[str]:
    """The group id of every sample: the first member's own key, so that samples added behind it do not change it."""
    parent = list(range(len(samples)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    def unite(a: int, b: int) -> None:
        a, b = find(a), find(b)
        # The smaller index stays the root: it was listed first.
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
    """Pairs of rows that differ in at most `near` bits, the smaller index first, each once.

    Args:
        hashes: one hash per row, as bytes; a multiple of 8 of them.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64)
    for row in range(len(words) - 1):
        distance = np.bitwise_count(words[row] ^ words[row + 1 :]).sum(axis=1, dtype=np.int64)
        for other in np.flatnonzero(distance <= near):
            yield row, row + 1 + int(other)

"""What reading a video through without decoding it tells: how many frames, when, and where decoding can begin.

Containers state a frame count that is missing, estimated or wrong often enough to misplace "32 frames, evenly spread";
the packets are counted instead. Their timestamps give each frame its number, whichever way a decoder came to it.

Example:
    >>> index = PacketIndex.of([0.0, 0.08, 0.04, 0.12], [True, False, False, True])
    >>> index.count, index.rank(0.08), index.key_before(2)
    (4, 2, 0)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64

_REORDERED = 17
"""Packets. No codec shows a frame further away from where it is coded."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PacketIndex:
    """The frames that a stream holds, in the order in which they are shown. 8 bytes a frame, 16 a key frame.

    Attributes:
        stamps: seconds by the container's clock, ascending; where it jumps back, as if it had gone on.
        keys: which of them are key frames.
        first: time of the first in the file, in seconds.
        timed: whether there are timestamps at all; raw H.264 has none.
        ordered: whether a timestamp names one frame, and decoding can begin at each key frame with nothing before it
            needed after it: the clock never jumps back, no two frames share a time.
        starts_at_zero: whether the container's clock starts at zero.
    """

    stamps: Float64[np.ndarray, " n"]
    keys: Int64[np.ndarray, " k"]
    first: float
    timed: bool
    ordered: bool
    starts_at_zero: bool

    @classmethod
    def of(
        cls,
        stamps: Sequence[float],
        keys: Sequence[int],
        *,
        starts_at_zero: bool = True,
        lost: Mapping[int, int] | None = None,
    ) -> PacketIndex:
        """Sorts out what was read.

        Args:
            stamps: of the packets, in the order of the file: seconds; not a number where a packet has none.
            keys: whether decoding can begin with them.
            starts_at_zero: whether the container's clock does.
            lost: how many packets before which one could not be read. They have their frames in the count, so that
                those behind them keep their numbers, where the timestamps have a gap for them.
        """
        coded, is_key = np.asarray(stamps, np.float64), np.asarray(keys, np.bool_)
        if lost:
            coded, is_key = _with_lost(coded, is_key, lost)
        if len(coded) <= 1:
            coded = np.nan_to_num(coded)  # one frame is shown at once, timestamp or not
        timed = len(coded) <= 1 or bool(np.nanmax(coded, initial=-np.inf) > coded[0])
        if timed and len(coded):
            # VP8 has packets that are never shown; they bear the time of the next one.
            shown = np.append(True, coded[1:] != coded[:-1])
            coded, is_key = coded[shown], is_key[shown]
        ordered = timed and _is_ordered(coded, is_key)
        if timed and not ordered:
            coded = _without_jumps(coded, is_key)
        shown_order = np.argsort(coded, kind="stable")
        return cls(
            stamps=coded[shown_order],
            keys=np.flatnonzero(is_key[shown_order]).astype(np.int64),
            first=float(coded[0]) if len(coded) else 0.0,
            timed=timed,
            ordered=ordered,
            starts_at_zero=starts_at_zero,
        )

    @property
    def count(self) -> int:
        """How many frames there are."""
        return len(self.stamps)

    @property
    def span(self) -> float:
        """Seconds from the first frame to the last."""
        return float(np.nanmax(self.stamps)) - self.first

    def rank(self, stamp: float) -> int | None:
        """The number of the frame with this time, from 0; None when no frame or more than one may be meant."""
        if not self.ordered:
            return None
        rank = int(np.searchsorted(self.stamps, stamp))
        return rank if rank < len(self.stamps) and self.stamps[rank] == stamp else None

    def key_before(self, rank: int) -> int:
        """The last key frame at or before this frame; -1 when there is none."""
        at = int(np.searchsorted(self.keys, rank, side="right"))
        return int(self.keys[at - 1]) if at else -1


def _with_lost(
    coded: Float64[np.ndarray, " n"], is_key: Bool[np.ndarray, " n"], lost: Mapping[int, int]
) -> tuple[Float64[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """With times for lost packets, in the largest gap near each place: coding order is not the order of showing."""
    if len(coded) < 3 or not np.isfinite(coded).all():
        return coded, is_key
    step = float(np.median(np.diff(np.sort(coded))))
    for place, count in sorted(lost.items(), reverse=True):
        while count and step > 0:
            # All that is shown between the outermost of these, whichever was coded when.
            near = coded[max(0, place - _REORDERED) : place + _REORDERED]
            near = np.sort(coded[(coded >= near.min()) & (coded <= near.max())])
            gaps = np.diff(near)
            at = int(np.argmax(gaps))
            if 0 < place < len(coded) and coded[place] - coded[place - 1] > 1.5 * step:
                at = int(np.searchsorted(near, coded[place - 1]))  # right here, if it is a gap of what is shown too
            fitting = round(float(gaps[at]) / step) - 1 if at < len(gaps) else 0
            if fitting < 1:
                at = int(np.argmax(gaps))
                fitting = round(float(gaps[at]) / step) - 1
            if fitting < 1:
                break
            placed = min(count, fitting)
            times = near[at] + gaps[at] * np.arange(1, fitting + 1) / (fitting + 1)
            coded = np.insert(coded, place, times[:placed])
            is_key = np.insert(is_key, place, np.zeros(placed, np.bool_))
            count -= placed
    return coded, is_key


def _is_ordered(coded: Float64[np.ndarray, " n"], is_key: Bool[np.ndarray, " n"]) -> bool:
    """Whether what lies between two key frames of the file is also shown between them (or just before the first)."""
    if not np.isfinite(coded).all() or len(np.unique(coded)) != len(coded):
        return False
    starts = np.flatnonzero(is_key)
    if not len(starts) or (coded[: starts[0]] > coded[starts[0]]).any():
        return False
    key_stamps = coded[starts]
    latest, earliest = np.maximum.reduceat(coded, starts), np.minimum.reduceat(coded, starts)
    # Frames that are coded after a key frame and shown before it (open groups) still come after the one before that.
    return bool((latest[:-1] < key_stamps[1:]).all() and (earliest[1:] > key_stamps[:-1]).all())


def _without_jumps(coded: Float64[np.ndarray, " n"], is_key: Bool[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """The times of joined recordings one behind the other: a key frame before the last one begins the next."""
    starts = np.flatnonzero(is_key)
    jumps = starts[1:][coded[starts[1:]] <= coded[starts[:-1]]]
    bounds, joined = (0, *jumps.tolist(), len(coded)), coded.copy()
    for begin, middle, end in zip(bounds, bounds[1:], bounds[2:], strict=False):
        before = joined[begin:middle]
        latest = np.nanmax(before)
        period = (latest - np.nanmin(before)) / max(1, len(before) - 1)
        joined[middle:end] += latest + period - coded[middle]
    return joined

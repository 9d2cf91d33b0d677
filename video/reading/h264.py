"""Which H.264 pictures no other picture refers to: they need not be decoded when they are not shown.

Example:
    >>> h264 = UnitReader.of(stream.codec_context.extradata)
    >>> [h264.is_disposable(bytes(packet)) for packet in container.demux(stream)]
    [False, False, True, True, False]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

_SLICE = 1
_PASSED_OVER = frozenset({6, 9, 12})
"""Supplemental information, delimiters, filling. Any other unit may say something that later pictures need."""


@dataclasses.dataclass(frozen=True)
class UnitReader:
    """Reads the headers of the units that make up a packet (ITU-T H.264, 7.3.1 and 7.4.1).

    Attributes:
        length_size: how many bytes before each unit say how long it is (MP4, Matroska; ISO/IEC 14496-15, 5.2.4.1); 0
            where start codes part them (annex B).
    """

    length_size: int

    @classmethod
    def of(cls, extradata: bytes | None) -> UnitReader:
        """For the packets of a stream.

        Args:
            extradata: what the container says of the stream, if anything.
        """
        configured = extradata is not None and len(extradata) > 4 and extradata[0] == 1
        return cls((extradata[4] & 3) + 1 if configured and extradata else 0)

    def is_disposable(self, packet: bytes) -> bool:
        """Whether no other picture refers to any in this packet; False on any doubt."""
        disposable = False
        for header in self._headers(packet):
            kind = header & 0x1F
            if kind == _SLICE and not header & 0x60:  # nal_ref_idc
                disposable = True
            elif kind not in _PASSED_OVER:
                return False
        return disposable

    def _headers(self, packet: bytes) -> Iterator[int]:
        """The first byte of each unit; 0, which is no unit's, where the packet breaks off, or one is empty or holds a
        start code (decoders may take what follows for a unit)."""
        at = 0
        while self.length_size and at < len(packet):
            length = int.from_bytes(packet[at : at + self.length_size], "big")
            at += self.length_size
            whole = 0 < length <= len(packet) - at and packet.find(b"\0\0\1", at, at + length) < 0
            yield packet[at] if whole else 0
            at += max(length, 1)
        while not self.length_size:
            at = packet.find(b"\0\0\1", at) + 3
            if at < 3:
                return
            yield packet[at] if at < len(packet) else 0

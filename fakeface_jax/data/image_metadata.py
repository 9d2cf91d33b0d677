"""Collects facts from a picture's file, apart from the face: format, size, tables, checksums.

Example:
    >>> inspect_file(data, "photo.jpg").container
    'JPEG'
"""

from __future__ import annotations

import dataclasses
import hashlib

import imagehash
from PIL import Image

from fakeface_jax.images import decode_image, open_picture

HASH_SIZE = 16
"""The perceptual hash has 16 x 16 = 256 bits: 64 bits do not tell aligned faces of different people apart."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Facts about one picture file; all are empty if the file could not be read.

    Attributes:
        sha256: SHA-256 of the bytes, hexadecimal.
        phash: perceptual hash (pHash of the package ImageHash, 256 bits, hexadecimal).
        bytes: size of the file.
        width: width in pixels, upright.
        height: height in pixels, upright.
        container: Pillow's name of the format, such as `JPEG`.
        mode: Pillow's colour mode as stored, such as `RGB` or `L`.
        jpeg_tables: short checksum of the JPEG quantisation tables and sampling; empty for other formats.
    """

    sha256: str = ""
    phash: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    container: str = ""
    mode: str = ""
    jpeg_tables: str = ""


def inspect_file(data: bytes, source: object) -> FileFacts:
    """Returns the facts about an image file.

    Raises:
        MediaError: the file cannot be decoded.
    """
    pixels = decode_image(data, source=source)
    picture = open_picture(data)
    return FileFacts(
        sha256=hashlib.sha256(data).hexdigest(),
        phash=str(imagehash.phash(Image.fromarray(pixels), hash_size=HASH_SIZE)),
        bytes=len(data),
        width=pixels.shape[1],
        height=pixels.shape[0],
        container=picture.format or "",
        mode=picture.mode,
        jpeg_tables=_jpeg_tables(picture),
    )


def _jpeg_tables(picture: Image.Image) -> str:
    tables = getattr(picture, "quantization", None)
    if not tables:
        return ""
    layers = getattr(picture, "layer", ())
    text = repr(sorted((key, tuple(table)) for key, table in tables.items())) + repr(layers)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

"""Bytes or a path in, one upright RGB picture out: the only image decoder of the project.

Pillow decodes, because it reports truncated files (OpenCV fills them with grey and says nothing) and because it reads
the header first, so that a decompression bomb is refused before memory is taken.

Example:
    >>> image = read_image("portrait.jpg")
    >>> image.dtype, image.ndim
    (dtype('uint8'), 3)
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from fakeface_jax.errors import DecodeError, LimitExceeded, OpenError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".avif"})
"""File name endings that are taken for images when a directory is searched."""

MAX_PIXELS = 100_000_000
"""Larger pictures are refused: 100 megapixels decode to 300 MB."""

MAX_BYTES = 256 * 2**20
"""Larger files are refused before they are read."""

MIN_SIDE = 16
"""Smaller pictures hold no face that anything could be said about."""


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Reads one still image from a file.

    Returns:
        RGB, values 0 to 255, upright (EXIF orientation applied). Alpha is shown on white, grey and CMYK are converted,
        16-bit grey keeps its 8 most significant bits.

    Raises:
        OpenError: missing, a directory, unreadable, empty, or of no known image format.
        DecodeError: truncated or damaged, or several pictures in one file (animations).
        LimitExceeded: over `MAX_PIXELS` or `MAX_BYTES`, or under `MIN_SIDE`.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise OpenError(path, "is a directory", "name the files, or use a command that takes directories")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise LimitExceeded(path, f"{size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20} MiB", "make it smaller")
        data = path.read_bytes()
    except FileNotFoundError:
        raise OpenError(path, "no such file", "check the path") from None
    except OSError as error:
        raise OpenError(path, f"cannot be read: {error.strerror or error}", "check its permissions") from error
    return decode_image(data, source=path)


def decode_image(data: bytes, *, source: object = "<bytes>") -> UInt8[np.ndarray, "h w 3"]:
    """Decodes one still image from bytes; see `read_image` for what comes back and what is raised.

    Args:
        data: a whole image file.
        source: what error messages call it.
    """
    if not data:
        raise OpenError(source, "the file is empty", "copy or download it again")
    try:
        with warnings.catch_warnings():
            # Our own limit below decides; Pillow's warning would only repeat it with another number.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
        return _to_rgb(picture, source)
    except UnidentifiedImageError:
        raise OpenError(source, "not an image that can be read", "convert it to JPEG or PNG") from None
    except Image.DecompressionBombError as error:
        raise LimitExceeded(source, "too many pixels", "make it smaller") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, MemoryError) as error:
        # Pillow's plug-ins raise all of these on damaged files.
        raise DecodeError(source, f"damaged image: {error}", "copy or download it again") from error


def _to_rgb(picture: Image.Image, source: object) -> UInt8[np.ndarray, "h w 3"]:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise LimitExceeded(
            source, f"{width} x {height} pixels, more than {MAX_PIXELS // 10**6} megapixels", "make it smaller"
        )
    if min(width, height) < MIN_SIDE:
        raise LimitExceeded(source, f"{width} x {height} pixels, too small to hold a face", "use a larger picture")
    # An MPO file is a phone's JPEG with its depth or preview picture behind it: the first one is the photograph.
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":
        raise DecodeError(
            source, f"holds {frames} pictures", "score it as a video: fakeface score, or save one of them"
        )
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns a 16-bit photograph white.
        deep = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray(np.clip(deep >> 8 if deep.max() > 255 else deep, 0, 255).astype(np.uint8))
    elif picture.mode == "F":
        raise DecodeError(source, "floating-point image", "convert it to 8-bit JPEG or PNG")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(picture.convert("RGB"))

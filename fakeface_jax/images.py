"""Reads one upright RGB picture from bytes or a path: the only image decoder of the project.

Pillow decodes, because it reports truncated files (OpenCV silently fills them with grey) and because it reads the
header first, so that a decompression bomb is refused before memory is allocated.

Example:
    >>> image = read_image("portrait.jpg")
    >>> image.dtype, image.ndim
    (dtype('uint8'), 3)
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from fakeface_jax.errors import DecodeError, LimitExceeded, MediaError, OpenError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".avif"})
"""File name endings that are treated as images when a directory is searched."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
"""Formats that are decoded, whatever the file's ending: Pillow would also pass PostScript to an interpreter."""

MAX_PIXELS = 100_000_000
"""Larger pictures are refused: 100 megapixels decode to 300 MB."""

MAX_BYTES = 256 * 2**20
"""Larger files are refused before they are read."""

MIN_SIDE = 16
"""Smaller pictures are refused: they cannot contain a face that can be judged."""


def read_image(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Reads one still image from a file.

    Returns:
        RGB, values from 0 to 255, upright (EXIF orientation applied). Alpha is shown on white, grey and CMYK are
        converted, 16-bit grey keeps its 8 most significant bits. Damaged EXIF data is ignored, because the pixels are
        intact.

    Raises:
        OpenError: the file is missing, a directory, a device, unreadable, empty, or not of a known image format.
        DecodeError: the file is truncated or damaged, or contains several pictures (an animation).
        LimitExceeded: the picture is over `MAX_PIXELS` or `MAX_BYTES`, or under `MIN_SIDE`.
    """
    return decode_image(read_image_file(path), source=path)


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """Reads the bytes of an image file, for callers that need them beside the picture: read once, so that both agree.

    Raises:
        OpenError, LimitExceeded: as in `read_image`.
    """
    if not os.fspath(path):
        raise OpenError("(an empty name)", "is not a file name", "check that the shell variable is set")
    path = Path(path)
    try:
        if path.is_dir():
            raise OpenError(path, "is a directory", "name the files, or use a command that takes directories")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            # Opening a named pipe could wait for ever.
            raise OpenError(path, "is not a regular file", "copy it to a file, or pipe it into fakeface classify -")
        size = status.st_size
        if size > MAX_BYTES:
            raise LimitExceeded(path, f"{size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20} MiB", "shrink it")
        with path.open("rb") as file:
            # The file may have grown since its size was read.
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise LimitExceeded(path, f"more than {MAX_BYTES // 2**20} MiB", "shrink it")
    except FileNotFoundError:
        raise OpenError(path, "no such file", "check the path") from None
    except ValueError:
        raise OpenError(path, "no such file: a file name cannot contain this character", "check the path") from None
    except OSError as error:
        raise OpenError(path, f"cannot be read: {error.strerror or error}", "check its permissions") from error
    return data


def decode_image(data: bytes, *, source: object = "<bytes>") -> UInt8[np.ndarray, "h w 3"]:
    """Decodes one still image from bytes; see `read_image` for the result and the errors.

    Args:
        data: the bytes of a whole image file.
        source: name of the image in error messages.
    """
    if not data:
        raise OpenError(source, "the file is empty", "copy or download it again")
    try:
        with _quiet:
            return _to_rgb(open_picture(data), source)
    except MediaError:
        raise
    except UnidentifiedImageError:
        remedy = "if it is a video: fakeface score" if _may_be_video(data) else "convert it to JPEG or PNG"
        raise OpenError(source, "not an image that can be read", remedy) from None
    except Image.DecompressionBombError as error:
        problem = f"far more than {MAX_PIXELS // 10**6} megapixels"
        raise LimitExceeded(source, problem, "shrink it") from error
    except Exception as error:
        # Pillow's plug-ins raise any exception that their parsers run into: OSError, SyntaxError, struct.error,
        # KeyError...
        problem = f"damaged image: {error or type(error).__name__}"
        raise DecodeError(source, problem, "copy or download it again") from error


def _may_be_video(data: bytes) -> bool:
    return data[4:8] == b"ftyp" or data[:4] == b"\x1a\x45\xdf\xa3" or (data[:4] == b"RIFF" and data[8:11] == b"AVI")


def is_image(source: str | os.PathLike[str] | bytes) -> bool:
    """Tells still images from everything else by content; a file of several pictures, such as an animation, is not one.

    Args:
        source: a path, or the bytes of a file.

    Returns:
        True also for damaged images whose header can be read, so that decoding them says what is wrong.

    Raises:
        OpenError: the file is missing or cannot be read.
    """
    try:
        with (
            _quiet,
            Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as picture,
        ):
            return getattr(picture, "n_frames", 1) == 1 or picture.format == "MPO"
    except OSError as error:
        if isinstance(error, UnidentifiedImageError) or isinstance(source, bytes):
            return False
        raise OpenError(source, f"cannot be read: {error.strerror or error}", "check the path") from error
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow's plug-ins raise whatever their parsing stumbles over
        return False


def from_pillow(picture: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Converts a picture that Pillow opened or made, as `read_image` converts files.

    Raises:
        DecodeError, LimitExceeded: as `read_image`.
    """
    with _quiet:
        return _to_rgb(picture, getattr(picture, "filename", "") or "<picture>")


def open_picture(data: bytes) -> Image.Image:
    """Opens a picture and reads only its header; for facts about the file, not for its pixels."""
    with _quiet:
        return Image.open(io.BytesIO(data), formats=FORMATS)


class _Quiet:
    """Silences Pillow's warnings while pictures are decoded: serious problems are raised as errors anyway.

    `warnings.catch_warnings` changes the whole process, and overlapping threads would leave it changed. So the first
    thread that enters silences the warnings, and the last one that leaves restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._catcher = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                # Our own limit decides about large pictures, and damaged metadata does not make a picture unusable.
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._catcher.__exit__(None, None, None)


_quiet = _Quiet()


def _to_rgb(picture: Image.Image, source: object) -> UInt8[np.ndarray, "h w 3"]:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise LimitExceeded(
            source, f"{width} x {height} pixels, more than {MAX_PIXELS // 10**6} megapixels", "shrink it"
        )
    if min(width, height) < MIN_SIDE:
        raise LimitExceeded(source, f"{width} x {height} pixels, too small to hold a face", "use a larger picture")
    # An MPO file is a phone's JPEG followed by its depth map or preview; the first picture is the photograph.
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":
        raise DecodeError(
            source,
            f"contains {frames} pictures",
            "score it as a video with fakeface score, or save one of them as a picture",
        )
    picture.load()
    picture = _upright(picture)
    if picture.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns a 16-bit photograph white.
        picture = Image.fromarray(_eight_bits(picture, source))
    elif picture.mode == "F":
        raise DecodeError(source, "floating-point image", "convert it to 8-bit JPEG or PNG")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(picture.convert("RGB"))


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF data does not tell the orientation
        return picture


def _eight_bits(picture: Image.Image, source: object) -> UInt8[np.ndarray, "h w"]:
    deep = np.asarray(picture).astype(np.int64)
    if picture.mode != "I" or 255 < deep.max() < 2**16:
        # Mode I is 32 bits wide without a stated white point: only the values tell 8 bits from 16.
        deep >>= 8
    if deep.min() < 0 or deep.max() > 255:
        raise DecodeError(source, "values beyond 16 bits", "convert it to 8-bit JPEG or PNG")
    return deep.astype(np.uint8)

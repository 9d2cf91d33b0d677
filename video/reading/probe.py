"""What a file is, before a decoder is let loose on it.

FFmpeg opens far more than videos: still images, sequences of numbered images, and text files that name other files
or addresses (playlists). All of these are refused here, by content. (FFmpeg also takes some names for patterns of
numbered pictures; the readers prevent that.)

Example:
    >>> check_is_video(Path("portrait.jpg"))
    OpenError: portrait.jpg: is a still image, not a video (use fakeface classify)
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from PIL import Image

from fakeface_jax.errors import OpenError
from fakeface_jax.images import FORMATS

_HEAD = 1024
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"v=0", b"<")
_STILL_FORMATS = (*FORMATS, "ICO", "TGA", "PCX", "JPEG2000")
"""More than `fakeface classify` reads: FFmpeg would make a video of one frame of these."""
_STILL_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"})


@runtime_checkable
class BinaryFile(Protocol):
    """What is read through an open file: `io.BytesIO`, a file opened for reading bytes, an upload."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; all that is left by default."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Goes to a place in the file."""
        ...


def check_is_video(path: Path) -> bytes:
    """Refuses what cannot be a video.

    Returns:
        The first bytes of the file, by which the functions below know it.

    Raises:
        OpenError: missing, a directory, a device, unreadable, empty, text, or a still image.
    """
    head = _read_head(path)
    _check(head, path, path)
    return head


def check_bytes_are_video(file: BinaryFile, name: str) -> bytes:
    """The same for a binary file that is open already. Afterwards it is at its beginning.

    Raises:
        OpenError: it cannot be rewound, or as above.
    """
    try:
        file.seek(0)
        head = file.read(_HEAD)
        _check(head, name, file)
        file.seek(0)
    except (OSError, ValueError, AttributeError, TypeError) as error:  # ValueError: closed; TypeError: text
        raise OpenError(name, f"a stream that cannot be read and rewound: {error}", "give its bytes") from error
    return head


def states_exact_frame_count(head: bytes) -> bool:
    """Whether the container's header counts its frames (MP4, MOV, AVI), where others only state a duration."""
    return head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def has_seek_index(head: bytes) -> bool:
    """Whether a decoder finds each key frame by the container's index (MP4, MOV, Matroska, WebM).

    Elsewhere it has to search, or the frames after a jump are not those that decoding from the beginning gives (GIF
    paints over what was there before; AVI has no timestamps of its own).
    """
    return head[4:8] == b"ftyp" or head.startswith(b"\x1a\x45\xdf\xa3")


def _check(head: bytes, name: object, file: Path | BinaryFile) -> None:
    if not head:
        raise OpenError(name, "the file is empty", "copy or download it again")
    if _is_text(head):
        # Also playlists (HLS, ffconcat, SDP), which would make FFmpeg open other files and addresses.
        raise OpenError(name, "is a text file or a playlist, not a video", "name the video itself")
    if _may_be_image(head) and _is_still_image(file):
        raise OpenError(name, "is a still image, not a video", "use fakeface classify")


def _read_head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise OpenError(path, "is a directory", "name the files in it")
        if not path.exists():
            raise OpenError(path, "no such file", "check the path")
        if not path.is_file():
            raise OpenError(path, "is not a regular file", "copy it to a file first")
        with path.open("rb") as file:
            return file.read(_HEAD)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise OpenError(path, f"cannot be read: {reason}", "check its permissions") from error


def _is_text(head: bytes) -> bool:
    if head.startswith(b"YUV4MPEG2"):
        return False
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_PLAYLISTS):
        return True
    # A character of several bytes may be cut by the end of the head.
    text = head.decode("utf-8", errors="ignore")
    return len(text.encode()) >= len(head) - 3 and all(sign.isprintable() or sign.isspace() for sign in text)


def _may_be_image(head: bytes) -> bool:
    """False for the common video containers, for which Pillow would import all of its plug-ins in vain."""
    if head[4:8] == b"ftyp":
        return head[8:12] in _STILL_BRANDS
    return not head.startswith((b"\x1a\x45\xdf\xa3", b"RIFF")) or head[8:12] == b"WEBP"


def _is_still_image(file: Path | BinaryFile) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked by whoever decodes
            with Image.open(cast(Any, file), formats=_STILL_FORMATS) as picture:
                return getattr(picture, "n_frames", 1) == 1 or picture.format == "MPO"
    except Image.DecompressionBombError:
        return True
    except Exception:
        # Pillow's plug-ins raise whatever their parsing stumbles over: not an image, or a damaged one. The video
        # decoder has the last word.
        return False

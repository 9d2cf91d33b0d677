"""What a file is, before a decoder is let loose on it.

FFmpeg opens far more than videos: still images, sequences of numbered images, and text files that name other files
or addresses (playlists). All of these are refused here, by content. (What FFmpeg
does with a name that looks like a pattern of numbered pictures, `frames.VideoFile` prevents.)

Example:
    >>> check_is_video(Path("portrait.jpg"))
    OpenError: portrait.jpg: is a still image, not a video (use fakeface classify)
"""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from fakeface_jax.errors import OpenError
from fakeface_jax.images import FORMATS

_HEAD = 1024
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"v=0", b"<")
_STILL_FORMATS = (*FORMATS, "ICO", "TGA", "PCX", "JPEG2000")
"""More than `fakeface classify` reads: FFmpeg would make a video of one frame of these."""
_STILL_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"})


def check_is_video(path: Path) -> None:
    """Refuses what cannot be a video.

    Raises:
        OpenError: missing, a directory, a device, unreadable, empty, text, or a still image.
    """
    head = _read_head(path)
    if not head:
        raise OpenError(path, "the file is empty", "copy or download it again")
    if _is_text(head):
        # Also playlists (HLS, ffconcat, SDP), which would make FFmpeg open other files and addresses.
        raise OpenError(path, "is a text file or a playlist, not a video", "name the video itself")
    if _may_be_image(head) and _is_still_image(path):
        raise OpenError(path, "is a still image, not a video", "use fakeface classify")


def states_exact_frame_count(path: Path) -> bool:
    """Whether the container's header counts its frames (MP4, MOV, AVI), where others only state a duration."""
    head = _read_head(path)
    return head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


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


def _is_still_image(path: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked by whoever decodes
            with Image.open(path, formats=_STILL_FORMATS) as picture:
                return getattr(picture, "n_frames", 1) == 1 or picture.format == "MPO"
    except Image.DecompressionBombError:
        return True
    except Exception:
        # Pillow's plug-ins raise whatever their parsing stumbles over: not an image, or a damaged one. The video
        # decoder has the last word.
        return False

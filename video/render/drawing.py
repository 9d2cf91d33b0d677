"""Colours, fonts and sizes of all that is drawn.

Colours are those of Okabe and Ito (2008), which colour-blind people can tell apart; text always says the verdict too.

Example:
    >>> draw.text((0, 0), "FAKE", fill=ink(COLOURS[Verdict.FAKE]), font=font(text_size(picture.size)))
"""

from __future__ import annotations

import functools

from PIL import ImageFont

from fakeface_jax.labels import Verdict

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

COLOURS: dict[Verdict, Colour] = {
    Verdict.FAKE: (213, 94, 0),
    Verdict.REAL: (0, 114, 178),
    Verdict.INCONCLUSIVE: (240, 228, 66),
    Verdict.NO_FACE: (200, 200, 200),
}
"""Vermilion, blue, yellow (Okabe and Ito) and grey."""

UNSCORED: Colour = (160, 160, 160)
"""Of faces whose score does not count, or that have none."""

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)


@functools.lru_cache(maxsize=32)
def font(size: int) -> Font:
    """The font that Pillow carries, in pixels."""
    return ImageFont.load_default(size)


def fitting_font(text: str, wanted: int, room: float) -> Font:
    """The font at the wanted size, or smaller until the text fits into `room` pixels; never under 8 pixels."""
    size = wanted
    while size > 8 and font(size).getlength(text) > room:
        size -= 1
    return font(size)


def text_size(picture: tuple[int, int]) -> int:
    """Pixels of the text on a picture of a width and height."""
    return max(11, round(min(picture) / 28))


def ink(background: Colour) -> Colour:
    """Black or white, whichever can be read on the background (its luma decides)."""
    red, green, blue = background
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else WHITE


def verdict_text(verdict: Verdict, p_fake: float | None) -> str:
    """`FAKE  P(fake) 0.93`."""
    words = str(verdict).replace("_", " ").upper()
    return words if p_fake is None else f"{words}  P(fake) {p_fake:.2f}"

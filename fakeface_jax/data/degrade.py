"""Degrades pictures on the device, as their way to a user does: colour, blur, noise, scaling, JPEG, covered parts.

A detector trained on clean crops relies on traces that one re-encoding removes ("compression breaks it" is among the
most reported faults of published ones), and a detector trained on sources with different encoders learns the encoder.
So each kind below is applied to every picture with the same probability, whatever its label; blur and JPEG as in Wang
et al. 2020 (CNNDetection), the others as is common for DFDC. They run in the order in which a picture meets them:
colour, blur, noise, scaling, JPEG, covered rectangle; after `augment`, inside the jitted step, in float32.

A kind with probability p is computed for ceil(p n) of the n pictures, which are picked by a random permutation and
scattered back, so its cost is the same in every step and proportional to p; each result is then kept with probability
p n / ceil(p n), so that a picture is changed with probability p exactly. Pictures that are not picked keep their values
bit by bit.

Example:
    >>> pixels = degrade(key, augment(warp_key, images, AugmentConfig()), DegradeConfig(jpeg=1.0))
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

from fakeface_jax.data.augmentation_config import DegradeConfig

# ITU-T T.81, tables K.1 and K.2, row by row.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66" + " 99" * 38
_TABLES = {name: np.array(text.split(), np.float32) for name, text in [("luma", _LUMA), ("chroma", _CHROMA)]}

_FREQUENCY, _PLACE = np.mgrid[:8, :8]
_DCT = np.cos((2 * _PLACE + 1) * _FREQUENCY * np.pi / 16) * np.where(_FREQUENCY, 0.5, math.sqrt(0.125))
# All 64 coefficients of a block by one product: it is fast, because it is one large matrix product.
_DCT_2D = np.kron(_DCT, _DCT).astype(np.float32)

# The default precision of accelerators would move values by whole quantisation steps.
_EXACT = jax.lax.Precision.HIGHEST


def degrade(key: Key[Array, ""], pixels: Float[Array, "n h w 3"], config: DegradeConfig) -> Float[Array, "n h w 3"]:
    """Degrades a batch: applies each kind to each picture with its probability; values are 0 to 255 before and after.

    Args:
        key: random key; each kind has its own draws, so a changed setting does not affect the draws of the others.
        pixels: pictures of any height and width.
        config: settings, static under `jax.jit`. A kind with probability 0 is not compiled.
    """
    height, width = pixels.shape[1:3]

    def recolour(key: jax.Array, chosen: jax.Array) -> jax.Array:
        return _apply_colour(chosen, *draw_colour(key, len(chosen), config))

    def blur(key: jax.Array, chosen: jax.Array) -> jax.Array:
        sigma = jax.random.uniform(key, (len(chosen),), jnp.float32, 0, config.blur_sigma)
        return gaussian_blur(chosen, sigma, radius=math.ceil(3 * config.blur_sigma))

    def add_noise(key: jax.Array, chosen: jax.Array) -> jax.Array:
        strength, field = jax.random.split(key)
        sigma = jax.random.uniform(strength, (len(chosen), 1, 1, 1), jnp.float32, 0, config.noise_sigma)
        return chosen + sigma * jax.random.normal(field, chosen.shape, jnp.float32)

    def rescale(key: jax.Array, chosen: jax.Array) -> jax.Array:
        strength, method = jax.random.split(key)
        factor = jax.random.uniform(strength, (len(chosen),), jnp.float32, config.scale_least, 1)
        return down_and_up(chosen, factor, *jax.random.bernoulli(method, 0.5, (2, len(chosen))))

    def compress(key: jax.Array, chosen: jax.Array) -> jax.Array:
        strength, chroma = jax.random.split(key)
        quality = jax.random.randint(strength, (len(chosen),), config.jpeg_least, config.jpeg_most + 1)
        return jpeg(chosen, quality, jax.random.bernoulli(chroma, config.jpeg_half_chroma, (len(chosen),)))

    def erase(key: jax.Array, chosen: jax.Array) -> jax.Array:
        where, fill, field = jax.random.split(key, 3)
        covered = draw_rectangles(where, len(chosen), (height, width), config.erase_area)[..., None]
        mean = jnp.mean(chosen, (1, 2), keepdims=True)
        # One draw per pixel, with a byte for each channel: drawing is the expensive part.
        noise = jax.random.bits(field, (len(chosen), height, width, 1), jnp.uint32) >> np.array([0, 8, 16], np.uint32)
        noise = (noise & 255).astype(jnp.float32)
        with_noise = jax.random.bernoulli(fill, 0.5, (len(chosen), 1, 1, 1))
        return jnp.where(covered, jnp.where(with_noise, noise, mean), chosen)

    kinds: list[tuple[float, Callable[[jax.Array, jax.Array], jax.Array]]] = [
        (config.colour, recolour),
        (config.blur, blur),
        (config.noise, add_noise),
        (config.scale, rescale),
        (config.jpeg, compress),
        (config.erase, erase),
    ]
    if not any(probability for probability, _ in kinds):
        return pixels
    for kind_key, (probability, change) in zip(jax.random.split(key, len(kinds)), kinds, strict=True):
        pixels = _change_some(kind_key, pixels, probability, change)
    return pixels


def _change_some(
    key: jax.Array, pixels: jax.Array, probability: float, change: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    total = len(pixels)
    count = min(total, math.ceil(probability * total))
    if not count:
        return pixels
    pick, keep, draw = jax.random.split(key, 3)
    chosen = jax.random.permutation(pick, total)[:count]
    before = pixels[chosen]
    kept = jax.random.bernoulli(keep, probability * total / count, (count, 1, 1, 1))
    after = jnp.where(kept, jnp.clip(change(draw, before), 0, 255), before)
    return pixels.at[chosen].set(after, unique_indices=True)


def draw_colour(
    key: Key[Array, ""], count: int, config: DegradeConfig
) -> tuple[Float[Array, "n 3 3"], Float[Array, "n 3"]]:
    """Draws one map of RGB per picture, rgb -> matrix @ rgb + offset: hue, saturation, brightness, contrast, shift.

    Hue rotates the colour plane about the grey axis in YIQ, so grey stays grey under hue and saturation; contrast
    pivots about 127.5. All draws are uniform and independent.
    """
    keys = jax.random.split(key, 5)

    def draw(index: int, limit: float, size: tuple[int, ...] = ()) -> jax.Array:
        return jax.random.uniform(keys[index], (count, *size), jnp.float32, -limit, limit)

    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    angle, saturation = jnp.deg2rad(draw(0, config.hue)), 1 + draw(1, config.saturation)
    brightness, contrast = 1 + draw(2, config.brightness), 1 + draw(3, config.contrast)
    cos, sin, zero = saturation * jnp.cos(angle), saturation * jnp.sin(angle), jnp.zeros_like(angle)
    rows = [[jnp.ones_like(angle), zero, zero], [zero, cos, -sin], [zero, sin, cos]]
    turn = jnp.stack([jnp.stack(row, -1) for row in rows], -2)
    back, forth = jnp.asarray(np.linalg.inv(to_yiq), jnp.float32), jnp.asarray(to_yiq, jnp.float32)
    matrix = jnp.einsum("ij,njk,kl->nil", back, turn, forth, precision=_EXACT)
    offset = 127.5 * (1 - contrast)[:, None] + draw(4, config.rgb_shift, (3,))
    return matrix * (brightness * contrast)[:, None, None], offset


def _apply_colour(pixels: jax.Array, matrix: jax.Array, offset: jax.Array) -> jax.Array:
    # Written out, because a product with 3 x 3 matrices is one fused loop this way and a slow call otherwise.
    weights = matrix[:, None, None]
    mixed = sum(pixels[..., index : index + 1] * weights[..., index] for index in range(3))
    return mixed + offset[:, None, None]


def gaussian_blur(
    pixels: Float[Array, "n h w 3"], sigma: Float[Array, " n"], *, radius: int
) -> Float[Array, "n h w 3"]:
    """Blurs each picture with a Gaussian of `sigma` pixels, cut off at `radius`, with the nearest edge pixel outside.

    It equals `scipy.ndimage.gaussian_filter` with that radius and mode "nearest".
    """
    places = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    kernels = jnp.exp(-0.5 * (places / jnp.maximum(sigma, 1e-3)[:, None]) ** 2)
    kernels = kernels / kernels.sum(1, keepdims=True)

    def matrices(size: int) -> jax.Array:
        taken = np.clip(np.arange(size)[:, None] + np.arange(-radius, radius + 1), 0, size - 1)
        one_hot = (taken[..., None] == np.arange(size)).astype(np.float32)
        return jnp.einsum("nk,ikj->nij", kernels, one_hot, precision=_EXACT)

    return _filter(pixels, matrices(pixels.shape[1]), matrices(pixels.shape[2]))


def _filter(pixels: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Applies one square matrix per picture and axis, as two batched matrix products.

    On a CPU this takes a third of the time of shifted multiply-adds, and far less than a convolution with one kernel
    each.
    """
    pixels = jnp.einsum("nij,njwc->niwc", rows, pixels, precision=_EXACT)
    return jnp.einsum("nij,nhjc->nhic", columns, pixels, precision=_EXACT)


def down_and_up(
    pixels: Float[Array, "n h w 3"],
    factor: Float[Array, " n"],
    down_nearest: Bool[Array, " n"],
    up_nearest: Bool[Array, " n"],
) -> Float[Array, "n h w 3"]:
    """Scales each picture by its factor in (0, 1] and back to its size, by nearest neighbour or else bilinearly.

    Bilinear shrinking is antialiased, as in Pillow and `jax.image.resize`. Both resizings are linear and separable, so
    together they are one square matrix per picture and axis.
    """
    height, width = pixels.shape[1:3]
    rows = _scaling_matrices(height, factor, down_nearest, up_nearest)
    return _filter(pixels, rows, _scaling_matrices(width, factor, down_nearest, up_nearest))


def _scaling_matrices(size: int, factor: jax.Array, down_nearest: jax.Array, up_nearest: jax.Array) -> jax.Array:
    small = jnp.maximum(jnp.round(factor * size), 1)[:, None, None]
    target, origin = jnp.arange(size, dtype=jnp.float32)[:, None], jnp.arange(size, dtype=jnp.float32)

    def resize(before: jax.Array, after: jax.Array, nearest: jax.Array) -> jax.Array:
        place = (target + 0.5) * (before / after)
        stretch = jnp.maximum(before / after, 1)
        triangle = jnp.maximum(1 - jnp.abs(place - 0.5 - origin) / stretch, 0) * (origin < before)
        closest = (origin == jnp.floor(place)).astype(jnp.float32)
        weights = jnp.where(nearest[:, None, None], closest, triangle)
        # Rows beyond the end of the small picture are empty and stay empty.
        return weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6)

    down = resize(jnp.full_like(small, size), small, down_nearest)
    up = resize(small, jnp.full_like(small, size), up_nearest)
    return jnp.matmul(up, down, precision=_EXACT)


def jpeg(
    pixels: Float[Array, "n h w 3"], quality: Num[Array, " n"], chroma_half: Bool[Array, " n"]
) -> Float[Array, "n h w 3"]:
    """Returns each picture as it is after a baseline JPEG file: integers from 0 to 255.

    The arithmetic is libjpeg's: the tables of ITU-T T.81 Annex K scaled by quality (1 to 100, rounded), 4:2:0 chroma by
    boxes of four and back by its triangle filter if `chroma_half`, otherwise 4:4:4; edges are repeated up to whole
    blocks. Only the entropy coding is omitted, because it is lossless. Measured against OpenCV's encoder and decoder on
    a portrait with either chroma, the mean absolute difference is 0.04 to 0.4 of 255 (largest at quality 95, where the
    compression itself moves a value by 1.6 to 2.2): coefficients near the middle between two steps are rounded
    differently.
    """
    height, width = pixels.shape[1:3]
    padding = ((0, 0), (0, -height % 16), (0, -width % 16), (0, 0))
    red, green, blue = jnp.moveaxis(jnp.pad(jnp.clip(jnp.round(pixels), 0, 255), padding, mode="edge"), -1, 0)
    luma = jnp.round(0.299 * red + 0.587 * green + 0.114 * blue)
    chroma_blue = jnp.round(-0.168736 * red - 0.331264 * green + 0.5 * blue + 128)
    chroma_red = jnp.round(0.5 * red - 0.418688 * green - 0.081312 * blue + 128)
    chroma = jnp.stack([chroma_blue, chroma_red], 1)

    quality = jnp.clip(jnp.round(quality), 1, 100).astype(jnp.float32)
    percent = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)[:, None]

    def coded(planes: jax.Array, table: np.ndarray) -> jax.Array:
        return _through_blocks(planes, jnp.clip(jnp.floor((table * percent + 50) / 100), 1, 255))

    luma = coded(luma[:, None], _TABLES["luma"])[:, 0]
    halved = coded(_halve(chroma), _TABLES["chroma"])[..., : -(-height // 2), : -(-width // 2)]
    whole = coded(chroma, _TABLES["chroma"])[..., :height, :width]
    chroma = jnp.where(chroma_half[:, None, None, None], _double(halved)[..., :height, :width], whole) - 128
    luma, blueness, redness = luma[:, :height, :width], chroma[:, 0], chroma[:, 1]
    red = luma + 1.402 * redness
    green = luma - 0.344136 * blueness - 0.714136 * redness
    blue = luma + 1.772 * blueness
    return jnp.clip(jnp.round(jnp.stack([red, green, blue], -1)), 0, 255)


def _through_blocks(planes: Float[Array, "n c h w"], table: Float[Array, "n 64"]) -> Float[Array, "n c h w"]:
    """Quantises in frequency: 8 x 8 blocks -> DCT -> whole multiples of the table -> back, rounded and clipped."""
    count, channels, height, width = planes.shape
    blocks = planes.reshape(count, channels, height // 8, 8, width // 8, 8).transpose(0, 1, 2, 4, 3, 5)
    flat = blocks.reshape(count, -1, 64) - 128
    steps = table[:, None]
    levels = jnp.matmul(flat, _DCT_2D.T, precision=_EXACT) / steps
    # Halves are rounded away from zero: means of blocks are multiples of 1/8, so halves are common.
    coefficients = jnp.sign(levels) * jnp.floor(jnp.abs(levels) + 0.5) * steps
    flat = jnp.clip(jnp.round(jnp.matmul(coefficients, _DCT_2D, precision=_EXACT) + 128), 0, 255)
    return flat.reshape(blocks.shape).transpose(0, 1, 2, 4, 3, 5).reshape(planes.shape)


def _halve(planes: Float[Array, "n c h w"]) -> Float[Array, "n c h2 w2"]:
    """Averages boxes of four, rounding halves down and up in turn, as libjpeg's `h2v2_downsample`."""
    total = planes[..., ::2, ::2] + planes[..., ::2, 1::2] + planes[..., 1::2, ::2] + planes[..., 1::2, 1::2]
    return jnp.floor((total + 1 + jnp.arange(total.shape[-1]) % 2) / 4)


def _double(planes: Float[Array, "n c h w"]) -> Float[Array, "n c h2 w2"]:
    """Doubles the size: 3/4 of the nearer and 1/4 of the further pixel per axis, as libjpeg's `h2v2_fancy_upsample`."""
    count, channels, height, width = planes.shape
    padded = jnp.pad(planes, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
    pairs = jnp.stack([3 * planes + padded[..., :-2, :], 3 * planes + padded[..., 2:, :]], 3)
    tall = pairs.reshape(count, channels, 2 * height, width)
    padded = jnp.pad(tall, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="edge")
    pairs = jnp.stack([3 * tall + padded[..., :-2] + 8, 3 * tall + padded[..., 2:] + 7], -1)
    return jnp.floor(pairs / 16).reshape(count, channels, 2 * height, 2 * width)


def draw_rectangles(
    key: Key[Array, ""], count: int, shape: tuple[int, int], most: float
) -> Bool[Array, "n {shape[0]} {shape[1]}"]:
    """Draws one rectangle per picture: area a share in [0.02, most], height : width in [0.3, 3.3], inside the picture.

    The draws are those of Zhong et al. 2020, "Random Erasing Data Augmentation", with the logarithm of the aspect ratio
    uniform; a side that would exceed the picture is shortened to it.
    """
    keys = jax.random.split(key, 4)
    area = jax.random.uniform(keys[0], (count,), jnp.float32, min(0.02, most), most)
    aspect = jnp.exp(jax.random.uniform(keys[1], (count,), jnp.float32, math.log(0.3), math.log(3.3)))
    inside = jnp.ones((count, 1, 1), bool)
    for axis, share in enumerate((jnp.sqrt(area * aspect), jnp.sqrt(area / aspect))):
        size = shape[axis]
        pixel_area = math.sqrt(shape[0] * shape[1])
        length = jnp.clip(jnp.round(share * pixel_area), 1, size).astype(jnp.int32)
        room = jax.random.uniform(keys[2 + axis], (count,), jnp.float32)
        first = jnp.floor(room * (size - length + 1)).astype(jnp.int32)
        places: Int[Array, " size"] = jnp.arange(size)
        one = (places >= first[:, None]) & (places < (first + length)[:, None])
        inside = inside & (one[:, :, None] if axis == 0 else one[:, None, :])
    return inside

import io
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from fakeface_jax import images
from fakeface_jax.errors import DecodeError, LimitExceeded, MediaError, OpenError
from fakeface_jax.images import decode_image, read_image

WIDTH, HEIGHT = 48, 32
CORNERS = {"top left": (0, 0), "top right": (0, -1), "bottom left": (-1, 0), "bottom right": (-1, -1)}


def quadrants() -> np.ndarray:
    """Red, green / blue, white: says which way up a picture is."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[: HEIGHT // 2, : WIDTH // 2] = (255, 0, 0)
    pixels[: HEIGHT // 2, WIDTH // 2 :] = (0, 255, 0)
    pixels[HEIGHT // 2 :, : WIDTH // 2] = (0, 0, 255)
    pixels[HEIGHT // 2 :, WIDTH // 2 :] = (255, 255, 255)
    return pixels


def encode(picture: Image.Image | np.ndarray, format: str = "PNG", **options) -> bytes:
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG by hand, for the kinds that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def assert_one_line_that_helps(error: MediaError, source: object) -> None:
    text = str(error)
    assert "\n" not in text
    assert text.startswith(f"{source}: ")
    assert error.remedy
    assert text.endswith(f"({error.remedy})")


def noise(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def animation(format: str) -> bytes:
    first, *others = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    return encode(first, format, save_all=True, append_images=others, duration=100)


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


BAD = {
    "empty": (b"", OpenError, "empty"),
    "text": (b"hello, I am no picture at all\n" * 9, OpenError, "not an image"),
    "zeros": (bytes(4096), OpenError, "not an image"),
    "truncated JPEG": (truncated(encode(noise(), "JPEG")), DecodeError, "damaged"),
    "truncated PNG": (truncated(encode(noise())), DecodeError, "damaged"),
    "truncated WebP": (truncated(encode(noise(), "WEBP")), MediaError, ""),
    "truncated GIF": (truncated(encode(noise(), "GIF")), DecodeError, "damaged"),
    "truncated TIFF": (truncated(encode(noise(), "TIFF")), MediaError, ""),
    "JPEG header only": (encode(noise(), "JPEG")[:20], OpenError, "not an image"),
    "PNG with a broken checksum": (encode(noise()).replace(b"IDAT", b"IDAx"), MediaError, ""),
    "1 x 1": (encode(noise(1, 1)), LimitExceeded, "1 x 1 pixels, too small"),
    "one row": (encode(noise(1, 500)), LimitExceeded, "500 x 1 pixels, too small"),
    "animated GIF": (animation("GIF"), DecodeError, "contains 3 pictures"),
    "animated WebP": (animation("WEBP"), DecodeError, "contains 3 pictures"),
    "animated PNG": (animation("PNG"), DecodeError, "contains 3 pictures"),
    "multi-page TIFF": (animation("TIFF"), DecodeError, "contains 3 pictures"),
    "floating-point TIFF": (encode(Image.new("F", (32, 32), 0.5), "TIFF"), DecodeError, "floating-point"),
    "32-bit TIFF": (encode(Image.new("I", (32, 32), 2**20), "TIFF"), DecodeError, "beyond 16 bits"),
    "PNG claiming 60000 x 60000": (png(60_000, 60_000, 8, 2, b""), LimitExceeded, "megapixels"),
    "PNG claiming 12000 x 12000": (png(12_000, 12_000, 8, 2, b""), LimitExceeded, "12000 x 12000 pixels"),
    "PNG claiming 9800 x 9800": (png(9_800, 9_800, 8, 2, b""), DecodeError, "damaged"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n", OpenError, "not an image"),
    "video": (b"\x00\x00\x00 ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes(200), OpenError, "not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_one_line_errors_that_name_the_input_and_a_remedy(name, tmp_path):
    data, kind, words = BAD[name]
    path = tmp_path / f"{name}.jpg"
    path.write_bytes(data)
    for attempt, source in ((lambda: read_image(path), path), (lambda: decode_image(data, source="-"), "-")):
        with pytest.raises(kind) as caught:
            attempt()
        assert words in str(caught.value)
        assert_one_line_that_helps(caught.value, source)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(OpenError, match="no such file") as caught:
        read_image(tmp_path / "nowhere.jpg")
    assert_one_line_that_helps(caught.value, tmp_path / "nowhere.jpg")


def test_a_directory_is_no_picture(tmp_path):
    with pytest.raises(OpenError, match="is a directory") as caught:
        read_image(tmp_path)
    assert_one_line_that_helps(caught.value, tmp_path)


def test_a_name_that_no_file_can_have_is_an_error_like_others(tmp_path):
    for name in ("nul\0.jpg", "x" * 5000 + ".jpg"):
        with pytest.raises(OpenError):
            read_image(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_says_so(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encode(quadrants()))
    path.chmod(0)
    with pytest.raises(OpenError, match="check its permissions"):
        read_image(path)


def test_an_endless_device_is_refused():
    with pytest.raises(OpenError, match="not a regular file"):
        read_image("/dev/zero")


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "sparse.jpg"
    with path.open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(LimitExceeded, match="more than 256 MiB"):
        read_image(path)


def test_enormous_dimensions_take_no_memory():
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded):
            decode_image(png(60_000, 60_000, 8, 2, zlib.compress(bytes(1000))))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name", ["with space.png", "größe ñ.png", "фото.png", "写真 顔.png", "😀.png", "-dash.png", "a'\"b.png"]
)
def test_names_with_spaces_and_any_letters_are_read(name, tmp_path):
    (tmp_path / name).write_bytes(encode(quadrants()))
    np.testing.assert_array_equal(read_image(tmp_path / name), quadrants())
    np.testing.assert_array_equal(read_image(str(tmp_path / name)), quadrants())


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_lossless_formats_keep_every_pixel_whatever_they_are_called(format, tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(encode(quadrants(), format))
    image = read_image(path)
    np.testing.assert_array_equal(image, quadrants())
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
def test_jpeg_variants_are_close_to_the_original(options):
    image = decode_image(encode(quadrants(), "JPEG", quality=95, **options))
    for corner in CORNERS.values():
        assert np.abs(image[corner].astype(int) - quadrants()[corner]).max() <= 6


def test_grey_becomes_three_equal_channels():
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (32, 1))
    np.testing.assert_array_equal(decode_image(encode(ramp)), np.repeat(ramp[..., None], 3, 2))


def test_black_and_white_bits_become_0_and_255():
    image = decode_image(encode(Image.fromarray(quadrants()).convert("1")))
    assert set(np.unique(image)) <= {0, 255}
    assert image[-1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_brightness(format):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (32, 1))
    image = decode_image(encode(Image.fromarray(ramp), format))
    np.testing.assert_array_equal(image, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, 2))


def test_a_dark_16_bit_picture_stays_dark():
    dark = np.full((32, 32), 200, np.uint16)
    assert decode_image(encode(Image.fromarray(dark))).max() == 0


def test_16_bit_rgb_keeps_its_8_most_significant_bits():
    deep = np.random.default_rng(0).integers(0, 2**16, (20, 24, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    np.testing.assert_array_equal(decode_image(png(24, 20, 16, 2, rows)), (deep >> 8).astype(np.uint8))


def test_cmyk_jpeg_has_the_right_colours():
    image = decode_image(encode(Image.fromarray(quadrants()).convert("CMYK"), "JPEG", quality=95, subsampling=0))
    for corner in CORNERS.values():
        assert np.abs(image[corner].astype(int) - quadrants()[corner]).max() <= 8


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_shown_on_white(mode):
    picture = Image.fromarray(np.full((32, 32, 3), 100, np.uint8)).convert(mode)
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:16] = 0
    alpha[16:20] = 128
    picture.putalpha(Image.fromarray(alpha))
    image = decode_image(encode(picture))
    assert (image[:16] == 255).all()
    assert np.abs(image[16:20].astype(int) - 177).max() <= 1
    assert (image[20:] == 100).all()


def test_a_palette_with_a_transparent_entry_is_shown_on_white():
    picture = Image.fromarray(quadrants()).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    red = picture.getpixel((0, 0))
    image = decode_image(encode(picture, transparency=red))
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, -1].tolist() == [0, 255, 0]


def test_a_palette_with_translucent_entries_is_shown_on_white():
    picture = Image.fromarray(quadrants()).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    alphas = bytearray([255, 255, 255, 255])
    alphas[picture.getpixel((0, 0))] = 0
    assert decode_image(encode(picture, transparency=bytes(alphas)))[0, 0].tolist() == [255, 255, 255]


def test_rgb_with_a_transparent_colour_is_shown_on_white():
    image = decode_image(encode(quadrants(), transparency=(255, 0, 0)))
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, -1].tolist() == [0, 255, 0]


# What a viewer has to do to the stored pixels for each EXIF orientation, from the EXIF 2.32 specification.
ORIENTATIONS = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    image = decode_image(encode(quadrants(), format, exif=exif, **options))
    np.testing.assert_array_equal(image, ORIENTATIONS[orientation](quadrants()))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(encode(quadrants(), exif=exif)), quadrants())


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage that is no TIFF header",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\xff\xff\xff\xff\0\0\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_corrupt_exif_does_not_spoil_the_picture(exif, format):
    image = decode_image(encode(noise(), format, exif=exif))
    assert image.shape == (HEIGHT, WIDTH, 3)


def test_a_phone_picture_with_a_second_picture_behind_it_is_its_first():
    data = encode(quadrants(), "MPO", save_all=True, append_images=[Image.fromarray(noise())], quality=95)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert np.abs(decode_image(data)[0, 0].astype(int) - (255, 0, 0)).max() <= 6


def test_still_gif_and_webp_are_pictures():
    for format in ("GIF", "WEBP"):
        assert decode_image(encode(quadrants(), format)).shape == (HEIGHT, WIDTH, 3)


def test_random_damage_is_a_media_error_or_a_picture_and_never_a_warning():
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    errors, shapes = [], []
    for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"):
        options = {"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF") else {}
        whole = np.frombuffer(encode(noise(24, 24), format, **options), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            # Headers are where parsing goes wrong.
            places = rng.integers(0, min(len(damaged), 200), rng.integers(1, 12))
            damaged[places] = rng.integers(0, 256, len(places))
            try:
                image = decode_image(damaged.tobytes())
            except MediaError as error:
                errors.append(str(error))
            else:
                shapes.append((image.dtype, image.shape[2:]))
    assert len(errors) > 20
    assert not any("\n" in text for text in errors)
    assert len(shapes) > 20
    assert set(shapes) == {(np.dtype(np.uint8), (3,))}


def test_decoding_in_threads_leaves_the_warning_filters_as_they_were():
    data = encode(noise(200, 200), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    before = list(warnings.filters)
    failures = []

    def work() -> None:
        try:
            for _ in range(30):
                decode_image(data)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(warnings.filters) == before


def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path):
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    with pytest.raises(OpenError, match="not a regular file"):
        read_image(pipe)


def test_a_video_is_sent_to_the_other_command(tmp_path):
    path = tmp_path / "clip.jpg"
    path.write_bytes(b"\x00\x00\x00\x20ftypisom" + b"\x00" * 64)
    with pytest.raises(OpenError, match="fakeface score"):
        read_image(path)


def test_an_empty_name_is_called_that():
    with pytest.raises(OpenError, match="empty name"):
        read_image("")

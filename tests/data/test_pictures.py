"""The one reader: odd pictures become upright RGB, damaged ones an error with a name."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from src.data import pictures
from src.data.pictures import UnreadableImageError, is_picture, load_image, load_mask

WIDTH, HEIGHT = 6, 4


def plain(mode, colour):
    return lambda: Image.new(mode, (WIDTH, HEIGHT), colour)


def deep(value, dtype="<u2"):
    return lambda: Image.fromarray(np.full((HEIGHT, WIDTH), value, dtype=dtype))


def palette():
    image = plain("P", 1)()
    image.putpalette([9, 9, 9, 10, 20, 30])
    return image


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photograph():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((f"a.{suffix}", True) for suffix in ("jpg", "JPEG", "png", "Bmp", "tif", "TIFF", "webp")),
        ("hide 3/b.jpg", True),
        ("a.gif", False),
        ("a.jpg.txt", False),
        ("jpg", False),
        ("._a.jpg", False),  # macOS adds such files
        (".jpg", False),
    ],
)
def test_what_counts_as_a_picture(name, expected):
    assert is_picture(name) == is_picture(Path(name)) == expected


@pytest.mark.parametrize(
    ("name", "make", "options", "expected"),
    [
        ("grey.png", plain("L", 77), {}, (77, 77, 77)),
        ("grey.bmp", plain("L", 77), {}, (77, 77, 77)),
        ("black-and-white.png", plain("1", 1), {}, (255, 255, 255)),
        ("colour.webp", plain("RGB", (10, 20, 30)), {"lossless": True}, (10, 20, 30)),
        ("transparent-colour.png", plain("RGB", (10, 20, 30)), {"transparency": (10, 20, 30)}, (255, 255, 255)),
        ("transparent-grey.png", plain("L", 77), {"transparency": 77}, (255, 255, 255)),
        ("palette.png", palette, {}, (10, 20, 30)),
        ("palette-opaque-entry.png", palette, {"transparency": 0}, (10, 20, 30)),
        ("palette-transparent-entry.png", palette, {"transparency": 1}, (255, 255, 255)),
        ("clear.png", plain("RGBA", (10, 20, 30, 0)), {}, (255, 255, 255)),
        ("half-clear.png", plain("RGBA", (0, 100, 200, 51)), {}, (204, 224, 244)),  # a fifth of it, four fifths white
        ("opaque.png", plain("RGBA", (10, 20, 30, 255)), {}, (10, 20, 30)),
        ("grey-half-clear.png", plain("LA", (0, 51)), {}, (204, 204, 204)),
        ("ink.tif", plain("CMYK", (255, 0, 0, 0)), {}, (0, 255, 255)),
        ("ink.jpg", plain("CMYK", (0, 0, 255, 0)), {"quality": 95}, (255, 255, 0)),
        ("deep-bright.png", deep(65535), {}, (255, 255, 255)),
        ("deep-middle.png", deep(128 * 257), {}, (128, 128, 128)),
        ("deep-dark.png", deep(255), {}, (1, 1, 1)),  # by its type's range, however dark the whole picture is
        ("deep-middle.tif", deep(128 * 257), {}, (128, 128, 128)),
        ("deep-dark.tif", deep(255), {}, (1, 1, 1)),
        ("deep-big-endian.tif", deep(128 * 257, ">u2"), {}, (128, 128, 128)),
        ("32-bit-with-8.tif", deep(200, "<i4"), {}, (200, 200, 200)),
        ("32-bit-with-16.tif", deep(128 * 257, "<i4"), {}, (128, 128, 128)),
    ],
)
def test_odd_pictures_become_rgb(tmp_path, name, make, options, expected):
    make().save(tmp_path / name, **options)
    image = load_image(tmp_path / name)
    pixels = np.asarray(image)
    assert image.mode == "RGB" and pixels.shape == (HEIGHT, WIDTH, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= (4 if name.endswith("jpg") else 1)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "row", "column"),
    [  # where the stored upper left corner is shown
        (1, 0, 0),
        (2, 0, -1),
        (3, -1, -1),
        (4, -1, 0),
        (5, 0, 0),
        (6, 0, -1),
        (7, -1, -1),
        (8, -1, 0),
    ],
)
def test_exif_rotation_is_applied(tmp_path, form, orientation, row, column):
    image, exif = plain("RGB", (0, 0, 0))(), Image.Exif()
    image.putpixel((0, 0), (255, 255, 255))
    exif[274] = orientation
    (tmp_path / "x.img").write_bytes(encoded(image, form, exif=exif, **({"lossless": True} if form == "WEBP" else {})))
    pixels = np.asarray(load_image(tmp_path / "x.img"))
    assert pixels.shape[:2] == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))
    assert pixels[row, column, 0] > 200 and (pixels > 200).sum() == 3


def test_exif_rotation_of_a_jpeg(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    photograph().save(tmp_path / "x.jpg", exif=exif)
    assert load_image(tmp_path / "x.jpg").size == (40, 50)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("truncated.jpg", encoded(photograph(), "JPEG")[:-200]),
        ("truncated.png", encoded(photograph(), "PNG")[:-200]),
        ("truncated.tif", encoded(photograph(), "TIFF", compression="tiff_lzw")[:2000]),
        ("header only.webp", encoded(photograph(), "WEBP")[:40]),
        ("empty.png", b""),
        ("text.jpg", b"<html>404 Not Found</html>"),
        ("missing.jpg", None),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=f"cannot read the image {tmp_path / name}: .*Replace it"):
        load_image(tmp_path / name)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(UnreadableImageError, match=str(tmp_path)):
        load_image(tmp_path)


@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {})],
)
def test_damaged_bytes_give_a_picture_or_the_one_error(tmp_path, form, options):
    content, generator, refused = encoded(photograph(), form, **options), np.random.default_rng(0), 0
    for length in np.linspace(0, len(content) - 1, 30).astype(int):
        damaged = bytearray(content[:length])
        for position in generator.integers(26, max(27, length), 3 * (length > 64)):  # behind the headers' sizes
            damaged[position] ^= 0xFF
        (tmp_path / "x").write_bytes(damaged)
        try:
            assert load_image(tmp_path / "x").mode == "RGB"
        except UnreadableImageError:
            refused += 1
    assert refused >= 5


def png_header(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 99)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def never_load(*_):
    pytest.fail("the pixels of a refused picture were asked for")


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (20_000, 19_000), (17_801, 10_000)])
def test_a_header_that_claims_a_huge_size_is_refused_before_decoding(tmp_path, monkeypatch, size):
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    monkeypatch.setattr(ImageFile.ImageFile, "load", never_load)
    with pytest.raises(UnreadableImageError, match="bomb.png.*pixels"):
        load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("pillow_limit", [None, 1000])
def test_the_size_limit_itself_is_allowed_without_a_warning(tmp_path, monkeypatch, pillow_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 40 * 50)
    photograph().save(tmp_path / "x.png")
    Image.new("L", (2001, 1)).save(tmp_path / "y.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(tmp_path / "x.png").size == (50, 40)
        with pytest.raises(UnreadableImageError, match="y.png"):
            load_image(tmp_path / "y.png")


def test_mask_by_hand_and_at_both_sides_of_its_middle(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]] * 2, np.uint8)).save(tmp_path / "m.png")
    mask = load_mask(str(tmp_path / "m.png"), size=(4, 2))
    assert mask.dtype == bool and mask.tolist() == [[False, False, True, True]] * 2


def test_a_mask_of_zeros_and_ones_is_read_and_one_of_zeros_is_empty(tmp_path):
    Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).save(tmp_path / "m.png")
    assert load_mask(str(tmp_path / "m.png"), size=(2, 2)).tolist() == [[False, True], [True, False]]
    Image.new("L", (2, 2)).save(tmp_path / "m.png")
    assert not load_mask(str(tmp_path / "m.png"), size=(2, 2)).any()


def test_no_mask_means_no_defect():
    mask = load_mask("", size=(4, 2))
    assert mask.shape == (2, 4) and mask.dtype == bool and not mask.any()


def test_mask_of_another_size_or_missing_is_named(tmp_path):
    plain("L", 255)().save(tmp_path / "m.png")
    with pytest.raises(ValueError, match="m.png is 6x4, its image 4x6"):
        load_mask(str(tmp_path / "m.png"), size=(HEIGHT, WIDTH))
    with pytest.raises(UnreadableImageError, match="gone.png"):
        load_mask(str(tmp_path / "gone.png"), size=(WIDTH, HEIGHT))

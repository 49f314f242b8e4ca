"""The one reader: odd pictures become upright RGB, damaged ones an error with a name."""

import io
import os
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
        ("transparent-colour.png", plain("RGB", (10, 20, 30)), {"transparency": (10, 20, 30)}, (10, 20, 30)),
        ("transparent-grey.png", plain("L", 77), {"transparency": 77}, (77, 77, 77)),
        ("palette.png", palette, {}, (10, 20, 30)),
        ("palette-opaque-entry.png", palette, {"transparency": 0}, (10, 20, 30)),
        ("palette-transparent-entry.png", palette, {"transparency": 1}, (10, 20, 30)),
        ("clear.png", plain("RGBA", (10, 20, 30, 0)), {}, (10, 20, 30)),  # alpha that hides everything says nothing
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
        ("float-with-8.tif", deep(200, "<f4"), {}, (200, 200, 200)),
        ("float-with-16.tif", deep(128 * 257, "<f4"), {}, (128, 128, 128)),
        ("float-to-1.tif", deep(0.4, "<f4"), {}, (102, 102, 102)),
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
        ("text.jpg", b"<html>404 Not PictureSelection</html>"),
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


def png(width, height, content=b"\0" * 99, *, bits=8):
    """A colour PNG of this size, whatever its content is."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(content)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def never_load(*_):
    pytest.fail("the pixels of a refused picture were asked for")


@pytest.mark.parametrize(
    "size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (20_000, 19_000), (17_801, 10_000), (64, 2_097_216)]
)
def test_a_header_that_claims_a_huge_size_is_refused_before_decoding(tmp_path, monkeypatch, size):
    (tmp_path / "bomb.png").write_bytes(png(*size))
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


# -- values of more than 8 bits -----------------------------------------------------------------------------


def ramp(low, high, dtype="<u2"):
    """A deep picture of 64 x 40 px whose values rise evenly."""
    return np.linspace(low, high, 64 * 40).reshape(40, 64).astype(dtype)


def grey_of(path):
    return np.asarray(load_image(path))[..., 0].astype(float)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", "<f4"])
def test_values_that_use_their_type_are_scaled_by_it_strip_by_strip(tmp_path, monkeypatch, dtype):
    values = ramp(1000, 60000, dtype)
    Image.fromarray(values).save(tmp_path / "x.tif")
    whole = grey_of(tmp_path / "x.tif")
    assert np.abs(whole - values / 257).max() <= 0.51
    monkeypatch.setattr(pictures, "STRIP", 64 * 7)
    assert (grey_of(tmp_path / "x.tif") == whole).all()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("8-bits.png", ramp(0, 235)),
        ("12-bits.png", ramp(0, 3773)),
        ("12-bits.tif", ramp(0, 4095)),
        ("14-bits.tif", ramp(0, 16383)),
        ("thermal.png", ramp(27315, 28697)),
        ("12-bits-in-32.tif", ramp(0, 4095, "<i4")),
        ("20-bits-in-32.tif", ramp(0, 1_000_000, "<i4")),
        ("negative.tif", ramp(-200, 200, "<i4")),
        ("negative-floats.tif", ramp(-1, 1, "<f4")),
    ],
)
def test_values_that_do_not_tell_their_range_are_an_error(tmp_path, name, values):
    path = tmp_path / name
    Image.fromarray(values).save(path)
    with pytest.raises(UnreadableImageError, match=f"{name}, .* do not tell their range.*whole set to 8 bits"):
        load_image(path)


@pytest.mark.parametrize(("tag", "value"), [(281, 4095), (341, 1023), (341, 255)])
def test_the_range_that_tags_name_is_taken_before_all_others(tmp_path, tag, value):
    values = ramp(0, value / 2)
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo={tag: value})
    grey = grey_of(tmp_path / "x.tif")
    assert grey.min() == 0 and abs(grey.max() - 127.5) <= 1  # by the tag, never by the picture's own
    assert np.corrcoef(grey.ravel(), values.ravel())[0, 1] > 0.999


def test_tags_that_only_describe_the_picture_are_no_range(tmp_path):
    Image.fromarray(ramp(0, 3773)).save(tmp_path / "x.tif", tiffinfo={281: 3773})
    with pytest.raises(UnreadableImageError, match="do not tell their range"):
        load_image(tmp_path / "x.tif")


def white_is_zero(values, **options):
    """A TIFF of one strip whose PhotometricInterpretation says that white is zero, which Pillow does not write."""
    content = bytearray(encoded(Image.fromarray(values), "TIFF", **options))
    place = content.index(struct.pack("<HHI", 262, 3, 1) + struct.pack("<H", 1))
    content[place + 8] = 0
    return bytes(content)


@pytest.mark.parametrize(("values", "tags"), [(ramp(0, 60395), {}), (ramp(0, 235), {281: 255})])
def test_white_is_zero_is_no_negative(tmp_path, values, tags):
    white = tags.get(281, 65535)
    (tmp_path / "x.tif").write_bytes(white_is_zero((white - values.astype(int)).astype("<u2"), tiffinfo=tags))
    Image.fromarray(values).save(tmp_path / "y.tif", tiffinfo=tags)
    first, second = (grey_of(tmp_path / name) for name in ("x.tif", "y.tif"))
    assert np.abs(first - second).max() <= 1 and first.std() > 60


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tags", [{}, {281: 1}])
def test_values_that_are_no_numbers_are_an_error(tmp_path, value, tags):
    values = ramp(0, 1, "<f4")
    values[20, 30] = value
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo=tags)
    with pytest.raises(UnreadableImageError, match="x.tif: it holds values that are infinite or no numbers"):
        load_image(tmp_path / "x.tif")


@pytest.mark.parametrize(("high", "fits"), [(4095, False), (60000, True)])
def test_deep_colour_whose_upper_bytes_are_empty_is_an_error(tmp_path, high, fits):
    values = np.repeat(ramp(0, high, ">u2")[..., None], 3, axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    (tmp_path / "x.png").write_bytes(png(64, 40, rows, bits=16))
    if fits:
        assert np.abs(grey_of(tmp_path / "x.png") - values[..., 0] / 257).max() <= 1
    else:
        with pytest.raises(UnreadableImageError, match="x.png, 0 to .* do not tell their range"):
            load_image(tmp_path / "x.png")


def test_alpha_that_hides_everything_is_ignored_with_one_warning(tmp_path, caplog):
    image = photograph()
    image.putalpha(0)
    image.save(tmp_path / "x.png")
    for _ in range(3):
        assert load_image(tmp_path / "x.png").tobytes() == photograph().tobytes()
    assert [record.getMessage().count(str(tmp_path / "x.png")) for record in caplog.records] == [1]


# -- files that break a reader --------------------------------------------------------------------------------


def test_a_turned_picture_with_a_broken_entry_is_turned(tmp_path):
    """Orientation 6, and XResolution as text, which cannot be written again."""
    entries = struct.pack("<HHIHH", 274, 3, 1, 6, 0) + struct.pack("<HHI", 282, 2, 4) + b"abc\0"
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + b"\0\0\0\0"
    (tmp_path / "x.jpg").write_bytes(encoded(photograph(), "JPEG", exif=exif))
    assert load_image(tmp_path / "x.jpg").size == (40, 50)


def test_a_pipe_with_the_name_of_a_picture_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(UnreadableImageError, match="x.jpg: it is no regular file"):
        load_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("error", [struct.error("unpack"), TypeError("no len"), KeyError(5), MemoryError()])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    photograph().save(tmp_path / "x.png")

    def fail(*_):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(UnreadableImageError, match="cannot read the image .*x.png"):
        load_image(tmp_path / "x.png")


def test_what_was_turned_says_no_more_that_it_is_to_be_turned(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    photograph().save(tmp_path / "x.png", exif=exif)
    load_image(tmp_path / "x.png").save(tmp_path / "y.png")
    assert load_image(tmp_path / "y.png").size == (40, 50)


# -- masks ----------------------------------------------------------------------------------------------------


DEFECT = np.zeros((64, 96), bool)
DEFECT[20:40, 30:60] = True  # 600 pixels


def mask_of(value, dtype=np.uint8):
    return Image.fromarray((DEFECT * value).astype(dtype))


def coloured(colour, background=(0, 0, 0)):
    return Image.fromarray(np.where(DEFECT[..., None], colour, background).astype(np.uint8))


def in_palette(index, colours):
    image = Image.fromarray((DEFECT * index).astype(np.uint8)).convert("P")
    image.putpalette([part for colour in colours for part in colour])
    return image


def blended():
    """Edges as a program for drawing makes them, of a white square that a grey one touches nowhere."""
    large = np.repeat(np.repeat(DEFECT, 4, 0), 4, 1) * np.uint8(255)
    return Image.fromarray(np.roll(large, 1, axis=(0, 1))).resize((96, 64), Image.Resampling.BOX)


def through_jpeg(quality):
    return Image.open(io.BytesIO(encoded(mask_of(255), "JPEG", quality=quality)))


def classes(*values):
    """Numbers of classes, one a stripe of the defect."""
    numbers = np.zeros(DEFECT.shape, int)
    for place, value in enumerate(values):
        numbers[20 + place * (20 // len(values)) :, 30:60] = value
    return Image.fromarray(np.where(DEFECT, numbers, 0).astype(np.uint8))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        *((lambda value=value: mask_of(value), {}) for value in (1, 2, 3, 31, 100, 128, 255)),
        *((lambda value=value: mask_of(value, "<u2"), {}) for value in (1, 7, 255, 65535)),
        (lambda: mask_of(1, "<f4"), {"form": "TIFF"}),
        (lambda: mask_of(0.25, "<f4"), {"form": "TIFF"}),
        (lambda: mask_of(3, "<i4"), {"form": "TIFF"}),
        *((lambda colour=colour: coloured(colour), {}) for colour in ((255, 0, 0), (0, 0, 255), (0, 1, 0))),
        (lambda: coloured((255, 255, 255, 255), (0, 0, 0, 0)), {}),
        (lambda: coloured((255, 255, 255, 255), (255, 255, 255, 0)), {}),
        (lambda: coloured((0, 0, 0, 255), (0, 0, 0, 0)), {}),
        (lambda: coloured((0, 0, 0, 255), (255, 255, 255, 0)), {}),
        (lambda: coloured((255, 0, 0, 128), (0, 0, 0, 0)), {}),
        (lambda: coloured((255, 255, 255, 0), (0, 0, 0, 0)), {}),  # alpha that hides everything says nothing
        (lambda: in_palette(1, [(0, 0, 0), (128, 0, 0)]), {}),
        (lambda: in_palette(2, [(0, 0, 0), (128, 0, 0), (0, 128, 0)]), {}),
        (lambda: in_palette(1, [(70, 70, 70), (30, 0, 90)]), {}),
        (lambda: in_palette(1, [(0, 0, 0), (128, 0, 0)]), {"transparency": 0}),
        (blended, {}),
        (lambda: classes(1, 2, 3), {}),
        (lambda: classes(1, 255), {}),
        (lambda: classes(60, 100, 250), {}),
        (lambda: classes(*range(20, 220, 20)), {}),
        (lambda: mask_of(255), {"form": "JPEG"}),
        (lambda: mask_of(100), {"form": "JPEG", "quality": 70}),
        (lambda: coloured((255, 0, 0)), {"form": "JPEG", "quality": 95}),
        *((lambda quality=quality: through_jpeg(quality), {"optimize": True}) for quality in (50, 75, 90, 95)),
    ],
)
def test_a_mask_is_the_same_whatever_it_is_drawn_in(tmp_path, make, options):
    others = {name: value for name, value in options.items() if name != "form"}
    (tmp_path / "m.png").write_bytes(encoded(make(), options.get("form", "PNG"), **others))
    mask = load_mask(str(tmp_path / "m.png"), size=(96, 64))
    assert mask.dtype == bool and np.logical_xor(mask, DEFECT).sum() <= (30 if others else 0)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: Image.fromarray(~DEFECT), {}, "90% of the picture would be one"),
        (lambda: coloured((255, 0, 0), (255, 255, 255)), {}, "no pixel of this mask is black"),
        (lambda: Image.fromarray(DEFECT.astype(np.uint8) + np.uint8(1)), {}, "it holds 1 to 2; expected 0"),
        (lambda: mask_of(-1, "<i4"), {"form": "TIFF"}, "it holds -1 to 0"),
        (lambda: mask_of(np.nan, "<f4"), {"form": "TIFF"}, "it holds .*nan"),
        (lambda: mask_of(3), {"form": "JPEG"}, "which JPEG mixes with noise"),
        (lambda: Image.fromarray(ramp(0, 255, np.uint8)), {}, "grey levels, like a photograph"),
    ],
)
def test_a_mask_that_does_not_tell_is_an_error_with_its_name(tmp_path, make, options, message):
    image = make()
    (tmp_path / "m.png").write_bytes(encoded(image, options.get("form", "PNG")))
    with pytest.raises(ValueError, match=f"m.png.*{message}"):
        load_mask(str(tmp_path / "m.png"), size=image.size)


@pytest.mark.parametrize(("make", "share"), [(lambda: mask_of(0), 0), (lambda: Image.new("L", (96, 64), 255), 1)])
def test_an_empty_mask_is_empty_and_a_full_one_full(tmp_path, make, share):
    make().save(tmp_path / "m.png")
    assert load_mask(str(tmp_path / "m.png"), size=(96, 64)).mean() == share


def test_a_mask_is_turned_like_its_picture(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    mask_of(255).save(tmp_path / "m.png", exif=exif)
    assert (load_mask(str(tmp_path / "m.png"), size=(64, 96)) == np.rot90(DEFECT, -1)).all()


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


def test_a_mask_of_what_fills_most_of_a_picture_is_taken_where_that_is_said(tmp_path):
    Image.fromarray(~DEFECT).save(tmp_path / "m.png")
    assert (load_mask(str(tmp_path / "m.png"), size=(96, 64), most=1) == ~DEFECT).all()

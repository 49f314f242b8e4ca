"""The one reader of pictures and masks: whatever a file holds becomes upright 8-bit RGB, or an error that names it."""

from __future__ import annotations

import logging
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
MAX_PIXELS = 178_000_000  # where Pillow stops too: more is a damaged header or an attack, not a photograph
DEFLATE = 1032  # bytes that a byte of a PNG unpacks to, at most
STRIP = 4_000_000  # pixels of which values are converted at a time
FULL = 65535  # white in 16 bits
FEWEST = 16  # grey levels of a picture that uses its type's range
TURNS = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), strict=True))  # by EXIF orientation
MOST = 0.8  # of a picture that a defect fills, unless it fills all: more is an inverted mask
FEW = 20  # values of a mask that may be numbers of classes

warn_once = cache(logging.getLogger(__name__).warning)


class UnreadableImageError(ValueError):
    """An image file that cannot be decoded; the message names the file and what to do."""


def is_picture(name: str | Path) -> bool:
    """Whether a file of this name counts as a picture: by its suffix, and not hidden (macOS adds ``._a.jpg``)."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not Path(name).name.startswith(".")


def load_image(path: str | Path) -> Image.Image:
    """A picture as 8-bit RGB, upright, whatever it was stored as; transparent ones are laid on white.

    Deep grey (16 or 32 bits, floats) is scaled by the range that the file's tags name, else by its type's, never by the
    picture's own: brightness stays comparable.

    Raises UnreadableImageError if the file is missing, no image, truncated, larger than 178 megapixels, or its values
    do not tell their range.
    """
    with open_picture(path) as image:
        packed = str(image.tile[0][3]) if image.tile else ""  # how the decoder unpacks it
        image.load()
        turn = TURNS.get(orientation(image))
        if image.mode in DEEP_MODES:
            image = _eight_bits(image, _tagged_white(image) or _white_of_type(image))
        elif ";16" in packed:  # colour, of which the decoder has kept the upper bytes
            bands = np.array(image.getextrema())[:3] * 257
            _require_levels(image, bands.min(), bands.max())
        image = _opaque(image, path)
        image = image if turn is None else image.transpose(turn)
        image.info = {}  # it is upright: nobody shall turn it again
        return image


def picture_size(path: str | Path) -> tuple[int, int]:
    """Width and height as stored, from the file's header alone; raises as `load_image`."""
    with open_picture(path) as image:
        return image.size


@contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """An image file of which only the header has been read; what fails until the end is an UnreadableImageError."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")  # a pipe would be waited for without end
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is checked below
            with Image.open(path) as image:
                size, pixels = f"{image.width}x{image.height} pixels", image.width * image.height
                if pixels > MAX_PIXELS:
                    raise ValueError(f"{size}, more than {MAX_PIXELS:,}")
                if image.format == "PNG" and pixels > 8 * DEFLATE * status.st_size:  # one bit a pixel at least
                    raise ValueError(f"{size} cannot be in {status.st_size:,} bytes")
                yield image
    except UnreadableImageError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes them meet
        raise UnreadableImageError(
            f"cannot read the image {path}: {error}. Replace it by a good copy or remove it from the folder."
        ) from error


def orientation(image: Image.Image) -> int:
    """By EXIF; 1 if it is upright or nothing says otherwise."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _opaque(image: Image.Image, path: str | Path) -> Image.Image:
    if image.getbands()[-1] in "Aa" or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3] == (0, 0):
            warn_once(f"the alpha channel of {path} hides all of it, so it is ignored")
        else:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _strips(image: Image.Image) -> Iterator[np.ndarray]:
    """The values of some rows at a time: a copy of all would be too large."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))


def _extrema(image: Image.Image) -> tuple[float, float]:
    ends = np.array([(values.min(), values.max()) for values in _strips(image)], dtype=float)
    if not np.isfinite(ends).all():
        raise ValueError("it holds values that are infinite or no numbers")
    return float(ends.min()), float(ends.max())


def _is_negative(image: Image.Image) -> bool:
    return getattr(image, "tag_v2", {}).get(262) == 0  # PhotometricInterpretation: white is zero


def _tagged_white(image: Image.Image) -> float | None:
    """By BitsPerSample or (S)MaxSampleValue, of which all but 1 and 2^n - 1 only describe this picture."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (0,))[0]
    whites = [2**bits - 1 if 8 < bits < 16 else 0, *(np.ravel(tags.get(tag, 0))[0] for tag in (341, 281))]
    return next((float(white) for white in whites if white > 0 and np.log2(white + 1.0) % 1 == 0), None)


def _white_of_type(image: Image.Image) -> float:
    low, high = _extrema(image)
    is_wide = image.mode in "IF" and image.format != "PNG"  # PNG has 16 bits, whatever Pillow makes of them
    white = FULL if not is_wide or high > 255 else 1 if image.mode == "F" and high <= 1 else 255
    _require_levels(image, *((white - high, white - low) if _is_negative(image) else (low, high)), white=white)
    return white


def _require_levels(image: Image.Image, low: float, high: float, *, white: int = FULL) -> None:
    """Raises unless values from ``low`` to ``high`` can be those of a picture that uses its type's range."""
    uses_little = white == FULL and low < high and (high < FULL / 4 or high - low < FEWEST * 257)
    if low < 0 or high > white or uses_little:
        raise UnreadableImageError(
            f"the values of {image.filename}, {low:g} to {high:g}, do not tell their range; its type has 0 to {white}. "
            "Convert the whole set to 8 bits with one range."
        )


def _eight_bits(image: Image.Image, white: float) -> Image.Image:
    """Grey of values from 0 to ``white``, or the other way round in a negative."""
    black, white = (white, 0) if _is_negative(image) else (0, white)
    grey = Image.new("L", image.size)
    top = 0
    for values in _strips(image):
        scaled = (values.astype(np.float32) - np.float32(black)) * np.float32(255 / (white - black))
        if not np.isfinite(scaled).all():
            raise ValueError("it holds values that are infinite or no numbers")
        grey.paste(Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8)), (0, top))
        top += len(values)
    return grey


def load_mask(path: str, *, size: tuple[int, int], most: float = MOST) -> np.ndarray:
    """A ground-truth mask as bool, shape (height, width); all False without a path.

    Black, 0 and transparent are background, whatever defects are drawn in: white, grey, colours, a palette, numbers of
    classes. Blended edges, and what JPEG makes of them, count from half of the brightest value.

    Raises ValueError if its size is not ``size`` (width, height), it does not tell what is a defect, or more than the
    share ``most`` of the picture, but not all of it, would be one.
    """
    if not path:
        return np.zeros(size[::-1], dtype=bool)
    with open_picture(path) as image:
        image.load()
        turn, is_lossy = TURNS.get(orientation(image)), image.format in ("JPEG", "MPO")
        values = _mask_values(image if turn is None else image.transpose(turn))
    if values.shape != size[::-1]:
        raise ValueError(f"the mask {path} is {values.shape[1]}x{values.shape[0]}, its image {size[0]}x{size[1]}")
    try:
        mask = _defects_of(values, is_lossy=is_lossy)
        if most < mask.mean() < 1:
            raise ValueError(f"{mask.mean():.0%} of the picture would be one. Invert it, or make all of it white.")
    except ValueError as error:
        raise ValueError(f"the mask {path} does not tell what is a defect: {error}") from error
    return mask


def _mask_values(image: Image.Image) -> np.ndarray:
    """Values (height, width), 0 for background."""
    if image.mode in DEEP_MODES or (image.mode in ("1", "L") and "transparency" not in image.info):
        return np.asarray(image)
    pixels = np.asarray(image.convert("RGBA"))
    values, alpha = pixels[..., :3].max(2), pixels[..., 3]
    if alpha.min() < alpha.max():  # drawn on nothing, in whatever colour, black too
        shown = values.astype(np.uint16) * alpha // 255
        return shown if shown.min() < shown.max() else alpha
    if image.mode == "P" and values.all():
        return np.asarray(image)  # no black: the first colour is the background's
    if values.all() and (pixels != pixels[0, 0]).any():
        raise ValueError("no pixel of this mask is black, which is the background")
    return values


def _defects_of(values: np.ndarray, *, is_lossy: bool) -> np.ndarray:
    levels = np.unique(values)
    low, high = float(levels[0]), float(levels[-1])
    if not 0 <= low <= high < np.inf or 0 < low < high:
        raise ValueError(f"it holds {low:g} to {high:g}; expected 0 for the background, and finite values above.")
    if is_lossy and 0 < high < 64:
        raise ValueError(f"its values reach {high:g} only, which JPEG mixes with noise. Save it as PNG.")
    middle = (values > 0) & (values <= high / 2)
    flat = middle[1:, 1:] & (values[1:, 1:] == values[:-1, 1:]) & (values[1:, 1:] == values[1:, :-1])  # no blended edge
    share = flat.sum() / max(1, middle.sum())
    are_classes = high < 64 or len(levels) <= 3 or share > (0.1 if len(levels) <= FEW else 0.5)
    if not are_classes and len(levels) > 64 and ((values > 0.2 * high) & (values < 0.8 * high)).mean() > 0.1:
        raise ValueError(f"it holds {len(levels)} grey levels, like a photograph.")
    return values > (0 if are_classes and not is_lossy else high / 2)

"""The one reader of pictures and masks: whatever a file holds becomes upright 8-bit RGB, or an error that names it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 178_000_000  # where Pillow stops too: more is a damaged header or an attack, not a photograph


class UnreadableImageError(ValueError):
    """An image file that cannot be decoded; the message names the file and what to do."""


def is_picture(name: str | Path) -> bool:
    """Whether a file of this name counts as a picture: by its suffix, and not hidden (macOS adds ``._a.jpg``)."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not Path(name).name.startswith(".")


def load_image(path: Path) -> Image.Image:
    """A picture as 8-bit RGB, upright, whatever it was stored as; transparent ones are laid on white.

    16-bit grey is scaled by its type's range, not by the picture's own, so that brightness stays comparable; 32-bit
    grey is taken as 8-bit if no value exceeds 255, else as 16-bit.

    Raises UnreadableImageError if the file is missing, no image, truncated, or larger than 178 megapixels.
    """
    with _opened(path) as image:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))


def picture_size(path: str | Path) -> tuple[int, int]:
    """Width and height as stored, from the file's header alone; raises as `load_image`."""
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file of which only the header has been read; what fails until the end is an UnreadableImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is checked below
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
                yield image
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(
            f"cannot read the image {path}: {error}. Replace it by a good copy or remove it from the folder."
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        scale = 255 / 65535 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 1.0
        image = Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def load_mask(path: str, *, size: tuple[int, int]) -> np.ndarray:
    """A ground-truth mask as bool, shape (height, width); all False without a path.

    Raises ValueError if the mask's size differs from ``size`` (width, height).
    """
    if not path:
        return np.zeros(size[::-1], dtype=bool)
    mask = load_image(Path(path)).convert("L")
    if mask.size != size:
        raise ValueError(f"the mask {path} is {mask.size[0]}x{mask.size[1]}, its image {size[0]}x{size[1]}")
    values = np.asarray(mask)
    return values > (127 if values.max(initial=0) > 1 else 0)  # some tools write 0 and 1

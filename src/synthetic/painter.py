"""Paints defects on pictures of any leather, with exact masks: data to train and to test on."""

from __future__ import annotations

import numpy as np

from .kinds import KINDS
from .shapes import Spot, log_uniform

MVTEC_KINDS = ("color", "cut", "fold", "glue", "poke")  # as MVTec AD leather names them; color is a stain
_CHANCES = np.array([chance for chance, _ in KINDS.values()]) / sum(chance for chance, _ in KINDS.values())
_REACH = 160  # pixels from its centre that a defect reaches at scale 1
_AREA = 6, 0.12  # least pixels of a core, and most of the picture
_TRIES = 80


def paint_defect(
    picture: np.ndarray, generator: np.random.Generator, *, kind: str | None = None, light=0.0, scale=1.0
) -> np.ndarray:
    """Label (h, w), uint8, of one defect painted on a float32 picture (h, w, 3), 0..255, in place.

    1 is the core, what a person would outline; 2 the shading or dent around it. A defect that cannot be seen, or whose
    core has fewer than 6 pixels or more than 12 % of the picture, is drawn anew, stronger or of another size. The
    direction of the light is in radians; at scale 1 lengths suit a picture of 256 px.

    Raises ValueError for an unknown kind or scale, and if no defect can be seen in 80 tries.
    """
    if kind not in (None, "color", *KINDS):
        raise ValueError(f"unknown kind of defect {kind!r}: use one of {', '.join(KINDS)}, color (a stain), or None")
    if not 0 < scale < np.inf:
        raise ValueError(f"scale must be positive, got {scale}")
    drawn = kind or tuple(KINDS)[generator.choice(len(KINDS), p=_CHANCES)]
    paint, towards = KINDS["stain" if drawn == "color" else drawn][1], np.float32([np.sin(light), np.cos(light)])
    strength = 1.0
    for _ in range(_TRIES):
        label = np.zeros(picture.shape[:2], np.uint8)
        centre = generator.uniform(0.06, 0.94, 2) * label.shape
        row, column = (np.arange(n, dtype=np.float32) - np.float32(c) for n, c in zip(label.shape, centre, strict=True))
        force = strength * log_uniform(generator, 0.3, 1.6)
        whole = Spot(picture, label, row[:, None], column[None], towards, force, scale, generator)
        spot = whole.near(np.zeros((1, 2)), max(8, _REACH * scale))
        before, grain = spot.pixels.copy(), spot.grain()
        paint(spot)
        np.clip(spot.pixels, 0, 255, out=spot.pixels)
        change, core = np.abs(spot.pixels - before) @ np.full(3, 1 / 3, np.float32), spot.label == 1
        if not _AREA[0] <= core.sum() <= _AREA[1] * label.size:
            scale *= 1.1 if core.sum() < _AREA[0] else 0.9
        elif change[core].mean() < max(3.5, 0.6 * grain):
            strength *= 1.1
        else:
            spot.label[~core & (change > 1)] = 2
            return label
        spot.pixels[:] = before
    raise ValueError(f"no {drawn} can be seen on a picture of {label.shape}: is it a picture of leather?")


def add_defect(
    image: np.ndarray, generator: np.random.Generator, *, kind: str | None = None, scale=1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Copy of the image, uint8 (h, w, 3), each side at least 32, with one visible defect, and its mask (h, w), 0 or 1.

    At scale 1 the defect is as large, against the picture, as those of `paint_defect` in a picture of 256 px.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 32:
        raise ValueError(f"expected uint8 (h >= 32, w >= 32, 3), got {image.dtype} {image.shape}")
    picture, scale = image.astype(np.float32), scale * float(np.sqrt(image.shape[0] * image.shape[1])) / 256
    label = paint_defect(picture, generator, kind=kind, light=generator.uniform(0, 2 * np.pi), scale=scale)
    return np.uint8(np.rint(picture)), np.uint8(label == 1)

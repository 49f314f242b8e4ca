"""What the report shows of a picture: the map over the photograph, with the outlines of defects and of the leather."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw
from skimage import measure

from ..style import NORMAL, PREDICTED
from .records import RegionRecord

SIDE = 1600  # px: longest side of an overlay
QUALITY = 80
OPACITY = 0.65  # of the highest values; the photograph shines through


def draw_overlay(
    picture: Image.Image,
    values: np.ndarray,
    regions: tuple[RegionRecord, ...],
    *,
    top: float,
    leather: np.ndarray | None = None,
) -> Image.Image:
    """The picture, at most 1,600 px, under its map (h, w): magma, from clear at 0 to dense at ``top``, by its square.

    Outlines of regions are yellow. With ``leather``, bool (height, width), its outline is blue and the table darker.
    """
    shown = picture.copy()
    shown.thumbnail((SIDE, SIDE))
    scale = shown.width / picture.width, shown.height / picture.height
    heights = Image.fromarray(np.clip(values / top, 0, 1).astype(np.float32)).resize(shown.size)
    share = np.clip(np.asarray(heights), 0, 1)[..., None]
    colours = mpl.colormaps["magma"](share[..., 0], bytes=True)[..., :3].astype(np.float32)
    opacity = OPACITY * share**2  # low values would look like dirt on the leather
    blended = np.asarray(shown) * (1 - opacity) + colours * opacity
    outlines = [(np.array(region.outline), PREDICTED) for region in regions]
    if leather is not None:
        small = Image.fromarray(leather).resize(shown.size, Image.Resampling.NEAREST)
        blended[~np.asarray(small)] *= 0.45
        rings = measure.find_contours(np.pad(np.asarray(small), 1).astype(float), 0.5)
        outlines += [((ring[:, ::-1] - 0.5) / scale, NORMAL) for ring in rings]
    drawn = Image.fromarray(blended.astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    for points, colour in outlines:
        for fill, width in (("black", 5), (colour, 3)):  # seen on leather of any colour
            pen.line([tuple(point) for point in points * scale], fill=fill, width=width, joint="curve")
    return drawn

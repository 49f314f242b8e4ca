"""Draws whole hides on a table, as a tannery photographs them, with exact masks of the leather and its defects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.ndimage import binary_erosion, gaussian_filter

from .leather import HIDE_COLOURS, draw_hide, render_leather
from .painter import paint_defect
from .shapes import noise, resize, turn

TABLES = {"black": (30, 30, 33), "white": (216, 215, 210), "wood": (146, 108, 72)}  # mean colours, RGB
KINDS = ("cut", "hole", "poke", "stain", "scratch", "scuff", "glue")
CONTRAST = 75  # of RGB, at least, between leather and table: who photographs takes another table
VISIBLE = 14  # grey levels by which a defect changes the leather, at least: seen from where all of the hide is
ASPECT = 0.8  # height over width of the picture
# Half of a hide's outline, from the head to the tail: share of its length, and of its length beside the back.
_HALF = [(0, 0.09), (0.04, 0.17), (0.13, 0.22), (0.18, 0.31), (0.17, 0.4), (0.24, 0.42), (0.31, 0.33), (0.45, 0.35)]
_HALF += [(0.6, 0.34), (0.7, 0.31), (0.79, 0.36), (0.86, 0.43), (0.93, 0.38), (0.93, 0.24), (0.96, 0.13), (1, 0.03)]


@dataclass(frozen=True)
class DrawnHide:
    """A photograph, uint8 (h, w, 3); where it shows leather, bool (h, w); its defects' numbers from 1, uint8 (h, w)."""

    picture: np.ndarray
    leather: np.ndarray
    defects: np.ndarray


def draw_table_hide(
    generator: np.random.Generator, size: int, *, table: str, defects: int = 5, brightness: str = "any"
) -> DrawnHide:
    """A hide on a table, one of `TABLES`, in a picture ``size`` px wide, at least 320; at 2,000 px a pixel is 1 mm.

    ``brightness`` is that of the leather: "darker" or "lighter" than the table, or "any". Raises ValueError for another
    table or brightness, also if no leather is so.
    """
    if table not in TABLES or brightness not in ("darker", "lighter", "any") or size < 320:
        raise ValueError(f"cannot draw {size} px of {brightness} leather on the table {table!r}: see {TABLES}")
    shape = round(ASPECT * size), size
    leather = _outline(generator, shape)
    hide = draw_hide(generator, colour=_colour(generator, table, brightness))
    hide = replace(hide, grain_size=3.2, pore_density=0, mottle=hide.mottle / 4)  # from far, and evenly dyed
    surface = np.float32(render_leather(generator, size, hide=hide, drift=0.15)[: shape[0]])
    numbers = _paint_defects(surface, leather, generator, defects, light=hide.light)
    ground = _table(generator, shape, table)
    shadow = gaussian_filter(np.roll(np.float32(leather), (3, 2), axis=(0, 1)), 4)
    ground *= 1 - generator.uniform(0.2, 0.5) * shadow[..., None]
    cover = gaussian_filter(np.float32(leather), 0.7)[..., None]  # the border's pixels show both
    picture = (ground + cover * (surface - ground)) * _light(generator, shape)[..., None]
    picture += generator.standard_normal(picture.shape, dtype=np.float32) * np.float32(generator.uniform(0.8, 2))
    return DrawnHide(np.uint8(np.clip(np.rint(picture), 0, 255)), leather, numbers)


def _outline(generator, shape):
    """Where a hide lies: the neck at one end, four legs, the tail; a little crooked, turned and ragged."""
    half = np.array(_HALF)
    points = np.concatenate([half, half[::-1] * (1, -1)]) - (0.5, 0)
    points += generator.normal(0, 0.009, points.shape)
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(np.vstack([points, points[:1]]), axis=0).T))])
    ring = CubicSpline(along, np.vstack([points, points[:1]]), bc_type="periodic")(np.linspace(0, along[-1], 720))
    ring += 0.002 * gaussian_filter(generator.normal(size=ring.shape), (2, 0), mode="wrap")
    x, y = turn(ring[:, 1], ring[:, 0], generator.normal(0, 0.06) + np.pi * generator.integers(2))
    length, (rows, columns) = generator.uniform(0.74, 0.84) * shape[1], shape
    places = np.stack([x * length + columns / 2, y * length + rows / 2], axis=1)
    canvas = Image.new("1", (columns, rows))
    ImageDraw.Draw(canvas).polygon([tuple(place) for place in places.tolist()], fill=1)
    return np.array(canvas)


def _colour(generator, table, brightness):
    """A hide's colour that the table sets off."""
    wanted = {"any": (-1, 1), "darker": (-1,), "lighter": (1,)}[brightness]
    away = np.subtract(HIDE_COLOURS, TABLES[table])
    far = np.flatnonzero((np.linalg.norm(away, axis=1) >= CONTRAST) & np.isin(np.sign(away.mean(axis=1)), wanted))
    if not len(far):
        raise ValueError(f"no leather is {brightness} than a {table} table")
    return HIDE_COLOURS[far[generator.integers(len(far))]]


def _paint_defects(surface, leather, generator, count, *, light):
    """Numbers, uint8 (h, w), of defects painted on the leather in place: away from its edge and from each other."""
    scale = surface.shape[1] / 1000
    free, numbers = binary_erosion(leather, iterations=round(25 * scale)), np.zeros(leather.shape, np.uint8)
    while numbers.max() < count:
        if not free.any():
            raise ValueError(f"there is no room for {count} defects on this hide: draw fewer")
        trial = surface.copy()
        core = paint_defect(trial, generator, kind=KINDS[generator.integers(len(KINDS))], light=light, scale=scale) == 1
        if free[core].all() and np.abs(trial - surface)[core].mean() >= VISIBLE:
            surface[:] = trial
            numbers[core] = numbers.max() + 1
            rows, columns = (np.flatnonzero(core.any(axis=axis)) for axis in (1, 0))
            gap = round(30 * scale)
            free[max(0, rows[0] - gap) : rows[-1] + gap, max(0, columns[0] - gap) : columns[-1] + gap] = False
    return numbers


def _table(generator, shape, table):
    """A table's top, float32 (h, w, 3): matt paint, or planks with a grain along them."""
    colour, (rows, columns) = np.float32(TABLES[table]), shape
    tone = 1 + 0.03 * noise(generator, shape, columns / 6)
    if table == "wood":
        plank = np.arange(rows) // (columns // 9)
        tone *= np.exp(generator.normal(0, 0.12, plank.max() + 1))[plank][:, None].astype(np.float32)
        for across, along, depth in ((2, 90, 0.05), (9, 300, 0.08)):
            streaks = noise(generator, (rows, max(2, columns * across // along)), across)
            tone *= np.exp(depth * resize(streaks, shape))
        tone[np.flatnonzero(np.diff(plank))] *= 0.45  # gaps
    return colour * tone[..., None] + generator.normal(0, 1.5, (*shape, 1)).astype(np.float32)


def _light(generator, shape):
    """Uneven lamps over the whole picture, and the lens's dark corners, float32 (h, w)."""
    row, column = np.ogrid[-0.5 : 0.5 : shape[0] * 1j, -0.5 : 0.5 : shape[1] * 1j]
    slope = turn(np.float32(row), np.float32(column), generator.uniform(0, 2 * np.pi))[0]
    return np.exp(generator.uniform(0, 0.25) * slope) * np.float32(
        1 - generator.uniform(0, 0.25) * (row**2 + column**2)
    )

"""Draws leather that nobody photographed: a hide, its grain, the six classes of surface, and light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from .shapes import turn

_HIDES = "262324 d0c2a8 965c36 543426 a82c28 5c1c26 2c3a60 6892b0 345c42 787446 848280 c4944a ba603c 464a3c a0807c"
HIDE_COLOURS = tuple(tuple(bytes.fromhex(colour)) for colour in _HIDES.split())  # RGB, from near-black to cream


@dataclass(frozen=True, kw_only=True)
class Hide:
    """What all pictures of one hide share; lengths are in pixels, angles in radians."""

    colour: tuple[float, float, float]  # RGB, 0..255
    grain_size: float  # distance between two pebbles of the grain
    grain_depth: float  # depth of the valleys between them, 1 = usual
    stretch: float  # length of a pebble over its width, >= 1
    orientation: float  # direction in which pebbles are long
    pore_density: float  # pores in a pixel
    gloss: float  # 0 = matt, 1 = varnished
    mottle: float  # spread of the dye, as a share of the colour
    light: float  # where the light comes from, the same in the whole picture


def draw_hide(generator: np.random.Generator, *, colour: tuple[float, float, float] | None = None) -> Hide:
    """A random hide; its colour (RGB, 0..255) is drawn too unless it is given."""
    if colour is None:
        first, second = (np.array(HIDE_COLOURS[i]) for i in generator.integers(len(HIDE_COLOURS), size=2))
        colour = first + generator.uniform() * (second - first)
    return Hide(
        colour=tuple(float(c) for c in np.clip(colour + generator.uniform(-8, 8, 3), 12, 240)),
        grain_size=generator.uniform(5, 9),
        grain_depth=generator.uniform(0.5, 1.0),
        stretch=generator.uniform(1, 1.7),
        orientation=generator.uniform(0, np.pi),
        pore_density=generator.uniform(0, 0.002),
        gloss=generator.uniform(0, 1),
        mottle=generator.uniform(0.01, 0.07),
        light=generator.uniform(0, 2 * np.pi),
    )


def render_leather(
    generator: np.random.Generator,
    size: int,
    *,
    hide: Hide | None = None,
    surface: str = "non_defective",
    drift: float = 1.0,
) -> np.ndarray:
    """A picture of leather, uint8, shape (size, size, 3).

    Args:
        size: Side in pixels, at least 32. The grain keeps its size: a larger picture shows more leather.
        hide: What the leather looks like; None draws a new one.
        surface: One of `config.CLASS_NAMES`.
        drift: How far light, colours and depth of the grain wander between pictures of a hide, >= 0.
    """
    if size < 32 or drift < 0:
        raise ValueError(f"size and drift are {size} and {drift}; expected 32 or more, and 0 or more")
    if surface not in _SURFACES:
        raise ValueError(f"surface is {surface!r}; expected one of {', '.join(_SURFACES)}")
    hide = hide or draw_hide(generator)
    relief = _grow(generator, size, hide, drift)
    _SURFACES[surface](relief, generator)
    return _expose(relief, generator, hide, drift)


@dataclass
class _Relief:
    """The leather before light falls on it; all arrays (size, size), and the defects change them in place."""

    row: np.ndarray
    column: np.ndarray
    height: np.ndarray  # pixels
    tint: np.ndarray  # factor on the colour, about 1
    bare: np.ndarray  # 0 = dyed grain layer, 1 = pale fibres
    grain_size: float
    size: int


def _grow(generator, size, hide, drift):
    """Pebbled grain with valleys between the cells, pores, fine roughness and gentle waves."""
    row, column = np.indices((size, size), np.float32)
    along, across = turn(row / hide.grain_size, column / hide.grain_size, hide.orientation)
    along = along / hide.stretch + 0.35 * _noise(generator, along / 2, across / 2)
    across = across + 0.35 * _noise(generator, along / 2, across / 2)
    gap, value = _cells(generator, along, across)
    depth = hide.grain_depth * float(np.exp(drift * generator.uniform(-0.35, 0.35)))
    pebbles = (1 - np.exp(-gap / 0.22)) * (0.8 + 0.35 * value)
    fine = 0.12 * _noise(generator, row / 1.7, column / 1.7) + 0.25 * _noise(generator, row / 6, column / 6)
    waves = drift * generator.uniform(0, 2.2) * _noise(generator, row / 60, column / 60)
    height = depth * (0.16 * hide.grain_size * pebbles + fine) + waves
    tint = 1 + hide.mottle * _noise(generator, row / 25, column / 25) - 0.12 * np.exp(-gap / 0.1)
    tint += 0.02 * generator.normal(size=row.shape).astype(np.float32)
    pores = gaussian_filter((generator.uniform(size=row.shape) < hide.pore_density).astype(np.float32), 0.8)
    return _Relief(row, column, height - 2 * pores, tint - 0.9 * pores, 0 * row, hide.grain_size, size)


def _expose(relief, generator, hide, drift):
    """Light from one side, uneven over the picture, then the camera: uint8, shape (size, size, 3)."""
    facing, _ = turn(*np.gradient(-gaussian_filter(relief.height, 0.5)), hide.light)
    colour = np.float32(hide.colour * np.exp(drift * generator.normal(0, 0.02, 3)))
    pale = 0.5 * colour + np.float32((110, 98, 84))  # raw fibres are beige
    dyed = colour * relief.tint[..., None]
    picture = dyed + relief.bare[..., None] * (pale - dyed)
    picture = picture + np.tanh(0.9 * facing)[..., None] * (0.55 * picture + 8)
    picture += (np.clip(facing - 0.15, 0, 1) ** 1.5 * hide.gloss * 0.5)[..., None] * (230 - picture)
    row, column = relief.row / relief.size - 0.5, relief.column / relief.size - 0.5
    light = generator.uniform(0, 0.5) * turn(row, column, generator.uniform(0, 2 * np.pi))[0]
    light += generator.uniform(0, 0.1) * _noise(generator, 2 * row, 2 * column)
    picture = picture * np.exp(drift * (light + generator.uniform(-0.4, 0.25)))[..., None]
    picture = np.minimum(picture, 190 + 65 * np.tanh(np.maximum(picture - 190, 0) / 65))
    picture = gaussian_filter(picture, (*[generator.uniform(0.2, 0.5)] * 2, 0))
    picture += (generator.normal(size=picture.shape) * generator.uniform(0.8, 2.5)).astype(np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _fold(relief, generator):
    """Sharp, nearly straight folds: a ridge, its shadow, and cracks that whiten along it."""
    for _ in range(generator.integers(1, 3)):
        along, across = _line(generator, relief)
        strength, width = generator.uniform(0.7, 1.4), generator.uniform(1.8, 4.5)
        strength = strength * np.clip(1.3 - (along / relief.size / generator.uniform(0.4, 0.8)) ** 2, 0, 1)
        ridge = np.exp(-np.where(across > 0, across, -across / 3) / width)
        relief.height += 2.2 * strength * width * ridge
        cracks = np.clip(0.4 + _noise(generator, along / 6, across), 0, 1) * np.exp(-((across / 1.2) ** 2))
        relief.bare += generator.uniform(0.4, 1.0) * strength * cracks


def _grain_off(relief, generator):
    """Patches where the grain layer is scuffed away: flat, fibrous and a little paler."""
    fibres_along, fibres_across = turn(relief.row, relief.column, generator.uniform(0, np.pi))
    for _ in range(generator.integers(1, 4)):
        row, column = (generator.uniform(0.2, 0.8) * relief.size for _ in range(2))
        radius = generator.uniform(0.13, 0.27) * relief.size
        distance = np.hypot(relief.row - row, relief.column - column) / radius
        distance = distance + 0.25 * _noise(generator, relief.row / radius * 2, relief.column / radius * 2)
        distance += 0.12 * _noise(generator, relief.row / 5, relief.column / 5)
        patch = np.clip((1 - distance) * radius / 5, 0, 1)
        fibres = _noise(generator, fibres_along / 9, fibres_across / 1.4)
        smooth = gaussian_filter(relief.height, 4) - 1.0 + 0.3 * fibres
        relief.height += patch * (smooth - relief.height)
        relief.bare += patch * np.clip(generator.uniform(0.2, 0.5) + 0.12 * fibres, 0, 1) * (1 - relief.bare)


def _growth_marks(relief, generator):
    """Long, wavy, roughly parallel furrows."""
    along, across = _line(generator, relief)
    across, along = across / relief.size, along / relief.size
    across = across + 0.05 * _noise(generator, 2.5 * along, 2.5 * across)
    place = generator.uniform(-0.5, -0.3)
    while place < 0.5:
        distance = (across - place + 0.012 * _noise(generator, 7 * along, 0 * along)) * relief.size
        fade = np.clip(0.6 + 0.7 * _noise(generator, 3 * along, 0 * along), 0, 1)
        strength, width = generator.uniform(0.6, 1.2) * fade, generator.uniform(1.3, 3.2)
        furrow = strength * np.exp(-((distance / width) ** 2))
        relief.height -= 1.5 * width * furrow
        relief.tint *= 1 - 0.2 * furrow  # seen even where the light runs along it
        place += generator.uniform(0.03, 0.1)


def _loose_grain(relief, generator):
    """The grain puffed up into larger cells between deep, short creases, with fine pipy wrinkles."""
    spacing = relief.grain_size * generator.uniform(2, 2.8)
    along, across = turn(relief.row / spacing, relief.column / spacing, generator.uniform(0, np.pi))
    along = along / generator.uniform(1, 1.6) + 0.4 * _noise(generator, along, across)
    gap, _ = _cells(generator, along, across + 0.4 * _noise(generator, along, across))
    short = np.clip(0.6 + 0.6 * _noise(generator, along, across), 0, 1)  # a crease fades in and out
    puffs = -np.exp(-gap / 0.12) * short + 0.5 * np.sqrt(gap)
    wrinkles = -np.exp(-np.abs(_noise(generator, relief.row / 7, relief.column / 7)) / 0.15)
    region = 1.0
    if generator.uniform() < 0.6:
        wide = _noise(generator, relief.row / relief.size * 2, relief.column / relief.size * 2)
        region = np.clip((wide - np.quantile(wide, generator.uniform(0.3, 0.55))) * 4, 0, 1)
    strength = generator.uniform(0.7, 1.3)
    relief.height += region * strength * (0.28 * spacing * puffs + 0.7 * wrinkles)
    relief.tint -= region * 0.15 * strength * np.exp(-gap / 0.08) * short


def _pinhole(relief, generator):
    """One to six tiny, deep, dark holes."""
    for _ in range(generator.integers(1, 7)):
        row, column = (generator.uniform(0.05, 0.95) * relief.size for _ in range(2))
        radius = generator.uniform(1.5, 3.2)
        distance = np.hypot(relief.row - row, (relief.column - column) * generator.uniform(0.8, 1.25))
        relief.height -= 2.5 * radius * np.exp(-((distance / radius / 1.3) ** 2))
        relief.tint *= 1 - generator.uniform(0.75, 0.97) * np.clip(radius + 0.5 - distance, 0, 1)


_SURFACES = {
    "folding_marks": _fold,
    "grain_off": _grain_off,
    "growth_marks": _growth_marks,
    "loose_grain": _loose_grain,
    "non_defective": lambda relief, generator: None,
    "pinhole": _pinhole,
}


def _line(generator, relief):
    """Coordinates along and across a gently bent line through the middle part of the picture, in pixels."""
    row, column = (generator.uniform(0.3, 0.7) * relief.size for _ in range(2))
    along, across = turn(relief.row - row, relief.column - column, generator.uniform(0, np.pi))
    bend = 0.02 * relief.size * _noise(generator, along / relief.size * 3, 0 * along)
    return along, across + bend + generator.uniform(-0.1, 0.1) * along**2 / relief.size


def _noise(generator, u, v):
    """Smooth noise of mean 0 and a deviation of about 0.7, with features about 1 long in u and v."""
    (i, fu, rows), (j, fv, columns) = _grid(u), _grid(v)
    knots = generator.normal(size=rows * columns).astype(np.float32)
    at = i * columns + j
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    near, far = knots[at], knots[at + columns]
    near += fv * (knots[at + 1] - near)
    far += fv * (knots[at + columns + 1] - far)
    return near + fu * (far - near)


def _cells(generator, u, v):
    """How much farther the second-nearest cell centre is, and a number per cell (Worley, SIGGRAPH 1996: F2 - F1)."""
    (i, fu, rows), (j, fv, columns) = _grid(u), _grid(v)
    centre_u, centre_v = generator.uniform(0.08, 0.92, size=(2, rows * columns)).astype(np.float32)
    first, second, nearest = np.full_like(u, 9), np.full_like(u, 9), np.zeros(u.shape, int)
    for a in range(3):
        for b in range(3):
            at = (i + a) * columns + j + b
            distance = (centre_u[at] + (a - 1) - fu) ** 2 + (centre_v[at] + (b - 1) - fv) ** 2
            np.copyto(nearest, at, where=distance < first)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
    return np.sqrt(second) - np.sqrt(first), generator.normal(size=rows * columns).astype(np.float32)[nearest]


def _grid(u):
    """Whole part counted from 0, fraction in [0, 1), and the number of grid lines, with one to spare."""
    whole = np.floor(u)
    index = (whole - whole.min()).astype(int)
    return index, u - whole, int(index.max()) + 3

"""Paints one realistic leather defect on a picture of any leather, with its exact mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

DEFECTS = ("color", "cut", "fold", "glue", "poke")

_AREA = (0.0018, 0.045)  # share of the picture, before the border cuts some of it off
_ASPECT = {"color": (1, 12), "cut": (2, 7), "fold": (4, 10), "glue": (1, 2.5), "poke": (1, 1.3)}
_FAINTEST = 0.06  # below this weight a change cannot be seen: it is neither painted nor in the mask


@dataclass(frozen=True)
class _Spot:
    """A window of the image, (h, w), with coordinates: u along the defect and v across it, about -1..1."""

    patch: np.ndarray  # (h, w, 3) float32, 0..255
    u: np.ndarray
    v: np.ndarray
    length: float  # half the length and half the width, in pixels
    width: float
    across: np.ndarray  # unit vector (row, column) in which v grows
    light: np.ndarray  # unit vector (row, column) towards the light


def add_synthetic_defect(
    image: np.ndarray, generator: np.random.Generator, *, defect: str | None = None, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Copy of the image (h, w, 3) with a defect painted on it, and its mask (h, w): 1 where it changed; both uint8.

    Args:
        image: Leather, uint8 RGB, each side at least 32.
        generator: The same state gives the same pixels.
        defect: One of `DEFECTS`, those of MVTec AD leather; None draws one of them with equal chances.
        scale: Factor on length and width, in (0, 4]. At 1 about 0.1 % to 4 % of the image is covered.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 32:
        raise ValueError(f"expected uint8 (h >= 32, w >= 32, 3), got {image.dtype} {image.shape}")
    if defect is not None and defect not in DEFECTS:
        raise ValueError(f"defect is {defect!r}; expected one of {', '.join(DEFECTS)}, or None")
    if not 0 < scale <= 4:
        raise ValueError(f"scale is {scale}; expected 0 < scale <= 4")
    defect = defect or DEFECTS[generator.integers(len(DEFECTS))]
    window, spot = _place(image, generator, defect, scale)
    painter = {"color": _color, "cut": _cut, "fold": _fold, "glue": _glue, "poke": _poke}[defect]
    weight, height, paint = painter(spot, generator)
    weight = np.clip((weight - _FAINTEST) / (1 - _FAINTEST), 0, 1)
    shade = np.tanh(-np.tensordot(spot.light, np.gradient(height), 1))[..., None]
    paint = paint + shade * (0.7 * paint + 30)  # the constant lets shading show on near-black leather too
    changed, mask = image.copy(), np.zeros(image.shape[:2], np.uint8)
    changed[window] = np.clip(np.rint(spot.patch + weight[..., None] * (paint - spot.patch)), 0, 255)
    mask[window] = weight > 0
    return changed, mask


def _place(image, generator, defect, scale):
    """Draws size, place and direction; returns the window (two slices) and the `_Spot` inside it."""
    shape = np.array(image.shape[:2])
    area = shape.prod() * scale**2 / np.pi * np.exp(generator.uniform(*np.log(_AREA)))
    aspect = np.exp(generator.uniform(*np.log(_ASPECT[defect])))
    length, width = (max(float(np.sqrt(half)), 2.0) for half in (area * aspect, area / aspect))
    angle, centre = generator.uniform(0, 2 * np.pi), generator.uniform(0.08, 0.92, 2) * shape
    turn = generator.uniform(-1, 1) * (0.9 if defect == "fold" else np.pi)  # a fold is lit from its side
    light, across = np.array([[np.sin(a), np.cos(a)] for a in (angle, angle + turn)], np.float32)
    bend = generator.uniform(-0.15, 0.15) * length * (defect != "poke")
    reach = np.abs(across[::-1]) * length * 1.1 + np.abs(across) * (1.2 * width + abs(bend)) + 2
    places = zip(centre, reach, shape, strict=True)
    window = tuple(slice(max(int(c - r), 0), min(int(c + r) + 1, n)) for c, r, n in places)
    row, column = np.ogrid[window]
    row, column = np.float32(row - centre[0]), np.float32(column - centre[1])
    u = (row * across[1] - column * across[0]) / length
    v = (row * across[0] + column * across[1] + bend * u**2) / width
    return window, _Spot(image[window].astype(np.float32), u, v, length, width, across, light)


def _ripple(generator, *coordinates, frequency):
    """Smooth noise in [-1, 1]: four waves of random direction and phase, about `frequency` per unit."""
    directions = generator.normal(size=(4, len(coordinates)))
    directions *= frequency * np.array([[4], [6], [10], [17]]) / np.linalg.norm(directions, axis=1)[:, None]
    total = 0.0
    for direction in np.float32(directions):
        phase = sum(map(np.multiply, direction, coordinates)) + generator.uniform(0, 2 * np.pi)
        total = total + np.sin(phase) / 4
    return total


def _color(spot, generator):
    """A spot or a stroke of ink of another hue, through which the grain shows."""
    if spot.length > 2.5 * spot.width:
        middle = 0.5 * _ripple(generator, spot.u, frequency=generator.uniform(0.3, 0.8))
        distance = np.abs(spot.v - middle) - (0.4 + 0.15 * _ripple(generator, spot.u, frequency=1.2))
        distance = np.maximum(distance, (np.abs(spot.u) - 0.9) * 2)
    else:
        distance = np.hypot(spot.u, spot.v) - 0.8 + 0.25 * _ripple(generator, spot.u, spot.v, frequency=0.7)
    mean, ink = spot.patch.mean(axis=(0, 1)), generator.uniform(0, 200, 3)
    if np.abs(ink - mean).max() < 70:  # too near the leather's own colour to be a stain
        ink = 0.25 * ink if mean.mean() > 80 else 255 - 0.4 * ink
    paint = ink + (spot.patch.mean(axis=2, keepdims=True) - mean.mean()) * generator.uniform(0.4, 1.0)
    strength = generator.uniform(0.4, 0.85) * (1 + 0.17 * _ripple(generator, spot.u, spot.v, frequency=1.5))
    coverage = np.clip(0.5 - distance * spot.width / generator.uniform(1.2, 4.0), 0, 1)
    return strength * coverage, np.zeros_like(coverage), paint


def _cut(spot, generator):
    """A ragged slit, dark or with pale fibres in it, between raised lips in a shallow dent."""
    taper = np.sqrt(np.clip(1 - spot.u**2, 0, 1))
    across = spot.v - 0.12 * _ripple(generator, spot.u, frequency=generator.uniform(0.5, 1.5))
    gap = generator.uniform(0.05, 0.15) * (1.2 + _ripple(generator, spot.u, frequency=1.5)) * taper
    outside = np.abs(across) - gap
    slit = np.clip(0.5 - outside * spot.width / 1.5, 0, 1) * (taper > 0)
    lips = np.exp(-(((outside - 0.15) / 0.15) ** 2))
    lips *= 1 + 0.8 * _ripple(generator, spot.u, across, frequency=2.0)
    dent = 0.35 * np.exp(-((across / 0.5) ** 2))
    height = spot.width * taper * (generator.uniform(0.1, 0.25) * lips - dent)
    pale = (generator.uniform() < 0.4) * np.clip(across * spot.width + 0.5, 0, 1)[..., None]
    fibres = 0.4 * spot.patch.mean(axis=(0, 1)) + 130 + 35 * generator.normal(size=(*taper.shape, 1))
    inside = pale * fibres + (1 - pale) * 0.3 * spot.patch
    paint = spot.patch + slit[..., None] * (inside - spot.patch)
    return np.maximum(slit, np.clip(2.2 * (1 - np.hypot(spot.u, across)), 0, 1)), height, paint


def _fold(spot, generator):
    """A crease: a ridge lit on one side, its shadow on the other, and the grain pressed together along it."""
    fade = np.clip(1 - spot.u**2, 0, 1)
    across = spot.v + 0.15 * _ripple(generator, spot.u, frequency=0.5)
    side = np.where(across > 0, across / 0.55, across)  # steep on one side, as where leather folds over
    ridge = np.exp(-((side / 0.45) ** 2)) * fade
    height = spot.width * generator.uniform(0.2, 0.5) * ridge
    shift = generator.uniform(0.15, 0.4) * spot.width * ridge * np.sign(across)
    places = np.indices(fade.shape, np.float32) + shift * spot.across[:, None, None]
    warped = [map_coordinates(spot.patch[..., c], places, order=1, mode="nearest") for c in range(3)]
    crease = np.exp(-((across * spot.width / max(1.0, 0.08 * spot.width) - 1.5) ** 2)) * fade**2
    paint = np.stack(warped, axis=-1) * (1 - generator.uniform(0.1, 0.6) * crease[..., None])
    return np.clip(2.5 * (1 - np.abs(side)), 0, 1) * np.sqrt(fade), height, paint


def _glue(spot, generator):
    """A drop, smear or loop of clear glue: the grain drowned, a rim, and the light mirrored in it."""
    aspect = spot.length / spot.width
    radius = np.hypot(np.maximum(np.abs(spot.u) * aspect - aspect + 1, 0), spot.v)  # a rounded bar
    radius = radius + 0.1 * _ripple(generator, spot.u, spot.v, frequency=0.4)
    loop, thickness = generator.uniform() < 0.25 and spot.width > 8, generator.uniform(0.15, 1.0)
    depth = (1 - np.abs(radius - 0.68) / 0.25) / 2 if loop else 0.95 - radius
    body = np.sqrt(np.clip(1 - (1 - np.clip(depth, 0, 1)) ** 2, 0, 1)) * spot.width  # the section of a drop
    smooth = gaussian_filter(spot.patch, (max(1.5, 0.12 * spot.width),) * 2 + (0,), truncate=2.5)
    # Glue on white leather is not whiter still.
    tone = min(generator.uniform(0.7, 1.2), 235 / (smooth.max() + 1))
    paint = (smooth + (spot.patch - smooth) * (0.5 - 0.4 * thickness)) * tone
    rows, columns = np.gradient(0.6 * body)
    facing = -rows * spot.light[0] - columns * spot.light[1]
    aside = rows * spot.light[1] - columns * spot.light[0]
    sheen = 0.35 * np.exp(-(((facing - 0.25) / 0.2) ** 2)) + 0.6 * np.exp(-(((facing - 0.3) / 0.08) ** 2))
    sheen *= np.exp(-((aside / generator.uniform(0.1, 0.4)) ** 2))
    paint = paint + (0.25 * smooth + 185 - paint) * (sheen * (depth > 0) * thickness)[..., None]
    return np.clip(0.5 + depth * spot.width / 1.8, 0, 1), 0.5 * thickness * body, paint


def _poke(spot, generator):
    """A dent around a small dark hole, with a bright rim on the side that faces the light."""
    radius, pit = np.hypot(spot.u, spot.v), generator.uniform(0.07, 0.18)
    ragged = radius + 0.5 * pit * _ripple(generator, spot.u / pit, spot.v / pit, frequency=0.25)
    hole = np.clip(0.5 - (ragged - pit) * spot.width / 1.5, 0, 1)[..., None]
    rim = np.exp(-(((ragged - 1.5 * pit) / (0.5 * pit)) ** 2))
    folds = 1 + 0.35 * _ripple(generator, spot.u / (radius + 0.3), spot.v / (radius + 0.3), frequency=0.6)
    dent = generator.uniform(0.15, 0.45) * np.exp(-((radius / 0.5) ** 2)) * folds
    height = spot.width * (0.15 * pit * rim - dent)
    return np.clip(2.2 * (0.95 - radius), 0, 1), height, spot.patch * (1 - 0.8 * hole)

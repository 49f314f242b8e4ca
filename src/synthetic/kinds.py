"""Thirteen kinds of defect; each function paints one, in place, in the middle of a window."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.ndimage import map_coordinates

from .shapes import blob, edge, line, noise, wave, zoom


def _lines(spot, *, bend, width, length=(14, 200), strands=(1, 1), band=(1, 1), strength=1.0):
    """Lines side by side in a band: dark, bright, lit on one side, or smeared."""
    random, count, style = spot.random, int(spot.draw(strands[0], strands[1] + 0.99)), spot.random.integers(4)
    length, band, half = spot.length(*length), spot.length(*band), spot.length(*width)
    depth = strength * spot.force * (spot.grain() * spot.draw(0.8, 3) + spot.draw(4, 60)) / np.sqrt(count)
    tone, sided = (-0.2 - spot.pixels.mean((0, 1)) / 255, 1, 0, 0)[style], (0, 0, 1.8, 0.5)[style]
    near, across, along = line(spot, length=length, bend=spot.draw(*bend), reach=1.3 * band + 4 * half + 3)
    ends = np.sqrt(np.clip(8 * np.minimum(along, 1 - along), 0, 1))
    for _ in range(count):
        middle = (count > 1) * band * (random.uniform(-0.7, 0.7) + 0.5 * wave(spot, along, spot.draw(2, 8)))
        place = (across - middle) / (half * np.maximum(ends, 0.4) * spot.draw(0.7, 1.4))
        weight = ends * np.clip((0.6 if count > 1 else 0.9) + 0.7 * wave(spot, along, spot.draw(3, 14)), 0.05, 1)
        profile = weight * np.exp(-0.7 * place**2)
        if style == 3:
            near.mix(near.blurred(2) * random.uniform(0.4, 1.7), profile * min(1, 0.8 * spot.force))
        near.pixels[:] += depth * profile[..., None] * (tone + sided * np.clip(place, -1, 1)[..., None])
        near.label[(np.abs(place) < 1 + 0.5 / half + 0.15 * count) & (ends > 0.2)] = 1


def _cut(spot):
    """A ragged slit, dark or full of pale fibres, between lit lips, in a shallow dent."""
    random, length, inside = spot.random, spot.length(8, 80), spot.pixels.mean((0, 1))
    half = min(spot.length(0.7, 4.5), length / 5)
    wide = half * spot.draw(3, 8)
    near, across, along = line(spot, length=length, bend=spot.draw(0.01, 0.25), reach=2.2 * wide + 4)
    distance, side = np.abs(across), np.sign(across)
    taper = np.sqrt(np.clip(4 * np.minimum(along, 1 - along), 0.02, 1)) * (1 + 0.45 * wave(spot, along, 9))
    outside = distance - half * np.clip(taper, 0.1, 2)
    slit, grit = edge(-outside), random.normal(size=(*along.shape, 1))
    if random.uniform() < 0.55:
        near.mix(inside * random.uniform(0.05, 0.5) + 8 * grit, slit)
    else:
        near.mix(inside * 0.35 + spot.draw(90, 170) + 25 * grit, slit * edge(across + random.uniform(0.3, 3) * half, 1))
    width = half * spot.draw(0.5, 1.6)
    lips = np.exp(-((outside / width) ** 2)) * (outside > -0.5 * half)
    lips = lips * spot.draw(0.05, 0.6) * (random.choice([0.6, 0.6, -0.6]) + spot.light[0] * side)
    dent = np.exp(-((distance / wide) ** 2)) * 4 * along * (1 - along)
    near.relight(spot.force * (lips + random.uniform(-0.3, 1) * dent * side * spot.light[1]))
    near.label[outside < 0.5 * width + 0.4] = 1


def _punctures(spot, *, radius, count, spread, dent, depth):
    """Small holes, dark or pale, with a torn rim, each in a dent that reaches much farther."""
    random, colour, radius, spread = spot.random, spot.pixels.mean((0, 1)), spot.length(*radius), spot.length(*spread)
    pale, rim = random.uniform() < 0.25, (random.uniform() < 0.6) * spot.draw(8, 90)
    tone = colour * 0.4 + spot.draw(100, 180) if pale else colour * random.uniform(0.05, 0.55)
    for number in range(int(spot.draw(*count))):
        centre, size = spread * random.normal(size=2) * (number > 0), max(0.8, radius * spot.draw(0.7, 1.4))
        wide = size * spot.draw(*dent)
        near, field = blob(spot, radius=wide, aspect=spot.draw(1, 1.5), ragged=0.15, centre=centre)
        height = -np.exp(-3 * np.clip(1 - field / wide, 0, None) ** random.uniform(1.2, 2)) * wide * depth
        near.relight(0.55 * np.tanh(near.facing(height) * spot.draw(0.2, 1.3) * (0.4 + 0.6 * spot.force)))
        near, field = blob(spot, radius=size, aspect=spot.draw(1, 1.8), ragged=0.35, centre=centre)
        near.mix(tone + 6 * random.normal(size=(*field.shape, 1)), edge(field, 0.5) * min(1, 0.5 + spot.force))
        torn = np.exp(-(((field + 0.3) / max(0.8, 0.25 * size)) ** 2))
        near.pixels[:] += (rim * torn * (0.4 + near.facing(field)))[..., None]
        near.label[field > -max(0.6, 0.2 * size * (rim > 0))] = 1


def _surface(spot, *, change, radius, half):
    """A ragged blob, or a band of some half width, that is stained, scuffed, or patched with another grain."""
    random, colour, grain = spot.random, spot.pixels.mean((0, 1)), spot.grain()
    if random.uniform() < 0.5:
        near, field = blob(spot, radius=spot.length(*radius), aspect=spot.draw(1, 4.5), ragged=spot.draw(0.1, 0.8))
    else:
        half = spot.length(*half)
        near, across, along = line(spot, length=spot.length(14, 150), bend=spot.draw(0.02, 0.3), reach=3 * half + 6)
        field = half * (np.sqrt(8 * along * (1 - along)) + 0.5 * wave(spot, along, 8)) - np.abs(across)
    smooth = near.blurred(spot.length(0.8, 4))
    detail = near.pixels - smooth
    if change == "stain":
        ink = colour * spot.draw(0.25, 2) if random.uniform() < 0.4 else random.uniform(0, 230, 3)
        if np.abs(ink - colour).max() < 30:
            ink = 0.4 * colour if colour.mean() > 60 else colour + 60
        paint = ink + detail * random.uniform(0.2, 1)
    elif change == "patch":
        factor = spot.draw(1.5, 2.5) ** random.choice([-1, 1])
        other = zoom(np.rot90(spot.pixels, random.integers(4)), field.shape, factor, random)
        paint = smooth + other - colour + 12 * random.normal(size=3)
    else:
        rough = random.choice([0, 0, 1]) * grain * spot.draw(0.5, 2) * random.normal(size=(*field.shape, 1))
        paint = smooth + random.choice([0, 0, spot.draw(1.5, 3)]) * detail + rough
        paint = (paint + 12) * spot.draw(0.7, 1.4) ** max(1, spot.force) - 12
    weight = edge(field, min(spot.length(0.4, 3), 0.3 + 0.3 * field.max())) * random.uniform(0.4, 1)
    if random.uniform() < 0.25:
        weight *= np.clip(0.8 + 0.3 * noise(random, field.shape, spot.length(2, 10)), 0.1, 1.2)
    near.mix(paint, weight * min(1.3, 0.5 + 0.6 * spot.force))
    near.label[field > -0.5] = 1


def _glue(spot):
    """A drop or smear of clear glue: the grain drowned, a lit body, and the light mirrored in it."""
    random, radius = spot.random, spot.length(3, 18)
    near, field = blob(spot, radius=radius, aspect=spot.draw(1, 2.6), ragged=spot.draw(0.05, 0.3))
    inside = edge(field, spot.draw(0.4, 1.4))
    body = radius * np.sqrt(np.clip(1 - (1 - np.clip(field / radius, 0, 1)) ** 2, 0, 1))
    if random.uniform() < 0.2:  # a ring
        inside = inside * edge(0.5 * radius - field, 0.8)
        body = body * inside
    smooth, thickness = near.blurred(spot.length(1, 4)), random.uniform(0.15, 1) * min(1, spot.force)
    tone = spot.draw(0.75, 1.25) ** max(1, spot.force)
    near.mix(tone * (smooth + (near.pixels - smooth) * (0.6 - 0.5 * thickness)), inside)
    facing = near.facing(body)
    near.relight(0.5 * np.tanh(facing * spot.draw(0.1, 0.7) * thickness))
    if random.uniform() < 0.75:
        mirrored = np.exp(-(((facing - random.uniform(0.1, 0.5)) / random.uniform(0.06, 0.25)) ** 2))
        near.pixels[:] += (inside * mirrored * spot.draw(20, 170) * thickness)[..., None]
    near.label[(field > -0.7) & (inside > 0.2)] = 1


def _fold(spot):
    """A crease: a ridge lit from its side, the grain pressed together along it, often with a dark line or ripples."""
    random, length = spot.random, spot.length(18, 130)
    half = min(spot.length(2.5, 11), length / 3)
    near, across, along = line(spot, length=length, bend=spot.draw(0.02, 0.25), reach=3 * half + 3)
    taper = np.sqrt(np.clip(4 * np.minimum(along, 1 - along), 0, 1))
    across = across / (half * (0.35 + 0.65 * taper))
    steep = np.where(across > 0, across / random.uniform(0.4, 1), across)
    ridge = np.exp(-1.5 * steep**2) * taper
    shift = np.stack(np.gradient(np.abs(across))) * (half**2 * random.uniform(0.15, 0.7) * ridge * np.sign(across))
    places = np.indices(ridge.shape, np.float32) + np.clip(shift, -half, half)
    for c in range(3):
        near.pixels[..., c] = map_coordinates(near.pixels[..., c], places, order=1, mode="nearest")
    sides = random.uniform(0.6, 1.6) * across * np.exp(-(steep**2)) * taper
    shade = spot.draw(0.15, 0.6) * spot.force * (1.2 * np.tanh(near.facing(half * ridge)) + 0.8 * sides)
    if random.uniform() < 0.6:
        crease = np.exp(-(((across - random.uniform(-0.3, 0.6)) * half / spot.length(0.6, 1.8)) ** 2)) * taper
        shade = shade - random.uniform(0.1, 0.6) * min(1, spot.force) * crease
    if random.uniform() < 0.3:
        ripples = np.sin(along * length / spot.length(2.5, 6) * np.pi + 2 * wave(spot, along, 6))
        shade = shade + 0.25 * spot.force * ripples * ridge
    near.relight(np.clip(shade, -0.75, 0.9))
    near.label[(np.abs(steep) < 1.15) & (taper > 0.25)] = 1


KINDS = {  # how often each is drawn, and what paints it; lengths in pixels at scale 1
    "scratch": (3, partial(_lines, bend=(0.005, 0.12), width=(0.5, 2.2), strands=(1, 3), band=(3, 20))),
    "cut": (2.3, _cut),
    "poke": (2.2, partial(_punctures, radius=(1.3, 7), count=(1, 2.5), spread=(10, 40), dent=(2.5, 9), depth=1.0)),
    "hole": (1.3, partial(_punctures, radius=(2, 14), count=(1, 2.5), spread=(10, 40), dent=(1.6, 1.7), depth=0.4)),
    "stain": (2.2, partial(_surface, change="stain", radius=(2, 22), half=(0.7, 3))),
    "glue": (2, _glue),
    "fold": (2, _fold),
    "wrinkle": (3, partial(_lines, bend=(0.01, 0.2), width=(0.7, 2), length=(40, 260), strands=(1, 10), band=(3, 13))),
    "vein": (1, partial(_lines, bend=(0.05, 0.3), width=(1.5, 4), strands=(1, 2), strength=0.6)),
    "scuff": (2, partial(_surface, change="scuff", radius=(4, 26), half=(2, 9))),
    "bites": (1, partial(_punctures, radius=(0.8, 2.6), count=(3, 40), spread=(8, 60), dent=(1.2, 1.3), depth=0.3)),
    "patch": (1, partial(_surface, change="patch", radius=(4, 26), half=(2, 9))),
    "thread": (1, partial(_lines, bend=(0.1, 0.5), width=(0.5, 1.3))),
}

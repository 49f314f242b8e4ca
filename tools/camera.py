"""Leathers, light and cameras: what differs between normal pictures, and never is a defect."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, maximum_filter

from src.synthetic.shapes import edge, log_uniform, noise, resize, turn, zoom


def another_piece(texture: np.ndarray, generator: np.random.Generator, *, piece: int) -> np.ndarray:
    """The texture (h, w, ...) as if another place of the same leather: each piece, 0 to 3, is mirrored otherwise.

    All are moved by up to a quarter of a side; what is missing there is mirrored.
    """
    texture = texture[:: 1 - 2 * (piece & 1), :: 1 - (piece & 2)]
    for axis, side in enumerate(texture.shape[:2]):
        places = np.arange(side) + generator.integers(-(side // 4), side // 4 + 1)
        places = np.where(places < 0, -1 - places, np.where(places < side, places, 2 * side - 1 - places))
        texture = np.take(texture, places, axis)
    return texture


def reframe(texture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The texture (h, w, 3) with another size of grain, float32."""
    size = (1, 1, 1, log_uniform(generator, 1, 2.2), log_uniform(generator, 0.6, 1))[generator.integers(5)]
    return zoom(texture, texture.shape[:2], size, generator) if size != 1 else texture.astype(np.float32)


def change_leather(picture: np.ndarray, generator: np.random.Generator, *, scale: float) -> np.ndarray:
    """The picture (h, w, 3), float32, with another contrast of grain, colour and brightness."""
    draw, shape = partial(log_uniform, generator), picture.shape[:2]
    coloured = np.ptp(picture[::8, ::8], axis=2).max() > 4
    contrast = np.float32(draw(0.08, 1) if generator.uniform() < 0.45 else 1)
    flat = generator.uniform() < 0.3  # without the slow changes of light that the texture has
    if flat or contrast < 1:
        coarse = [max(2, round(side / 16 / scale)) for side in shape]
        slow = resize(gaussian_filter(resize(picture, coarse), (1.5, 1.5, 0), mode="nearest"), shape)
        picture = (slow.mean((0, 1)) if flat else slow) + (picture - slow) * contrast
    grey = picture @ np.full((3, 1), 1 / 3, np.float32)
    tint = 1 + np.clip(generator.normal(0, 0.22, 3), -0.5, 0.5) * (generator.uniform() < 0.75)
    picture = grey + (picture - grey) * np.float32(generator.uniform(0.2, 1.3)) if coloured else grey * np.float32(tint)
    mean, gain = float(picture.mean()), draw(0.55, 1.4)
    return picture * np.float32(min(gain, 225 / max(mean, 1))) + np.float32(max(0, 18 - gain * mean))


def cast_light(picture: np.ndarray, generator: np.random.Generator, *, scale: float) -> np.ndarray:
    """The picture under slopes of light, waves of the hide, shadows, broad folds and soft dents, 0..255."""
    draw, half = partial(log_uniform, generator), np.array(picture.shape[:2]) / 2
    row, column = np.float32(np.mgrid[-half[0] : half[0] : 2, -half[1] : half[1] : 2])  # every other pixel

    def turned():
        """Coordinates along and across a random direction, from a random place."""
        top, left = np.float32(generator.uniform(-1, 1, 2) * half)
        return turn(row - top, column - left, generator.uniform(0, 2 * np.pi))

    light = np.ones_like(row)
    if generator.uniform() < 0.7:
        light *= np.exp(draw(0.02, 0.45) / half.max() * turned()[0])
    for size, most in ((scale * draw(14, 60), 0.14), (draw(0.4, 1.2) * half.max() / 2, 0.25)):
        if generator.uniform() < 0.45:
            light *= np.exp(draw(0.01, most) * noise(generator, row.shape, size))
    if generator.uniform() < 0.15:
        light *= 1 - draw(0.05, 0.4) * edge(turned()[0], scale * draw(6, 40))
    if generator.uniform() < 0.15:
        place = turned()[0] / (scale * draw(16, 50))
        light *= 1 - draw(0.04, 0.25) * place * np.exp(-(place**2))
    for _ in range(generator.choice([0, 0, 0, 0, 0, 0, 0, 1, 2, 3])):
        (along, across), width, towards = turned(), scale * draw(5, 24), generator.normal(size=2)
        bump = np.exp(-((along / width / draw(1, 2.5)) ** 2) - (across / width) ** 2)
        light *= 1 + np.clip(draw(0.07, 0.4) * np.tensordot(towards, np.gradient(bump, 2 / width), 1), -0.5, 0.5)
    return np.clip(picture * resize(light, picture.shape[:2])[..., None], 0, 255)


def photograph(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The picture (h, w, 3) as a camera keeps it, uint8: vignette, dust, blur, noise, gamma and JPEG."""
    draw, (rows, columns) = partial(log_uniform, generator), picture.shape[:2]
    if generator.uniform() < 0.3:
        row, column = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
        picture = picture * np.float32(1 - draw(0.05, 0.5) * (row**2 + column**2) / 2)[..., None]
    if generator.uniform() < 0.45:
        count, specks = int(draw(1, 80) * max(1, rows * columns / 65536)), np.zeros((rows, columns), np.float32)
        specks[generator.integers(rows, size=count), generator.integers(columns, size=count)] = draw(8, 60)
        specks = maximum_filter(specks, generator.integers(1, 4, 2)) * generator.choice([1, 1, 1, 1, -1])
        picture = picture + np.float32(specks[..., None])
    if generator.uniform() < 0.4:
        sigma = draw(0.4, 1.3)
        picture = gaussian_filter(picture, (sigma, sigma, 0), truncate=3)
    if generator.uniform() < 0.6:
        grains = generator.standard_normal((rows, columns, generator.choice([1, 3])), dtype=np.float32)
        picture = picture + grains * np.float32(draw(0.5, 5))
    pixels = np.uint8(np.clip(np.rint(picture), 0, 255))
    if generator.uniform() < 0.15:
        pixels = np.uint8(np.rint(255 * (np.arange(256) / 255) ** draw(0.7, 1.4)))[pixels]
    if generator.uniform() < 0.35:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=int(generator.integers(45, 95)))
        pixels = np.array(Image.open(stream))
    return pixels

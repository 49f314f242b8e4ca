"""Lines, blobs and smooth noise, from which defects are painted in a window of the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d


@dataclass(frozen=True)
class Spot:
    """A window in which a defect is painted in place; places are relative to the defect's centre, in pixels."""

    pixels: np.ndarray  # (h, w, 3) float32, 0..255
    label: np.ndarray  # (h, w) uint8: 1 where a person would outline the defect
    row: np.ndarray  # (h, 1) float32
    column: np.ndarray  # (1, w) float32
    light: np.ndarray  # (2,) unit vector, row and column, towards the light
    force: float  # strength of the change, 1 = usual
    scale: float  # 1 = the lengths of a picture of 256 px
    random: np.random.Generator

    def near(self, points: np.ndarray, reach: float) -> Spot:
        """The part of the window within reach of the points (n, 2), at least 2 x 2 pixels, as a view."""
        corner, shape = np.array([self.row[0, 0], self.column[0, 0]]), np.array(self.label.shape)
        top, left = np.clip(points.min(0) - reach - corner, 0, shape - 2).astype(int)
        bottom, right = np.maximum((points.max(0) + reach - corner).astype(int) + 1, (top + 2, left + 2))
        rows, columns = box = slice(top, bottom), slice(left, right)
        parts = {"pixels": self.pixels[box], "label": self.label[box]}
        return replace(self, row=self.row[rows], column=self.column[:, columns], **parts)

    def draw(self, least: float, most: float) -> float:
        return log_uniform(self.random, least, most)

    def length(self, least: float, most: float) -> float:
        """Log-uniform length in pixels, at least 0.5; the limits are those of scale 1."""
        return max(0.5, self.scale * self.draw(least, most))

    def grain(self) -> float:
        """Deviation of the leather's fine structure."""
        return float(np.clip(np.std(self.pixels[3:, :, 1] - self.pixels[:-3, :, 1]) / 1.4, 1.5, 40))

    def blurred(self, sigma: float) -> np.ndarray:
        return gaussian_filter(self.pixels, (sigma, sigma, 0), truncate=3)

    def facing(self, height: np.ndarray) -> np.ndarray:
        """Slope (h, w) of a height towards the light."""
        return -np.tensordot(self.light, np.gradient(height), 1)

    def mix(self, paint: np.ndarray, weight: np.ndarray) -> None:
        """Covers the pixels with a colour (3,) or (h, w, 3) where the weight (h, w) is 1, partly where it is less."""
        self.pixels[:] += np.clip(weight, 0, 1)[..., None] * (paint - self.pixels)

    def relight(self, shade: np.ndarray) -> None:
        """Brightens where the shade (h, w) is positive, darkens where it is negative, near-black leather too."""
        self.pixels[:] += shade[..., None] * (0.6 * self.pixels + 12)


def log_uniform(generator: np.random.Generator, least: float, most: float) -> float:
    return float(np.exp(generator.uniform(np.log(least), np.log(most))))


def edge(distance: np.ndarray, softness: float = 0.45) -> np.ndarray:
    """Soft step from 0 to 1 where a signed distance passes 0."""
    return 1 / (1 + np.exp(-np.clip(distance / softness, -30, 30)))


def turn(row: np.ndarray, column: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across a direction."""
    sine, cosine = np.float32([np.sin(angle), np.cos(angle)])
    return row * sine + column * cosine, row * cosine - column * sine


def resize(array: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Array (h, w) or (h, w, 3) at another size, float32, bicubic."""
    if array.ndim == 3:
        return np.stack([resize(array[..., c], shape) for c in range(3)], axis=-1)
    return np.asarray(Image.fromarray(np.float32(array)).resize(shape[::-1], Image.Resampling.BICUBIC))


def zoom(array: np.ndarray, shape: tuple[int, int], factor: float, generator: np.random.Generator) -> np.ndarray:
    """A random part of the array (h, w, 3) enlarged by the factor, float32, mirrored where the array is too small."""
    rows, columns = (max(2, round(side / factor)) for side in shape)
    missing = (0, max(0, rows - array.shape[0])), (0, max(0, columns - array.shape[1])), (0, 0)
    array = np.pad(array, missing, mode="symmetric")
    top, left = generator.integers(array.shape[0] - rows + 1), generator.integers(array.shape[1] - columns + 1)
    return resize(array[top : top + rows, left : left + columns], shape)


def noise(generator: np.random.Generator, shape: tuple[int, int], size: float) -> np.ndarray:
    """Smooth noise (h, w) of mean 0 and deviation about 1, with features of about `size` pixels."""
    rows, columns = (int(side / max(size, 1)) + 2 for side in shape)
    return 1.4 * resize(generator.standard_normal((rows, columns), dtype=np.float32), shape)


def wave(spot: Spot, along: np.ndarray, waves: float) -> np.ndarray:
    """Smooth variation in [-1, 1] with the place (0..1) along a line."""
    knots = gaussian_filter1d(spot.random.normal(size=64), 16 / waves, mode="nearest")
    return np.interp(along, np.linspace(0, 1, 64), knots / np.abs(knots).max()).astype(np.float32)


def line(spot: Spot, *, length: float, bend: float, reach: float) -> tuple[Spot, np.ndarray, np.ndarray]:
    """Window around a bent line, the signed distance (h, w) from the line, and the place along it (h, w), 0..1."""
    angle, places = spot.random.uniform(0, 2 * np.pi), np.linspace(-0.5, 0.5, 40) * length
    waves = spot.draw(1, 4)
    course = length * bend / waves * wave(spot, np.linspace(0, 1, 40), waves)
    near = spot.near(np.outer([-length / 2, length / 2], [np.sin(angle), np.cos(angle)]), reach + length * bend)
    along, across = turn(near.row, near.column, angle)
    slope = np.interp(along, places, np.gradient(course, places))
    across = (across - np.interp(along, places, course)) / np.hypot(1, slope)
    across = np.copysign(np.hypot(across, np.maximum(np.abs(along) - length / 2, 0)), across)
    return near, np.float32(across), np.clip(along / length + 0.5, 0, 1)


def blob(spot: Spot, *, radius: float, aspect: float, ragged: float, centre=(0, 0)) -> tuple[Spot, np.ndarray]:
    """Window around a ragged ellipse, and about the distance (h, w) to its edge, positive inside."""
    stretch = np.sqrt(aspect)
    near = spot.near(np.array([centre]), 1.8 * radius * stretch * (1 + ragged) + 4)
    row, column = near.row - np.float32(centre[0]), near.column - np.float32(centre[1])
    along, across = turn(row, column, spot.random.uniform(0, np.pi))
    coarse, fine = (noise(spot.random, along.shape, size * radius) for size in (1, 0.3))
    return near, radius - np.hypot(along / stretch, across * stretch) + radius * ragged * (0.6 * coarse + 0.25 * fine)

"""Defects as people report them: boxes with area, score and outline, from an anomaly map and its threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage import measure


@dataclass(frozen=True)
class Region:
    """One connected place of a map that reaches the threshold."""

    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are the first outside
    area: int  # pixels
    share: float  # of the picture, in (0, 1]
    score: float  # highest value in units of the threshold, 1 or more
    contour: np.ndarray  # (points, 2), x and y in pixels, closed, around the outside


def find_regions(values: np.ndarray, threshold: float, *, smallest: int = 1) -> list[Region]:
    """The 8-connected regions of a map (h, w) at or above a threshold, of so many pixels or more, highest score first.

    Raises ValueError for a map that is not two-dimensional or not finite, or a threshold that is not above 0.
    """
    values, regions = np.asarray(values, dtype=float), []
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"expected a finite map of shape (h, w), got shape {values.shape}")
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; expected above 0")
    for one in measure.regionprops(measure.label(values >= threshold, connectivity=2), intensity_image=values):
        if one.area >= smallest:
            top, left, bottom, right = one.bbox
            outlines = measure.find_contours(np.pad(one.image_filled, 1).astype(float), 0.5)
            contour = max(outlines, key=len)[:, ::-1] - 1 + (left, top)  # row, column of the padded box -> x, y
            share, score = float(one.area / values.size), float(one.intensity_max / threshold)
            regions.append(Region((left, top, right, bottom), int(one.area), share, score, contour))
    return sorted(regions, key=lambda region: -region.score)

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
    """The 8-connected regions of a map at or above a threshold, highest score first.

    Args:
        values: Anomaly map, shape (h, w), higher is more anomalous.
        threshold: Above 0, chosen on other pictures.
        smallest: Regions of fewer pixels are left out.

    Raises:
        ValueError: If the map is not two-dimensional or not finite, or the threshold is not above 0.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"expected a finite map of shape (h, w), got shape {values.shape}")
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; expected above 0")
    labels = measure.label(values >= threshold, connectivity=2)
    regions = []
    for region in measure.regionprops(labels, intensity_image=values):
        if region.area < smallest:
            continue
        top, left, bottom, right = region.bbox
        outlines = measure.find_contours(np.pad(region.image_filled, 1).astype(float), 0.5)
        outline = max(outlines, key=len)[:, ::-1] - 1 + (left, top)  # row, column of the padded box -> x, y
        regions.append(
            Region(
                box=(left, top, right, bottom),
                area=int(region.area),
                share=float(region.area / values.size),
                score=float(region.intensity_max / threshold),
                contour=outline,
            )
        )
    return sorted(regions, key=lambda region: -region.score)

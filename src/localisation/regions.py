"""Defects as people report them, and the one verdict: a picture is defective if one of its regions scores enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage import measure

HIGHEST = 0.001  # share of a picture's pixels whose mean is a score
MOST = round(HIGHEST * 256 * 256)  # pixels of a score: a large picture's small defect counts as much as a small one's


@dataclass(frozen=True)
class Thresholds:
    """From which value on a pixel belongs to a region, and from which score on a region is a defect."""

    outline: float
    verdict: float
    source: str  # where both come from


@dataclass(frozen=True)
class Region:
    """One connected place of a map that reaches the outline threshold."""

    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are the first outside
    area: int  # pixels
    share: float  # of the picture, in (0, 1]
    peak: float  # highest value
    score: float  # mean of its highest values, see `highest_mean`
    contour: np.ndarray  # (points, 2), x and y in pixels, closed, around the outside


@dataclass(frozen=True)
class Judgement:
    """What is said of a picture: its map, its defects, most certain first, its score and its verdict."""

    map: np.ndarray  # (h, w) float32, higher is more anomalous
    regions: list[Region]  # those that reach the verdict threshold
    score: float  # of its highest region, whether or not it reaches the threshold

    @property
    def is_defective(self) -> bool:
        return bool(self.regions)


def judge_map(values: np.ndarray, thresholds: Thresholds) -> Judgement:
    """The verdict on a map (h, w). Without any region the score is the `highest_mean` of the map."""
    regions = find_regions(values, thresholds.outline)
    score = regions[0].score if regions else highest_mean(values, values.size)
    return Judgement(values, [region for region in regions if region.score >= thresholds.verdict], score)


def highest_mean(values: np.ndarray, size: int) -> float:
    """Mean of the highest values: 0.1 % of a picture of ``size`` pixels, at most `MOST`, or all there are."""
    count = min(max(1, round(HIGHEST * size)), MOST, values.size)
    return float(np.partition(values, -count, axis=None)[-count:].mean())


def find_regions(values: np.ndarray, outline: float) -> list[Region]:
    """The 8-connected regions of a map (h, w) at or above a value, highest score first.

    Raises ValueError for a map that is not two-dimensional or not finite.
    """
    values, regions = np.asarray(values, dtype=np.float32), []
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"expected a finite map of shape (h, w), got shape {values.shape}")
    for one in measure.regionprops(measure.label(values >= outline, connectivity=2), intensity_image=values):
        top, left, bottom, right = one.bbox
        outlines = measure.find_contours(np.pad(one.image_filled, 1).astype(float), 0.5)
        contour = max(outlines, key=len)[:, ::-1] - 1 + (left, top)  # row, column of the padded box -> x, y
        inside = values[one.slice][one.image]
        score = highest_mean(inside, values.size)
        share, peak = float(one.area / values.size), float(inside.max())
        regions.append(Region((left, top, right, bottom), int(one.area), share, peak, score, contour))
    return sorted(regions, key=lambda region: -region.score)

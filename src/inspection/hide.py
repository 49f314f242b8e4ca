"""A hide on its table: where it is, and its measures in mm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import ConvexHull, cKDTree
from scipy.spatial.distance import pdist
from skimage import color, draw, measure, segmentation
from sklearn.mixture import GaussianMixture

from .grade import SLACK, Rules
from .records import HideMeasure, RegionRecord

COPY = 600  # px: longer side of the copy on which the table is told from the leather
FRAME, CENTRE = 0.06, 0.4  # of a side: how wide a frame shows table, if there is one, and a middle only leather
COLOURS = 8  # Gaussians of colour and roughness, of table and leather together
SURE = 1.5  # log odds of a pixel by its colour; others belong where no step of colour parts them from a sure one
STEP = 10.0  # of colour (CIE76) across the leather's edge, at least: 1 to 6 is light, or another part of the hide
SMALLEST_PIECE = 0.01  # of the largest piece of leather: less is dirt in the mask
SMOOTH = 1.0  # px that an outline may leave its mask's border, to have fewer points
INNER_POINTS = 1000  # of a defect, about, whose distances to the edge are taken
CELLS = 600  # on the longer side of the grid on which the largest rectangle is found


def leather_mask(picture: Image.Image) -> np.ndarray:
    """Where an RGB picture shows the hide around its middle, bool (height, width); all True if it shows no table.

    Colours that are commoner in a frame along the picture's border than in its middle are the table's.
    """
    shrink = min(1.0, COPY / max(picture.size))
    small = picture.resize([max(8, round(side * shrink)) for side in picture.size], Image.Resampling.BOX)
    colours = ndimage.gaussian_filter(color.rgb2lab(np.asarray(small)), (1, 1, 0))
    steps = np.linalg.norm([ndimage.gaussian_gradient_magnitude(one, 1) for one in np.moveaxis(colours, 2, 0)], axis=0)
    odds = ndimage.gaussian_filter(_leather_odds(colours), 1.5)
    markers = 1 * (odds < -SURE) + 2 * (odds > SURE)
    labels, _ = ndimage.label(segmentation.watershed(steps, markers) == 2)
    leather = ndimage.binary_fill_holes(labels == np.argmax(np.bincount(labels.ravel(), labels.ravel() > 0)))
    if not _has_step(colours, leather):
        return np.ones(picture.size[::-1], bool)
    large = Image.fromarray(np.uint8(255 * leather)).resize(picture.size, Image.Resampling.BICUBIC)
    return np.asarray(large) > 127


def _leather_odds(colours: np.ndarray) -> np.ndarray:
    """Log odds (h, w) that colours (h, w, 3) are the leather's, by how common they are in the middle and the frame."""
    light = colours[..., 0]
    rough = ndimage.gaussian_filter((light - ndimage.gaussian_filter(light, 2)) ** 2, 3) ** 0.5
    pixels = np.concatenate([colours, 3 * rough[..., None]], axis=2).reshape(-1, 4)
    mixture = GaussianMixture(COLOURS, random_state=0, reg_covar=0.5).fit(pixels[:: max(1, len(pixels) // 8_000)])
    row, column = (np.abs(np.linspace(-1, 1, side)) for side in light.shape)
    outwards, members = np.maximum(row[:, None], column).ravel(), mixture.predict_proba(pixels)
    middle, frame = (members[where].mean(0) + 1e-3 for where in (outwards < CENTRE, outwards > 1 - FRAME))
    return np.log((members @ middle) / (members @ frame)).reshape(light.shape)


def _has_step(colours: np.ndarray, leather: np.ndarray) -> bool:
    """Whether colours change by `STEP` from one side of the leather's border to the other, at half of it or more."""
    if leather.all() or not leather.any():
        return False
    depth = ndimage.distance_transform_edt(leather) - ndimage.distance_transform_edt(~leather)
    means = []
    for side in ((depth > 2) & (depth <= 6), (depth < -2) & (depth >= -6)):
        weight = ndimage.gaussian_filter(np.float64(side), 4)[..., None]
        means.append(ndimage.gaussian_filter(colours * side[..., None], (4, 4, 0)) / np.maximum(weight, 1e-3))
    changes = np.linalg.norm(means[0] - means[1], axis=2)[np.abs(depth) <= 1]
    return bool(np.median(changes) >= STEP)


def measure_hide(
    leather: np.ndarray, regions: Sequence[RegionRecord], *, mm_per_pixel: float, rules: Rules
) -> tuple[HideMeasure, tuple[RegionRecord, ...]]:
    """Measures and grade of the leather in a picture, bool (height, width), and the regions with theirs.

    Its edge is the border of the mask, and of the picture where the hide goes on outside it. Leather is usable where
    it is farther than the rules' margin from every defect; the rectangle, whole cells of 1/600 of the picture's longer
    side, lies in usable leather. Raises ValueError if there is no leather or the scale is not positive.
    """
    if not leather.any() or not 0 < mm_per_pixel < np.inf:
        raise ValueError(f"{leather.sum()} px of leather at {mm_per_pixel} mm a pixel: check the mask and the scale")
    leather, borders = _pieces(leather)
    edge, margin = cKDTree(np.concatenate(borders)), rules.margin_mm / mm_per_pixel
    usable, measured, graded = leather.copy(), [], []
    for region in regions:
        points = np.asarray(region.outline, dtype=float)
        window, inside = _inside(points, leather.shape, margin + 2)
        usable[window] &= ndimage.distance_transform_edt(~inside) > margin + SLACK
        inner = np.argwhere(inside)[:: max(1, inside.sum() // INNER_POINTS), ::-1] + 0.5
        inner += window[1].start, window[0].start
        distances = edge.query(np.concatenate([points, inner]))[0] * mm_per_pixel
        nearest = 0.0 if distances.min() <= mm_per_pixel else float(distances.min())
        longest = longest_line(points) * mm_per_pixel
        severity, area = rules.severity(longest, region.label), region.area * mm_per_pixel**2
        measured.append(replace(region, longest_mm=longest, area_mm2=area, edge_mm=nearest, severity=severity))
        graded.append((longest, float(distances.max()), region.label))
    grade, reason = rules.grade(graded)
    share = float(usable.sum() / leather.sum())
    hide = HideMeasure(
        mm_per_pixel=mm_per_pixel,
        outline=tuple(tuple(map(tuple, measure.approximate_polygon(each, SMOOTH).tolist())) for each in borders),
        area_m2=float(leather.sum() * mm_per_pixel**2 / 1e6),
        defect_area_mm2=float(sum(region.area_mm2 for region in measured)),
        usable_share=share,
        rectangle=largest_rectangle(usable),
        grade=grade,
        grade_reason=reason,
        usable_letter=rules.letter(share),
    )
    return hide, tuple(measured)


def _pieces(leather: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The leather without specks, and the outer border of each piece, (points, 2), x and y, largest piece first."""
    labels, _ = ndimage.label(leather)
    sizes, windows, borders = np.bincount(labels.ravel())[1:], ndimage.find_objects(labels), []
    kept = [number for number in np.argsort(-sizes) if sizes[number] >= SMALLEST_PIECE * sizes.max()]
    for number in kept:
        piece = ndimage.binary_fill_holes(np.pad(labels[windows[number]] == number + 1, 1))
        border = max(measure.find_contours(piece.astype(np.float32), 0.5), key=len)
        borders.append(border[:, ::-1] - 0.5 + [side.start for side in windows[number][::-1]])  # from the corner
    return np.isin(labels, np.add(kept, 1)), borders


def _inside(points: np.ndarray, shape: tuple[int, ...], reach: float) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window of a picture within reach of a polygon, and which of its pixels are inside; one at least."""
    size = np.array(shape[::-1])
    low = np.clip(np.floor(points.min(0) - reach), 0, size - 1).astype(int)
    high = np.clip(np.ceil(points.max(0) + reach), low + 1, size).astype(int)
    inside = draw.polygon2mask(tuple(high - low)[::-1], (points - low - 0.5)[:, ::-1])
    column, row = np.clip(points.mean(0).astype(int), low, high - 1) - low
    inside[row, column] |= not inside.any()
    return (slice(low[1], high[1]), slice(low[0], high[0])), inside


def longest_line(points: np.ndarray) -> float:
    """The longest straight line between two of the points (n, 2): Feret's diameter."""
    return float(pdist(points[ConvexHull(points, qhull_options="QJ").vertices]).max())  # QJ: also points in a row


def largest_rectangle(usable: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the largest rectangle of cells that are all True in a bool (h, w), or four zeros."""
    step = -(-max(usable.shape) // CELLS)
    rows, columns = (side // step for side in usable.shape)
    cells = usable[: rows * step, : columns * step].reshape(rows, step, columns, step).all(axis=(1, 3))
    most, box = 0, (0, 0, 0, 0)
    heights = np.zeros(columns + 1, dtype=int)  # of the True cells above each; the last, 0, closes what is open
    for row, is_usable in enumerate(cells):
        heights[:-1] = (heights[:-1] + 1) * is_usable
        rising: list[tuple[int, int]] = []  # where a height starts, and the height
        for column, height in enumerate(heights.tolist()):
            start = column
            while rising and rising[-1][1] >= height:
                start, tall = rising.pop()
                if tall * (column - start) > most:
                    most, box = tall * (column - start), (start, row + 1 - tall, column, row + 1)
            rising.append((start, height))
    return tuple(float(step * side) for side in box)

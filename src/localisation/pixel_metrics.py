"""Figures of anomaly maps against ground-truth masks, over all pixels of all images: numpy in, plain numbers out."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

BINS = 4096


def pixel_metrics(maps: np.ndarray, masks: np.ndarray, *, false_positive_limit: float = 0.3) -> dict[str, float]:
    """Localisation over all pixels of all test images, normal images included.

    Args:
        maps: Anomaly maps, shape (n, h, w), higher is more anomalous.
        masks: Ground truth, bool, shape (n, h, w), with at least one defective and one normal pixel.
        false_positive_limit: Where the per-region overlap is cut off, in (0, 1].

    Returns:
        ``pixel_auroc``, ``pixel_ap``, ``pixel_f1_max`` (oracle: its threshold is picked on these masks) and
        ``aupro_30`` (area under the per-region overlap up to 30 % false positive rate, divided by 0.3; another limit
        is named likewise), in [0, 1].

    Raises:
        ValueError: If the shapes differ, a score is not finite, there is only one kind of pixel, or the limit is
            outside (0, 1].

    Source:
        Per-region overlap: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021. Regions are 8-connected.
    """
    if not 0 < false_positive_limit <= 1:
        raise ValueError(f"false_positive_limit is {false_positive_limit}; expected above 0, at most 1")
    maps, masks = _checked_maps(maps, masks)
    order, ends, hits = _passed(maps, masks)
    weights, regions = _region_weights(masks)
    overlap = np.cumsum(weights.ravel()[order])[ends] / regions.sum()
    return _figures(hits, ends + 1 - hits, overlap, false_positive_limit)


def pixel_intervals(
    maps: np.ndarray, masks: np.ndarray, *, threshold: float, repeats: int = 500, seed: int = 0
) -> dict[str, list[float]]:
    """95 % percentile intervals of the figures of `pixel_metrics` and `threshold_metrics`, by drawing images.

    Sorting all pixels anew for each draw would take an hour. Each image is counted into 4,096 bins of scores once; a
    draw adds up the counts of its images. Equal-sized bins of defective and of normal pixels, half of each, keep the
    figures within 0.001 of the exact ones.

    Args:
        maps: Anomaly maps, shape (n, h, w), higher is more anomalous.
        masks: Ground truth, bool, shape (n, h, w).
        threshold: Of the maps, for the figures of `threshold_metrics`.
        repeats: Number of draws of n images with replacement; draws without a defect are left out.
        seed: Of the draws.

    Returns:
        [low, high] by name of the figure; AUPRO up to 30 % false positive rate.

    Raises:
        ValueError: As `pixel_metrics`.
    """
    maps, masks = _checked_maps(maps, masks)
    steps = np.linspace(0, 1, BINS // 2 + 1)[1:-1]
    edges = np.unique([np.quantile(maps[masks], steps), np.quantile(maps[~masks], steps)])
    weights, regions = _region_weights(masks)
    counts = np.empty((len(maps), 3, len(edges) + 1))  # per image: defective pixels, normal pixels, overlap by bin
    for image, mask, weight, row in zip(maps, masks, weights, counts, strict=True):
        bins = len(edges) - np.searchsorted(edges, image.ravel(), side="right")  # highest scores first
        for kind, share in enumerate((mask, ~mask, weight)):
            row[kind] = np.bincount(bins, share.ravel(), minlength=len(edges) + 1)
    marked = maps >= threshold
    sums = np.stack([(marked & masks).sum((1, 2)), marked.sum((1, 2)), masks.sum((1, 2))], axis=1)
    generator, draws = np.random.default_rng(seed), []
    for _ in range(repeats):
        times = np.bincount(generator.integers(0, len(maps), len(maps)), minlength=len(maps))
        hits, false, overlap = np.cumsum(np.tensordot(times, counts, 1), axis=1)
        if hits[-1] and false[-1]:
            curve = _figures(hits, false, overlap / (times @ regions), 0.3)
            draws.append(curve | _at_threshold(*(times @ sums)))
    low, high = np.percentile([list(figures.values()) for figures in draws], [2.5, 97.5], axis=0)
    return {name: [float(a), float(b)] for name, a, b in zip(draws[0], low, high, strict=True)}


def threshold_metrics(maps: np.ndarray, masks: np.ndarray, *, threshold: float) -> dict[str, float]:
    """``pixel_f1_at_threshold`` and ``iou_at_threshold`` over all pixels of all images, in [0, 1].

    Args:
        maps: Anomaly maps, shape (n, h, w), higher is more anomalous.
        masks: Ground truth, bool, shape (n, h, w).
        threshold: From other data than these; a pixel at or above it counts as defective.

    Raises:
        ValueError: If the shapes differ or a score is not finite.
    """
    maps, masks = _checked_maps(maps, masks)
    marked = maps >= threshold
    return _at_threshold(int((marked & masks).sum()), int(marked.sum()), int(masks.sum()))


def best_pixel_threshold(maps: np.ndarray, masks: np.ndarray) -> float:
    """The value from which on a pixel counts as defective, of highest F1. To be called with validation data only.

    Args:
        maps: Anomaly maps, shape (n, h, w), higher is more anomalous.
        masks: Masks of the validation pictures (for instance of painted defects), bool, shape (n, h, w).

    Raises:
        ValueError: If the shapes differ, a score is not finite, or there is only one kind of pixel.
    """
    maps, masks = _checked_maps(maps, masks)
    order, ends, hits = _passed(maps, masks)
    best = int(np.argmax(hits / (ends + 1 + hits[-1])))
    return float(maps.ravel()[order[ends[best]]])


def _passed(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels from the highest score down; the last position of each value; defective pixels up to there."""
    order = np.argsort(maps.ravel())[::-1]  # no minus sign: it would wrap unsigned maps around
    ends = np.append(np.flatnonzero(np.diff(maps.ravel()[order])), maps.size - 1)  # equal scores pass together
    return order, ends, np.cumsum(masks.ravel()[order])[ends]


def _figures(hits: np.ndarray, false: np.ndarray, overlap: np.ndarray, limit: float) -> dict[str, float]:
    """Figures of the curves of defective and normal pixels passed, and mean overlap, as the threshold falls."""
    recall, precision, false_rate = hits / hits[-1], hits / np.maximum(hits + false, 1), false / false[-1]
    f1 = 2 * hits / (hits + false + hits[-1])
    return {
        "pixel_auroc": _area(false_rate, recall, 1.0),
        "pixel_ap": float(np.sum(np.diff(recall, prepend=0) * precision)),
        "pixel_f1_max": float(f1.max()),
        f"aupro_{100 * limit:g}": _area(false_rate, overlap, limit) / limit,
    }


def _at_threshold(both: float, marked: float, defective: float) -> dict[str, float]:
    either = marked + defective - both
    return {
        "pixel_f1_at_threshold": float(2 * both / max(marked + defective, 1)),
        "iou_at_threshold": float(both / max(either, 1)),
    }


def _region_weights(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 / size of the pixel's region inside regions, 0 outside, shape (n, h, w); the number of regions, shape (n,)."""
    weights, regions = np.zeros(masks.shape), np.zeros(len(masks), dtype=int)
    for number, (mask, weight) in enumerate(zip(masks, weights, strict=True)):
        labels, regions[number] = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())
        weight[mask] = 1 / sizes[labels[mask]]
    return weights, regions


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Trapezoidal area under a curve that starts at (0, 0), up to x = limit."""
    x, y = np.append(0, x), np.append(0, y)
    inside = int(np.searchsorted(x, limit, side="right"))
    edge = np.interp(limit, x, y)
    return float(np.trapezoid(np.append(y[:inside], edge), np.append(x[:inside], limit)))


def _checked_maps(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps, masks = np.asarray(maps), np.asarray(masks, dtype=bool)
    if maps.shape != masks.shape or maps.ndim != 3:
        raise ValueError(f"maps of shape {maps.shape} and masks of shape {masks.shape}: expected the same (n, h, w)")
    if not np.isfinite(maps).all():
        raise ValueError("the anomaly maps hold values that are not finite")
    if masks.all() or not masks.any():
        raise ValueError("the masks hold only one kind of pixel; both defective and normal ones are needed")
    return maps, masks

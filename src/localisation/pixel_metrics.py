"""Figures of anomaly maps against ground-truth masks, over all pixels of all images: numpy in, plain numbers out."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from scipy import ndimage

BINS = 4096


def pixel_metrics(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Figures of maps (n, h, w), higher is more anomalous, against bool masks, over all pixels, in [0, 1].

    ``pixel_f1_max`` is an oracle: its threshold is picked on these masks. ``aupro_30`` is the area under the overlap
    with 8-connected regions up to 30 % false positives, divided by 0.3. Raises ValueError for maps that do not fit.
    Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021.
    """
    maps, masks = _checked_maps(maps, masks)
    order, ends, hits = _passed(maps, masks)
    return _figures(hits, ends + 1 - hits, np.cumsum(_region_weights(masks).ravel()[order])[ends])


def pixel_intervals(
    maps: np.ndarray, masks: np.ndarray, *, threshold: float, repeats: int = 500, seed: int = 0
) -> dict[str, list[float]]:
    """95 % intervals [low, high] of the figures of `pixel_metrics` and `threshold_metrics`, by drawing images.

    Sorting all pixels for each draw would take an hour: the draws are of the images' `score_histograms`.
    """
    counts, (maps, masks) = score_histograms(maps, masks), _checked_maps(maps, masks)
    marked = maps >= threshold
    sums = np.stack([(marked & masks).sum((1, 2)), marked.sum((1, 2)), masks.sum((1, 2))], axis=1)
    generator, draws = np.random.default_rng(seed), []
    for _ in range(repeats):
        times = np.bincount(generator.integers(0, len(maps), len(maps)), minlength=len(maps))
        with suppress(ValueError):  # there may be no defect in the draw
            draws.append(histogram_figures(np.tensordot(times, counts, 1)) | _at_threshold(*(times @ sums)))
    low, high = np.percentile([list(figures.values()) for figures in draws], [2.5, 97.5], axis=0)
    return {name: [float(a), float(b)] for name, a, b in zip(draws[0], low, high, strict=True)}


def score_histograms(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Of each image defective pixels, normal pixels and overlap with regions, by bins of scores: (n, 3, bins).

    The highest scores are first. Half of the bins have equally many defective, half equally many normal pixels, which
    keeps figures within 0.001 of the exact ones.
    """
    maps, masks = _checked_maps(maps, masks)
    steps = np.linspace(0, 1, BINS // 2 + 1)[1:-1]
    edges = np.unique([np.quantile(maps[masks], steps), np.quantile(maps[~masks], steps)])
    counts = np.empty((len(maps), 3, len(edges) + 1))
    for image, mask, weight, row in zip(maps, masks, _region_weights(masks), counts, strict=True):
        bins = len(edges) - np.searchsorted(edges, image.ravel(), side="right")
        for column, share in enumerate((mask, ~mask, weight)):
            row[column] = np.bincount(bins, share.ravel(), minlength=len(edges) + 1)
    return counts


def histogram_figures(counts: np.ndarray) -> dict[str, float]:
    """The figures of `pixel_metrics` from the summed `score_histograms` (3, bins) of some images.

    Raises ValueError if these have only one kind of pixel.
    """
    if not counts[:2].any(axis=1).all():
        raise ValueError("the images hold only one kind of pixel; both defective and normal ones are needed")
    return _figures(*np.cumsum(counts, axis=1))


def threshold_metrics(maps: np.ndarray, masks: np.ndarray, *, threshold: float) -> dict[str, float]:
    """``pixel_f1_at_threshold`` and ``iou_at_threshold`` over all pixels, at a threshold from other data than these."""
    maps, masks = _checked_maps(maps, masks)
    marked = maps >= threshold
    return _at_threshold(int((marked & masks).sum()), int(marked.sum()), int(masks.sum()))


def best_pixel_threshold(maps: np.ndarray, masks: np.ndarray) -> float:
    """The value from which on a pixel counts as defective, of highest F1. To be called with validation data only."""
    maps, masks = _checked_maps(maps, masks)
    order, ends, hits = _passed(maps, masks)
    best = int(np.argmax(hits / (ends + 1 + hits[-1])))
    return float(maps.ravel()[order[ends[best]]])


def _passed(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels from the highest score down; the last position of each value; defective pixels up to there."""
    order = np.argsort(maps.ravel())[::-1]  # no minus sign: it would wrap unsigned maps around
    ends = np.append(np.flatnonzero(np.diff(maps.ravel()[order])), maps.size - 1)  # equal scores pass together
    return order, ends, np.cumsum(masks.ravel()[order])[ends]


def _figures(hits: np.ndarray, false: np.ndarray, overlap: np.ndarray) -> dict[str, float]:
    """Figures of the curves of defective and normal pixels passed, and overlap with regions, as the threshold falls."""
    false_rate = false / false[-1]
    return {
        "pixel_auroc": _area(false_rate, hits / hits[-1], 1.0),
        "pixel_ap": float(np.sum(np.diff(hits / hits[-1], prepend=0) * hits / np.maximum(hits + false, 1))),
        "pixel_f1_max": float((2 * hits / (hits + false + hits[-1])).max()),
        "aupro_30": _area(false_rate, overlap / overlap[-1], 0.3) / 0.3,
    }


def _at_threshold(both: float, marked: float, defective: float) -> dict[str, float]:
    f1, iou = 2 * both / max(marked + defective, 1), both / max(marked + defective - both, 1)
    return {"pixel_f1_at_threshold": float(f1), "iou_at_threshold": float(iou)}


def _region_weights(masks: np.ndarray) -> np.ndarray:
    """1 / size of the pixel's region inside regions, 0 outside, shape (n, h, w): their sum is the number of regions."""
    weights = np.zeros(masks.shape)
    for mask, weight in zip(masks, weights, strict=True):
        labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())
        weight[mask] = 1 / sizes[labels[mask]]
    return weights


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

"""Pixel metrics: by hand, against scikit-learn and a slow literal AUPRO, then properties and ends."""

import inspect
import time

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.measure import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from src.localisation.pixel_metrics import (
    best_pixel_threshold,
    histogram_figures,
    pixel_intervals,
    pixel_metrics,
    score_histograms,
    threshold_metrics,
)

# From the highest pixel down: a defect, a normal pixel, another defect, a normal pixel. Two regions of one pixel.
FOUR = np.array([[[0.9, 0.6, 0.4, 0.1]]]), np.array([[[1, 0, 1, 0]]], bool)
NAMES = {"pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_30"}


def blobs(seed, *, levels=None, n=3, side=18):
    """Maps and masks with defects of several sizes; the last image is normal. ``levels`` makes scores equal."""
    generator = np.random.default_rng(seed)
    masks = np.stack([gaussian_filter(generator.normal(size=(side, side)), 1.5) > 0.18 for _ in range(n)])
    masks[-1] = False
    maps = gaussian_filter(masks + generator.normal(0, 1.5, masks.shape), (0, 1, 1))
    return (maps if levels is None else np.round(maps * levels)), masks


def slow_aupro(maps, masks, limit=0.3):
    """Per-region overlap word by word: every threshold, every region, then the area up to the limit."""
    regions = []
    for index, mask in enumerate(masks):
        labels = label(mask, connectivity=2)
        regions += [(index, labels == number) for number in range(1, labels.max() + 1)]
    curve = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        marked = maps >= threshold
        overlap = np.mean([(marked[index] & region).sum() / region.sum() for index, region in regions])
        curve.append(((marked & ~masks).sum() / (~masks).sum(), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(curve, curve[1:], strict=False):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def test_pixel_metrics_by_hand():
    figures = pixel_metrics(*FOUR)
    # F1 after each pixel: 2/3, 1/2, 4/5, 2/3. The overlap is 1/2 until half of the normal pixels alarm.
    expected = {"pixel_auroc": 3 / 4, "pixel_ap": (1 + 2 / 3) / 2, "pixel_f1_max": 4 / 5, "aupro_30": 1 / 2}
    assert figures == pytest.approx(expected) and set(figures) == NAMES
    assert all(type(value) is float for value in figures.values())


def test_a_small_region_weighs_as_much_as_a_large_one():
    masks = np.array([[[1, 0, 1, 1, 1, 0, 0, 0]]], bool)
    maps = np.array([[[1, 0, 0, 0, 0, 0, 0, 0]]])
    # The curve runs straight from (0, 1/2), the small region passed, to (1, 1).
    assert pixel_metrics(maps, masks)["aupro_30"] == pytest.approx(1 / 2 + 0.3 / 2 / 2)
    assert pixel_metrics(maps[..., ::-1], masks[..., ::-1])["aupro_30"] == pytest.approx(0.575)


def test_pixels_that_touch_at_a_corner_are_one_region_and_images_are_apart():
    masks, maps = np.zeros((2, 2, 4), bool), np.zeros((2, 2, 4))
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 1, 3] = masks[1, 0, 0] = True
    maps[0, 1, 3] = 1
    # Three regions, one of them passed: overlap 1/3, then a straight line to 1.
    assert pixel_metrics(maps, masks)["aupro_30"] == pytest.approx(1 / 3 + 2 / 3 * 0.3 / 2)


@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("seed", range(3))
def test_pixel_metrics_against_references(seed, levels):
    maps, masks = blobs(seed, levels=levels)
    figures, truth, scores = pixel_metrics(maps, masks), masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert figures["pixel_ap"] == pytest.approx(average_precision_score(truth, scores), abs=1e-9)
    assert figures["pixel_f1_max"] == pytest.approx(f1.max(), abs=1e-9)
    assert figures["aupro_30"] == pytest.approx(slow_aupro(maps, masks), abs=1e-9)
    assert 0.15 < figures["aupro_30"] < 0.99


def test_equal_scores_are_handled_together():
    _, masks = blobs(0)
    figures = pixel_metrics(np.full(masks.shape, 0.7), masks)
    share = masks.mean()
    assert figures == pytest.approx(
        {"pixel_auroc": 0.5, "pixel_ap": share, "pixel_f1_max": 2 * share / (1 + share), "aupro_30": 0.3 / 2}
    )


def test_order_and_monotone_maps_and_number_types_change_nothing():
    maps, masks = blobs(2, levels=20)
    maps -= maps.min()
    expected = pixel_metrics(maps, masks)
    order = np.random.default_rng(0).permutation(len(maps))
    assert pixel_metrics(maps[order], masks[order]) == pytest.approx(expected)
    assert pixel_metrics(maps[:, ::-1], masks[:, ::-1]) == pytest.approx(expected)
    assert pixel_metrics(np.sqrt(maps) - 7, masks) == pytest.approx(expected)
    for number_type in (np.uint8, np.int16, np.float16, np.float32):
        assert pixel_metrics(maps.astype(number_type), masks.astype(np.uint8) * 255) == pytest.approx(expected)


@pytest.mark.parametrize(("sign", "auroc", "aupro"), [(1, 1, 1), (-1, 0, 0)])
def test_both_ends_of_the_scale(sign, auroc, aupro):
    _, masks = blobs(1)
    figures = pixel_metrics(sign * masks.astype(float), masks)
    assert figures["pixel_auroc"] == auroc and figures["aupro_30"] == pytest.approx(aupro)
    assert (
        figures["pixel_ap"] == figures["pixel_f1_max"]
        if sign == 1
        else figures["pixel_ap"] == pytest.approx(masks.mean())
    )


def test_best_pixel_threshold_by_hand_and_as_the_highest_f1():
    assert best_pixel_threshold(*FOUR) == pytest.approx(0.4)
    for seed in range(5):
        maps, masks = blobs(seed, levels=5)
        marked = maps >= best_pixel_threshold(maps, masks)
        f1 = 2 * (marked & masks).sum() / (marked.sum() + masks.sum())
        assert f1 == pytest.approx(pixel_metrics(maps, masks)["pixel_f1_max"])
    assert best_pixel_threshold(np.array([[[0, 255, 7]]], np.uint8), [[[0, 1, 0]]]) == 255


def test_a_pixel_threshold_cannot_see_test_data():
    assert list(inspect.signature(best_pixel_threshold).parameters) == ["maps", "masks"]


def test_at_a_threshold_by_hand():
    maps, masks = FOUR
    # 0.9, 0.6 and 0.4 are marked: two of them are defective, and both defective pixels are among them.
    figures = threshold_metrics(maps, masks, threshold=0.4)
    assert figures == pytest.approx({"pixel_f1_at_threshold": 2 * 2 / (3 + 2), "iou_at_threshold": 2 / 3})
    nothing = threshold_metrics(maps, masks, threshold=2)
    assert nothing == {"pixel_f1_at_threshold": 0, "iou_at_threshold": 0}


def test_intervals_are_those_of_redrawn_images_to_a_thousandth():
    maps, masks = blobs(4, n=12, side=40)
    intervals = pixel_intervals(maps, masks, threshold=0.5, repeats=60, seed=3)
    generator, literal = np.random.default_rng(3), []
    for _ in range(60):
        rows = generator.integers(0, 12, 12)
        figures = pixel_metrics(maps[rows], masks[rows]) | threshold_metrics(maps[rows], masks[rows], threshold=0.5)
        literal.append(list(figures.values()))
    assert list(intervals) == list(figures)
    wanted = np.percentile(literal, [2.5, 97.5], axis=0).T
    np.testing.assert_allclose(list(intervals.values()), wanted, atol=1e-3)
    assert all(low < high for low, high in intervals.values())
    assert pixel_intervals(maps, masks, threshold=0.5, repeats=60, seed=3) == intervals


def test_a_whole_test_set_takes_seconds():
    generator = np.random.default_rng(0)
    masks = np.zeros((124, 256, 256), bool)
    masks[:92, 100:130, 50:80] = True
    maps = generator.random(masks.shape, dtype=np.float32) + masks
    started = time.process_time()
    pixel_metrics(maps, masks)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "function",
    [
        pixel_metrics,
        best_pixel_threshold,
        lambda *a: pixel_intervals(*a, threshold=0.5),
    ],
)
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.zeros((1, 2, 3)), np.zeros((1, 3, 2)), r"\(1, 2, 3\).*\(1, 3, 2\)"),
        (np.zeros((2, 3)), np.zeros((2, 3)), r"expected the same \(n, h, w\)"),
        (np.array([[[0, np.nan]]]), np.array([[[0, 1]]]), "not finite"),
        (np.array([[[0, -np.inf]]]), np.array([[[0, 1]]]), "not finite"),
        (np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), "only one kind"),
        (np.zeros((1, 2, 2)), np.ones((1, 2, 2)), "only one kind"),
        (np.zeros((0, 2, 2)), np.zeros((0, 2, 2)), "only one kind"),
    ],
)
def test_unusable_maps_are_refused(function, maps, masks, message):
    with pytest.raises(ValueError, match=message):
        function(maps, masks)


def test_histograms_keep_the_figures():
    generator, masks = np.random.default_rng(0), np.zeros((8, 40, 40), bool)
    masks[:5, 4:16, 8:30] = masks[2:5, 30:36, 2:9] = True
    maps = generator.normal(size=masks.shape) + 1.5 * masks
    binned = histogram_figures(score_histograms(maps, masks).sum(0))
    assert binned == {name: pytest.approx(value, abs=2e-3) for name, value in pixel_metrics(maps, masks).items()}

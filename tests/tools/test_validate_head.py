"""Thresholds and figures of a head by hand; what lies in boxes of real defects does not count."""

import numpy as np
import pytest

from tools.boxes import BOX
from tools.validate_head import boxes_hit, calibrate, painted_pixels, picture_aurocs, verdict_thresholds


def test_verdicts_by_hand():
    """Flat maps score their value; what lies in a box does not count."""
    maps = np.broadcast_to((np.arange(101) / 100)[:, None, None], (101, 8, 8)).copy()
    labels = np.zeros(maps.shape, np.uint8)
    maps[::2, 2:4, 2:4], labels[::2, 2:4, 2:4] = 1.0, BOX
    points = verdict_thresholds(maps, labels, np.repeat(np.arange(51), 2)[:101], outline=0.5)
    assert points["n"] == 101 and points["originals"] == 51
    for rate, threshold in (("0.05", 0.95), ("0.01", 0.99)):
        low, high = points[rate]["interval"]
        assert points[rate]["threshold"] == pytest.approx(threshold)
        assert low <= points[rate]["threshold"] <= high and low < high <= 1


def test_boxes_by_hand():
    maps, labels = np.zeros((2, 10, 10)), np.zeros((2, 10, 10), np.uint8)
    labels[0, 0:2, 0:2] = labels[1, 0:3, 0:3] = labels[1, 5:8, 5:8] = BOX
    maps[0, 1, 1] = 0.9  # in the box
    maps[1, 9, 0] = 0.8  # the highest, outside
    maps[1, 9, 1:9] = 0.5  # with it more than 1 % of what is outside
    maps[1, 6, 6] = 0.7
    figures = boxes_hit(maps, labels)
    assert figures == {"n": 2, "peak_in_box": 0.5, "boxes": 3, "boxes_hit": pytest.approx(2 / 3)}


def test_calibrated_logits_are_probabilities():
    generator = np.random.default_rng(0)
    logits = generator.normal(-1, 2, (4, 90, 90))
    labels = np.uint8(generator.uniform(size=logits.shape) < 1 / (1 + np.exp(-(0.5 * logits - 1))))
    slope, offset = calibrate(logits, labels)
    assert slope == pytest.approx(0.5, abs=0.1) and offset == pytest.approx(-1, abs=0.1)


def test_painted_pixels_leave_boxes_out():
    maps, labels = np.arange(72.0).reshape(2, 6, 6), np.zeros((2, 6, 6), np.uint8)
    labels[0, 0, 0], labels[1, 3, 0], labels[1, 3, 3] = 1, BOX, 2
    values, truth = painted_pixels(maps, labels)
    assert values.tolist() == [[[0, 3, 18, 21, 36, 39, 57]]] and truth.tolist() == [[[True] + [False] * 6]]


def test_pictures_by_hand():
    """A small bright defect counts for the score, a faint wide one for the mean; what lies in a box for neither."""
    maps, labels = np.full((4, 64, 64), 0.2), np.zeros((4, 64, 64), np.uint8)
    maps[0, 0, :4], labels[0, 0, :4] = 0.9, 1
    maps[1], labels[1] = 0.15, 1
    maps[2, 5, 5:9] = 0.5  # clean, with a false spot
    maps[3], labels[3, 1, 1] = 0.9, BOX
    figures = picture_aurocs(maps, labels, outline=0.4)
    assert figures == {"painted": 2, "clean": 1, "score": 0.5, "mean": 0.5}
    maps[1] = 0.3
    assert picture_aurocs(maps, labels, outline=0.4) == {"painted": 2, "clean": 1, "score": 0.5, "mean": 1.0}

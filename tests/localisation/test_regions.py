"""Regions by hand: boxes, areas, scores, outlines, and what is no region."""

import numpy as np
import pytest

from src.localisation.regions import find_regions


def test_two_regions_by_hand():
    values = np.zeros((10, 20))
    values[2:5, 3:7] = 0.6
    values[3, 4] = 1.5
    values[8, 18] = 0.9
    first, second = find_regions(values, 0.5)
    assert (first.box, first.area, first.share) == ((3, 2, 7, 5), 12, 12 / 200)
    assert (first.score, second.score) == (pytest.approx(3), pytest.approx(1.8))
    assert (second.box, second.area) == ((18, 8, 19, 9), 1)
    assert (first.contour[0] == first.contour[-1]).all()  # closed
    assert first.contour.min(0).tolist() == [2.5, 1.5] and first.contour.max(0).tolist() == [6.5, 4.5]


def test_the_threshold_itself_counts_and_corners_connect():
    values = np.zeros((6, 6))
    values[1, 1] = values[2, 2] = 0.5
    (region,) = find_regions(values, 0.5)
    assert region.area == 2 and region.score == 1 and region.box == (1, 1, 3, 3)
    assert find_regions(values, 0.5000001) == []


def test_a_hole_is_outlined_from_outside_and_not_counted():
    values = np.ones((7, 7))
    values[3, 3] = 0
    (region,) = find_regions(values, 0.5)
    assert region.area == 48 and region.contour.min() == -0.5 and region.contour.max() == 6.5


def test_small_regions_can_be_left_out():
    values = np.zeros((6, 6))
    values[0, 0], values[3:5, 3:5] = 2, 1
    assert [region.area for region in find_regions(values, 0.5)] == [1, 4]
    assert [region.area for region in find_regions(values, 0.5, smallest=2)] == [4]


@pytest.mark.parametrize(
    ("values", "threshold", "message"),
    [
        (np.zeros(4), 0.5, "shape"),
        (np.full((2, 2), np.nan), 0.5, "finite"),
        (np.zeros((2, 2)), 0.0, "threshold is 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused(values, threshold, message):
    with pytest.raises(ValueError, match=message):
        find_regions(values, threshold)

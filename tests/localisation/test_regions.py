"""Regions by hand: boxes, areas, scores, outlines, and the one verdict that follows from them."""

import numpy as np
import pytest

from src.localisation.regions import MOST, Thresholds, find_regions, highest_mean, judge_map


def test_two_regions_by_hand():
    values = np.zeros((10, 20))
    values[2:5, 3:7] = 0.6
    values[3, 4] = 0.75
    values[8, 18] = 0.9
    first, second = find_regions(values, 0.5)
    assert (second.box, second.area, second.share) == ((3, 2, 7, 5), 12, 12 / 200)
    assert (second.peak, second.score) == (pytest.approx(0.75), pytest.approx(0.75))  # 0.1 % of 200 pixels is one
    assert (first.box, first.area, first.score) == ((18, 8, 19, 9), 1, pytest.approx(0.9))
    assert (second.contour[0] == second.contour[-1]).all()  # closed
    assert second.contour.min(0).tolist() == [2.5, 1.5] and second.contour.max(0).tolist() == [6.5, 4.5]


def test_the_threshold_itself_counts_and_corners_connect():
    values = np.zeros((6, 6))
    values[1, 1] = values[2, 2] = 0.5
    (region,) = find_regions(values, 0.5)
    assert region.area == 2 and region.score == 0.5 and region.box == (1, 1, 3, 3)
    assert find_regions(values, 0.5000001) == []


def test_a_hole_is_outlined_from_outside_and_not_counted():
    values = np.ones((7, 7))
    values[3, 3] = 0
    (region,) = find_regions(values, 0.5)
    assert region.area == 48 and region.contour.min() == -0.5 and region.contour.max() == 6.5


def test_a_score_is_the_mean_of_the_highest_values():
    values = np.arange(100 * 100).reshape(100, 100)
    assert highest_mean(values, values.size) == pytest.approx(np.mean(range(9990, 10_000)))
    assert highest_mean(values[0, :3], values.size) == 1  # all there are
    assert highest_mean(values, 10) == 9999
    large = np.zeros((1000, 1000), np.float32)
    large[0, :MOST] = 1  # a small defect of a large picture counts in full
    assert highest_mean(large, large.size) == 1


def test_the_score_of_a_region_is_of_as_many_pixels_in_any_region():
    values = np.zeros((100, 100))
    values[10, 10:20] = np.linspace(0.6, 0.9, 10)  # 0.1 % of 10,000 pixels are 10
    values[50:60, 50:60] = 0.7
    values[50, 50:55] = 0.9
    values[90, 90] = 0.65
    scores = [region.score for region in find_regions(values, 0.5)]
    assert scores == pytest.approx([(5 * 0.9 + 5 * 0.7) / 10, 0.75, 0.65])


def test_a_verdict_by_hand():
    values = np.zeros((20, 20), np.float32)
    values[3, 3], values[10, 10], values[15:17, 15] = 0.55, 0.7, 0.9
    judgement = judge_map(values, Thresholds(0.5, 0.69, ""))
    assert judgement.is_defective and judgement.score == pytest.approx(0.9) and judgement.map is values
    assert [region.box[:2] for region in judgement.regions] == [(15, 15), (10, 10)]  # the faint one is no defect
    judgement = judge_map(values, Thresholds(0.5, 0.95, ""))
    assert not judgement.is_defective and judgement.regions == [] and judgement.score == pytest.approx(0.9)


def test_without_a_region_the_score_is_that_of_the_map_and_the_picture_is_normal():
    values = np.random.default_rng(0).uniform(0, 0.4, (100, 100)).astype(np.float32)
    for verdict in (0.5, 0.1):  # below the outline too
        judgement = judge_map(values, Thresholds(0.5, verdict, ""))
        assert judgement.score == pytest.approx(np.sort(values.ravel())[-10:].mean())
        assert not judgement.is_defective and judgement.regions == []


def test_verdict_regions_and_score_never_contradict_each_other():
    generator, verdicts = np.random.default_rng(1), []
    for _ in range(200):
        values = generator.uniform(0, 1, (50, 60)) ** generator.uniform(1, 1500)
        outline, verdict = sorted(generator.uniform(0, 1, 2))
        judgement = judge_map(values, Thresholds(outline, verdict, ""))
        assert judgement.is_defective == bool(judgement.regions) == (judgement.score >= verdict)
        scores = [region.score for region in judgement.regions]
        assert scores == sorted(scores, reverse=True) and all(score >= verdict for score in scores)
        assert judgement.score == max(scores, default=judgement.score)
        assert all(region.peak >= region.score >= outline for region in judgement.regions)
        verdicts.append(judgement.is_defective)
    assert 20 < sum(verdicts) < 180


@pytest.mark.parametrize(("values", "message"), [(np.zeros(4), "shape"), (np.full((2, 2), np.nan), "finite")])
def test_what_makes_no_sense_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        find_regions(values, 0.5)

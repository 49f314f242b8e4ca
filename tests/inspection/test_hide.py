"""Measures of hides: rectangles worked by hand, then properties; masks of drawn hides on tables."""

import numpy as np
import pytest
from PIL import Image

from src.inspection.grade import read_rules
from src.inspection.hide import largest_rectangle, leather_mask, longest_line, measure_hide
from src.inspection.records import RegionRecord
from src.synthetic.hides import draw_table_hide
from src.synthetic.leather import HIDE_COLOURS, draw_hide, render_leather


def box_region(left, top, right, bottom, *, label=None):
    outline = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    area = (right - left) * (bottom - top)
    return RegionRecord(1, (left, top, right, bottom), area, 0.9, 0.8, outline, label)


@pytest.fixture(scope="module")
def rules():
    return read_rules()


@pytest.fixture(scope="module")
def leather():
    """A hide of 100 x 200 px, 20 px from the corner of its picture."""
    mask = np.zeros((140, 240), bool)
    mask[20:120, 20:220] = True
    return mask


def test_a_rectangle_with_one_defect_by_hand(leather, rules):
    hide, measured = measure_hide(leather, [box_region(100, 60, 110, 70)], mm_per_pixel=1, rules=rules)
    defect = measured[0]
    assert hide.area_m2 == pytest.approx(0.02) and hide.defect_area_mm2 == defect.area_mm2 == pytest.approx(100)
    assert defect.longest_mm == pytest.approx(np.hypot(10, 10)) and defect.severity == 2
    assert defect.edge_mm == pytest.approx(40, abs=0.1)  # from y 60 to y 20
    grown = 100 + 4 * 10 * 5 + np.pi * 25  # a margin of 5 mm around a square of 10 mm
    assert hide.usable_share == pytest.approx(1 - grown / 20_000, abs=0.001)
    assert hide.rectangle == (115, 20, 220, 120)  # right of the margin
    assert hide.usable_letter == "A" and hide.grade == "No. 1" and "0 of 1" in hide.grade_reason


def test_the_scale_changes_lengths_once_and_areas_twice(leather, rules):
    regions = [box_region(100, 60, 140, 70)]
    (one, small), (four, large) = (measure_hide(leather, regions, mm_per_pixel=scale, rules=rules) for scale in (1, 4))
    assert four.area_m2 == pytest.approx(16 * one.area_m2)
    assert large[0].longest_mm == pytest.approx(4 * small[0].longest_mm)
    assert large[0].edge_mm == pytest.approx(4 * small[0].edge_mm)
    assert large[0].area_mm2 == pytest.approx(16 * small[0].area_mm2)
    assert four.outline == one.outline and four.usable_share > one.usable_share
    assert (one.grade, four.grade) == ("No. 1", "No. 2")  # at 1 mm a pixel nothing is 76 mm from the edge


def test_a_defect_at_the_edge_that_reaches_the_middle_counts(rules):
    leather = np.ones((400, 400), bool)
    near, near_regions = measure_hide(leather, [box_region(0, 100, 70, 110)], mm_per_pixel=1, rules=rules)
    far, far_regions = measure_hide(leather, [box_region(0, 100, 200, 110)], mm_per_pixel=1, rules=rules)
    assert near_regions[0].edge_mm == far_regions[0].edge_mm == 0
    assert (near.grade, far.grade) == ("No. 1", "No. 2")
    whole, _ = measure_hide(leather, [box_region(0, 0, 400, 400)], mm_per_pixel=1, rules=rules)
    assert (whole.grade, whole.usable_share, whole.usable_letter) == ("No. 2", 0, "below F")
    assert whole.rectangle == (0, 0, 0, 0)


def test_a_hide_without_defects_is_all_usable(leather, rules):
    hide, measured = measure_hide(leather, [], mm_per_pixel=2, rules=rules)
    assert (hide.usable_share, hide.defect_area_mm2, measured) == (1, 0, ())
    assert hide.rectangle == (20, 20, 220, 120) and hide.grade == "No. 1"


def test_outlines_enclose_the_pieces_largest_first_and_specks_are_dropped(leather, rules):
    leather = leather.copy()
    leather[125:135, 30:80] = True  # a second piece
    leather[2:4, 2:4] = True  # dirt
    leather[60:70, 60:70] = False  # a hole in the hide
    hide, measured = measure_hide(leather, [], mm_per_pixel=1, rules=rules)
    assert hide.area_m2 == pytest.approx((100 * 200 - 100 + 500) / 1e6)
    corners = [np.concatenate([np.min(ring, axis=0), np.max(ring, axis=0)]) for ring in hide.outline]
    assert np.allclose(corners, [(20, 20, 220, 120), (30, 125, 80, 135)], atol=1)  # px that smoothing may take
    assert all(ring[0] == ring[-1] for ring in hide.outline)


def test_a_round_hide_has_its_area_and_a_short_outline(rules):
    row, column = np.ogrid[:600, :600]
    disc = np.hypot(row - 299.5, column - 299.5) < 250
    hide, measured = measure_hide(disc, [box_region(290, 290, 310, 310)], mm_per_pixel=1, rules=rules)
    x, y = np.array(hide.outline[0]).T
    area = abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2
    assert hide.area_m2 * 1e6 == pytest.approx(np.pi * 250**2, rel=0.002)
    assert area == pytest.approx(np.pi * 250**2, rel=0.005) and len(x) < 120
    assert measured[0].edge_mm == pytest.approx(250 - np.hypot(10, 10), abs=1)


def test_turning_the_picture_changes_no_measure(leather, rules):
    region, turned = box_region(50, 40, 90, 52), box_region(40, 240 - 90, 52, 240 - 50)
    one, one_regions = measure_hide(leather, [region], mm_per_pixel=1, rules=rules)
    other, other_regions = measure_hide(np.rot90(leather), [turned], mm_per_pixel=1, rules=rules)
    assert other.usable_share == pytest.approx(one.usable_share) and other.grade == one.grade
    assert other_regions[0].edge_mm == pytest.approx(one_regions[0].edge_mm, abs=0.1)
    assert other_regions[0].longest_mm == pytest.approx(one_regions[0].longest_mm)


def test_tiny_and_flat_regions_have_measures(leather, rules):
    thin = RegionRecord(1, (50, 50, 60, 50), 0.5, 0.9, 0.8, ((50, 50), (60, 50), (55, 50), (50, 50)))
    dot = box_region(70.2, 70.2, 70.3, 70.3)
    hide, measured = measure_hide(leather, [thin, dot], mm_per_pixel=1, rules=rules)
    assert [one.longest_mm for one in measured] == pytest.approx([10, np.hypot(0.1, 0.1)])
    assert 0 < hide.usable_share < 1


def test_nothing_to_measure_is_an_error(leather, rules):
    with pytest.raises(ValueError, match="check the mask"):
        measure_hide(np.zeros((5, 5), bool), [], mm_per_pixel=1, rules=rules)
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="mm a pixel"):
            measure_hide(leather, [], mm_per_pixel=scale, rules=rules)


def test_longest_line_is_the_diameter():
    points = np.array([(0, 0), (30, 0), (30, 40), (0, 40)], dtype=float)
    assert longest_line(points) == pytest.approx(50)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert longest_line(points @ turn + 7) == pytest.approx(50)


def test_largest_rectangle_is_that_of_all_rectangles():
    random = np.random.default_rng(1)
    for _ in range(20):
        usable = random.uniform(size=(7, 9)) < 0.75
        areas = [
            (bottom - top) * (right - left)
            for top in range(7)
            for bottom in range(top + 1, 8)
            for left in range(9)
            for right in range(left + 1, 10)
            if usable[top:bottom, left:right].all()
        ]
        left, top, right, bottom = (int(side) for side in largest_rectangle(usable))
        assert usable[top:bottom, left:right].all() and (bottom - top) * (right - left) == max(areas)


def test_a_large_picture_is_measured_on_cells_that_are_all_usable():
    usable = np.ones((1500, 2000), bool)
    usable[700:710, :] = False
    left, top, right, bottom = (int(side) for side in largest_rectangle(usable))
    assert usable[top:bottom, left:right].all()
    assert (bottom - top) * (right - left) > 0.99 * 790 * 2000


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize(
    "table, brightness, seed",
    [
        ("black", "lighter", 1),
        ("white", "darker", 2),
        ("wood", "darker", 3),
        ("wood", "lighter", 4),
        ("white", "any", 5),
    ],
)
def test_the_hide_is_told_from_its_table(table, brightness, seed):
    hide = draw_table_hide(np.random.default_rng(seed), 400, table=table, defects=1, brightness=brightness)
    picture = Image.fromarray(hide.picture)
    mask = leather_mask(picture)
    assert mask.dtype == bool and overlap(mask, hide.leather) >= 0.95


def test_a_large_picture_is_masked_from_a_small_copy():
    hide = draw_table_hide(np.random.default_rng(6), 400, table="wood", defects=1)
    mask = leather_mask(Image.fromarray(hide.picture).resize((1200, 960)))
    assert overlap(mask, np.asarray(Image.fromarray(hide.leather).resize((1200, 960)))) >= 0.95


@pytest.mark.parametrize("seed", range(3))
def test_a_hide_that_fills_the_picture_has_no_table(seed):
    random = np.random.default_rng(seed)
    pixels = render_leather(random, 200, hide=draw_hide(random, colour=HIDE_COLOURS[4 * seed]), drift=2.0)
    slope = np.linspace(0.6, 1.1, 200)[:, None, None]  # a lamp at one side
    for shown in (pixels, np.uint8(pixels * slope)):
        assert leather_mask(Image.fromarray(shown)).all()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_pictures_of_one_colour_and_of_a_few_pixels_are_all_leather():
    for size in ((300, 200), (9, 5), (1, 1), (700, 3)):
        assert leather_mask(Image.new("RGB", size, (90, 60, 40))).all()

"""Painted defects: tight labels, untouched surroundings, repeatable pixels, any size, clear refusals."""

import numpy as np
import pytest

from src.synthetic.kinds import KINDS
from src.synthetic.painter import MVTEC_KINDS, add_defect, paint_defect

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

COLOURS = {"dark": (32, 30, 34), "brown": (120, 80, 60), "light": (225, 220, 210)}


def leather(*, rows=256, columns=256, colour="brown"):
    grain = np.random.default_rng(0).normal(0, 6, (rows, columns, 1))
    return np.clip(np.array(COLOURS[colour]) + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", [*KINDS, "color"])
@pytest.mark.parametrize("colour", COLOURS)
def test_every_kind_can_be_seen_in_its_mask(kind, colour):
    image = leather(colour=colour)
    for seed in range(4):
        painted, mask = add_defect(image, np.random.default_rng(seed), kind=kind)
        change = np.abs(painted.astype(float) - image).mean(2)
        assert painted.dtype == mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
        assert 6 <= mask.sum() <= 0.12 * mask.size
        assert change[mask == 1].mean() > 3


def test_without_a_name_every_kind_is_drawn_sooner_or_later(monkeypatch):
    drawn = []
    for name, (chance, paint) in KINDS.items():
        monkeypatch.setitem(KINDS, name, (chance, lambda spot, n=name, p=paint: drawn.append(n) or p(spot)))
    for seed in range(150):
        add_defect(leather(rows=64, columns=64), np.random.default_rng(seed))
    assert set(drawn) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_label_holds_all_that_changed_and_its_core_the_strongest(kind):
    inside, halo = [], []
    for seed in range(12):
        before = leather().astype(np.float32)
        picture = before.copy()
        label = paint_defect(picture, np.random.default_rng(seed), kind=kind, light=0.5)
        change = np.abs(picture - before).mean(2)
        assert label.dtype == np.uint8 and set(np.unique(label)) <= {0, 1, 2}
        assert change[label == 0].max() <= 1.01
        assert picture.min() >= 0 and picture.max() <= 255
        inside.append(change[label == 1].mean())
        halo.append(change[label == 2].mean() if (label == 2).any() else 0)
    assert np.mean(inside) > 1.5 * np.mean(halo)


def test_the_core_of_a_poke_is_its_hole_and_not_its_dent():
    areas = [add_defect(leather(), np.random.default_rng(seed), kind="poke")[1].sum() for seed in range(40)]
    assert min(areas) >= 6 and np.median(areas) < 100 and max(areas) < 700


@pytest.mark.parametrize("shape", [(32, 32), (33, 150), (400, 90), (600, 600)])
def test_any_size(shape):
    image = leather(rows=shape[0], columns=shape[1])
    for seed in range(20):
        painted, mask = add_defect(image, np.random.default_rng(seed))
        assert painted.shape == image.shape and 6 <= mask.sum() <= 0.12 * mask.size


@pytest.mark.parametrize("scale", [0.01, 0.25, 4.0])
@pytest.mark.parametrize("kind", KINDS)
def test_any_scale(scale, kind):
    mask = add_defect(leather(rows=128, columns=128), np.random.default_rng(3), kind=kind, scale=scale)[1]
    assert 6 <= mask.sum() <= 0.12 * mask.size


def test_a_larger_scale_covers_more():
    def mean_area(scale):
        return np.mean([add_defect(leather(), np.random.default_rng(seed), scale=scale)[1].sum() for seed in range(30)])

    assert mean_area(0.4) < mean_area(1.0) < mean_area(2.0)


def test_defects_of_a_large_picture_keep_their_size_in_pixels():
    def area(side):
        pictures = [leather(rows=side, columns=side).astype(np.float32) for _ in range(15)]
        labels = [paint_defect(p, np.random.default_rng(n), kind="glue") for n, p in enumerate(pictures)]
        return np.median([(label == 1).sum() for label in labels])

    assert 0.5 < area(800) / area(256) < 2


def test_same_state_same_pixels_and_the_image_is_left_alone():
    image = leather()
    before = image.copy()
    first, second, other = (add_defect(image, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])
    assert np.array_equal(image, before)


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("kind", KINDS)
def test_shows_on_black_and_on_white(kind, level):
    image = np.full((64, 64, 3), level, np.uint8)
    painted, mask = add_defect(image, np.random.default_rng(2), kind=kind)
    assert (painted != image).any(2)[mask == 1].mean() > 0.2


def test_all_kinds_are_known_by_name():
    assert len(KINDS) == 13 and set(MVTEC_KINDS) - {"color"} <= set(KINDS)
    with pytest.raises(ValueError, match="unknown kind.*'dent'.*scratch.*thread"):
        add_defect(leather(), np.random.default_rng(0), kind="dent")


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_refuses_other_scales(scale):
    with pytest.raises(ValueError, match="scale"):
        add_defect(leather(), np.random.default_rng(0), scale=scale)


@pytest.mark.parametrize(
    "image",
    [np.zeros((64, 64, 3)), np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), leather(rows=31)],
)
def test_refuses_other_images(image):
    with pytest.raises(ValueError, match="expected uint8"):
        add_defect(image, np.random.default_rng(0))

"""Pasted defects: exact masks, untouched surroundings, repeatable pixels, clear refusals."""

import numpy as np
import pytest

from src.synthetic.defects import DEFECTS, add_synthetic_defect


def leather(*, rows=256, columns=256, colour=(120, 80, 60)):
    noise = np.random.default_rng(0).normal(0, 6, (rows, columns, 1))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("colour", [(120, 80, 60), (0, 0, 0), (255, 255, 255), (128, 128, 128)])
def test_only_the_mask_changes_and_most_of_it_does(defect, colour):
    image = leather(colour=colour)
    for seed in range(10):
        changed, mask = add_synthetic_defect(image, np.random.default_rng(seed), defect=defect)
        different = (changed != image).any(axis=2)
        assert changed.shape == image.shape and changed.dtype == np.uint8
        assert mask.shape == image.shape[:2] and mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}
        assert not different[mask == 0].any()
        # A bright defect cannot show on pure white, nor a shadow on pure black.
        assert different[mask == 1].mean() > (0.2 if colour in [(0, 0, 0), (255, 255, 255)] else 0.6)


@pytest.mark.parametrize("defect", DEFECTS)
def test_covers_about_a_thousandth_to_a_twentieth(defect):
    image = leather()
    shares = [add_synthetic_defect(image, np.random.default_rng(s), defect=defect)[1].mean() for s in range(100)]
    assert 0.0005 < min(shares) < 0.005
    assert 0.015 < max(shares) < 0.055


def test_same_seed_same_pixels_and_the_image_is_left_alone():
    image = leather()
    before = image.copy()
    first = add_synthetic_defect(image, np.random.default_rng(5))
    second = add_synthetic_defect(image, np.random.default_rng(5))
    other = add_synthetic_defect(image, np.random.default_rng(6))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])
    assert np.array_equal(image, before)


def test_none_draws_every_defect():
    generator = np.random.default_rng(1)
    drawn = {DEFECTS[generator.integers(len(DEFECTS))] for _ in range(100)}
    assert drawn == set(DEFECTS)
    seed = 3
    generator = np.random.default_rng(seed)
    defect = DEFECTS[generator.integers(len(DEFECTS))]
    named = add_synthetic_defect(leather(), generator, defect=defect)[0]
    assert np.array_equal(add_synthetic_defect(leather(), np.random.default_rng(seed))[0], named)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (33, 150), (700, 500)])
@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
def test_any_shape_and_scale(shape, scale):
    image = leather(rows=shape[0], columns=shape[1])
    for seed in range(5):
        changed, mask = add_synthetic_defect(image, np.random.default_rng(seed), scale=scale)
        assert changed.shape == image.shape and mask.any()


def test_a_larger_scale_covers_more():
    image = leather()

    def mean_area(scale):
        masks = [add_synthetic_defect(image, np.random.default_rng(s), scale=scale)[1] for s in range(20)]
        return np.mean(masks)

    assert mean_area(0.5) < mean_area(1.0) < mean_area(2.0)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64, 3)),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((31, 64, 3), np.uint8),
    ],
)
def test_refuses_other_images(image):
    with pytest.raises(ValueError, match="expected uint8"):
        add_synthetic_defect(image, np.random.default_rng(0))


def test_refuses_unknown_defects_and_scales():
    with pytest.raises(ValueError, match="scratch.*color, cut, fold, glue, poke"):
        add_synthetic_defect(leather(), np.random.default_rng(0), defect="scratch")
    for scale in (0, -1, 4.001, float("nan")):
        with pytest.raises(ValueError, match="scale"):
            add_synthetic_defect(leather(), np.random.default_rng(0), scale=scale)

"""Drawn leather: the same on every machine, different between hides and classes."""

from dataclasses import replace

import numpy as np
import pytest

from src.config import CLASS_NAMES
from src.synthetic.leather import HIDE_COLOURS, draw_hide, render_leather


def test_shape_type_and_both_sizes():
    for size in (32, 75, 224):
        picture = render_leather(np.random.default_rng(0), size)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    assert picture.std() > 3


def test_same_seed_same_pixels():
    first, second, other = (render_leather(np.random.default_rng(seed), 64) for seed in (4, 4, 5))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_hides_differ_in_colour():
    colours = {draw_hide(np.random.default_rng(seed)).colour for seed in range(20)}
    assert len(colours) == 20
    for colour in HIDE_COLOURS:
        hide = draw_hide(np.random.default_rng(1), colour=colour)
        assert np.abs(np.array(hide.colour) - colour).max() <= 8
        picture = render_leather(np.random.default_rng(2), 64, hide=hide, drift=0)
        assert np.abs(picture.mean(axis=(0, 1)) - hide.colour).max() < 30


@pytest.mark.parametrize("surface", CLASS_NAMES)
def test_every_class_can_be_drawn_and_only_faultless_equals_the_default(surface):
    plain = render_leather(np.random.default_rng(3), 96)
    picture = render_leather(np.random.default_rng(3), 96, surface=surface)
    assert np.array_equal(picture, plain) == (surface == "non_defective")


def test_light_wanders_only_with_drift():
    hide = replace(draw_hide(np.random.default_rng(1), colour=(120, 90, 70)), mottle=0.0)

    def brightness(drift):
        generator = np.random.default_rng(0)
        return [render_leather(generator, 64, hide=hide, drift=drift).mean() for _ in range(10)]

    assert np.std(brightness(0.0)) < 1.5 < 5 < np.std(brightness(1.0))


def test_refuses_what_it_cannot_draw():
    generator = np.random.default_rng(0)
    for options in ({"size": 31}, {"size": 64, "drift": -0.1}, {"size": 64, "surface": "loose_grains"}):
        with pytest.raises(ValueError, match="size|surface"):
            render_leather(generator, **options)

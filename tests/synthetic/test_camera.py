"""Leathers, light and cameras keep the shape, stay in range and differ with the generator."""

import numpy as np
import pytest

from src.synthetic.camera import cast_light, change_leather, photograph
from src.synthetic.leather import render_leather

TEXTURE = render_leather(np.random.default_rng(4), 128)


@pytest.mark.parametrize("shape", [(32, 32), (128, 70), (97, 128)])
def test_the_three_steps_keep_any_shape(shape):
    texture = TEXTURE[: shape[0], : shape[1]]
    for seed in range(20):
        generator = np.random.default_rng(seed)
        picture = change_leather(texture, generator, scale=0.5)
        lit = cast_light(picture, generator, scale=0.5)
        photo = photograph(lit, generator)
        assert picture.shape == lit.shape == photo.shape == texture.shape
        assert picture.dtype == lit.dtype == np.float32 and photo.dtype == np.uint8
        assert lit.min() >= 0 and lit.max() <= 255 and 10 < picture.mean() < 230


def test_grey_leather_is_dyed_and_coloured_leather_keeps_its_hue():
    grey = np.repeat(TEXTURE.mean(2, keepdims=True), 3, 2).astype(np.uint8)
    dyed = [change_leather(grey, np.random.default_rng(seed), scale=0.5).mean((0, 1)) for seed in range(40)]
    assert 0.5 < np.mean([np.ptp(colour) > 5 for colour in dyed]) < 0.95
    hues = [change_leather(TEXTURE, np.random.default_rng(seed), scale=0.5).mean((0, 1)) for seed in range(10)]
    assert {tuple(np.argsort(hue)) for hue in hues} == {tuple(np.argsort(TEXTURE.mean((0, 1))))}


def test_light_and_camera_leave_what_they_are_given():
    picture = np.float32(TEXTURE)
    for seed in range(10):
        photograph(cast_light(picture, np.random.default_rng(seed), scale=0.5), np.random.default_rng(seed))
        photograph(picture, np.random.default_rng(seed))
    assert np.array_equal(picture, np.float32(TEXTURE))

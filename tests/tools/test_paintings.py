"""Paintings: any size, repeatable pixels, light and looks as asked, boxes that follow their defects."""

import numpy as np
import pytest

from src.synthetic.leather import render_leather
from tests.synthetic.test_painter import leather
from tools.paintings import paint_picture


@pytest.mark.parametrize("shape", [(32, 32), (33, 150), (400, 90), (600, 600)])
def test_any_size(shape):
    image = leather(rows=shape[0], columns=shape[1])
    picture, label = paint_picture(image, np.random.default_rng(1), defects=1, scale=min(shape) / 256)
    assert picture.shape == image.shape and label.shape == shape and (label == 1).sum() >= 6


def test_same_state_same_pixels_and_the_texture_is_left_alone():
    texture = leather()
    before = texture.copy()
    first, second, other = (paint_picture(texture, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0]) and np.array_equal(texture, before)


def test_a_normal_picture_has_light_and_noise_but_no_label():
    texture = render_leather(np.random.default_rng(1), 96)
    pictures = [paint_picture(texture, np.random.default_rng(seed), defects=0) for seed in range(30)]
    assert all(picture.dtype == np.uint8 and not label.any() for picture, label in pictures)
    brightness = [picture.mean() for picture, _ in pictures]
    assert min(brightness) < 0.7 * np.mean(brightness) and max(brightness) > 1.2 * np.mean(brightness)


def test_pictures_of_one_look_are_of_like_colour():
    texture = leather(rows=96, columns=96)

    def spread(looks):
        pictures = [paint_picture(texture, np.random.default_rng(n), look=look)[0] for n, look in enumerate(looks)]
        means = np.array([picture.mean((0, 1)) for picture in pictures])
        return (means / means.sum(1, keepdims=True)).std(0).mean()

    assert 3 * spread([7] * 12) < spread(range(12))


def test_boxes_go_where_their_pixels_go():
    """A green square in a box is in it still, however the texture was turned, moved and enlarged."""
    texture, boxes = leather(rows=96, columns=96), np.zeros((96, 96), bool)
    texture[40:60, 30:60], boxes[40:60, 30:60] = (0, 200, 0), True
    for seed in range(12):
        picture, label = paint_picture(texture, np.random.default_rng(seed), defects=seed % 2, boxes=boxes, scale=0.4)
        green = picture[..., 1] - picture[..., [0, 2]].mean(2)
        assert set(np.unique(label)) <= {0, 1, 2, 3} and (label == 3).any()
        assert green[label == 3].mean() > green[label == 0].mean() + 3


def test_pieces_of_a_look_differ_in_place_alone():
    """Mirrored pieces of even leather have the same colour; other looks have another one."""
    texture = leather(rows=96, columns=96)

    def colours(looks):
        pictures = [
            paint_picture(texture, np.random.default_rng(n), look=look, piece=n % 4, defects=0)[0]
            for n, look in enumerate(looks)
        ]
        means = np.array([picture.mean((0, 1)) for picture in pictures])
        return (means / means.sum(1, keepdims=True)).std(0).mean()

    assert 3 * colours([3] * 8) < colours(range(8))


def test_the_number_of_defects_is_drawn_or_given():
    texture = leather(rows=128, columns=128)
    labels = [paint_picture(texture, np.random.default_rng(seed), scale=0.5)[1] for seed in range(60)]
    assert 0.1 < np.mean([not label.any() for label in labels]) < 0.45
    assert (paint_picture(texture, np.random.default_rng(0), defects=3, scale=0.5)[1] == 1).any()

"""Leathers, light and cameras keep the shape, stay in range and differ with the generator."""

import numpy as np
import pytest

from src.synthetic.leather import render_leather
from tools.camera import another_piece, cast_light, change_leather, photograph, reframe

TEXTURE = render_leather(np.random.default_rng(4), 128)


@pytest.mark.parametrize("shape", [(32, 32), (128, 70), (97, 128)])
def test_the_steps_keep_any_shape(shape):
    texture = TEXTURE[: shape[0], : shape[1]]
    for seed in range(20):
        generator = np.random.default_rng(seed)
        piece = reframe(another_piece(texture, generator, piece=seed % 4), generator)
        picture = change_leather(piece, generator, scale=0.5)
        lit = cast_light(picture, generator, scale=0.5)
        photo = photograph(lit, generator)
        assert piece.shape == picture.shape == lit.shape == photo.shape == texture.shape
        assert picture.dtype == lit.dtype == np.float32 and photo.dtype == np.uint8
        assert lit.min() >= 0 and lit.max() <= 255 and 10 < picture.mean() < 230


def test_grey_leather_is_dyed_and_coloured_leather_keeps_its_hue():
    grey = np.repeat(TEXTURE.mean(2, keepdims=True), 3, 2).astype(np.uint8)

    def colour(texture, seed):
        return change_leather(np.float32(texture), np.random.default_rng(seed), scale=0.5).mean((0, 1))

    dyed = [colour(grey, seed) for seed in range(40)]
    assert 0.5 < np.mean([np.ptp(colour) > 5 for colour in dyed]) < 0.95
    hues = [
        change_leather(np.float32(TEXTURE), np.random.default_rng(seed), scale=0.5).mean((0, 1)) for seed in range(10)
    ]
    assert {tuple(np.argsort(hue)) for hue in hues} == {tuple(np.argsort(TEXTURE.mean((0, 1))))}


def test_light_and_camera_leave_what_they_are_given():
    picture = np.float32(TEXTURE)
    for seed in range(10):
        photograph(cast_light(picture, np.random.default_rng(seed), scale=0.5), np.random.default_rng(seed))
        photograph(picture, np.random.default_rng(seed))
    assert np.array_equal(picture, np.float32(TEXTURE))


def test_pieces_are_mirrored_and_moved():
    """Moved by up to two of eight columns, and what is missing is mirrored: neighbours stay neighbours."""
    texture = np.arange(64).reshape(8, 8)
    for piece in range(4):
        for seed in range(20):
            moved = another_piece(texture, np.random.default_rng(seed), piece=piece)
            down, right = np.sign(np.diff(moved[3:5, 4], axis=0)), np.sign(np.diff(moved[4, 3:5]))
            assert (down > 0) == (piece < 1 or piece == 2) and (right > 0) == (piece < 2)
            assert set(np.abs(np.diff(moved, axis=1)).ravel()) <= {0, 1}
            assert set(np.abs(np.diff(moved, axis=0)).ravel()) <= {0, 8}
            assert len(np.unique(moved)) >= 36

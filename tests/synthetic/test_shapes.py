"""Lines, blobs and noise against shapes whose size is known."""

import numpy as np
import pytest

from src.synthetic.shapes import Spot, blob, edge, line, noise, zoom


def spot(*, side=200, seed=0):
    places = np.arange(side, dtype=np.float32) - side / 2
    pixels, label = np.zeros((side, side, 3), np.float32), np.zeros((side, side), np.uint8)
    light = np.float32([0, 1])
    return Spot(pixels, label, places[:, None], places[None], light, 1.0, 1.0, np.random.default_rng(seed))


def test_a_straight_line_has_its_length_and_width():
    near, across, along = line(spot(), length=100, bend=0, reach=10)
    assert across.shape == along.shape == near.label.shape
    assert (np.abs(across) < 4).sum() == pytest.approx(2 * 4 * 100 + np.pi * 4**2, rel=0.05)
    middle = np.abs(across) < 1
    assert along[middle].min() == 0 and along[middle].max() == 1
    assert (across[np.abs(across) < 4] > 0).mean() == pytest.approx(0.5, abs=0.05)


def test_a_smooth_blob_is_an_ellipse_of_the_same_area_at_every_aspect():
    for aspect in (1.0, 4.0):
        _, field = blob(spot(), radius=20, aspect=aspect, ragged=0)
        assert (field > 0).sum() == pytest.approx(np.pi * 20**2, rel=0.03)


def test_a_window_at_the_border_is_a_view_and_never_empty():
    whole = spot(side=40)
    for centre in ([0, 0], [-500, 500]):
        near = whole.near(np.array([centre]), 3)
        assert min(near.label.shape) >= 2
        near.label[:] = 1
        near.relight(np.ones(near.label.shape))
    assert 0 < whole.label.sum() < whole.label.size
    assert (whole.pixels[whole.label == 1] > 0).all() and (whole.pixels[whole.label == 0] == 0).all()


def test_a_height_faces_the_light_on_the_side_of_the_light():
    flat = spot(side=40)
    facing = flat.facing(np.exp(-(flat.row**2 + flat.column**2) / 50))
    assert facing[20, 25] > 0.1 and facing[20, 15] < -0.1  # the light comes from the right


def test_noise_edge_and_zoom():
    values = noise(np.random.default_rng(0), (300, 200), 5)
    assert values.shape == (300, 200) and abs(values.mean()) < 0.1 and 0.8 < values.std() < 1.2
    assert edge(np.array([-9.0, 0.0, 9.0])) == pytest.approx([0, 0.5, 1], abs=1e-6)
    ramp = np.repeat(np.arange(60, dtype=np.uint8)[:, None, None], 50, 1).repeat(3, 2)
    assert np.ptp(zoom(ramp, (40, 40), 2, np.random.default_rng(0))) == pytest.approx(20, abs=2)
    assert np.ptp(zoom(ramp, (60, 50), 0.5, np.random.default_rng(0))) == pytest.approx(59, abs=2)

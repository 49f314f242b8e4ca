"""Drawn hides: masks that match, tables as asked, pixels that follow from the seed."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, label

from src.synthetic.hides import CONTRAST, TABLES, VISIBLE, draw_table_hide

SIZE = 400


@pytest.fixture(scope="module", params=sorted(TABLES))
def drawn(request):
    return request.param, draw_table_hide(np.random.default_rng(3), SIZE, table=request.param, defects=3)


def test_one_piece_of_leather_lies_on_the_table(drawn):
    table, hide = drawn
    assert hide.picture.shape == (320, SIZE, 3) and hide.picture.dtype == np.uint8
    assert hide.leather.dtype == bool and hide.leather.shape == (320, SIZE) and label(hide.leather)[1] == 1
    assert 0.35 < hide.leather.mean() < 0.7
    top = hide.picture[~binary_dilation(hide.leather, iterations=15)].mean(0)  # beyond the shadow
    assert np.abs(top - TABLES[table]).max() < 0.2 * max(TABLES[table])


def test_the_mask_of_the_leather_is_where_its_colour_is(drawn):
    table, hide = drawn
    inner = binary_erosion(hide.leather, iterations=2) & (hide.defects == 0)
    colour = np.median(hide.picture[inner], axis=0)
    ring = binary_dilation(hide.leather, iterations=4) & ~binary_dilation(hide.leather, iterations=2)
    assert np.linalg.norm(colour - TABLES[table]) > 0.6 * CONTRAST
    assert np.linalg.norm(np.median(hide.picture[ring], axis=0) - colour) > 0.4 * CONTRAST


def test_defects_lie_apart_on_the_leather_and_can_be_seen(drawn):
    table, hide = drawn
    assert set(np.unique(hide.defects)) == {0, 1, 2, 3}
    assert hide.leather[hide.defects > 0].all()
    light = hide.picture.astype(float).mean(2)
    for number in (1, 2, 3):
        core = hide.defects == number
        near = binary_dilation(core, iterations=6) & ~binary_dilation(core, iterations=2)
        assert not ((hide.defects > 0) & ~core & near).any()
        assert np.abs(light[core] - np.median(light[near])).mean() > VISIBLE / 3


def test_leather_is_darker_or_lighter_as_asked():
    for brightness, sign in (("darker", -1), ("lighter", 1)):
        for seed in range(2):
            hide = draw_table_hide(np.random.default_rng(seed), 320, table="wood", defects=0, brightness=brightness)
            assert sign * (hide.picture[hide.leather].mean() - hide.picture[~hide.leather].mean()) > 0


def test_the_seed_decides():
    first, again, other = (draw_table_hide(np.random.default_rng(n), 320, table="wood", defects=1) for n in (1, 1, 2))
    assert np.array_equal(first.picture, again.picture) and np.array_equal(first.defects, again.defects)
    assert not np.array_equal(first.leather, other.leather)


@pytest.mark.parametrize(
    "options",
    [{"table": "glass"}, {"table": "wood", "brightness": "blue"}, {"table": "black", "brightness": "darker"}],
)
def test_refuses_what_it_cannot_draw(options):
    with pytest.raises(ValueError, match="table"):
        draw_table_hide(np.random.default_rng(0), 320, **options)
    with pytest.raises(ValueError, match="319 px"):
        draw_table_hide(np.random.default_rng(0), 319, table="wood")

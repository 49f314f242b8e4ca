"""The figure of anomaly maps: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet
from PIL import Image

from src.localisation.figures import plot_localisation
from src.localisation.localise import Localisation
from src.localisation.thresholds import Thresholds
from src.style import PREDICTED, RIGHT, TRUTH, WRONG, save_figure
from tests.conftest import BANK

THRESHOLDS = Thresholds(0.2, 0.5, "painted", "held out", 0.8)
SQUARE = np.zeros((8, 8), bool)
SQUARE[2:5, 2:5] = True
NOTHING = np.zeros((8, 8), bool)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def localisation_of(tmp_path):
    """Cuts whose maps are one value in a square; by that value and the mask. Image scores are the values."""

    def of(*images):
        Image.new("RGB", (20, 20), (120, 120, 120)).save(tmp_path / "000.png")
        rows = [(str(tmp_path / "000.png"), "test/cut/000.png", "cut" if mask.any() else "good") for _, mask in images]
        values = np.array([value for value, _ in images])
        maps, masks = np.stack([SQUARE * value for value in values]), np.stack([mask for _, mask in images])
        test = pd.DataFrame(rows, columns=["path", "file", "defect"])
        return Localisation("4-shot", test, maps, masks, values, THRESHOLDS, BANK, {})

    return of


def plot(shown):
    return plot_localisation(shown, [(index, "highest") for index in range(len(shown.test))], title="t")


def contours(axes):
    return [c for c in axes.get_children() if isinstance(c, ContourSet) and any(len(p.vertices) for p in c.get_paths())]


def colours(items):
    return [to_hex(item.get_edgecolor()[0]) for item in items]


def test_maps_are_drawn_in_units_of_the_threshold_with_the_verdict(localisation_of, tmp_path):
    figure = plot(localisation_of((0.5, SQUARE), (0.1, SQUARE)))
    grid = np.reshape(figure.axes[:8], (2, 4))  # side by side
    for line, highest in zip(grid, (2.5, 0.5), strict=True):
        heat = line[1].images[0]
        assert heat.get_array().max() == pytest.approx(highest)
        assert heat.get_clim() == grid[0, 1].images[0].get_clim() and heat.get_clim()[0] == 0
    hit, miss = [line[3].texts[0] for line in grid]
    share = "truth: defect, 14.06%"
    assert hit.get_text().splitlines() == [
        share,
        "verdict: defect",
        "image score: 1.00",
        "regions: 1",
        "largest: 14.06%",
    ]
    assert miss.get_text().splitlines() == [share, "verdict: normal", "image score: 0.20", "no pixel above 1"]
    assert [hit.get_color(), miss.get_color()] == [RIGHT, WRONG]
    assert grid[0, 0].get_ylabel() == "cut\n000.png\nhighest" and "1 = threshold" in figure.axes[8].get_xlabel()
    assert [axes.get_title(loc="left") for axes in grid[0]] == ["image", "anomaly map", "outlines", ""]
    assert save_figure(figure, tmp_path / "x.png").stat().st_size > 0


def test_regions_are_framed_and_spare_places_stay_empty(localisation_of):
    figure = plot(localisation_of(*[(0.5, SQUARE)] * 3))
    places = np.reshape(figure.axes[:16], (4, 4))
    (frame,) = places[0, 2].patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((1.5, 1.5), 3, 3)
    assert not any(axis.axison and axis.get_visible() for axis in places[3]) and places[2, 0].get_visible()


@pytest.mark.parametrize(
    ("value", "mask", "expected"),
    [
        (0.5, SQUARE, [TRUTH, PREDICTED]),
        (0.2, SQUARE, [TRUTH, PREDICTED]),  # at the threshold a pixel counts as defective
        (0.1, SQUARE, [TRUTH]),
        (0.5, NOTHING, [PREDICTED]),
        (0.1, NOTHING, []),
    ],
)
def test_only_what_is_there_is_outlined(localisation_of, value, mask, expected):
    figure = plot(localisation_of((value, mask)))
    assert colours(contours(figure.axes[2])) == expected
    assert contours(figure.axes[0]) == contours(figure.axes[1]) == []

"""The figure of anomaly maps: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet
from matplotlib.text import Text
from PIL import Image

from src.localisation.figures import plot_localisation
from src.localisation.localise import Localisation
from src.localisation.regions import Thresholds, judge_map
from src.style import PREDICTED, RIGHT, TRUTH, WRONG, save_figure

THRESHOLDS = Thresholds(0.2, 0.5, "painted")
SQUARE = np.zeros((8, 8), bool)
SQUARE[2:5, 2:5] = True
NOTHING = np.zeros((8, 8), bool)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def localisation_of(tmp_path):
    """Cuts whose maps are one value in a square; by that value and the mask."""

    def of(*images, has_head=True, protocol="zero-shot", thresholds=THRESHOLDS):
        Image.new("RGB", (20, 20), (120, 120, 120)).save(tmp_path / "000.png")
        rows = [(str(tmp_path / "000.png"), "test/cut/000.png", "cut" if mask.any() else "good") for _, mask in images]
        test = pd.DataFrame(rows, columns=["path", "file", "defect"])
        maps, masks = np.stack([SQUARE * value for value, _ in images]), np.stack([mask for _, mask in images])
        judgements = [judge_map(values, thresholds) for values in maps]
        return Localisation(protocol, test, judgements, maps, masks, thresholds, has_head, {})

    return of


def plot(*shown):
    return plot_localisation(shown, [(index, "highest") for index in range(len(shown[0].test))], title="t")


def outlines_of_truth(axes):
    return [
        to_hex(c.get_edgecolor()[0])
        for c in axes.get_children()
        if isinstance(c, ContourSet) and any(len(p.vertices) for p in c.get_paths())
    ]


def title_and_colour(axes):
    (title,) = [child for child in axes.get_children() if isinstance(child, Text) and child.get_text()]
    return title.get_text(), title.get_color()


def test_each_protocols_map_stands_beside_the_image_with_its_verdict(localisation_of, tmp_path):
    zero_shot = localisation_of((0.6, SQUARE), (0.1, NOTHING))
    k_shot = localisation_of((0.1, SQUARE), (0.9, NOTHING), protocol="4-shot")
    figure = plot(zero_shot, k_shot)
    cut, cut_zero, cut_k, good, good_zero, good_k = figure.axes[:6]  # an image a line
    for axes, highest in ((cut_zero, 0.6), (cut_k, 0.1), (good_zero, 0.1), (good_k, 0.9)):
        (heat,) = axes.images
        assert heat.get_array().max() == pytest.approx(highest) and heat.get_clim() == (0, 1)
    assert title_and_colour(cut_zero) == ("zero-shot: defective (1), 0.60", RIGHT)
    assert title_and_colour(cut_k) == ("4-shot: normal, 0.10", WRONG)
    assert title_and_colour(good_zero) == ("zero-shot: normal, 0.10", RIGHT)
    assert title_and_colour(good_k) == ("4-shot: defective (1), 0.90", WRONG)
    assert cut.get_ylabel() == "000.png\nhighest"
    assert [title_and_colour(axes)[0] for axes in (cut, good)] == ["cut, 14.06%", "good"]
    assert figure.get_suptitle() == "t" and "probability" in figure.axes[-1].get_xlabel()
    assert [text.get_text() for text in figure.legends[0].texts] == ["truth", "defect found"]
    assert save_figure(figure, tmp_path / "x.png").stat().st_size > 0


@pytest.mark.parametrize("outline", [0.2, -0.2])
def test_plain_distances_have_a_scale_that_shows_their_threshold(localisation_of, outline):
    thresholds = Thresholds(outline, max(outline, 0.1), "painted")
    figure = plot(localisation_of((0.6, SQUARE), has_head=False, thresholds=thresholds))
    low, high = figure.axes[1].images[0].get_clim()
    assert low == 0 and high > max(0, outline) and "log of the distance" in figure.axes[-1].get_xlabel()


@pytest.mark.parametrize(
    ("value", "mask", "truth", "found"),
    [
        (0.6, SQUARE, [TRUTH], 1),
        (0.5, SQUARE, [TRUTH], 1),  # at the verdict threshold
        (0.3, SQUARE, [TRUTH], 0),  # a region that is no defect
        (0.6, NOTHING, [], 1),
        (0.1, NOTHING, [], 0),
    ],
)
def test_only_what_is_there_is_outlined(localisation_of, value, mask, truth, found):
    figure = plot(localisation_of((value, mask)))
    picture, heat = figure.axes[:2]
    assert outlines_of_truth(picture) == truth and outlines_of_truth(heat) == []
    assert [to_hex(line.get_color()) for line in heat.lines] == [PREDICTED.lower()] * found and not picture.lines
    for line in heat.lines:
        x, y = line.get_data()
        assert (x.min(), x.max(), y.min(), y.max()) == (1.5, 4.5, 1.5, 4.5)

"""Figures of the audit print the numbers that they were given."""

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from src.data.tables import Classes
from src.eda import audit_figures
from src.style import HONEST, USUAL

COUNTS = {"hide_00": {"pinhole": 3, "grain_off": 5}, "hide_01": {"pinhole": 2}}


@pytest.fixture(autouse=True)
def closed():
    yield
    audit_figures.plt.close("all")


def texts(figure):
    figure.canvas.draw()  # tick labels are written then
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_copies():
    kinds = ["distinct"] * 5 + ["exact"] * 2 + ["changed"]
    table = pd.DataFrame({"label": ["pinhole"] * 7 + ["grain_off"], "copy_kind": kinds})
    figure = audit_figures.plot_copies(table, name="Set")
    assert "Set: 3 of 8 files are copies of another file of the set" in texts(figure)
    assert {"5 + 2 + 0", "0 + 0 + 1"} <= set(texts(figure))
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == 8


def test_hides():
    picture = np.zeros((8, 8, 3), np.uint8)
    figure = audit_figures.plot_hides(
        {"hide_00": [picture, picture], "hide_01": [picture]}, COUNTS, name="Set", source="colour"
    )
    assert len(figure.axes) == 2  # a strip each, as long as the longest
    assert len({axis.images[0].get_array().shape for axis in figure.axes}) == 1
    captions = {"hide 00, n = 8\npinhole, grain off", "hide 01, n = 2\npinhole"}
    assert {"Set: 2 hides, by colour"} | captions <= set(texts(figure))


def test_classes_per_hide():
    figure = audit_figures.plot_classes_per_hide(COUNTS, Classes(("grain_off", "pinhole"), "pinhole"), name="Set")
    assert "Set: 1 of 2 hides show one class only" in texts(figure)
    assert {"3", "5", "2", "00", "01"} <= set(texts(figure)) and "0" not in texts(figure)


def test_shortcut():
    baseline = {
        "random": {"accuracy": 0.9, "auroc": 0.99976, "chance": 0.2, "n": 720},
        "hide": {"accuracy": 0.3, "auroc": 0.7, "chance": 0.2, "n": 3600},
    }
    figure = audit_figures.plot_shortcut(baseline, name="Set")
    assert {"0.9000", "0.3000", "0.9998", "0.7000", "hides apart\n(5 folds, n = 3,600)"} <= set(texts(figure))
    assert [bar.get_height() for axis in figure.axes for bar in axis.patches] == [0.9, 0.3, 0.99976, 0.7]
    colours = [to_hex(bar.get_facecolor()) for bar in figure.axes[0].patches]
    assert colours == [USUAL.lower(), HONEST.lower()]  # as in the figure of the baselines

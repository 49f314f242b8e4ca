"""The one style: pictures in rows, files that are whole or absent."""

import logging
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from src import style
from src.config import paths
from src.style import plot_pictures, readable, save_figure

plt.switch_backend("Agg")

FIGURES = [file for file in sorted((paths.root / "src").rglob("*.py")) if "figures" in file.name]
FIGURES += [paths.root / "src" / "localisation" / "attention.py", paths.root / "benchmarks" / "baselines" / "report.py"]

# Linear RGB as people without red or green cones see it; Machado et al. 2009, severity 1.
DEFICIENCIES = [
    np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(("name", "expected"), [("grain_off", "grain off"), ("pinhole", "pinhole"), ("a_b_c", "a b c")])
def test_readable(name, expected):
    assert readable(name) == expected


def test_saved_figure_is_a_png_and_closed(tmp_path):
    figure = plt.figure(figsize=(2, 1))
    figure.text(0, 0, "x")
    path = save_figure(figure, tmp_path / "new" / "folder" / "x.png")
    assert path == tmp_path / "new" / "folder" / "x.png" and Image.open(path).format == "PNG"
    assert [p.name for p in path.parent.iterdir()] == ["x.png"] and not plt.fignum_exists(figure.number)


def test_figures_are_saved_in_steps_of_5_grey_levels(tmp_path):
    figure, axes = plt.subplots(figsize=(4, 4))
    axes.imshow(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    figure.savefig(tmp_path / "plain.png", dpi=100, bbox_inches="tight")
    coarse = save_figure(figure, tmp_path / "coarse.png", photographs=True)
    before, after = (np.asarray(Image.open(p).convert("RGB")).astype(int) for p in (tmp_path / "plain.png", coarse))
    assert set(np.unique(after % 5)) <= {0} and np.abs(after - before).max() <= 2
    assert after[0, 0].tolist() == [255, 255, 255]
    assert coarse.stat().st_size < 0.9 * (tmp_path / "plain.png").stat().st_size


def test_photographs_are_saved_with_fewer_dots(tmp_path):
    widths = []
    for photographs in (False, True):
        figure, axes = plt.subplots(figsize=(3, 2))
        axes.plot([0, 1])
        widths.append(Image.open(save_figure(figure, tmp_path / "x.png", photographs=photographs)).width)
    assert widths[0] == pytest.approx(1.5 * widths[1], rel=0.05)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(b"the old one")
    figure = plt.figure()

    def write_half(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", write_half)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == b"the old one"


def test_pictures_in_rows_hide_places_without_one():
    picture, mask = np.zeros((8, 8, 3), np.uint8), np.eye(8)
    figure = plot_pictures(
        [picture] * 4, list("abcd"), title="t", columns=3, frames=["#D0703C"] * 4, outlines=[mask, 0 * mask] * 2
    )
    assert [axis.get_visible() for axis in figure.axes] == [True] * 4 + [False] * 2
    assert [axis.get_title(loc="center") for axis in figure.axes[:4]] == list("abcd")
    assert [len(axis.collections) for axis in figure.axes[:4]] == [1, 0, 1, 0]  # an empty mask has no outline
    assert all(axis.spines["left"].get_visible() for axis in figure.axes[:4])


def test_a_dollar_in_a_name_is_no_formula(tmp_path):
    name = r"5$ and $\frac{ of a hide$"  # as a formula it is an error
    figure = plot_pictures([np.zeros((8, 8, 3), np.uint8)], [name], title=f"{name}\n{name}", columns=1)
    figure.axes[0].set_xticks([2], [name])  # written only when the figure is saved
    bars = figure.add_axes([0.1, 0.1, 0.2, 0.2])
    bars.barh([name, "other"], [1, 2])
    assert save_figure(figure, tmp_path / "x.png").is_file()


def test_letters_that_the_usual_font_lacks_are_drawn_with_another_one(tmp_path, caplog):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.barh(["pinhole", "\u2315 pinhole"], [1, 2])  # a sign of STIXGeneral, which comes with matplotlib too
    axes.set_title("\U0010fffd")  # a private sign that no font has
    with caplog.at_level(logging.WARNING):
        save_figure(figure, tmp_path / "x.png")
    usual, other = (label.get_fontfamily() for label in axes.get_yticklabels())
    assert len(other) > 1 and other[0] == style.OWN_FONT and len(usual) == 1
    sign = {"\u2315"}
    assert any(
        sign <= style._letters_of(font.fname)
        for font in style.font_manager.fontManager.ttflist
        if font.name == other[1]
    )
    assert "no installed font has \U0010fffd" in caplog.text


def test_no_colour_has_two_meanings_and_all_differ_for_the_colour_blind():
    colours = [style.NORMAL, style.DEFECT, style.USUAL, style.HONEST, style.RIGHT, style.WRONG, style.NEUTRAL]
    colours += [style.TRUTH, style.PREDICTED, *(colour for colour, _ in style.METHOD_LINES)]
    assert len({colour.lower() for colour in colours}) == len(colours)
    assert len({dashes for _, dashes in style.METHOD_LINES}) == len(style.METHOD_LINES)
    for pair in (
        (style.NORMAL, style.DEFECT),
        (style.USUAL, style.HONEST),
        (style.RIGHT, style.WRONG),
        (style.TRUTH, style.PREDICTED),
        (style.INK, style.NEUTRAL),
    ):
        for deficiency in DEFICIENCIES:
            first, second = (deficiency @ np.array(to_rgb(colour)) ** 2.2 for colour in pair)
            assert np.abs(first.clip(0) ** (1 / 2.2) - second.clip(0) ** (1 / 2.2)).max() > 0.15, pair


@pytest.mark.parametrize("file", FIGURES, ids=lambda file: file.parent.name + "/" + file.name)
def test_figures_take_their_colours_from_the_palette(file):
    own = re.findall(
        r'#[0-9a-fA-F]{6}|(?:color|colors|cmap)="(?!white)\w+"|get_cmap\("', file.read_text(encoding="utf-8")
    )
    assert not own

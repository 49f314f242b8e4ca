"""Figures: what is drawn is what was given; files are whole or absent."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet
from PIL import Image
from sklearn.metrics import roc_auc_score

from src.classifier.figures import plot_confusion_matrix, plot_curve, plot_evaluation
from src.localisation.figures import Case, plot_attention, plot_localisation
from src.style import RIGHT, TRUTH, WRONG, readable, save_figure

plt.switch_backend("Agg")

IS_DEFECT = np.array([False] * 4 + [True] * 6)
HYBRID = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
PICTURE = np.full((8, 8, 3), 120, np.uint8)
SQUARE = np.zeros((8, 8), bool)
SQUARE[2:5, 2:5] = True


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def contours(axes):
    return [c for c in axes.get_children() if isinstance(c, ContourSet) and any(len(p.vertices) for p in c.get_paths())]


def colours(items):
    return [to_hex(item.get_edgecolor()[0]) for item in items]


@pytest.fixture(scope="module")
def evaluation():
    return plot_evaluation(
        IS_DEFECT,
        {"Hybrid": HYBRID, "Cosine": -HYBRID},
        {"Hybrid": 0.6, "Cosine": 0.0},
        {"grain_off": (0.5, 4), "pinhole": (1.0, 6)},
        title="run, n = 10",
    )


def row(*, value=0.5, mask=SQUARE, right=True, name="cut"):
    return Case(
        image=PICTURE,
        map=np.where(SQUARE, value, 0.0),
        mask=mask,
        name=name,
        verdict="a verdict",
        right=right,
        boxes=[(2, 2, 5, 5)],
    )


@pytest.mark.parametrize(("name", "expected"), [("grain_off", "grain off"), ("pinhole", "pinhole"), ("a_b_c", "a b c")])
def test_readable(name, expected):
    assert readable(name) == expected


def test_saved_figure_is_a_png_and_closed(tmp_path):
    figure = plt.figure(figsize=(2, 1))
    figure.text(0, 0, "x")
    path = save_figure(figure, tmp_path / "new" / "folder" / "x.png")
    assert path == tmp_path / "new" / "folder" / "x.png" and Image.open(path).format == "PNG"
    assert [p.name for p in path.parent.iterdir()] == ["x.png"] and not plt.fignum_exists(figure.number)


def test_photographs_are_saved_in_steps_of_5(tmp_path):
    figure, axes = plt.subplots(figsize=(4, 4))
    axes.imshow(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    plain = save_figure(figure, tmp_path / "plain.png", dpi=100)
    coarse = save_figure(figure, tmp_path / "coarse.png", photographs=True)
    before, after = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (plain, coarse))
    assert set(np.unique(after % 5)) <= {0} and np.abs(after - before).max() <= 2
    assert (before[0, 0] == after[0, 0]).all() and after[0, 0].tolist() == [255, 255, 255]
    assert coarse.stat().st_size < 0.9 * plain.stat().st_size


def test_localisation_frames_regions_and_leaves_spare_places_empty():
    figure = plot_localisation([row()] * 3, threshold=0.2, title="t")
    places = np.reshape(figure.axes[:16], (4, 4))
    (frame,) = places[0, 2].patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((1.5, 1.5), 3, 3)
    assert not any(axis.axison for axis in places[3]) and places[2, 0].axison


def test_saved_figure_grows_with_its_dots_per_inch(tmp_path):
    sizes = []
    for dpi in (50, 100):
        figure, axes = plt.subplots(figsize=(3, 2))
        axes.plot([0, 1])
        sizes.append(Image.open(save_figure(figure, tmp_path / f"{dpi}.png", dpi=dpi)).width)
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.05)


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


def test_confusion_matrix_shows_counts_and_colours_by_share_of_the_row():
    axes = plot_confusion_matrix(np.array([[3, 1], [0, 0]]), ("grain_off", "pinhole"), title="t").axes[0]
    assert [text.get_text() for text in axes.texts] == ["3", "1", "0", "0"]
    mesh = axes.collections[0]
    assert np.ravel(mesh.get_array()).tolist() == [0.75, 0.25, 0, 0] and mesh.get_clim() == (0, 1)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["grain off", "pinhole"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title("left")) == ("predicted", "true", "t")
    assert axes.yaxis_inverted()  # the first class on top


def test_evaluation_writes_each_area_and_marks_each_threshold(evaluation):
    roc = evaluation.axes[0]
    area = roc_auc_score(IS_DEFECT, HYBRID)
    shown = [text.get_text() for text in roc.get_legend().get_texts()]
    assert shown == [f"Hybrid: {area:.4f}", f"Cosine: {1 - area:.4f}"]
    dots = [tuple(float(v[0]) for v in line.get_data()) for line in roc.lines if line.get_marker() == "o"]
    assert dots == [(1 / 4, 4 / 6), (0, 0)]  # at 0.6 and above: one of four normal images, four of six defects
    assert evaluation.get_suptitle() == "run, n = 10"


def test_evaluation_draws_every_image_once_with_the_threshold(evaluation):
    histogram = evaluation.axes[1]
    counts = [sum(patch.get_height() for patch in container) for container in histogram.containers]
    assert counts == [4, 6] and histogram.lines[0].get_xdata()[0] == 0.6
    shown = [text.get_text() for text in histogram.get_legend().get_texts()]
    assert sorted(shown) == ["defective (n = 6)", "normal (n = 4)", "threshold 0.600 (validation)"]
    assert "Hybrid" in histogram.get_xlabel()


def test_evaluation_draws_recall_per_class(evaluation):
    bars = evaluation.axes[2]
    assert [patch.get_width() for patch in bars.patches] == [0.5, 1.0]
    assert [text.get_text() for text in bars.texts] == ["50.0% of 4", "100.0% of 6"]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["grain off", "pinhole"]


def test_evaluation_of_equal_scores_can_be_drawn_and_saved(tmp_path):
    figure = plot_evaluation(IS_DEFECT, {"Hybrid": np.full(10, 0.5)}, {"Hybrid": 0.5}, {"pinhole": (0.0, 1)}, title="")
    assert save_figure(figure, tmp_path / "x.png", dpi=40).stat().st_size > 0


@pytest.mark.parametrize(("best", "lines"), [(2, 2), (None, 1)])
def test_curve_marks_the_epoch_that_was_kept(best, lines):
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss_val": [0.9, 0.3, 0.5]})
    axes = plot_curve(history, "loss_val", title="t", best_epoch=best).axes[0]
    assert np.transpose(axes.lines[0].get_data()).tolist() == [[1, 0.9], [2, 0.3], [3, 0.5]]
    assert len(axes.lines) == lines and axes.get_ylabel() == "cross-entropy, validation"
    assert axes.get_ylim()[0] == 0  # small changes are not to look like divergence
    if best:
        assert axes.lines[1].get_xdata()[0] == 2 and axes.get_legend().get_texts()[0].get_text() == "epoch kept: 2"


def test_localisation_draws_maps_in_units_of_the_threshold(tmp_path):
    figure = plot_localisation([row(value=0.5), row(value=0.1, right=False)], threshold=0.2, title="t")
    grid = np.reshape(figure.axes[:8], (2, 4))  # side by side
    for line, highest in zip(grid, (2.5, 0.5), strict=True):
        heat = line[1].images[0]
        assert heat.get_array().max() == pytest.approx(highest)
        assert heat.get_clim() == grid[0, 1].images[0].get_clim() and heat.get_clim()[0] == 0
    assert [line[3].texts[0].get_text() for line in grid] == ["a verdict"] * 2
    assert [line[3].texts[0].get_color() for line in grid] == [RIGHT, WRONG]
    assert grid[0, 0].get_ylabel() == "cut" and "1 = threshold" in figure.axes[8].get_xlabel()
    assert save_figure(figure, tmp_path / "x.png", dpi=40).stat().st_size > 0


@pytest.mark.parametrize(
    ("value", "mask", "expected"),
    [
        (0.5, SQUARE, [TRUTH, "#ffd33d"]),
        (0.2, SQUARE, [TRUTH, "#ffd33d"]),  # at the threshold a pixel counts as defective
        (0.1, SQUARE, [TRUTH]),
        (0.5, ~SQUARE & SQUARE, ["#ffd33d"]),
        (0.1, ~SQUARE & SQUARE, []),
    ],
)
def test_localisation_outlines_only_what_is_there(value, mask, expected):
    figure = plot_localisation([row(value=value, mask=mask)], threshold=0.2, title="t")
    assert colours(contours(figure.axes[2])) == expected
    assert contours(figure.axes[0]) == contours(figure.axes[1]) == []


def test_attention_maps_start_at_zero_and_have_their_own_scale():
    maps = {"last block": np.linspace(0.1, 0.4, 64).reshape(8, 8), "rollout": np.linspace(0.2, 0.9, 64).reshape(8, 8)}
    figure = plot_attention(PICTURE, maps, title="t")
    picture, *panels = figure.axes[:3]
    assert [axes.get_title("left") for axes in (picture, *panels)] == ["image", *maps]
    assert [axes.images[0].get_clim() for axes in panels] == [(0, pytest.approx(0.4)), (0, pytest.approx(0.9))]
    assert np.array_equal(picture.images[0].get_array(), PICTURE) and not plt.fignum_exists(figure.number)


def test_an_anomaly_map_stands_before_the_attention():
    heat = np.linspace(0, 3, 64).reshape(8, 8)
    figure = plot_attention(PICTURE, {"rollout": np.ones((8, 8))}, title="t", anomaly_map=heat)
    assert [axes.get_title("left") for axes in figure.axes[:3]] == ["image", "anomaly map", "rollout"]
    assert figure.axes[1].images[0].get_clim() == (0, 3)

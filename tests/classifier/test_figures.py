"""Figures of the classifier: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from src.classifier.figures import plot_confusion_matrix, plot_curve, plot_evaluation, plot_training
from src.style import save_figure

plt.switch_backend("Agg")

IS_DEFECT = np.array([False] * 4 + [True] * 6)
HYBRID = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def evaluation():
    return plot_evaluation(
        IS_DEFECT,
        {"Hybrid": HYBRID, "Cosine": -HYBRID},
        {"Hybrid": 0.6, "Cosine": 0.0},
        {"grain_off": (0.5, 4), "pinhole": (1.0, 6)},
        title="run, n = 10",
    )


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


def test_curves_that_coincide_can_be_told_apart(evaluation):
    roc = evaluation.axes[0]
    (corner,) = roc.child_axes
    for axes in (roc, corner):
        curves = [line for line in axes.lines if line.get_marker() == "None" and line.get_label()[0] != "_"]
        assert len({line.get_linestyle() for line in curves}) == len(curves) == 2
    assert corner.get_xlim()[1] == 0.2 and corner.get_ylim()[0] == 0.8


def test_evaluation_draws_recall_per_class_on_a_scale_that_shows_small_differences():
    recalls = {"grain_off": (0.975, 40), "pinhole": (1.0, 6)}
    figure = plot_evaluation(IS_DEFECT, {"Hybrid": HYBRID}, {"Hybrid": 0.6}, recalls, title="")
    axes = figure.axes[2]
    assert list(axes.lines[0].get_xdata()) == [0.975, 1.0] and axes.get_xlim() == (0.9, 1)
    assert "axis from 0.9" in axes.get_title("left")
    assert [text.get_text() for text in axes.texts] == ["97.5% of 40", "100.0% of 6"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["grain off", "pinhole"]


def test_no_part_of_the_evaluation_is_empty(evaluation):
    evaluation.draw_without_rendering()
    boxes = [axes.get_tightbbox().transformed(evaluation.transFigure.inverted()) for axes in evaluation.axes[:3]]
    assert min(box.y0 for box in boxes) < 0.05 and sum(box.width * box.height for box in boxes) > 0.75


def test_evaluation_of_equal_scores_can_be_drawn_and_saved(tmp_path):
    figure = plot_evaluation(IS_DEFECT, {"Hybrid": np.full(10, 0.5)}, {"Hybrid": 0.5}, {"pinhole": (0.0, 1)}, title="")
    assert save_figure(figure, tmp_path / "x.png").stat().st_size > 0


@pytest.mark.parametrize(("best", "lines"), [(2, 2), (None, 1)])
def test_curve_marks_the_epoch_that_was_kept(best, lines):
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss_val": [0.9, 0.3, 0.5]})
    axes = plot_curve(history, "loss_val", run="tiny", best_epoch=best).axes[0]
    assert np.transpose(axes.lines[0].get_data()).tolist() == [[1, 0.9], [2, 0.3], [3, 0.5]]
    assert len(axes.lines) == lines and axes.get_ylabel() == "cross-entropy, validation"
    assert axes.get_ylim()[0] == 0  # small changes are not to look like divergence
    if best:
        assert axes.lines[1].get_xdata()[0] == 2 and axes.get_legend().get_texts()[0].get_text() == "epoch kept: 2"


def test_training_and_validation_stand_in_one_panel():
    history = pd.DataFrame({"epoch": [1, 2], "loss_train": [0.9, 0.2], "loss_val": [0.8, 0.3]})
    history = history.assign(acc_train=[0.5, 1.0], acc_val=[0.6, 0.9])
    loss, accuracy = plot_training(history, run="tiny", best_epoch=2).axes
    for axes, values in ((loss, [[0.9, 0.2], [0.8, 0.3]]), (accuracy, [[0.5, 1.0], [0.6, 0.9]])):
        assert [line.get_ydata().tolist() for line in axes.lines[:2]] == values
        assert len({line.get_linestyle() for line in axes.lines[:2]}) == 2
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            "training",
            "validation",
            "epoch kept: 2",
        ]
    assert loss.get_ylim()[0] == 0 and accuracy.get_ylim()[0] == 0.4 and "axis from 0.4" in accuracy.get_title("left")

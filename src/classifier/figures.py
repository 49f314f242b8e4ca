"""Figures of a run: arrays in, Figure out; no file is read and no model called."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import auc, roc_curve

from ..style import DEFECT, METHOD_COLOURS, NEUTRAL, NORMAL, RIGHT, STYLE, readable, set_title

# Columns of a training's history: the name in TensorBoard, and what is plotted.
CURVES = {
    "loss_train": ("Loss/train", "cross-entropy, training"),
    "loss_val": ("Loss/val", "cross-entropy, validation"),
    "acc_train": ("Accuracy/train", "accuracy, training"),
    "acc_val": ("Accuracy/val", "accuracy, validation"),
    "lr": ("Learning Rate", "learning rate"),
}


@mpl.rc_context(STYLE)
def plot_confusion_matrix(matrix: np.ndarray, class_names: tuple[str, ...], *, title: str) -> Figure:
    """Counts with each row's share as colour. ``matrix``: shape (classes, classes), rows true, columns predicted."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [readable(name) for name in class_names]
    figure, axes = plt.subplots(figsize=(0.7 * len(names) + 2.6, 0.65 * len(names) + 1.9))
    look = {"cmap": "Blues", "vmin": 0, "vmax": 1, "square": True, "linewidths": 0.5}
    labels = {"xticklabels": names, "yticklabels": names, "cbar_kws": {"label": "share of the true class"}}
    sns.heatmap(shares, annot=matrix, fmt="d", ax=axes, **look, **labels)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.tick_params(axis="x", rotation=35)
    axes.tick_params(axis="y", rotation=0)
    plt.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
    return figure


@mpl.rc_context(STYLE)
def plot_evaluation(
    is_defect: np.ndarray,
    scores: dict[str, np.ndarray],
    thresholds: dict[str, float],
    recall_per_class: dict[str, tuple[float, int]],
    *,
    title: str,
) -> Figure:
    """ROC of every score, the first score's distribution with its threshold, and recall per class.

    Args:
        is_defect: True for defective, shape (n,).
        scores: By method, shape (n,) each, higher is more anomalous; the first is drawn as a histogram.
        thresholds: By method, from validation.
        recall_per_class: By class name: share of its images that were classified right, and their number.
        title: Of the whole figure.
    """
    figure, (roc, histogram, bars) = plt.subplots(1, 3, figsize=(14.5, 4.6))
    _draw_roc(roc, is_defect, scores, thresholds)
    name = next(iter(scores))
    edges = np.linspace(scores[name].min(), scores[name].max() + 1e-9, 41)
    for wanted, colour, label in ((False, NORMAL, "normal"), (True, DEFECT, "defective")):
        values = scores[name][is_defect == wanted]
        histogram.hist(values, bins=edges, color=colour, alpha=0.65, label=f"{label} (n = {len(values)})")
    histogram.axvline(thresholds[name], color="black", ls="--", label=f"threshold {thresholds[name]:.3f} (validation)")
    histogram.set(xlabel=f"{name} score, higher is more anomalous", ylabel="images", title="Scores of the test images")
    histogram.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, -0.42))
    names = [readable(name) for name in recall_per_class]
    bars.barh(names, [recall for recall, _ in recall_per_class.values()], color=NEUTRAL, alpha=0.45)
    for line, (recall, count) in enumerate(recall_per_class.values()):
        bars.text(0.02, line, f"{recall:.1%} of {count}", va="center", fontsize=9)
    bars.invert_yaxis()
    bars.set(xlim=(0, 1), xlabel="share of the class that is recognised", title="Recall per class")
    set_title(figure, title)
    return figure


def _draw_roc(axes: Axes, is_defect: np.ndarray, scores: dict[str, np.ndarray], thresholds: dict[str, float]) -> None:
    for (name, values), colour in zip(scores.items(), METHOD_COLOURS, strict=False):
        false_rate, recall, _ = roc_curve(is_defect, values)
        axes.plot(false_rate, recall, color=colour, lw=2, label=f"{name}: {auc(false_rate, recall):.4f}")
        at = np.mean(values[~is_defect] >= thresholds[name]), np.mean(values[is_defect] >= thresholds[name])
        axes.plot(*at, "o", color=colour, ms=7, mec="white")
    axes.plot([0, 1], [0, 1], ":", color=NEUTRAL, lw=1)
    axes.set(xlabel="false alarms among normal images", ylabel="recall of defects", title="ROC (dot: threshold)")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(title="area under the curve", loc="lower right", frameon=False, fontsize=9)


@mpl.rc_context(STYLE)
def plot_curve(history: pd.DataFrame, column: str, *, run: str, best_epoch: int | None) -> Figure:
    """A column of a training's history over the epochs, from 0 up; the epoch that was kept is marked."""
    figure, axes = plt.subplots(figsize=(6, 3.6))
    axes.plot(history["epoch"], history[column], "-o", color=METHOD_COLOURS[0], ms=4)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=RIGHT, ls="--", lw=1.2, label=f"epoch kept: {best_epoch}")
        axes.legend(frameon=False)
    axes.set(xlabel="epoch", ylabel=CURVES[column][1], title=f"{CURVES[column][1]}: {run}")
    axes.set_ylim(0, 1.02 if column.startswith("acc") else 1.08 * history[column].max())
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    return figure

"""Figures of a run: arrays in, Figure out; no file is read and no model called."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import auc, roc_curve

from ..style import DEFECT, INK, METHOD_LINES, NEUTRAL, NORMAL, SHARES, STYLE, WIDTH, readable, set_title

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
    look = {"cmap": SHARES, "vmin": 0, "vmax": 1, "square": True, "linewidths": 0.5}
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
    panels = {"height_ratios": (3.7, 0.3 * len(recall_per_class) + 0.5)}
    figure, axes = plt.subplot_mosaic("RH;CC", figsize=(WIDTH, sum(panels["height_ratios"]) + 1), gridspec_kw=panels)
    _draw_roc(axes["R"], is_defect, scores, thresholds)
    name = next(iter(scores))
    _draw_histogram(axes["H"], is_defect, scores[name], thresholds[name], name=name)
    _draw_recall(axes["C"], recall_per_class)
    set_title(figure, title)
    return figure


def _draw_roc(axes: Axes, is_defect: np.ndarray, scores: dict[str, np.ndarray], thresholds: dict[str, float]) -> None:
    """All curves, and their upper left corner enlarged: good scores cannot be told apart elsewhere."""
    corner = axes.inset_axes((0.36, 0.44, 0.6, 0.46), xlim=(-0.006, 0.2), ylim=(0.8, 1.006))
    for (name, values), (colour, dashes) in zip(scores.items(), METHOD_LINES, strict=False):
        false_rate, recall, _ = roc_curve(is_defect, values)
        label = f"{name}: {auc(false_rate, recall):.4f}"
        at = np.mean(values[~is_defect] >= thresholds[name]), np.mean(values[is_defect] >= thresholds[name])
        for panel in (axes, corner):
            panel.plot(false_rate, recall, dashes, color=colour, lw=2, label=label)
            panel.plot(*at, "o", color=colour, ms=7, mec="white")
    axes.plot([0, 1], [0, 1], ":", color=NEUTRAL, lw=1)
    axes.set(xlabel="false alarms among normal images", ylabel="recall of defects", title="ROC (dot: threshold)")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.indicate_inset_zoom(corner, edgecolor=NEUTRAL)
    corner.tick_params(labelsize=8)
    axes.legend(title="area under the curve", loc="lower right", frameon=False, fontsize=8.5)


def _draw_histogram(axes: Axes, is_defect: np.ndarray, values: np.ndarray, threshold: float, *, name: str) -> None:
    edges = np.linspace(values.min(), values.max() + 1e-9, 41)
    for wanted, colour, label in ((False, NORMAL, "normal"), (True, DEFECT, "defective")):
        chosen = values[is_defect == wanted]
        axes.hist(chosen, bins=edges, color=colour, alpha=0.65, label=f"{label} (n = {len(chosen)})")
    axes.axvline(threshold, color=INK, ls="--", label=f"threshold {threshold:.3f} (validation)")
    axes.set(xlabel=f"{name} score, higher is more anomalous", ylabel="images", title="Scores of the test images")
    axes.legend(framealpha=1, edgecolor="white", fontsize=8.5, loc="upper center")
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the legend


def _draw_recall(axes: Axes, recall_per_class: dict[str, tuple[float, int]]) -> None:
    """Dots, for an axis that starts just below the lowest recall: a bar would have to start at 0."""
    recalls = [recall for recall, _ in recall_per_class.values()]
    lines = range(len(recalls))
    axes.hlines(lines, 0, recalls, color=NEUTRAL, lw=1, alpha=0.5)
    axes.plot(recalls, lines, "o", color=NEUTRAL, ms=8, clip_on=False)
    for line, (recall, count) in enumerate(recall_per_class.values()):
        axes.annotate(f"{recall:.1%} of {count}", (1, line), (10, 0), textcoords="offset points", va="center")
    lowest = _just_below(recalls)
    axes.set_yticks(lines, [readable(name) for name in recall_per_class])
    axes.set(xlim=(lowest, 1), ylim=(len(recalls) - 0.5, -0.5), title=f"Recall per class (axis from {lowest:.1f})")
    axes.set_xlabel("share of the class that is recognised")


def _just_below(shares: Sequence[float]) -> float:
    """Where an axis of dots starts that has to show small differences: the tenth below the lowest."""
    return max(np.floor(10 * min(shares) - 0.5) / 10, 0.0)


@mpl.rc_context(STYLE)
def plot_curve(history: pd.DataFrame, column: str, *, run: str, best_epoch: int | None) -> Figure:
    """A column of a training's history over the epochs, from 0 up; the epoch that was kept is marked."""
    figure, axes = plt.subplots(figsize=(6, 3.6))
    axes.plot(history["epoch"], history[column], "-o", color=INK, ms=4)
    _finish_curve(axes, column, history[column].max(), best_epoch)
    axes.set(ylabel=CURVES[column][1], title=f"{CURVES[column][1]}: {run}")
    return figure


@mpl.rc_context(STYLE)
def plot_training(history: pd.DataFrame, *, run: str, best_epoch: int) -> Figure:
    """Loss and accuracy over the epochs, training and validation in one panel: where they part, it learns by heart."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.6))
    for axes, name, measure in zip(panels, ("loss", "acc"), ("cross-entropy", "accuracy"), strict=True):
        training, validation = history[f"{name}_train"], history[f"{name}_val"]
        axes.plot(history["epoch"], training, "--o", color=NEUTRAL, mfc="white", label="training")
        axes.plot(history["epoch"], validation, "-o", color=INK, label="validation")
        _finish_curve(axes, name, max(training.max(), validation.max()), best_epoch)
        axes.set_title(measure)
    lowest = _just_below([*history["acc_train"], *history["acc_val"]])
    panels[1].set(ylim=(lowest, 1.02 - 0.02 * lowest), title=f"accuracy (axis from {lowest:.1f})")
    set_title(figure, f"Training of {run}")
    return figure


def _finish_curve(axes: Axes, column: str, highest: float, best_epoch: int | None) -> None:
    if best_epoch is not None:
        axes.axvline(best_epoch, color=NEUTRAL, ls=":", lw=1.5, label=f"epoch kept: {best_epoch}")
        axes.legend(frameon=False)
    axes.set_xlabel("epoch")
    axes.set_ylim(0, 1.02 if column.startswith("acc") else 1.08 * highest)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)

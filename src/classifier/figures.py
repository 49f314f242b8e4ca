"""Figures of a run: arrays in, Figure out; no file is read and no model called."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from ..style import METHOD_COLOURS, NEUTRAL, RIGHT, WRONG, readable


def plot_confusion_matrix(matrix: np.ndarray, class_names: tuple[str, ...], *, title: str) -> Figure:
    """Counts with each row's share as colour. ``matrix``: shape (classes, classes), rows true, columns predicted."""
    matrix = np.asarray(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [readable(name) for name in class_names]
    figure, axes = plt.subplots(figsize=(6.6, 5.6), layout="constrained")
    sns.heatmap(
        shares,
        annot=matrix,
        fmt="d",
        cmap="Blues",
        vmin=0,
        vmax=1,
        square=True,
        ax=axes,
        xticklabels=names,
        yticklabels=names,
        linewidths=0.5,
        cbar_kws={"label": "share of the true class"},
    )
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.tick_params(axis="x", rotation=35)
    axes.tick_params(axis="y", rotation=0)
    plt.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
    return figure


def plot_evaluation(
    is_defect: np.ndarray,
    scores: dict[str, np.ndarray],
    thresholds: dict[str, float],
    recall_per_class: dict[str, tuple[float, int]],
    *,
    title: str,
) -> Figure:
    """ROC of every score, the first score's distribution with its threshold, and accuracy per class.

    Args:
        is_defect: True for defective, shape (n,).
        scores: By method, shape (n,) each, higher is more anomalous. The first is drawn as a histogram.
        thresholds: By method; chosen on validation data.
        recall_per_class: By class name: share of its images that were classified right, and their number.
        title: Of the whole figure; says run, protocol and n.
    """
    figure, (roc, histogram, bars) = plt.subplots(1, 3, figsize=(14.5, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=12)
    for (name, values), colour in zip(scores.items(), METHOD_COLOURS, strict=False):
        false_rate, recall, _ = roc_curve(is_defect, values)
        roc.plot(false_rate, recall, color=colour, lw=2, label=f"{name}: {_area(false_rate, recall):.4f}")
        at = np.mean(values[~is_defect] >= thresholds[name]), np.mean(values[is_defect] >= thresholds[name])
        roc.plot(*at, "o", color=colour, ms=7, mec="white")
    roc.plot([0, 1], [0, 1], ":", color=NEUTRAL, lw=1)
    roc.set(
        xlabel="false alarms among normal images",
        ylabel="defects found",
        title="ROC (dot: threshold)",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    roc.legend(title="area under the curve", loc="lower right", frameon=False, fontsize=9)

    name = next(iter(scores))
    edges = np.linspace(scores[name].min(), scores[name].max() + 1e-9, 41)
    for wanted, colour, label in ((False, RIGHT, "normal"), (True, WRONG, "defective")):
        values = scores[name][is_defect == wanted]
        histogram.hist(values, bins=edges, color=colour, alpha=0.6, label=f"{label} (n = {len(values)})")
    histogram.axvline(thresholds[name], color="black", ls="--", label=f"threshold {thresholds[name]:.3f} (validation)")
    histogram.set(xlabel=f"{name} score, higher is more anomalous", ylabel="images", title="Scores of the test images")
    histogram.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, -0.42))

    names = list(recall_per_class)
    values = [recall_per_class[n][0] for n in names]
    bars.barh(range(len(names)), values, color="#54aeff")
    for row, n in enumerate(names):
        share, count = recall_per_class[n]
        bars.text(0.02, row, f"{share:.1%} of {count}", va="center", fontsize=9)
    bars.set_yticks(range(len(names)), [readable(n) for n in names])
    bars.invert_yaxis()
    bars.set(xlim=(0, 1), xlabel="classified right", title="Accuracy per class")
    return figure


def plot_examples(images: list[np.ndarray], captions: list[str], right: list[bool], *, title: str) -> Figure:
    """Pictures in rows of six, framed green where the answer was right and red where it was wrong."""
    columns = 6
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(14, 2.95 * rows + 0.5), layout="constrained", squeeze=False)
    figure.suptitle(title, fontsize=12)
    for place in axes.flat:
        place.axis("off")
    for place, image, caption, good in zip(axes.flat, images, captions, right, strict=False):
        place.axis("on")
        place.imshow(image)
        place.set(xticks=[], yticks=[])
        place.set_title(caption, fontsize=9, color=RIGHT if good else WRONG)
        for spine in place.spines.values():
            spine.set(visible=True, color=RIGHT if good else WRONG, linewidth=3)
    return figure


def plot_curve(epochs: np.ndarray, values: np.ndarray, *, label: str, title: str, best_epoch: int | None) -> Figure:
    """One quantity over the epochs; the epoch that was kept is marked."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot(epochs, values, "-o", color=METHOD_COLOURS[0], ms=4)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=RIGHT, ls="--", lw=1.2, label=f"epoch kept: {best_epoch}")
        axes.legend(frameon=False)
    axes.set(xlabel="epoch", ylabel=label, title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    return figure


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.trapezoid(y, x))

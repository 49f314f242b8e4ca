"""Figures of a run: arrays in, Figure out; no file is read and no model called."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image
from sklearn.metrics import roc_curve

RIGHT, WRONG, TRUTH, NEUTRAL = "#1a7f37", "#cf222e", "#00b8d4", "#57606a"
PREDICTED = "#ffd33d"
METHOD_COLOURS = ("#0550ae", "#bc4c00", "#8250df")
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100, "font.size": 10})


def save_figure(figure: Figure, path: Path, *, dpi: int | None = None, photographs: bool = False) -> Path:
    """Writes the figure as PNG, whole or not at all, closes it and returns the path. 150 dpi, or 100 with photographs.

    Photographs do not pack well as PNG. With them, channels are rounded to multiples of 5, which no eye sees in a
    texture and which makes the file about a quarter smaller.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=dpi or (100 if photographs else 150), bbox_inches="tight")
    if photographs:
        with Image.open(part) as whole:
            values = np.asarray(whole.convert("RGB"), dtype=np.uint16)
        coarse = np.minimum((values + 2) // 5 * 5, 255).astype(np.uint8)
        Image.fromarray(coarse).save(part, format="png", optimize=True)
    part.replace(path)
    plt.close(figure)
    return path


def readable(class_name: str) -> str:
    """``grain_off`` as people write it: ``grain off``."""
    return class_name.replace("_", " ")


def plot_confusion_matrix(matrix: np.ndarray, class_names: tuple[str, ...], *, title: str) -> Figure:
    """Counts with each row's share as colour. ``matrix``: shape (classes, classes), rows true, columns predicted."""
    matrix = np.asarray(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [readable(name) for name in class_names]
    figure, axes = plt.subplots(figsize=(6.6, 5.6), layout="constrained")
    sns.heatmap(shares, annot=matrix, fmt="d", cmap="Blues", vmin=0, vmax=1, square=True, ax=axes,
                xticklabels=names, yticklabels=names, linewidths=0.5,
                cbar_kws={"label": "share of the true class"})  # fmt: skip
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
    roc.set(xlabel="false alarms among normal images", ylabel="defects found", title="ROC (dot: threshold)",
            xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))  # fmt: skip
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


def plot_localisation(rows: list[dict], *, threshold: float, title: str, columns: int = 2) -> Figure:
    """What the model sees: picture, anomaly map, outlines of prediction and truth, verdict in words.

    Args:
        rows: Each with ``image`` (h, w, 3) uint8, ``map`` (h, w), ``mask`` (h, w) bool, ``boxes`` (left, top, right,
            bottom of the predicted regions), ``name``, ``verdict``, ``right`` (bool).
        threshold: Of the maps; they are drawn in units of it, so that 1 is where a pixel counts as defective.
        title: Of the whole figure.
        columns: Rows that stand side by side.
    """
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(
        lines, 4 * columns, figsize=(7.4 * columns, 1.95 * lines + 1.5), layout="constrained", squeeze=False,
        width_ratios=(1, 1, 1, 0.95) * columns,
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.01)
    figure.suptitle(title, fontsize=12)
    top = max(2.0, float(np.percentile([row["map"].max() for row in rows], 75) / threshold))
    places = axes.reshape(lines * columns, 4)  # line by line, so that neighbours belong together
    for axis in places[len(rows) :].flat:
        axis.axis("off")
    for number, ((picture, heat, outlines, words), row) in enumerate(zip(places, rows, strict=False)):
        picture.imshow(row["image"])
        picture.set_ylabel(row["name"], fontsize=8.5)
        shown = heat.imshow(row["map"] / threshold, cmap="inferno", vmin=0, vmax=top)
        outlines.imshow(row["image"])
        if row["mask"].any():
            outlines.contour(row["mask"], levels=[0.5], colors=TRUTH, linewidths=1.4)
        if (row["map"] >= threshold).any():
            outlines.contour(row["map"] >= threshold, levels=[0.5], colors=PREDICTED, linewidths=1.4)
        for left, above, right, below in row["boxes"]:
            frame = Rectangle((left - 0.5, above - 0.5), right - left, below - above, fill=False, ec=PREDICTED, lw=0.8)
            outlines.add_patch(frame).set_linestyle("--")
        words.text(0, 0.5, row["verdict"], va="center", fontsize=8.5, color=RIGHT if row["right"] else WRONG)
        words.axis("off")
        for place in (picture, heat, outlines):
            place.set(xticks=[], yticks=[])
        if number < columns:
            picture.set_title("image", fontsize=10)
            heat.set_title("anomaly map", fontsize=10)
            outlines.set_title("outlines", fontsize=10)
    bar = figure.colorbar(shown, ax=axes, location="bottom", pad=0.01, aspect=50, shrink=0.5)
    bar.set_label("distance to the nearest normal patch, 1 = threshold of a pixel")
    bar.ax.axvline(1, color="white", lw=1.5)
    frames = [
        Line2D([], [], color=TRUTH, label="truth"), Line2D([], [], color=PREDICTED, label="predicted"),
        Line2D([], [], color=PREDICTED, lw=0.8, ls="--", label="box of a predicted region"),
    ]  # fmt: skip
    figure.legend(handles=frames, loc="outside lower right", ncols=3, frameon=False)
    return figure


def plot_defect_examples(rows: list[dict], *, title: str) -> Figure:
    """Pictures with the outline of the truth; ``rows`` as for `plot_localisation`, without map and verdict."""
    columns = 6
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(14, 2.6 * lines + 0.5), layout="constrained", squeeze=False)
    figure.suptitle(title, fontsize=12)
    for place in axes.flat:
        place.axis("off")
    for place, row in zip(axes.flat, rows, strict=False):
        place.imshow(row["image"])
        place.set_title(row["name"], fontsize=9)
        if row["mask"].any():
            place.contour(row["mask"], levels=[0.5], colors=TRUTH, linewidths=1.6)
    return figure


def plot_attention(
    image: np.ndarray, maps: dict[str, np.ndarray], *, title: str, anomaly_map: np.ndarray | None = None
) -> Figure:
    """A picture (h, w, 3) beside attention maps (h, w), each on its own scale from 0 to its highest value.

    An anomaly map (h, w), in units of its threshold, stands between them if it is given.
    """
    panels = [(name, values, "share of attention, per patch") for name, values in maps.items()]
    if anomaly_map is not None:
        panels.insert(0, ("anomaly map", anomaly_map, "distance to normal, 1 = threshold"))
    figure, axes = plt.subplots(1, 1 + len(panels), figsize=(3.6 * (1 + len(panels)), 3.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes[0].imshow(image)
    axes[0].set_title("image", fontsize=10)
    for place, (name, values, label) in zip(axes[1:], panels, strict=True):
        shown = place.imshow(values, cmap="inferno", vmin=0)
        place.set_title(name, fontsize=10)
        figure.colorbar(shown, ax=place, shrink=0.8, label=label)
    for place in axes:
        place.set(xticks=[], yticks=[])
    plt.close(figure)  # the caller shows it once
    return figure


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.trapezoid(y, x))

"""Figures of localisation: arrays in, Figure out; no file is read and no network called."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..style import PREDICTED, RIGHT, TRUTH, WRONG


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
        lines,
        4 * columns,
        figsize=(7.4 * columns, 1.95 * lines + 1.5),
        layout="constrained",
        squeeze=False,
        width_ratios=(1, 1, 1, 0.95) * columns,
    )
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
        Line2D([], [], color=TRUTH, label="truth"),
        Line2D([], [], color=PREDICTED, label="predicted"),
        Line2D([], [], color=PREDICTED, lw=0.8, ls="--", label="box of a predicted region"),
    ]
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

"""Figures of localisation: arrays in, Figure out; no file is read and no network called."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..style import PREDICTED, RIGHT, STYLE, TRUTH, WRONG, set_title


@dataclass(frozen=True)
class Case:
    """One picture of the figure of maps; arrays have the size of the map."""

    image: np.ndarray  # (h, w, 3) uint8
    map: np.ndarray  # (h, w)
    mask: np.ndarray  # (h, w) bool
    boxes: list[tuple[int, int, int, int]]  # left, top, right, bottom of the predicted regions
    verdict: str
    right: bool
    name: str


@mpl.rc_context(STYLE)
def plot_localisation(cases: list[Case], *, threshold: float, title: str, columns: int = 2) -> Figure:
    """What the model sees: picture, anomaly map in units of its threshold, outlines, verdict in words."""
    lines = -(-len(cases) // columns)
    figure, axes = plt.subplots(
        lines,
        4 * columns,
        figsize=(7.4 * columns, 1.95 * lines + 1.5),
        squeeze=False,
        width_ratios=(1, 1, 1, 0.95) * columns,
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.01)
    set_title(figure, title)
    top = max(2.0, float(np.percentile([case.map.max() for case in cases], 75) / threshold))
    places = axes.reshape(lines * columns, 4)  # line by line, so that neighbours belong together
    for axis in places[len(cases) :].flat:
        axis.axis("off")
    for number, ((picture, heat, outlines, words), case) in enumerate(zip(places, cases, strict=False)):
        picture.imshow(case.image)
        picture.set_ylabel(case.name, fontsize=8.5)
        shown = heat.imshow(case.map / threshold, cmap="inferno", vmin=0, vmax=top)
        outlines.imshow(case.image)
        if case.mask.any():
            outlines.contour(case.mask, levels=[0.5], colors=TRUTH, linewidths=1.4)
        if (case.map >= threshold).any():
            outlines.contour(case.map >= threshold, levels=[0.5], colors=PREDICTED, linewidths=1.4)
        for left, above, right, below in case.boxes:
            frame = Rectangle((left - 0.5, above - 0.5), right - left, below - above, fill=False, ec=PREDICTED, lw=0.8)
            outlines.add_patch(frame).set_linestyle("--")
        words.text(0, 0.5, case.verdict, va="center", fontsize=8.5, color=RIGHT if case.right else WRONG)
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


@mpl.rc_context(STYLE)
def plot_attention(
    image: np.ndarray, maps: dict[str, np.ndarray], *, title: str, anomaly_map: np.ndarray | None = None
) -> Figure:
    """A picture (h, w, 3) beside attention maps (h, w), each on its own scale from 0 to its highest value.

    An anomaly map (h, w), in units of its threshold, stands between them if it is given.
    """
    panels = [(name, values, "share of attention, per patch") for name, values in maps.items()]
    if anomaly_map is not None:
        panels.insert(0, ("anomaly map", anomaly_map, "distance to normal, 1 = threshold"))
    figure, axes = plt.subplots(1, 1 + len(panels), figsize=(3.6 * (1 + len(panels)), 3.8))
    set_title(figure, title)
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

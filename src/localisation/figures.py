"""The figure of anomaly maps: what the model sees in some test images, and what it calls them."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..style import PREDICTED, RIGHT, STYLE, TRUTH, WRONG, bare, set_title
from .localise import Localisation
from .regions import Region, find_regions


@mpl.rc_context(STYLE)
def plot_localisation(shown: Localisation, chosen: list[tuple[int, str]], *, title: str) -> Figure:
    """Image, map in units of its threshold, outlines and verdict of some images, each with the rule that chose it."""
    lines = -(-len(chosen) // 2)
    figure = plt.figure(figsize=(14.8, 1.95 * lines + 1.5))
    axes = figure.subplots(lines, 8, squeeze=False, width_ratios=(1, 1, 1, 0.95) * 2)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.01)
    set_title(figure, title)
    maps = shown.maps / shown.thresholds.pixel
    top = max(2.0, float(np.percentile([maps[index].max() for index, _ in chosen], 75)))
    places = axes.reshape(2 * lines, 4)  # line by line, so that neighbours belong together
    for (picture, heat, outlines, words), (index, rule) in zip(places, chosen, strict=False):
        row, image, regions = shown.test.iloc[index], shown.image(index), find_regions(maps[index], 1.0)
        picture.imshow(image)
        picture.set_ylabel(f"{row['defect']}\n{Path(row['file']).name}\n{rule}", fontsize=8.5)
        bar = heat.imshow(maps[index], cmap="inferno", vmin=0, vmax=top)
        outlines.imshow(image)
        for area, colour in ((shown.masks[index], TRUTH), (maps[index] >= 1, PREDICTED)):
            if area.any():
                outlines.contour(area, levels=[0.5], colors=colour, linewidths=1.4)
        for left, above, right, below in (region.box for region in regions):
            size = right - left, below - above
            outlines.add_patch(Rectangle((left - 0.5, above - 0.5), *size, fill=False, ec=PREDICTED, lw=0.8, ls="--"))
        is_right = shown.called[index] == shown.is_defect[index]
        verdict = _verdict(shown, index, regions)
        words.text(0, 0.5, verdict, va="center", fontsize=8.5, color=RIGHT if is_right else WRONG)
    bare(places[:, :3])
    for axis in places[:, 3]:
        axis.axis("off")
    for axis, name in zip(axes[0], ("image", "anomaly map", "outlines", "") * 2, strict=True):
        axis.set_title(name, fontsize=10)
    scale = figure.colorbar(bar, ax=axes, location="bottom", pad=0.01, aspect=50, shrink=0.5)
    scale.set_label("distance to the nearest normal patch, 1 = threshold of a pixel")
    scale.ax.axvline(1, color="white", lw=1.5)
    names = {"truth": (TRUTH, 1.5, "-"), "predicted": (PREDICTED, 1.5, "-"), "its box": (PREDICTED, 0.8, "--")}
    legend = [Line2D([], [], color=colour, lw=lw, ls=ls, label=name) for name, (colour, lw, ls) in names.items()]
    figure.legend(handles=legend, loc="outside lower right", ncols=3, frameon=False)
    return figure


def _verdict(shown: Localisation, index: int, regions: list[Region]) -> str:
    truth = f"defect, {shown.masks[index].mean():.2%}" if shown.is_defect[index] else "normal"
    lines = [
        f"truth: {truth}",
        f"verdict: {'defect' if shown.called[index] else 'normal'}",
        f"image score: {shown.image_scores[index] / shown.thresholds.image:.2f}",
        f"regions: {len(regions)}" if regions else "no pixel above 1",
    ]
    if regions:
        lines.append(f"largest: {max(region.share for region in regions):.2%}")
    return "\n".join(lines)

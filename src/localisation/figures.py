"""The figure of anomaly maps: what is seen in some test images without and with normal images, and the verdicts."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..style import HEAT, PREDICTED, RIGHT, STYLE, TRUTH, WIDTH, WRONG, bare, set_title
from .localise import Localisation


@mpl.rc_context(STYLE)
def plot_localisation(shown: tuple[Localisation, ...], chosen: list[tuple[int, str]], *, title: str) -> Figure:
    """Some images with the outline of the truth, and each protocol's map with the outlines of its defects and verdict.

    An image a line, with the rule that chose it. Maps of one protocol share a scale.
    """
    side = (WIDTH - 0.4) / (1 + len(shown))  # inches
    figure = plt.figure(figsize=(WIDTH, (side + 0.25) * len(chosen) + 1.9))
    axes = figure.subplots(len(chosen), 1 + len(shown), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.04, wspace=0.01, hspace=0.01)
    set_title(figure, title)
    for (picture, *maps), (index, rule) in zip(axes, chosen, strict=True):
        first = shown[0]
        picture.imshow(first.image(index))
        if first.masks[index].any():
            picture.contour(first.masks[index], levels=[0.5], colors=TRUTH, linewidths=1.6)
        row, share = first.test.iloc[index], first.masks[index].mean()
        picture.set_title(f"{row['defect']}, {share:.2%}" if share else row["defect"], fontsize=9.5)
        picture.set_ylabel(f"{Path(row['file']).name}\n{rule}", fontsize=9.5)
        for axis, localisation in zip(maps, shown, strict=True):
            heat = _draw_map(axis, localisation, index)
    bare(axes)
    scale = figure.colorbar(heat, ax=axes, location="bottom", pad=0.01, aspect=40, shrink=0.6)
    scale.set_label(shown[-1].unit)
    scale.ax.axvline(shown[-1].thresholds.outline, color="white", lw=1.5)
    names = {"truth": TRUTH, "defect found": PREDICTED}
    legend = [Line2D([], [], color=colour, lw=1.5, label=name) for name, colour in names.items()]
    figure.legend(handles=legend, loc="outside lower right", ncols=3, frameon=False)
    return figure


def _draw_map(axis: Axes, shown: Localisation, index: int) -> mpl.image.AxesImage:
    judgement = shown.judgements[index]
    top = 1.0 if shown.has_head else max(0.5, 3 * shown.thresholds.outline)  # outlines may lie below the median
    height, width = judgement.map.shape
    heat = axis.imshow(judgement.map, cmap=HEAT, vmin=0, vmax=top)
    for region in judgement.regions:
        axis.plot(*region.contour.T, color=PREDICTED, lw=1.6)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    is_right = judgement.is_defective == shown.is_defect[index]
    verdict = f"defective ({len(judgement.regions)})" if judgement.is_defective else "normal"
    text = f"{shown.protocol}: {verdict}, {judgement.score:.2f}"
    axis.set_title(text, fontsize=9.5, color=RIGHT if is_right else WRONG)
    return heat

"""Figures of MVTec AD: tables and arrays in, a matplotlib Figure out. ``name`` is the data set, for titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..style import DEFECT, NORMAL, STYLE, TRUTH, WIDTH, bare, set_title
from .figures import bars, log_axis, picture_grid, strips

REGIONS = ("#E8B89D", DEFECT, "#7A3410")  # one, two, three or more regions


@mpl.rc_context(STYLE)
def plot_mvtec_counts(counts: pd.DataFrame, *, name: str) -> Figure:
    """Images of each split and type as bars, from `describe.count_mvtec`."""
    stacked = counts.T.stack()  # (split, type): images
    stacked = stacked[stacked > 0]
    stacked.index = [f"{part}/{defect}" for part, defect in stacked.index]
    figure, axis = plt.subplots(figsize=(WIDTH, 0.36 * len(stacked) + 1.1))
    bars(axis, stacked, colours=[_colour(label) for label in stacked.index])
    train, test = counts[["train", "test"]].sum()
    set_title(figure, f"{name}: {train:,} training and {test:,} test images")
    return figure


@mpl.rc_context(STYLE)
def plot_mvtec_brightness(described: pd.DataFrame, *, name: str) -> Figure:
    """Brightness and contrast of each image by split and type, from `describe.describe_images` of an MVTec table."""
    shown = described.dropna(subset=["brightness"])
    kinds = shown["part"] + "/" + shown["defect"]
    labels = sorted(kinds.unique(), key=lambda kind: (not kind.startswith("train"), not kind.endswith("/good"), kind))
    colours = [_colour(label) for label in labels]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.45 * len(labels) + 1.5), sharey=True)
    for axis, column in zip(axes, ("brightness", "contrast"), strict=True):
        strips(axis, [shown.loc[kinds == label, column].to_numpy() for label in labels], labels, colours)
        axis.set(title=f"{column.capitalize()} of the whole picture, median marked", xlabel="grey levels")
    set_title(figure, f"{name}: brightness and contrast of {len(shown):,} images")
    return figure


@mpl.rc_context(STYLE)
def plot_defect_examples(
    pictures: Mapping[str, Sequence[np.ndarray]], masks: Mapping[str, Sequence[np.ndarray]], *, name: str
) -> Figure:
    """A normal picture, a defective one and the same with its mask's outline, one column a type of defect.

    Args:
        pictures: From `describe.example_pictures`, with ``good`` among the types; arrays (side, side, 3), uint8.
        masks: From `describe.example_masks` for the same pictures; arrays (side, side) in [0, 1].
        name: The data set.
    """
    defects = [label for label in pictures if label != "good"]
    figure, axes = picture_grid(3, defects)
    for number, (column, label) in enumerate(zip(axes.T, defects, strict=True)):
        column[0].imshow(pictures["good"][number % len(pictures["good"])])
        column[1].imshow(pictures[label][0])
        column[2].imshow(pictures[label][0])
        if masks[label][0].max() > 0.5:
            column[2].contour(masks[label][0], levels=[0.5], colors=TRUTH, linewidths=1.6)
    for axis, label in zip(axes[:, 0], ("normal", "defective", "with outline"), strict=True):
        axis.set_ylabel(label)
    bare(axes)
    set_title(figure, f"{name}: defects beside normal pictures, one of each type")
    return figure


@mpl.rc_context(STYLE)
def plot_defect_area(defects: pd.DataFrame, *, name: str) -> Figure:
    """Area of every defect in % of its picture, log axis, and the number of its regions, by type.

    Pictures whose mask is empty have no place on a log axis; the title says how many there are.
    """
    shown = defects[defects["area"] > 0]
    figure, axes = _strips_by_type(shown, {"area_percent": "Defective area, median marked"})
    axes[0].set_xlabel("share of the picture")
    log_axis(axes[0], "{:g} %")
    regions = pd.crosstab(shown["defect"], shown["regions"].clip(upper=len(REGIONS)))
    ends = regions.cumsum(axis=1)
    for number in regions.columns:
        label = f"{number} or more" if number == len(REGIONS) else f"{number}"
        axes[1].barh(
            range(len(regions)),
            regions[number],
            left=ends[number] - regions[number],
            color=REGIONS[number - 1],
            height=0.6,
            label=label,
        )
    axes[1].set(title="Regions in a mask", xlabel="pictures")
    axes[1].xaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10), integer=True))
    axes[1].legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        borderaxespad=0.6,
        borderpad=0,
        frameon=False,
        fontsize=9,
        ncols=len(REGIONS),
        handlelength=1,
        columnspacing=1.2,
    )
    empty = len(defects) - len(shown)
    set_title(figure, f"{name}: size of the defects, n = {len(shown)} masks" + (f" ({empty} empty)" if empty else ""))
    return figure


@mpl.rc_context(STYLE)
def plot_defect_comparison(defects: pd.DataFrame, *, name: str) -> Figure:
    """Brightness and contrast inside every defect against its surroundings, by type."""
    shown = defects.dropna(subset=["brightness_difference", "contrast_ratio"])
    shown = shown[shown["contrast_ratio"] > 0]
    figure, axes = _strips_by_type(
        shown,
        {"brightness_difference": "Brightness, inside minus around", "contrast_ratio": "Contrast, inside by around"},
    )
    for axis, same in zip(axes, (0, 1), strict=True):
        axis.axvline(same, color="#4A525C", linewidth=1, linestyle="--", zorder=1)
    axes[0].set_xlabel("grey levels (0: as bright)")
    log_axis(axes[1], "{:g}×")
    axes[1].set_xlabel("ratio (1: as rough)")
    set_title(figure, f"{name}: defects against their surroundings, n = {len(shown)} masks")
    return figure


@mpl.rc_context(STYLE)
def plot_defect_positions(maps: Mapping[str, np.ndarray], counts: pd.Series, *, name: str) -> Figure:
    """Where the defects of each type lie, one map a type on one scale.

    Args:
        maps: From `describe.map_positions`, arrays (side, side) in [0, 1].
        counts: Pictures of each type.
        name: The data set.
    """
    figure, axes = picture_grid(1, [f"{label}\nn = {counts[label]}" for label in maps], margin=0.9)
    top = 100 * max(heat.max() for heat in maps.values())
    for axis, heat in zip(axes[0], maps.values(), strict=True):
        drawn = axis.imshow(100 * heat, cmap="magma", vmin=0, vmax=top or 1)
    bare(axes)
    beside = axes[0, -1].inset_axes((1.05, 0, 0.06, 1))  # as high as the map, unlike a bar with room of its own
    figure.colorbar(drawn, cax=beside, label="% of pictures\ndefective there")
    set_title(figure, f"{name}: where the defects lie, n = {counts[list(maps)].sum()} masks")
    return figure


def _strips_by_type(defects: pd.DataFrame, columns: Mapping[str, str]) -> tuple[Figure, np.ndarray]:
    """Two panels with a row a type, and in the first ones the points of one column each, with its title."""
    groups = dict(list(defects.groupby("defect")))
    names = [f"{label} (n = {len(rows)})" for label, rows in groups.items()]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.5 * len(groups) + 1.6), sharey=True)
    for axis, (column, title) in zip(axes, columns.items(), strict=False):
        strips(axis, [rows[column].to_numpy() for rows in groups.values()], names, [DEFECT] * len(names))
        axis.set_title(title)
    return figure, axes


def _colour(label: str) -> str:
    return NORMAL if label.endswith("/good") else DEFECT

"""Figures of MVTec AD: tables and arrays in, a matplotlib Figure out. ``name`` is the data set, for titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..style import DEFECT, HEAT, NEUTRAL, NORMAL, STYLE, WIDTH, plot_pictures, readable, set_title
from .figures import draw_bars, draw_points, use_log_axis


@mpl.rc_context(STYLE)
def plot_counts(counts: pd.DataFrame, *, name: str) -> Figure:
    """Images of each split and type as bars, from `defects.count_images`."""
    images = counts.T.stack()  # (split, type): images
    images = images[images > 0]
    images.index = [f"{part}/{defect}" for part, defect in images.index]
    figure, axis = plt.subplots(figsize=(WIDTH, 0.36 * len(images) + 1.1))
    draw_bars(axis, images.to_frame(), [f"{count:,}" for count in images], colours=[_colours(images.index)])
    train, test = counts[["train", "test"]].sum()
    set_title(figure, f"{name}: {train:,} training and {test:,} test images")
    return figure


@mpl.rc_context(STYLE)
def plot_brightness(described: pd.DataFrame, *, name: str) -> Figure:
    """Brightness and contrast of each image by split and type, from `describe.describe_images` of an MVTec table."""
    shown = described.dropna(subset=["brightness"])
    kinds = dict(list(shown.groupby(shown["part"] + "/" + shown["defect"])))
    order = sorted(kinds, key=lambda kind: (not kind.startswith("train"), not kind.endswith("/good"), kind))
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.45 * len(order) + 1.5), sharey=True)
    titles = {"brightness": "Brightness of the whole picture", "contrast": "Contrast of the whole picture"}
    draw_points(axes, {kind: kinds[kind] for kind in order}, titles, _colours(order))
    for axis in axes:
        axis.set_xlabel("grey levels, median marked")
    set_title(figure, f"{name}: brightness and contrast of {len(shown):,} images")
    return figure


def _colours(kinds: Sequence[str]) -> list[str]:
    return [NORMAL if kind.endswith("/good") else DEFECT for kind in kinds]


def plot_examples(
    pictures: Mapping[str, Sequence[np.ndarray]], masks: Mapping[str, Sequence[np.ndarray]], *, name: str
) -> Figure:
    """For each type of defect a normal picture, a defective one and the same with the outline of its mask.

    Args:
        pictures: From `describe.example_pictures` by ``defect``, with ``good``.
        masks: From `defects.defect_shares` of the same side; the first of each type is that of the first picture.
        name: The data set.
    """
    shown, captions, outlines = [], [], []
    for number, (defect, (mask, *_)) in enumerate(masks.items()):
        good, picture = pictures["good"][number % len(pictures["good"])], pictures[defect][0]
        shown += [good, picture, picture]
        captions += ["normal", readable(defect), "with outline"]
        outlines += [np.zeros_like(mask), np.zeros_like(mask), mask]
    return plot_pictures(shown, captions, title=f"{name}: a defect of each type beside normal", outlines=outlines)


@mpl.rc_context(STYLE)
def plot_defect_area(defects: pd.DataFrame, *, name: str) -> Figure:
    """Area of every defect in % of its picture and the number of its regions, by type, from `defects.describe_defects`.

    Pictures whose mask is empty have no place on a log axis; the title says how many there are.
    """
    shown = defects[defects["area"] > 0]
    regions = shown["regions"].clip(upper=3).map({1: "one", 2: "two", 3: "three or more"})
    counts = pd.crosstab(shown["defect"], regions).reindex(columns=["one", "two", "three or more"], fill_value=0)
    counts.index = [f"{defect} (n = {count})" for defect, count in counts.sum(axis=1).items()]
    figure, axes = _two_panels(shown, {"area_percent": "Defective area, median marked"})
    axes[0].set_xlabel("share of the picture")
    use_log_axis(axes[0], "{:g} %")
    draw_bars(axes[1], counts, [" + ".join(map(str, row)) for row in counts.to_numpy()])
    axes[1].set_xlabel("pictures by number of regions")
    empty = len(defects) - len(shown)
    set_title(figure, f"{name}: size of the defects, n = {len(shown)} masks" + (f" ({empty} empty)" if empty else ""))
    return figure


@mpl.rc_context(STYLE)
def plot_defect_comparison(defects: pd.DataFrame, *, name: str) -> Figure:
    """Brightness and contrast inside every defect against its surroundings, by type."""
    shown = defects.dropna(subset=["brightness_difference", "contrast_ratio"])
    shown = shown[shown["contrast_ratio"] > 0]
    titles = {
        "brightness_difference": "Brightness, inside minus around",
        "contrast_ratio": "Contrast, inside by around",
    }
    figure, axes = _two_panels(shown, titles)
    for axis, same in zip(axes, (0, 1), strict=True):
        axis.axvline(same, color=NEUTRAL, linewidth=1, linestyle="--", zorder=1)
    axes[0].set_xlabel("grey levels (0: as bright)")
    use_log_axis(axes[1], "{:g}×")
    axes[1].set_xlabel("ratio (1: as rough)")
    set_title(figure, f"{name}: defects against their surroundings, n = {len(shown)} masks")
    return figure


def _two_panels(defects: pd.DataFrame, titles: Mapping[str, str]) -> tuple[Figure, np.ndarray]:
    """Two panels with a row a type, and the points of one column in each of the first."""
    groups = {f"{defect} (n = {len(rows)})": rows for defect, rows in defects.groupby("defect")}
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.5 * len(groups) + 1.6), sharey=True)
    draw_points(axes[: len(titles)], groups, titles, [DEFECT] * len(groups))
    return figure, axes


def plot_defect_positions(masks: Mapping[str, Sequence[np.ndarray]], *, name: str) -> Figure:
    """Where the defects of each type lie, one map a type on one scale, from `defects.defect_shares`."""
    maps = [100 * np.mean(shares, axis=0) for shares in masks.values()]
    captions = [f"{readable(defect)}\nn = {len(shares)}" for defect, shares in masks.items()]
    title = f"{name}: where the defects lie, n = {sum(map(len, masks.values()))} masks"
    figure = plot_pictures(maps, captions, title=title, columns=min(5, len(maps)))
    for axis in figure.axes[: len(maps)]:
        axis.images[0].set(cmap=HEAT, clim=(0, max(np.max(maps), 1)))
    figure.colorbar(axis.images[0], ax=figure.axes, label="% of pictures defective there")
    return figure

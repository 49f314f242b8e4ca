"""Figures of the exploratory analysis: tables and arrays in, a matplotlib Figure out.

No file is read and no model is called. Blue stands for normal leather and orange for defects in every figure; all
are 9 inches wide, so that their text can be read in a README. Every function takes ``name``, the data set as the
title prints it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import rgb_to_hsv
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ..config import NORMAL_CLASS
from ..style import DEFECT, NEUTRAL, NORMAL, STYLE, TRUTH, WIDTH, bare, readable, set_title

REGIONS = ("#E8B89D", DEFECT, "#7A3410")  # one, two, three or more regions


@mpl.rc_context(STYLE)
def plot_class_distribution(counts: pd.Series, *, name: str) -> Figure:
    """Images of each class as bars, from `describe.count_classes`."""
    figure, axis = plt.subplots(figsize=(WIDTH, 0.42 * len(counts) + 1.1))
    _bars(axis, counts, colours=[_colour(label) for label in counts.index], shares=True)
    set_title(figure, f"{name}: {counts.sum():,} images in {len(counts)} classes")
    return figure


@mpl.rc_context(STYLE)
def plot_examples(pictures: Mapping[str, Sequence[np.ndarray]], *, name: str) -> Figure:
    """Pictures of every class, one column a class; arrays of shape (side, side, 3), uint8."""
    rows = max(map(len, pictures.values()))
    figure, axes = _picture_grid(rows, list(pictures))
    for column, (label, examples) in zip(axes.T, pictures.items(), strict=True):
        column[0].title.set_color(_colour(label))
        for axis, picture in zip(column, examples, strict=False):
            axis.imshow(picture)
    bare(axes)
    set_title(figure, f"{name}: examples of each class, n = {sum(map(len, pictures.values()))} images")
    return figure


@mpl.rc_context(STYLE)
def plot_sizes_and_formats(described: pd.DataFrame, *, name: str, most: int = 8) -> Figure:
    """Sizes in pixels with format and mode, the ``most`` frequent ones, over the size of the files by class."""
    header = described.dropna(subset=["width", "height"])
    kinds = header["width"].astype(str) + " x " + header["height"].astype(str)
    counts = (kinds + "\n" + header["format"] + " " + header["mode"]).value_counts()
    if len(counts) > most:
        rest = pd.Series({f"{len(counts) - most + 1} others": counts.iloc[most - 1 :].sum()})
        counts = pd.concat([counts.iloc[: most - 1], rest])
    labels = list(dict.fromkeys(header["label"]))
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(WIDTH, 0.5 * (len(counts) + len(labels)) + 2.2), height_ratios=(len(counts), len(labels))
    )
    _bars(top, counts, colours=NEUTRAL)
    top.set_title("Size in pixels, format and mode")
    kilobytes = [header.loc[header["label"] == label, "bytes"].to_numpy(dtype=float) / 1000 for label in labels]
    _strips(bottom, kilobytes, labels, [_colour(label) for label in labels])
    bottom.set_title("Size of the file, median marked")
    _log_axis(bottom, "{:,g} kB", label=0.09)
    set_title(figure, f"{name}: sizes and formats, n = {len(header):,} images")
    return figure


@mpl.rc_context(STYLE)
def plot_colour_per_class(described: pd.DataFrame, *, name: str) -> Figure:
    """Brightness and contrast of each image, drawn in its own mean colour, and all mean colours side by side.

    If the strip of one class looks unlike the strip of another one, colour alone tells them apart.
    """
    shown = described.dropna(subset=["brightness"])
    groups = [(label, rows) for label, rows in shown.groupby("label", sort=False)]
    labels = [label for label, _ in groups]
    colours = [rows[["red", "green", "blue"]].to_numpy() / 255 for _, rows in groups]
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 0.62 * len(groups) + 1.5), width_ratios=(1, 1, 1.5), sharey=True)
    for axis, column in zip(axes, ("brightness", "contrast"), strict=False):
        _strips(axis, [rows[column].to_numpy() for _, rows in groups], labels, colours)
        axis.set(title=f"{column.capitalize()}, median marked", xlabel="grey levels")
        axis.set_xlim(left=0)
    figure.get_layout_engine().set(wspace=0.05)
    for position, colour in enumerate(colours):
        strip = colour[_colour_order(colour)][None]  # (1, n, 3)
        axes[2].imshow(strip, extent=(0, 100, position + 0.38, position - 0.38), aspect="auto", interpolation="none")
    axes[2].set(title="Mean colour of every image, sorted by hue", xlabel="% of the class", xlim=(0, 100))
    axes[2].set_ylim(len(groups) - 0.5, -0.5)
    axes[2].spines["left"].set_visible(False)
    set_title(figure, f"{name}: brightness, contrast and colour of {len(shown):,} images")
    return figure


@mpl.rc_context(STYLE)
def plot_mvtec_counts(counts: pd.DataFrame, *, name: str) -> Figure:
    """Images of each split and type as bars, from `describe.count_mvtec`."""
    stacked = counts.T.stack()  # (split, type): images
    stacked = stacked[stacked > 0]
    stacked.index = [f"{part}/{defect}" for part, defect in stacked.index]
    figure, axis = plt.subplots(figsize=(WIDTH, 0.36 * len(stacked) + 1.1))
    _bars(axis, stacked, colours=[_colour(label) for label in stacked.index])
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
        _strips(axis, [shown.loc[kinds == label, column].to_numpy() for label in labels], labels, colours)
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
    figure, axes = _picture_grid(3, defects)
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
    _log_axis(axes[0], "{:g} %")
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
    _log_axis(axes[1], "{:g}×")
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
    figure, axes = _picture_grid(1, [f"{label}\nn = {counts[label]}" for label in maps], margin=0.9)
    top = 100 * max(heat.max() for heat in maps.values())
    for axis, heat in zip(axes[0], maps.values(), strict=True):
        drawn = axis.imshow(100 * heat, cmap="magma", vmin=0, vmax=top or 1)
    bare(axes)
    beside = axes[0, -1].inset_axes((1.05, 0, 0.06, 1))  # as high as the map, unlike a bar with room of its own
    figure.colorbar(drawn, cax=beside, label="% of pictures\ndefective there")
    set_title(figure, f"{name}: where the defects lie, n = {counts[list(maps)].sum()} masks")
    return figure


def _colour(label: str) -> str:
    return NORMAL if label == NORMAL_CLASS or label.endswith("/good") else DEFECT


def _bars(axis: Axes, counts: pd.Series, *, colours: str | Sequence[str], shares: bool = False) -> None:
    """Horizontal bars with their numbers of images; the first one on top."""
    bars = axis.barh([readable(label) for label in counts.index], counts, color=colours, height=0.66)
    texts = [f"{count:,} ({100 * count / counts.sum():.1f} %)" if shares else f"{count:,}" for count in counts]
    axis.bar_label(bars, texts, padding=4)
    axis.invert_yaxis()
    axis.set_xlabel("images")
    axis.xaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10), integer=True))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.margins(x=0.16 if shares else 0.08)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")


def _strips_by_type(defects: pd.DataFrame, columns: Mapping[str, str]) -> tuple[Figure, np.ndarray]:
    """Two panels with a row a type, and in the first ones the points of one column each, with its title."""
    groups = dict(list(defects.groupby("defect")))
    names = [f"{label} (n = {len(rows)})" for label, rows in groups.items()]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.5 * len(groups) + 1.6), sharey=True)
    for axis, (column, title) in zip(axes, columns.items(), strict=False):
        _strips(axis, [rows[column].to_numpy() for rows in groups.values()], names, [DEFECT] * len(names))
        axis.set_title(title)
    return figure, axes


def _strips(axis: Axes, values: Sequence[np.ndarray], labels: Sequence[str], colours: Sequence) -> None:
    """A row of points for each label, spread so that equal ones can be seen, with a tick at the median."""
    generator = np.random.default_rng(0)
    for position, (points, colour) in enumerate(zip(values, colours, strict=True)):
        heights = position + generator.uniform(-0.27, 0.27, len(points))
        size, alpha = (9, 0.6) if len(points) > 100 else (22, 0.75)
        axis.scatter(points, heights, s=size, c=colour, alpha=alpha, linewidths=0, zorder=2)
        axis.vlines(np.median(points), position - 0.36, position + 0.36, color="#111418", linewidth=1.8, zorder=3)
    axis.set_yticks(range(len(labels)), [readable(label) for label in labels])
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")


def _log_axis(axis: Axes, form: str, *, label: float = 0.15) -> None:
    """A log axis with its ticks written out; linear where there is little to compress.

    ``label`` is the width of a tick's label as a share of the axis, so that no label lies on the next one.
    """
    low, high = axis.dataLim.intervalx
    if high > 3 * low:
        room = label * np.log10(high / low)
        choices = ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3))
        fitting = [steps for steps in choices if np.diff(np.log10([*steps, 10])).min() > room]
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=fitting[0] if fitting else (1,)))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: form.format(value)))


def _picture_grid(rows: int, titles: Sequence[str], *, margin: float = 0.0) -> tuple[Figure, np.ndarray]:
    """Square panels with a title over each column; ``margin`` inches of the width stay free for a colour bar."""
    side = min((WIDTH - margin - 0.2) / len(titles), 2.4)
    wide = int(side / 0.088)  # letters that fit over a panel
    titles = ["\n".join(textwrap.fill(line, wide) for line in readable(title).splitlines()) for title in titles]
    lines = 1 + max(title.count("\n") for title in titles)
    height = rows * side + 0.2 * lines + 0.45
    figure, axes = plt.subplots(rows, len(titles), figsize=(WIDTH, height), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.04, wspace=0, hspace=0)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, loc="center")
    return figure, axes


def _colour_order(colours: np.ndarray) -> np.ndarray:
    """Indices that sort colours, shape (n, 3) in [0, 1], by steps of hue (reds first), then by brightness."""
    hue, _, value = rgb_to_hsv(colours).T
    return np.lexsort((value, (24 * (hue + 1 / 12) % 24).round()))

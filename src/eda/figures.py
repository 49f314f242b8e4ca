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

from ..style import DEFECT, NEUTRAL, NORMAL, STYLE, WIDTH, bare, readable, set_title


@mpl.rc_context(STYLE)
def plot_class_distribution(counts: pd.Series, *, normal: str, name: str) -> Figure:
    """Images of each class as bars, from `describe.count_classes`."""
    figure, axis = plt.subplots(figsize=(WIDTH, 0.42 * len(counts) + 1.1))
    bars(axis, counts, colours=[_colour(label, normal) for label in counts.index], shares=True)
    set_title(figure, f"{name}: {counts.sum():,} images in {len(counts)} classes")
    return figure


@mpl.rc_context(STYLE)
def plot_examples(pictures: Mapping[str, Sequence[np.ndarray]], *, normal: str, name: str) -> Figure:
    """Pictures of every class, one column a class; arrays of shape (side, side, 3), uint8."""
    rows = max(map(len, pictures.values()))
    figure, axes = picture_grid(rows, list(pictures))
    for column, (label, examples) in zip(axes.T, pictures.items(), strict=True):
        column[0].title.set_color(_colour(label, normal))
        for axis, picture in zip(column, examples, strict=False):
            axis.imshow(picture)
    bare(axes)
    set_title(figure, f"{name}: examples of each class, n = {sum(map(len, pictures.values()))} images")
    return figure


@mpl.rc_context(STYLE)
def plot_sizes_and_formats(described: pd.DataFrame, *, normal: str, name: str, most: int = 8) -> Figure:
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
    bars(top, counts, colours=NEUTRAL)
    top.set_title("Size in pixels, format and mode")
    kilobytes = [header.loc[header["label"] == label, "bytes"].to_numpy(dtype=float) / 1000 for label in labels]
    strips(bottom, kilobytes, labels, [_colour(label, normal) for label in labels])
    bottom.set_title("Size of the file, median marked")
    log_axis(bottom, "{:,g} kB", label=0.09)
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
        strips(axis, [rows[column].to_numpy() for _, rows in groups], labels, colours)
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


def _colour(label: str, normal: str) -> str:
    return NORMAL if label == normal else DEFECT


def bars(axis: Axes, counts: pd.Series, *, colours: str | Sequence[str], shares: bool = False) -> None:
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


def strips(axis: Axes, values: Sequence[np.ndarray], labels: Sequence[str], colours: Sequence) -> None:
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


def log_axis(axis: Axes, form: str, *, label: float = 0.15) -> None:
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


def picture_grid(rows: int, titles: Sequence[str], *, margin: float = 0.0) -> tuple[Figure, np.ndarray]:
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

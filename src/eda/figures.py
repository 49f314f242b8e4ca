"""Figures of a set of classes: tables and arrays in, a matplotlib Figure out. ``name`` is the data set, for titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import rgb_to_hsv
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ..data.tables import Classes
from ..style import DEFECT, INK, NEUTRAL, NORMAL, SHARES, STYLE, WIDTH, plot_pictures, readable, set_title


@mpl.rc_context(STYLE)
def plot_class_distribution(counts: pd.Series, classes: Classes, *, name: str) -> Figure:
    """Images of each class as bars, from `describe.count_classes`."""
    figure, axis = plt.subplots(figsize=(WIDTH, 0.42 * len(counts) + 1.1))
    texts = [f"{count:,} ({count / counts.sum():.1%})" for count in counts]
    draw_bars(axis, counts.to_frame(), texts, colours=[class_colours(counts.index, classes)])
    set_title(figure, f"{name}: {counts.sum():,} images in {len(counts)} classes")
    return figure


def plot_strips(pictures: Mapping[str, Sequence[np.ndarray]], captions: Mapping[str, str], *, title: str) -> Figure:
    """A strip of pictures (side, side, 3) for each name, with its caption, two strips side by side."""
    longest, side = max(map(len, pictures.values())), len(next(iter(pictures.values()))[0])
    strips = []
    for row in pictures.values():
        white = np.full((side, side, 3), 255, np.uint8)
        framed = [np.pad(p, ((0, 0), (0, side // 16), (0, 0)), constant_values=255) for p in [*row, white]]
        strips.append(np.hstack([*framed[:-1], *framed[-1:] * (longest - len(row))]))
    return plot_pictures(strips, [readable(captions[name]) for name in pictures], title=title, columns=2)


@mpl.rc_context(STYLE)
def plot_sizes_and_formats(described: pd.DataFrame, classes: Classes, *, name: str) -> Figure:
    """Sizes in pixels with format and mode, the eight most frequent, over the size of the files by class."""
    header = described.dropna(subset=["width", "height"])
    header = header.assign(kilobytes=header["bytes"].astype(float) / 1000)
    kinds = header["width"].astype(str) + " x " + header["height"].astype(str)
    counts = (kinds + "\n" + header["format"] + " " + header["mode"]).value_counts()
    if len(counts) > 8:
        counts = pd.concat([counts[:7], pd.Series({f"{len(counts) - 7} others": counts[7:].sum()})])
    labels = dict(list(header.groupby("label", sort=False)))
    rows = len(counts), len(labels)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 0.5 * sum(rows) + 2.2), height_ratios=rows)
    draw_bars(top, counts.to_frame(), [f"{count:,}" for count in counts], colours=[NEUTRAL])
    top.set_title("Size in pixels, format and mode")
    is_far = _is_far_outside(header["kilobytes"])
    title = "Size of the file, median marked" + _outside(header.loc[is_far, "kilobytes"])
    shown = {label: rows[~is_far[rows.index]] for label, rows in labels.items()}
    draw_points([bottom], shown, {"kilobytes": title}, class_colours(labels, classes))
    use_log_axis(bottom, "{:,g} kB", label=0.09)
    set_title(figure, f"{name}: sizes and formats, n = {len(header):,} images")
    return figure


def _is_far_outside(values: pd.Series) -> pd.Series:
    """True for the few, under 1 %, that are 4 times as far out as all others: an axis for them would be empty."""
    low, high = values.quantile([0.005, 0.995])
    return (values > 4 * high) | (values < low / 4)


def _outside(kilobytes: pd.Series) -> str:
    if kilobytes.empty:
        return ""
    return f"; not on the axis: {len(kilobytes)} files of {kilobytes.min():,.0f} to {kilobytes.max():,.0f} kB"


@mpl.rc_context(STYLE)
def plot_colour_per_class(described: pd.DataFrame, *, name: str) -> Figure:
    """Brightness and contrast of each image, drawn in its own mean colour, and all mean colours side by side.

    If the strip of one class looks unlike the strip of another one, colour alone tells them apart.
    """
    shown = described.dropna(subset=["brightness"])
    labels = dict(list(shown.groupby("label", sort=False)))
    colours = [rows[["red", "green", "blue"]].to_numpy() / 255 for rows in labels.values()]
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 0.62 * len(labels) + 1.5), width_ratios=(1, 1, 1.5), sharey=True)
    draw_points(axes[:2], labels, {"brightness": "Brightness", "contrast": "Contrast"}, colours)
    for axis in axes[:2]:
        axis.set(xlabel="grey levels, median marked")
        axis.set_xlim(left=0)
    for position, colour in enumerate(colours):
        strip = colour[_colour_order(colour)][None]  # (1, n, 3)
        axes[2].imshow(strip, extent=(0, 100, position + 0.38, position - 0.38), aspect="auto", interpolation="none")
    axes[2].set(title="Mean colour of every image, sorted by hue", xlabel="% of the class", xlim=(0, 100))
    name_rows(axes[2], list(labels))
    set_title(figure, f"{name}: brightness, contrast and colour of {len(shown):,} images")
    return figure


def _colour_order(colours: np.ndarray) -> np.ndarray:
    """Indices that sort colours, shape (n, 3) in [0, 1], by steps of hue (reds first), then by brightness."""
    hue, _, value = rgb_to_hsv(colours).T
    return np.lexsort((value, (24 * (hue + 1 / 12) % 24).round()))


def class_colours(names: Sequence[str], classes: Classes) -> list[str]:
    return [NORMAL if name == classes.normal else DEFECT for name in names]


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """One row a name, the first on top."""
    axis.set_yticks(range(len(names)), [readable(name) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def draw_bars(axis: Axes, counts: pd.DataFrame, texts: Sequence[str], *, colours: Sequence = ()) -> None:
    """Bars of counts with a text behind each, a row an index entry; columns are stacked, in shades of grey."""
    colours = colours or plt.get_cmap(SHARES)(np.linspace(0.35, 0.85, counts.shape[1]))
    for column, left, colour in zip(counts, (counts.cumsum(axis=1) - counts).T.to_numpy(), colours, strict=True):
        bars = axis.barh(range(len(counts)), counts[column], left=left, color=colour, height=0.66, label=column)
    axis.bar_label(bars, texts, padding=4)
    name_rows(axis, counts.index)
    axis.set_xlabel("images")
    axis.xaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10), integer=True))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.margins(x=0.16)
    axis.grid(axis="x")
    if counts.shape[1] > 1:
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=3)


def draw_points(
    axes: Sequence[Axes], groups: Mapping[str, pd.DataFrame], columns: Mapping[str, str], colours: Sequence
) -> None:
    """A panel for each column, with its title: in a row for each group its points, spread, and a mark at the median."""
    for axis, (column, title) in zip(axes, columns.items(), strict=True):
        generator = np.random.default_rng(0)
        for position, (rows, colour) in enumerate(zip(groups.values(), colours, strict=True)):
            heights = position + generator.uniform(-0.27, 0.27, len(rows))
            size, alpha = (9, 0.6) if len(rows) > 100 else (22, 0.75)
            axis.scatter(rows[column], heights, s=size, c=colour, alpha=alpha, linewidths=0, zorder=2)
            median = rows[column].median()
            axis.vlines(median, position - 0.36, position + 0.36, color=INK, linewidth=1.8, zorder=3)
        name_rows(axis, list(groups))
        axis.set_title(title)
        axis.grid(axis="x")


def use_log_axis(axis: Axes, form: str, *, label: float = 0.15) -> None:
    """A log axis, if values differ much, with its ticks in a form; ``label``: a tick's width as a share of the axis."""
    low, high = axis.dataLim.intervalx
    if high > 3 * low:
        room = label * np.log10(high / low)  # that a label needs, in decades
        choices = ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3))
        fitting = [steps for steps in choices if np.diff(np.log10([*steps, 10])).min() > room]
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=fitting[0] if fitting else (1,)))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: form.format(value)))

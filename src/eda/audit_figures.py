"""Figures of the audit: copies, hides, and how far plain colour gets. ``name`` is the data set, for titles."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..data.tables import Classes, order_classes
from ..style import HONEST, INK, SHARES, STYLE, USUAL, WIDTH, readable, set_title
from .figures import draw_bars, plot_strips

Counts = Mapping[str, Mapping[str, int]]  # hide: class: images, as in ``hide_groups`` of audit.json


@mpl.rc_context(STYLE)
def plot_copies(table: pd.DataFrame, *, name: str) -> Figure:
    """Files of each class: distinct pictures, byte-for-byte and changed copies of an earlier one. Of `Audit.table`."""
    kinds = pd.crosstab(table["label"], table["copy_kind"])
    kinds = kinds.reindex(order_classes(table["label"])).reindex(columns=["distinct", "exact", "changed"], fill_value=0)
    copies = int(kinds[["exact", "changed"]].to_numpy().sum())
    kinds.columns = ["distinct pictures", "byte-for-byte copies", "changed copies"]
    figure, axis = plt.subplots(figsize=(WIDTH, 0.42 * len(kinds) + 1.5))
    draw_bars(axis, kinds, [" + ".join(map(str, row)) for row in kinds.to_numpy()])
    axis.set_xlabel("files")
    set_title(figure, f"{name}: {copies:,} of {len(table):,} files are copies of another file of the set")
    return figure


def plot_hides(pictures: Mapping[str, Sequence[np.ndarray]], counts: Counts, *, name: str, source: str) -> Figure:
    """A strip of pictures a hide, so that whoever looks can judge the grouping; ``source``: what it rests on."""
    captions = {
        hide: f"{hide}, n = {sum(classes.values()):,}\n{textwrap.fill(', '.join(classes), 56)}"
        for hide, classes in counts.items()
    }
    return plot_strips(pictures, captions, title=f"{name}: {len(pictures)} hides, by {source}")


@mpl.rc_context(STYLE)
def plot_classes_per_hide(counts: Counts, classes: Classes, *, name: str) -> Figure:
    """Images of each class on each hide: a class that keeps to hides of its own can be told by them."""
    table = pd.DataFrame(counts).reindex(list(classes.names)).fillna(0).astype(int)
    size = max(WIDTH, 0.3 * table.shape[1] + 2.5), 0.4 * len(table) + 1.2
    figure, axis = plt.subplots(figsize=size)
    sns.heatmap(
        table.div(table.sum(axis=1), axis=0),
        annot=table.astype(str).where(table > 0, ""),
        fmt="",
        cmap=SHARES,
        vmin=0,  # and up to the largest share, else all is pale
        ax=axis,
        linewidths=0.5,
        annot_kws={"size": 7.5},
        cbar_kws={"label": "share of the class"},
        yticklabels=[readable(label) for label in table.index],
        xticklabels=[hide.removeprefix("hide_") for hide in table],
    )
    axis.set_xlabel("hide")
    axis.tick_params(axis="both", rotation=0, length=0)
    alone = int((table.gt(0).sum() == 1).sum())
    set_title(figure, f"{name}: {alone} of {table.shape[1]} hides show one class only")
    return figure


@mpl.rc_context(STYLE)
def plot_shortcut(baseline: Mapping[str, Mapping[str, float]], *, name: str) -> Figure:
    """The colour-only forest on each split, from `audit.colour_only_baseline`, beside chance."""
    colours = {"random": USUAL, "hide": HONEST}
    texts = {"random": "tiles at random\n(80/20", "hide": "hides apart\n(5 folds"}
    rows = [f"{texts[split]}, n = {values['n']:,})" for split, values in baseline.items()]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    for axis, (key, title) in zip(axes, (("accuracy", "Accuracy"), ("auroc", "AUROC, defective or not")), strict=True):
        values = [result[key] for result in baseline.values()]
        bars = axis.bar(rows, values, color=[colours[split] for split in baseline], width=0.55)
        axis.bar_label(bars, [f"{value:.4f}" for value in values], padding=3)
        for place, result in enumerate(baseline.values()):
            chance = result["chance"] if key == "accuracy" else 0.5
            axis.plot([place - 0.38, place + 0.38], [chance] * 2, "--", color=INK, linewidth=1, label="chance")
        axis.set(ylim=(0, 1.1), title=title)
        axis.legend(*(part[:1] for part in axis.get_legend_handles_labels()), loc="upper right", frameon=False)
    set_title(figure, f"{name}: what six colour numbers reach, without any texture")
    return figure

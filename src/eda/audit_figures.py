"""Figures of the audit: copies, hides, and how far plain colour gets. Tables and arrays in, a Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..data.tables import order_classes
from ..style import DEFECT, NEUTRAL, NORMAL, STYLE, WIDTH, bare, readable, set_title


@mpl.rc_context(STYLE)
def plot_copies(table: pd.DataFrame, *, name: str) -> Figure:
    """Files of each class: distinct pictures, byte-for-byte copies and changed copies of an earlier file.

    Args:
        table: `src.eda.audit.Audit.table`.
        name: The data set, for the title.
    """
    kinds = pd.crosstab(table["label"], table["copy_kind"])
    kinds = kinds.reindex(
        index=list(order_classes(table["label"])), columns=["distinct", "exact", "changed"], fill_value=0
    )
    figure, axis = plt.subplots(figsize=(WIDTH, 0.42 * len(kinds) + 1.5))
    left = np.zeros(len(kinds))
    texts = {"distinct": "distinct pictures", "exact": "byte-for-byte copies", "changed": "changed copies"}
    for (kind, text), colour in zip(texts.items(), (NORMAL, DEFECT, "#7A3410"), strict=True):
        axis.barh([readable(c) for c in kinds.index], kinds[kind], left=left, color=colour, height=0.66, label=text)
        left += kinds[kind].to_numpy()
    for row, (distinct, exact, changed) in enumerate(kinds.to_numpy()):
        axis.text(left[row] + left.max() * 0.01, row, f"{distinct} + {exact} + {changed}", va="center")
    axis.invert_yaxis()
    axis.set_xlabel("files")
    axis.margins(x=0.16)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, frameon=False)
    total = kinds.to_numpy().sum()
    copies = int(kinds["exact"].sum() + kinds["changed"].sum())
    set_title(figure, f"{name}: {copies:,} of {total:,} files are copies of another file of the set")
    return figure


@mpl.rc_context(STYLE)
def plot_hides(
    pictures: Mapping[str, Sequence[np.ndarray]],
    classes_per_group: Mapping[str, Mapping[str, int]],
    *,
    name: str,
    source: str,
) -> Figure:
    """One strip of pictures a hide, with its images by class: whoever looks can judge the grouping.

    Args:
        pictures: Hide to uint8 arrays of shape (side, side, 3), e.g. by `describe.example_pictures`.
        classes_per_group: From ``hide_groups`` of audit.json.
        name: The data set, for the title.
        source: What the hides were told apart by, for the title.
    """
    columns = max(map(len, pictures.values()))
    tile, text = 0.44, 2.75  # inches
    figure, axes = plt.subplots(
        len(pictures), columns, squeeze=False, figsize=(text + tile * columns, (tile + 0.05) * len(pictures) + 0.5)
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0)
    for row, (hide, strip) in zip(axes, pictures.items(), strict=True):
        for axis, picture in zip(row, strip, strict=False):
            axis.imshow(picture)
        counts = classes_per_group[hide]
        lines = [f"{readable(label)} {count}" for label, count in counts.items()]
        lines = [", ".join(lines[i : i + 2]) for i in range(0, len(lines), 2)]
        row[0].text(
            -0.15,
            0.5,
            f"{hide}: {sum(counts.values())}\n" + "\n".join(lines),
            transform=row[0].transAxes,
            ha="right",
            va="center",
            fontsize=6.5,
            linespacing=1.05,
        )
    bare(axes)
    set_title(figure, f"{name}: {len(pictures)} hides, by {source}")
    return figure


@mpl.rc_context(STYLE)
def plot_classes_per_hide(
    classes_per_group: Mapping[str, Mapping[str, int]], *, class_names: tuple[str, ...], name: str
) -> Figure:
    """Images of each class on each hide: a class that keeps to hides of its own can be told by them."""
    counts = pd.DataFrame(classes_per_group).reindex(list(class_names)).fillna(0).astype(int)
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    shares = counts.div(counts.sum(axis=1), axis=0)
    labels = counts.astype(str).where(counts > 0, "")
    sns.heatmap(
        shares,
        annot=labels,
        fmt="",
        cmap="Blues",
        vmin=0,
        ax=axis,
        linewidths=0.5,
        annot_kws={"size": 7.5},
        cbar_kws={"label": "share of the class"},
        yticklabels=[readable(label) for label in counts.index],
        xticklabels=[hide.removeprefix("hide_") for hide in counts.columns],
    )
    axis.set_xlabel("hide")
    axis.tick_params(axis="both", rotation=0)
    alone = int((counts.gt(0).sum() == 1).sum())
    set_title(figure, f"{name}: {alone} of {counts.shape[1]} hides show one class only")
    return figure


@mpl.rc_context(STYLE)
def plot_shortcut(baseline: Mapping[str, Mapping[str, float]], *, name: str) -> Figure:
    """The colour-only forest on both splits. ``baseline``: from `audit.colour_only_baseline`."""
    panels = {
        "accuracy": ("accuracy, all classes", baseline["random"]["chance"]),
        "auroc": ("AUROC, defective or not", 0.5),
    }
    texts = {"random": "tiles at random\n(80/20", "hide": "hides apart\n(5 folds"}
    splits = {split: f"{texts[split]}, n = {figures['n']:,})" for split, figures in baseline.items()}
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    for axis, (key, (text, chance)) in zip(axes, panels.items(), strict=True):
        values = [baseline[split][key] for split in splits]
        bars = axis.bar(list(splits.values()), values, color=[DEFECT, NORMAL][: len(values)], width=0.55)
        axis.bar_label(bars, [f"{value:.4f}" for value in values], padding=3)
        axis.axhline(chance, color=NEUTRAL, linestyle="--", linewidth=1)
        axis.text(
            0.5 * (len(values) - 1), chance + 0.01, "chance", color=NEUTRAL, ha="center", va="bottom", fontsize=8.5
        )
        axis.set(ylim=(0, 1.1), title=text)
    set_title(figure, f"{name}: what six colour numbers reach, without any texture")
    return figure

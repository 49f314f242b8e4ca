"""The table of baselines as people read it: Markdown, JSON, and the usual number beside the honest one as figures."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from src.eda_plots import DEFECT, NEUTRAL, NORMAL, STYLE, WIDTH, set_title
from src.evaluation import METHODS, write_results
from src.plots import readable, save_figure

log = logging.getLogger(__name__)

USUAL, HONEST_PROTOCOL = "random-80-20", "hide-5fold"
CHANCE_F1 = 1 / 6


def write_baselines(report: dict[str, Any], folder: Path) -> list[Path]:
    """``baselines.json``, ``baselines.md``, ``usual_and_honest.png`` and ``reliability.png``; returns their paths."""
    folder = Path(folder)
    written = write_results(report, markdown_table(report), folder / "baselines")
    pairs = {name: row["protocols"] for name, row in report["rows"].items()
             if {USUAL, HONEST_PROTOCOL} <= set(row["protocols"])}  # fmt: skip
    if pairs:
        entries = {name: (found[USUAL], found[HONEST_PROTOCOL]) for name, found in pairs.items()}
        last = list(entries)[-1]
        figures = {
            "usual_and_honest": plot_usual_and_honest(entries),
            "reliability": plot_reliability({USUAL: entries[last][0], HONEST_PROTOCOL: entries[last][1]}, name=last),
        }
        written += [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]
    return written


def images_digest(table: pd.DataFrame) -> str:
    """Changes with the names and labels of a set's images, in whatever order."""
    lines = sorted(table["file"] + "|" + table["label"])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_protocols(folder: Path, table: pd.DataFrame, *, row: str = "honest") -> dict[str, Any]:
    """``protocols`` of one row of a table of baselines; empty, with a hint, if there is none for these images.

    Args:
        folder: That `write_baselines` wrote to.
        table: Images of the set in question.
        row: Its name.
    """
    file = Path(folder) / "baselines.json"
    report = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if report is None or report["run"]["images_digest"] != images_digest(table):
        log.warning("no table of baselines for these images: python -m src.baselines makes it")
        return {}
    return report["rows"][row]["protocols"]


def headline(usual: Mapping[str, Any], protocols: Mapping[str, Any]) -> str:
    """Both numbers in a few lines: this run on the usual protocol, and the best that is known on the honest one.

    Args:
        usual: Of `src.evaluation.summarise`, protocol ``random-80-20``.
        protocols: Of `read_protocols`.
    """
    honest = protocols[HONEST_PROTOCOL]
    return "\n".join([
        f"usual   ({USUAL}, n = {usual['total_samples']}): macro-F1 {_with_interval(usual, 'macro_f1')}, "
        f"hybrid AUROC {_with_interval(_hybrid(usual), 'roc_auc')}",
        f"honest  ({HONEST_PROTOCOL}, n = {honest['n']}, {honest['hides']} hides): macro-F1 "
        f"{_with_interval(honest, 'macro_f1')}, hybrid AUROC {_with_interval(_hybrid(honest), 'roc_auc')}",
    ])  # fmt: skip


def markdown_table(report: Mapping[str, Any]) -> str:
    """The table as Markdown: one line a row, the usual protocol beside the honest ones, intervals in brackets.

    Columns of protocols that no row was filled on are left out.
    """
    header = [
        "row", "random 80/20: accuracy", "hybrid AUROC", "random 60/20/20, no copies: accuracy",
        "hide 5-fold: macro-F1", "accuracy", "hybrid AUROC", "recall at 5 % false alarms (reached)",
        "within hide: accuracy", "absent defect: hybrid AUROC",
    ]  # fmt: skip
    table = []
    for name, row in report["rows"].items():
        usual, distinct, hide, within, absent = (
            row["protocols"].get(p)
            for p in (USUAL, "random-60-20-20", HONEST_PROTOCOL, "within-hide", "leave-one-defect-out")
        )
        cells = [
            name,
            usual and _with_interval(usual, "multiclass_accuracy"),
            usual and _with_interval(_hybrid(usual), "roc_auc"),
            distinct and _with_interval(distinct, "multiclass_accuracy"),
            hide and _with_interval(hide, "macro_f1"),
            hide and f"{hide['multiclass_accuracy']:.3f}",
            hide and _with_interval(_hybrid(hide), "roc_auc"),
            hide and "{recall:.3f} ({false_alarm_rate:.3f})".format(**_hybrid(hide)["rules"]["false-alarms-5"]),
            within and f"{within['multiclass_accuracy']:.3f}",
            absent and ", ".join(f"{readable(d)} {_hybrid(e)['roc_auc']:.2f}" for d, e in absent["per_defect"].items()),
        ]
        table.append([cell or "" for cell in cells])
    filled = [any(column) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(itertools.compress(cells, filled)) + " |" for cells in (header, *table)]
    lines.insert(1, "|---" * sum(filled) + "|")
    facts = report["run"]
    lines += ["", *(f"- {name}: {row['about']}" for name, row in report["rows"].items()), "",
              f"Seed {facts['seed']}; thresholds from validation by hide; brackets: 95 % intervals, bootstrap over "
              "hides (hide 5-fold) or images (random)."]  # fmt: skip
    return "\n".join(lines) + "\n"


@mpl.rc_context(STYLE)
def plot_usual_and_honest(entries: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Figure:
    """For each row macro-F1 and hybrid AUROC on both protocols, with 95 % intervals.

    Args:
        entries: By row, the entries of `src.protocols.protocol_report` for the usual and the honest protocol.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.6 * len(entries) + 1.9), sharey=True)
    panels = (
        ("macro-F1, six classes", CHANCE_F1, lambda e: (e["macro_f1"], e["macro_f1_interval"])),
        ("AUROC, defective or not (hybrid)", 0.5, lambda e: (_hybrid(e)["roc_auc"], _hybrid(e)["roc_auc_interval"])),
    )  # fmt: skip
    for axis, (label, chance, read) in zip(axes, panels, strict=True):
        for line, pair in enumerate(entries.values()):
            values = [read(entry) for entry in pair]
            axis.plot([value for value, _ in values], [line] * 2, color=NEUTRAL, linewidth=1.2, zorder=1)
            for (value, interval), colour, shift in zip(values, (NORMAL, DEFECT), (-16, 8), strict=True):
                low, high = interval or (value, value)
                axis.plot([low, high], [line] * 2, color=colour, linewidth=5, alpha=0.3, zorder=2)
                axis.plot(value, line, "o", color=colour, markersize=7, zorder=3)
                axis.annotate(f"{value:.2f}", (value, line), (0, shift), textcoords="offset points", ha="center")
        axis.axvline(chance, color=NEUTRAL, linestyle=":", linewidth=1)
        axis.set_xlim(0, 1.04)
        axis.set_xlabel(label)
    axes[0].set_yticks(range(len(entries)), list(entries))
    axes[0].set_ylim(len(entries) - 0.5, -0.7)
    handles = [plt.Line2D([], [], marker="o", color=colour, markersize=7, linewidth=5, alpha=0.8)
               for colour in (NORMAL, DEFECT)]  # fmt: skip
    names = ["usual: random split of tiles", "honest: hides kept apart, five folds"]
    figure.legend(handles, names, loc="lower center", ncols=2, frameon=False, bbox_to_anchor=(0.5, -0.1))
    set_title(figure, "The usual number and the honest one (bars: 95 % intervals, dotted: chance)")
    return figure


@mpl.rc_context(STYLE)
def plot_reliability(entries: Mapping[str, Mapping[str, Any]], *, name: str) -> Figure:
    """Accuracy against confidence, before and after the temperature from validation; the diagonal is perfect.

    Args:
        entries: By protocol, the entry of `src.protocols.protocol_report`.
        name: The row, for the title.
    """
    figure, axes = plt.subplots(1, len(entries), figsize=(WIDTH, WIDTH / 2 + 0.4), sharey=True)
    for axis, (protocol, entry) in zip(np.atleast_1d(axes), entries.items(), strict=True):
        found = entry["calibration"]
        axis.plot([0, 1], [0, 1], color=NEUTRAL, linestyle=":", linewidth=1)
        for when, colour in (("before", DEFECT), ("after", NORMAL)):
            curve = found[f"reliability_{when}"]
            sizes = 20 + 180 * np.array(curve["images"]) / max(curve["images"])
            label = f"{when} temperature: error {found[f'ece_{when}']:.3f}"
            axis.plot(curve["confidence"], curve["accuracy"], color=colour, linewidth=1.2)
            axis.scatter(curve["confidence"], curve["accuracy"], sizes, color=colour, alpha=0.6, label=label)
        axis.set(xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal", xlabel=f"{protocol}: confidence of the answer")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    np.atleast_1d(axes)[0].set_ylabel("share of right answers")
    set_title(figure, f"{name}: how far confidence can be believed (dot size: images)")
    return figure


def _with_interval(entry: Mapping[str, Any], key: str) -> str:
    interval = entry[f"{key}_interval"]
    return f"{entry[key]:.3f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _hybrid(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return entry["anomaly_detection_results"][next(iter(METHODS))]

"""The table of baselines as people read it: Markdown, JSON, and the usual number beside the honest one as figures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from src.classifier.figures import plot_confusion_matrix
from src.classifier.report import BEST, HONEST_PROTOCOL, HYBRID, USUAL, with_interval
from src.files import markdown_rows, write_results
from src.style import DEFECT, NEUTRAL, NORMAL, STYLE, WIDTH, readable, save_figure, set_title

DISTINCT = "random-60-20-20"
CHANCE_F1 = 1 / 6


def write_baselines(report: dict[str, Any], folder: Path) -> list[Path]:
    """``baselines.json``, ``baselines.md`` and, where a row has both protocols, figures; returns their paths.

    Figures: ``usual_and_honest.png`` of all such rows; ``reliability.png`` and ``confusion_hide_5fold.png`` of the row
    ``honest``.
    """
    folder = Path(folder)
    written = write_results(report, markdown_table(report), folder / "baselines")
    pairs = {
        name: row["protocols"]
        for name, row in report["rows"].items()
        if {USUAL, HONEST_PROTOCOL} <= set(row["protocols"])
    }
    if pairs:
        entries = {name: (protocols[USUAL], protocols[HONEST_PROTOCOL]) for name, protocols in pairs.items()}
        figures = {"usual_and_honest": plot_usual_and_honest(entries)}
        if BEST in entries:
            usual, honest = entries[BEST]
            figures["reliability"] = plot_reliability({USUAL: usual, HONEST_PROTOCOL: honest}, name=BEST)
            figures["confusion_hide_5fold"] = plot_confusion_matrix(
                np.array(honest["confusion_matrix"]),
                tuple(honest["class_names"]),
                title=f"{BEST}, {HONEST_PROTOCOL}, {honest['total_samples']} images, {honest['hides']} hides\n"
                f"macro-F1 {with_interval(honest, 'macro_f1')}",
            )
        written += [save_figure(figure, folder / f"{name}.png") for name, figure in figures.items()]
    return written


def markdown_table(report: Mapping[str, Any]) -> str:
    """The table as Markdown: one line a row, the usual protocol beside the honest ones, intervals in brackets.

    Columns of protocols that no row was filled on are left out.
    """
    header = [
        "row",
        "random 80/20: accuracy",
        "hybrid AUROC",
        "random 60/20/20, no copies: accuracy",
        "hide 5-fold: macro-F1",
        "accuracy",
        "hybrid AUROC",
        "recall at 5 % false alarms (reached)",
        "within hide: accuracy",
        "absent defect: hybrid AUROC",
    ]
    table = []
    for name, row in report["rows"].items():
        usual, distinct, hide, within, absent = (
            row["protocols"].get(p) for p in (USUAL, DISTINCT, HONEST_PROTOCOL, "within-hide", "leave-one-defect-out")
        )
        cells = [
            name,
            usual and with_interval(usual, "multiclass_accuracy"),
            usual and with_interval(_hybrid(usual), "roc_auc"),
            distinct and with_interval(distinct, "multiclass_accuracy"),
            hide and with_interval(hide, "macro_f1"),
            hide and f"{hide['multiclass_accuracy']:.3f}",
            hide and with_interval(_hybrid(hide), "roc_auc"),
            hide and "{recall:.3f} ({false_alarm_rate:.3f})".format(**_hybrid(hide)["rules"]["false-alarms-5"]),
            within and f"{within['multiclass_accuracy']:.3f}",
            absent and ", ".join(f"{readable(d)} {_hybrid(e)['roc_auc']:.2f}" for d, e in absent["per_defect"].items()),
        ]
        table.append([cell or "" for cell in cells])
    filled = [any(column) for column in zip(*table, strict=True)]
    header, *table = (list(itertools.compress(cells, filled)) for cells in (header, *table))
    lines = markdown_rows(header, table)
    facts = report["run"]
    lines += [
        "",
        *(f"- {name}: {row['about']}" for name, row in report["rows"].items()),
        "",
        f"Seed {facts['seed']}; thresholds from validation, by hide where hides are kept apart; brackets: 95 % "
        "intervals, bootstrap over hides.",
    ]
    best = report["rows"].get(BEST, {"protocols": {}})["protocols"].get(HONEST_PROTOCOL)
    if best:
        lines += ["", f"## The scores of `{BEST}` on {HONEST_PROTOCOL}", "", *_scores_table(best)]
    return "\n".join(lines) + "\n"


def _scores_table(entry: Mapping[str, Any]) -> list[str]:
    """Markdown lines: each score's figures at the thresholds of every rule, beside what the test scores would allow."""
    rules = {"youden": "Youden", "f1": "F1", "false-alarms-5": "5 % false alarms", "false-alarms-1": "1 %"}
    header = [
        "score",
        "ROC AUC, pooled",
        "mean over folds",
        "average precision",
        *(f"recall (false alarms): {name}" for name in rules.values()),
        "oracle, each fold's threshold from its test: recall at 5 %",
        "at 1 %",
    ]
    lines = []
    for name, figures in entry["anomaly_detection_results"].items():
        at = (figures["rules"][rule] for rule in rules)
        lines.append(
            [
                name,
                with_interval(figures, "roc_auc"),
                f"{figures['roc_auc_split_mean']:.3f}",
                with_interval(figures, "avg_precision"),
                *(f"{rule['recall']:.3f} ({rule['false_alarm_rate']:.3f})" for rule in at),
                f"{figures['oracle']['recall_at_5']:.3f}",
                f"{figures['oracle']['recall_at_1']:.3f}",
            ]
        )
    return markdown_rows(header, lines)


@mpl.rc_context(STYLE)
def plot_usual_and_honest(entries: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Figure:
    """For each row macro-F1 and hybrid AUROC on both protocols, with 95 % intervals.

    Args:
        entries: By row, the entries of `protocol_report` for the usual and the honest protocol.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.6 * len(entries) + 1.9), sharey=True)
    panels = (
        ("macro-F1, six classes", CHANCE_F1, lambda e: (e["macro_f1"], e["macro_f1_interval"])),
        ("AUROC, defective or not (hybrid)", 0.5, lambda e: (_hybrid(e)["roc_auc"], _hybrid(e)["roc_auc_interval"])),
    )
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
    handles = [
        plt.Line2D([], [], marker="o", color=colour, markersize=7, linewidth=5, alpha=0.8)
        for colour in (NORMAL, DEFECT)
    ]
    names = ["usual: random split of tiles", "honest: hides kept apart, five folds"]
    figure.legend(handles, names, loc="lower center", ncols=2, frameon=False, bbox_to_anchor=(0.5, -0.1))
    set_title(figure, "The usual number and the honest one (bars: 95 % intervals, dotted: chance)")
    return figure


@mpl.rc_context(STYLE)
def plot_reliability(entries: Mapping[str, Mapping[str, Any]], *, name: str) -> Figure:
    """Accuracy against confidence, before and after the temperature from validation; the diagonal is perfect.

    Args:
        entries: By protocol, the entry of `protocol_report`.
        name: The row, for the title.
    """
    figure, axes = plt.subplots(1, len(entries), figsize=(WIDTH, WIDTH / 2 + 0.4), sharey=True)
    for axis, (protocol, entry) in zip(np.atleast_1d(axes), entries.items(), strict=True):
        calibration = entry["calibration"]
        axis.plot([0, 1], [0, 1], color=NEUTRAL, linestyle=":", linewidth=1)
        for when, colour in (("before", DEFECT), ("after", NORMAL)):
            curve = calibration[f"reliability_{when}"]
            sizes = 20 + 180 * np.array(curve["images"]) / max(curve["images"])
            label = f"{when} temperature: error {calibration[f'ece_{when}']:.3f}"
            axis.plot(curve["confidence"], curve["accuracy"], color=colour, linewidth=1.2)
            axis.scatter(curve["confidence"], curve["accuracy"], sizes, color=colour, alpha=0.6, label=label)
        axis.set(xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal", xlabel=f"{protocol}: confidence of the answer")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    np.atleast_1d(axes)[0].set_ylabel("share of right answers")
    set_title(
        figure,
        f"{name}: how far confidence can be believed (dot size: images)\n"
        "A mean of several models is calibrated already; the temperature was fitted to single models.",
    )
    return figure


def _hybrid(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return entry["anomaly_detection_results"][HYBRID]

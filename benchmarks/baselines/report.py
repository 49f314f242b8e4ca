"""The table of baselines as people read it: Markdown, JSON, and the usual number beside the honest one as figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from benchmarks.tables import markdown_rows, write_results
from src import style
from src.classifier.figures import plot_confusion_matrix
from src.classifier.report import BEST, HONEST_PROTOCOL, HYBRID, USUAL, with_interval
from src.style import INK, NEUTRAL, STYLE, WIDTH, readable, save_figure, set_title

DISTINCT = "random-60-20-20"
LABELS = {  # of rows, in the figure
    "colour": "six colour numbers",
    "sharpness": "one sharpness number",
    "texture": "texture",
    "frozen": "ViT-Ti/16, frozen",
    "frozen-blocks": "ViT-Ti/16, frozen, 4 blocks",
    "honest": "texture + frozen ViT-Ti/16",
    "cnn": "ResNet-18 from scratch",
    "fine-tuned": "ViT-Ti/16, fine-tuned",
    "small": "ViT-S/14, upper blocks",
}
RULES = {"youden": "Youden", "f1": "F1", "false-alarms-5": "5 % false alarms", "false-alarms-1": "1 %"}


def write_baselines(report: dict[str, Any], folder: Path) -> list[Path]:
    """``baselines.json``, ``baselines.md`` and, where a row has both protocols, figures; returns their paths.

    Figures: ``usual_and_honest.png`` of all such rows; ``reliability.png`` and ``confusion_hide_5fold.png`` of `BEST`.
    """
    folder = Path(folder)
    written = write_results(report, markdown_table(report), folder / "baselines")
    protocols = {name: row["protocols"] for name, row in report["rows"].items()}
    pairs = {n: (p[USUAL], p[HONEST_PROTOCOL]) for n, p in protocols.items() if {USUAL, HONEST_PROTOCOL} <= set(p)}
    if not pairs:
        return written
    figures = {"usual_and_honest": plot_usual_and_honest(pairs)}
    if BEST in pairs:
        usual, honest = pairs[BEST]
        title = f"{BEST}, {HONEST_PROTOCOL}, {honest['total_samples']} images, {honest['hides']} hides\nmacro-F1 "
        title += with_interval(honest, "macro_f1")
        matrix, names = np.array(honest["confusion_matrix"]), tuple(honest["class_names"])
        figures["reliability"] = plot_reliability({USUAL: usual, HONEST_PROTOCOL: honest}, name=BEST)
        figures["confusion_hide_5fold"] = plot_confusion_matrix(matrix, names, title=title)
    return [*written, *(save_figure(figure, folder / f"{name}.png") for name, figure in figures.items())]


def markdown_table(report: Mapping[str, Any]) -> str:
    """The table as Markdown: one line a row, the usual protocol beside the honest ones, intervals in brackets.

    Columns of protocols that no row was filled on are left out.
    """
    rows = report["rows"]
    columns = [column for column in COLUMNS if any(column[1] in row["protocols"] for row in rows.values())]
    table = []
    for name, row in rows.items():
        entries = ((row["protocols"].get(protocol), read) for _, protocol, read in columns)
        table.append([name, *("" if entry is None else read(entry) for entry, read in entries)])
    lines = markdown_rows(["row", *(header for header, _, _ in columns)], table)
    lines += ["", *(f"- {name}: {row['about']}" for name, row in rows.items()), ""]
    lines += [
        f"Seed {report['run']['seed']}; thresholds from validation, by hide where hides are kept apart; brackets: 95 % "
        "intervals, bootstrap over hides."
    ]
    if best := rows.get(BEST, {"protocols": {}})["protocols"].get(HONEST_PROTOCOL):
        lines += ["", f"## The scores of `{BEST}` on {HONEST_PROTOCOL}", "", *_scores_table(best)]
    return "\n".join(lines) + "\n"


def _hybrid(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return entry["anomaly_detection_results"][HYBRID]


def _recall(figures: Mapping[str, float]) -> str:
    return f"{figures['recall']:.3f} ({figures['false_alarm_rate']:.3f})"


# Header, protocol, and what is read from its entry.
COLUMNS = (
    ("random 80/20: accuracy", USUAL, lambda e: with_interval(e, "multiclass_accuracy")),
    ("hybrid AUROC", USUAL, lambda e: with_interval(_hybrid(e), "roc_auc")),
    ("random 60/20/20, no copies: accuracy", DISTINCT, lambda e: with_interval(e, "multiclass_accuracy")),
    ("hide 5-fold: macro-F1", HONEST_PROTOCOL, lambda e: with_interval(e, "macro_f1")),
    ("accuracy", HONEST_PROTOCOL, lambda e: f"{e['multiclass_accuracy']:.3f}"),
    ("hybrid AUROC", HONEST_PROTOCOL, lambda e: with_interval(_hybrid(e), "roc_auc")),
    ("recall at 5 % false alarms (reached)", HONEST_PROTOCOL, lambda e: _recall(_hybrid(e)["rules"]["false-alarms-5"])),
    ("within hide: accuracy", "within-hide", lambda e: f"{e['multiclass_accuracy']:.3f}"),
    (
        "absent defect: hybrid AUROC",
        "leave-one-defect-out",
        lambda e: ", ".join(f"{readable(d)} {_hybrid(s)['roc_auc']:.2f}" for d, s in e["per_defect"].items()),
    ),
)


def _scores_table(entry: Mapping[str, Any]) -> list[str]:
    """Markdown lines: each score's figures at the thresholds of every rule, beside what the test scores would allow."""
    header = ["score", "ROC AUC, pooled", "mean over folds", "average precision"]
    header += [f"recall (false alarms): {name}" for name in RULES.values()]
    header += ["oracle, each fold's threshold from its test: recall at 5 %", "at 1 %"]
    lines = []
    for name, figures in entry["anomaly_detection_results"].items():
        areas = [with_interval(figures, "roc_auc"), f"{figures['roc_auc_split_mean']:.3f}"]
        areas.append(with_interval(figures, "avg_precision"))
        oracle = [f"{figures['oracle'][key]:.3f}" for key in ("recall_at_5", "recall_at_1")]
        lines.append([name, *areas, *(_recall(figures["rules"][rule]) for rule in RULES), *oracle])
    return markdown_rows(header, lines)


@mpl.rc_context(STYLE)
def plot_usual_and_honest(entries: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Figure:
    """For each row macro-F1 and hybrid AUROC with 95 % intervals, of its usual and its honest entry."""
    figure, axes = plt.subplots(
        1, 2, figsize=(WIDTH, 0.46 * len(entries) + 1.7), sharey=True, gridspec_kw={"wspace": 0.08}
    )
    classes = len(next(iter(entries.values()))[1]["class_names"])
    panels = (
        (f"macro-F1, {classes} classes", 1 / classes, "macro_f1", lambda entry: entry),
        ("AUROC, defective or not", 0.5, "roc_auc", _hybrid),
    )
    for axis, (label, chance, key, part_of) in zip(axes, panels, strict=True):
        for line, pair in enumerate(entries.values()):
            parts = [part_of(entry) for entry in pair]
            axis.plot([part[key] for part in parts], [line] * 2, color=NEUTRAL, linewidth=1.2, zorder=1)
            for part, colour, shift in zip(parts, (style.USUAL, style.HONEST), (-16, 8), strict=True):
                value, interval = part[key], part[f"{key}_interval"] or (part[key], part[key])
                look = {"linewidth": 5, "alpha": 0.35, "solid_capstyle": "butt"}
                axis.plot(interval, [line] * 2, color=colour, zorder=2, **look)
                axis.plot(value, line, "o", color=colour, markersize=7, zorder=3)
                axis.annotate(f"{value:.2f}", (value, line), (0, shift), textcoords="offset points", ha="center")
        axis.axvline(chance, color=NEUTRAL, linestyle=":", linewidth=1)
        axis.set(xlim=(0, 1.08), xlabel=label)
    axes[0].set_yticks(range(len(entries)), [LABELS.get(name, name) for name in entries])
    axes[0].set_ylim(len(entries) - 0.5, -0.7)
    look = {"marker": "o", "markersize": 7, "linewidth": 5, "alpha": 0.8}
    handles = [plt.Line2D([], [], color=colour, **look) for colour in (style.USUAL, style.HONEST)]
    names = ["random split: tiles of one hide on both sides", "unseen hides, five folds"]
    figure.legend(handles, names, loc="lower center", ncols=2, frameon=False, bbox_to_anchor=(0.5, -0.1))
    set_title(figure, "The usual split against unseen hides (bars: 95 % intervals, dotted: chance)")
    return figure


@mpl.rc_context(STYLE)
def plot_reliability(entries: Mapping[str, Mapping[str, Any]], *, name: str) -> Figure:
    """Accuracy against confidence of a row's entries by protocol, before and after the temperature from validation."""
    figure, axes = plt.subplots(1, len(entries), figsize=(WIDTH, WIDTH / 2 + 0.4), sharey=True, squeeze=False)
    for axis, (protocol, entry) in zip(axes[0], entries.items(), strict=True):
        calibration = entry["calibration"]
        axis.plot([0, 1], [0, 1], color=NEUTRAL, linestyle=":", linewidth=1)
        for when, colour, dashes, face in (("before", NEUTRAL, "--", "white"), ("after", INK, "-", INK)):
            curve = calibration[f"reliability_{when}"]
            sizes = 20 + 180 * np.array(curve["images"]) / max(curve["images"])
            label = f"{when} temperature: error {calibration[f'ece_{when}']:.3f}"
            axis.plot(curve["confidence"], curve["accuracy"], dashes, color=colour, linewidth=1.2)
            look = {"facecolor": face, "edgecolor": colour, "alpha": 0.8, "zorder": 3}
            axis.scatter(curve["confidence"], curve["accuracy"], sizes, label=label, **look)
        axis.set(xlim=(0, 1.06), ylim=(0, 1.06), aspect="equal", xlabel=f"{protocol}: confidence of the answer")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    axes[0, 0].set_ylabel("share of right answers")
    set_title(
        figure,
        f"{name}: how far confidence can be believed (dot size: images, dotted: perfect)\n"
        f"On {HONEST_PROTOCOL} the answer is a mean of several models, which is calibrated already: the temperature, "
        "fitted to single models, makes it too unsure.",
    )
    return figure

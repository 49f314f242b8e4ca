"""``resultados_multiclase/``: figures and ``results_summary.json`` of a run, and the two numbers beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..config import paths
from ..data.pictures import load_image
from ..files import identity_of, write_json
from ..style import RIGHT, WRONG, plot_pictures, readable, save_figure
from .evaluation import METHODS, Predictions
from .figures import CURVES, plot_confusion_matrix, plot_curve, plot_evaluation, plot_training

log = logging.getLogger(__name__)

USUAL, HONEST_PROTOCOL = "random-80-20", "hide-5fold"
BEST = "honest"  # the row of the table of baselines that is shown in detail
HYBRID = next(iter(METHODS))


def write_reports(summary: dict[str, Any], test: Predictions, history: pd.DataFrame, folder: Path) -> list[Path]:
    """All files of ``reports/<run>/resultados_multiclase``, data before figures; returns their paths.

    ``summary`` is what `evaluation.evaluate` says of these predictions, with ``run`` of `evaluation.describe_run`.
    """
    run, scores = summary["run"], summary["anomaly_detection_results"]
    written = [write_json(summary, Path(folder) / "results_summary.json")]
    about = f"{run['name']}, protocol {run['protocol']}, n = {summary['total_samples']}, seed {run['seed']}"
    title = f"{about}\naccuracy {with_interval(summary, 'multiclass_accuracy')}"
    thresholds = {name: figures["optimal_threshold"] for name, figures in scores.items()}
    recalls = {name: (row["recall"], row["support"]) for name, row in summary["per_class"].items()}
    matrix = np.array(summary["confusion_matrix"])
    figures = {
        "matriz_de_confusion_multiclase": plot_confusion_matrix(matrix, tuple(recalls), title=title),
        "evaluacion_integral": plot_evaluation(test.is_defect, test.scores, thresholds, recalls, title=title),
        "ejemplos_multiclase": _examples(test, thresholds[HYBRID], title=f"Test images: {about}"),
    }
    figures["loss_and_accuracy"] = plot_training(history, run=run["name"], best_epoch=run["best_epoch"])
    for column in CURVES:
        best = run["best_epoch"] if column != "lr" else None
        figures[column] = plot_curve(history, column, run=run["name"], best_epoch=best)
    for name, figure in figures.items():
        written.append(save_figure(figure, Path(folder) / f"{name}.png", photographs=name.startswith("ejemplos")))
    return written


def _examples(test: Predictions, threshold: float, *, title: str) -> Figure:
    """Two images of every class, chosen by rule: the most and the least certain answer of the class."""
    targets, predicted, names = test.targets, test.predicted, [readable(name) for name in test.classes.names]
    certainty = test.probabilities[np.arange(len(targets)), targets]
    order = np.argsort(certainty, kind="stable")
    by_class = [order[targets[order] == index] for index in np.unique(targets)]
    chosen = [*(members[-1] for members in by_class), *(members[0] for members in by_class)]
    captions = [
        f"true: {names[targets[i]]}\npredicted: {names[predicted[i]]} ({test.probabilities[i].max():.2f})\n"
        f"anomaly {test.scores[HYBRID][i]:.2f} (threshold {threshold:.2f})"
        for i in chosen
    ]
    return plot_pictures(
        [np.asarray(load_image(test.rows["path"][i]).resize((224, 224))) for i in chosen],
        captions,
        title=f"{title}\nfirst the surest image of each class, then the hardest; frames: green right, purple wrong",
        columns=3,
        frames=[RIGHT if targets[i] == predicted[i] else WRONG for i in chosen],
    )


def images_identity(table: pd.DataFrame) -> str:
    """Changes with the names and labels of a set's images, in whatever order."""
    return identity_of(sorted(zip(table["file"], table["label"], strict=True)))


def read_protocols(file: Path, table: pd.DataFrame) -> dict[str, Any]:
    """Headline figures of the best known recipe by protocol; empty, with a hint, if the file is not of these images.

    The file is ``baselines.json`` of `benchmarks.baselines`, the table that of all images.
    """
    report = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if report is None or report["run"]["images"] != images_identity(table) or BEST not in report["rows"]:
        log.warning("no table of baselines for these images: python -m benchmarks.baselines makes it")
        return {}
    entries, source = report["rows"][BEST]["protocols"], {"recipe": BEST, "source": paths.relative(file)}
    return {name: _headline(entries[name]) | source for name in (USUAL, HONEST_PROTOCOL) if name in entries}


def _headline(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The leading figures of an `evaluation.evaluate`."""
    keys, of_scores = ("multiclass_accuracy", "macro_f1", "macro_f1_interval"), ("roc_auc", "roc_auc_interval")
    hybrid = entry["anomaly_detection_results"][HYBRID]
    figures = {key: entry[key] for key in keys} | {key: hybrid[key] for key in of_scores}
    return {"n": entry["total_samples"], "hides": entry["hides"], **figures}


def headline(summary: Mapping[str, Any]) -> str:
    """A run's figures, and below them those of the best known recipe on the usual and on the honest protocol."""
    lines = [("this run", summary["run"]["protocol"], _headline(summary))]
    lines += [(BEST, name, figures) for name, figures in summary["protocols"].items()]
    return "\n".join(
        f"{who:9}{name:13} (n = {figures['n']}, hides: {figures['hides'] or 'unknown'}): "
        f"macro-F1 {with_interval(figures, 'macro_f1')}, hybrid AUROC {with_interval(figures, 'roc_auc')}"
        for who, name, figures in lines
    )


def with_interval(figures: Mapping[str, Any], key: str) -> str:
    """A figure with its interval as ``0.512 [0.42, 0.63]``."""
    interval = figures[f"{key}_interval"]
    return f"{figures[key]:.3f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")

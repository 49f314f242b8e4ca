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
from .figures import CURVES, plot_confusion_matrix, plot_curve, plot_evaluation

log = logging.getLogger(__name__)

USUAL, HONEST_PROTOCOL = "random-80-20", "hide-5fold"
BEST = "honest"  # the row of the table of baselines that is shown in detail
HYBRID = next(iter(METHODS))


def write_reports(summary: dict[str, Any], test: Predictions, history: pd.DataFrame, folder: Path) -> list[Path]:
    """All files of ``resultados_multiclase/``, data before figures; returns their paths.

    Args:
        summary: Of `evaluation.evaluate`, with ``run`` of `evaluation.describe_run`.
        test: The test predictions that the summary was made from.
        history: One row an epoch, as in `TrainingResult`.
        folder: ``reports/<run>/resultados_multiclase``.
    """
    folder, run = Path(folder), summary["run"]
    written = [write_json(summary, folder / "results_summary.json")]
    about = f"{run['name']}, protocol {run['protocol']}, n = {summary['total_samples']}, seed {run['seed']}"
    accuracy = f"accuracy {with_interval(summary, 'multiclass_accuracy')}"
    thresholds = {name: row["optimal_threshold"] for name, row in summary["anomaly_detection_results"].items()}
    figures = {
        "matriz_de_confusion_multiclase": plot_confusion_matrix(
            np.array(summary["confusion_matrix"]), tuple(summary["class_names"]), title=f"{about}\n{accuracy}"
        ),
        "evaluacion_integral": plot_evaluation(
            test.is_defect,
            test.scores,
            thresholds,
            {name: (row["recall"], row["support"]) for name, row in summary["per_class"].items()},
            title=f"{about}; {accuracy}",
        ),
        "ejemplos_multiclase": _examples(test, thresholds[HYBRID], title=f"Test images: {about}"),
    }
    for column, label in CURVES.items():
        best = run["best_epoch"] if column != "lr" else None
        figures[column] = plot_curve(history, column, title=f"{label}: {run['name']}", best_epoch=best)
    for name, figure in figures.items():
        written.append(save_figure(figure, folder / f"{name}.png", photographs=name.startswith("ejemplos")))
    return written


def _examples(test: Predictions, threshold: float, *, title: str) -> Figure:
    """Two images of every class, chosen by rule: the most and the least certain answer of the class."""
    targets, predicted, names = test.targets, test.predicted, test.classes.names
    certainty = test.probabilities[np.arange(len(targets)), targets]
    chosen = []
    for take in (-1, 0):  # first row: surest right answers, second row: the class's hardest image
        for index in np.unique(targets):
            members = np.flatnonzero(targets == index)
            chosen.append(int(members[np.argsort(certainty[members], kind="stable")[take]]))
    images = [np.asarray(load_image(test.rows["path"][i]).resize((224, 224))) for i in chosen]
    captions = [
        f"true: {readable(names[targets[i]])}\n"
        f"predicted: {readable(names[predicted[i]])} ({test.probabilities[i].max():.2f})\n"
        f"anomaly {test.scores[HYBRID][i]:.2f} (threshold {threshold:.2f})"
        for i in chosen
    ]
    frames = [RIGHT if targets[i] == predicted[i] else WRONG for i in chosen]
    title = f"{title}\ntop: surest image of each class, below: hardest; green: right, purple: wrong"
    return plot_pictures(images, captions, title=title, columns=len(chosen) // 2, frames=frames)


def images_identity(table: pd.DataFrame) -> str:
    """Changes with the names and labels of a set's images, in whatever order."""
    return identity_of(sorted(zip(table["file"], table["label"], strict=True)))


def read_protocols(file: Path, table: pd.DataFrame) -> dict[str, Any]:
    """Headline figures of the best recipe by protocol; empty, with a hint, if the file is not of these images.

    Args:
        file: ``baselines.json`` of `benchmarks.baselines`.
        table: Images of the set in question.
    """
    report = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if report is None or report["run"]["images"] != images_identity(table) or BEST not in report["rows"]:
        log.warning("no table of baselines for these images: python -m benchmarks.baselines makes it")
        return {}
    entries = report["rows"][BEST]["protocols"]
    return {name: _headline(entries[name], file) for name in (USUAL, HONEST_PROTOCOL) if name in entries}


def _headline(entry: Mapping[str, Any], file: Path) -> dict[str, Any]:
    hybrid = entry["anomaly_detection_results"][HYBRID]
    return {
        "recipe": BEST,
        "n": entry["total_samples"],
        "hides": entry["hides"],
        "multiclass_accuracy": entry["multiclass_accuracy"],
        "macro_f1": entry["macro_f1"],
        "macro_f1_interval": entry["macro_f1_interval"],
        "roc_auc": hybrid["roc_auc"],
        "roc_auc_interval": hybrid["roc_auc_interval"],
        "source": paths.relative(file),
    }


def headline(summary: Mapping[str, Any]) -> str:
    """A run's figures, and below them those of the best known recipe on the usual and on the honest protocol."""
    own = {"macro_f1": summary["macro_f1"], "macro_f1_interval": summary["macro_f1_interval"]}
    hybrid = summary["anomaly_detection_results"][HYBRID]
    own |= {"roc_auc": hybrid["roc_auc"], "roc_auc_interval": hybrid["roc_auc_interval"], "hides": summary["hides"]}
    lines = [("this run", summary["run"]["protocol"], own | {"n": summary["total_samples"]})]
    lines += [(BEST, name, entry) for name, entry in summary["protocols"].items()]
    return "\n".join(
        f"{who:9}{name:13} (n = {entry['n']}, hides: {entry['hides'] or 'unknown'}): "
        f"macro-F1 {with_interval(entry, 'macro_f1')}, hybrid AUROC {with_interval(entry, 'roc_auc')}"
        for who, name, entry in lines
    )


def with_interval(entry: Mapping[str, Any], key: str) -> str:
    """A figure with its interval as ``0.512 [0.42, 0.63]``."""
    interval = entry[f"{key}_interval"]
    return f"{entry[key]:.3f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")

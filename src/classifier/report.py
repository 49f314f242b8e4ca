"""``resultados_multiclase/``: figures and ``results_summary.json`` of a run, and the two numbers beside it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..config import CLASS_NAMES
from ..data.images import load_image
from ..files import write_json
from ..style import readable, save_figure
from .evaluation import METHODS, Predictions
from .figures import plot_confusion_matrix, plot_curve, plot_evaluation, plot_examples

log = logging.getLogger(__name__)

USUAL, DISTINCT, HONEST_PROTOCOL = "random-80-20", "random-60-20-20", "hide-5fold"
BEST = "honest"  # the row that is shown in detail


def images_digest(table: pd.DataFrame) -> str:
    """Changes with the names and labels of a set's images, in whatever order."""
    lines = sorted(table["file"] + "|" + table["label"])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_protocols(folder: Path, table: pd.DataFrame) -> dict[str, Any]:
    """``protocols`` of the row ``honest`` of a table of baselines; empty, with a hint, if none is of these images.

    Args:
        folder: That `write_baselines` wrote to.
        table: Images of the set in question.
    """
    file = Path(folder) / "baselines.json"
    report = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if report is None or report["run"]["images_digest"] != images_digest(table):
        log.warning("no table of baselines for these images: python -m benchmarks.baselines makes it")
        return {}
    return report["rows"][BEST]["protocols"]


def headline(summary: Mapping[str, Any], protocols: Mapping[str, Any]) -> str:
    """A run's figures, and below them those of the best recipe that is known on the usual protocol and the honest one.

    Args:
        summary: Of `evaluation.summarise`.
        protocols: Of `read_protocols`.
    """
    lines = [("this run", summary["run"]["protocol"], summary, f"n = {summary['total_samples']}")]
    for name in (USUAL, HONEST_PROTOCOL):
        entry = protocols[name]
        lines.append((BEST, name, entry, f"n = {entry['n']}, {entry['hides']} hides"))
    return "\n".join(
        f"{who:9}{name:13} ({images}): macro-F1 {_with_interval(entry, 'macro_f1')}, "
        f"hybrid AUROC {_with_interval(_hybrid(entry), 'roc_auc')}"
        for who, name, entry, images in lines
    )


def _with_interval(entry: Mapping[str, Any], key: str) -> str:
    interval = entry[f"{key}_interval"]
    return f"{entry[key]:.3f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _hybrid(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return entry["anomaly_detection_results"][next(iter(METHODS))]


CURVES = {
    "loss_train": "cross-entropy, training",
    "loss_val": "cross-entropy, validation",
    "acc_train": "accuracy, training",
    "acc_val": "accuracy, validation",
    "lr": "learning rate",
}


def write_reports(
    test: Predictions, summary: dict[str, Any], thresholds: dict[str, float], history: pd.DataFrame, folder: Path
) -> list[Path]:
    """All files of ``resultados_multiclase/``; returns their paths.

    Args:
        test: The test predictions that the summary was made from.
        summary: Of `summarise`.
        thresholds: By method.
        history: One row an epoch, as in `TrainingResult`.
        folder: ``reports/<run>/resultados_multiclase``.
    """
    folder, run = Path(folder), summary["run"]
    about = f"{run['name']}, protocol {run['protocol']}, n = {summary['total_samples']}, seed {run['seed']}"
    low, high = summary["multiclass_accuracy_interval"] or (float("nan"),) * 2
    accuracy = f"accuracy {summary['multiclass_accuracy']:.3f} [{low:.3f}, {high:.3f}]"
    figures = {
        "matriz_de_confusion_multiclase": plot_confusion_matrix(
            np.array(summary["confusion_matrix"]), CLASS_NAMES, title=f"{about}\n{accuracy}"
        ),
        "evaluacion_integral": plot_evaluation(
            test.is_defect,
            test.scores,
            thresholds,
            {name: (row["recall"], row["support"]) for name, row in summary["per_class"].items()},
            title=f"{about}; {accuracy}",
        ),
        "ejemplos_multiclase": _examples(test, thresholds, title=f"Test images: {about}"),
    }
    for column, label in CURVES.items():
        figures[column] = plot_curve(
            history["epoch"].to_numpy(),
            history[column].to_numpy(),
            label=label,
            title=f"{label}: {run['name']}",
            best_epoch=run["best_epoch"] if column != "lr" else None,
        )
    written = [
        save_figure(figure, folder / f"{name}.png", photographs=name.startswith("ejemplos"))
        for name, figure in figures.items()
    ]
    return [*written, write_json(summary, folder / "results_summary.json")]


def _examples(test: Predictions, thresholds: dict[str, float], *, title: str):
    """Two images of every class, chosen by rule: the most and the least certain answer of the class."""
    method = next(iter(METHODS))
    certainty = test.probabilities[np.arange(len(test.targets)), test.targets]
    chosen = []
    for take in (-1, 0):  # first row: surest right answers, second row: the class's hardest image
        for index in range(len(CLASS_NAMES)):
            members = np.flatnonzero(test.targets == index)
            chosen.append(int(members[np.argsort(certainty[members], kind="stable")[take]]))
    images = [np.asarray(load_image(test.rows["path"][i]).resize((224, 224))) for i in chosen]
    captions = [
        f"true: {readable(CLASS_NAMES[test.targets[i]])}\n"
        f"found: {readable(CLASS_NAMES[test.predicted[i]])} ({test.probabilities[i].max():.2f})\n"
        f"anomaly {test.scores[method][i]:.2f} (threshold {thresholds[method]:.2f})"
        for i in chosen
    ]
    right = [bool(test.targets[i] == test.predicted[i]) for i in chosen]
    return plot_examples(images, captions, right, title=f"{title}\ntop: surest image of each class, below: hardest")

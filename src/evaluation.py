"""Runs a trained classifier over validation and test, and writes the reports of ``resultados_multiclase/``."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import sklearn
import timm
import torch
from IPython import display
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

from src.config import CLASS_NAMES, NORMAL_CLASS, Config
from src.datasets import class_indices, load_image
from src.features import compute_features
from src.metrics import binary_metrics, bootstrap_interval, choose_threshold, multiclass_metrics
from src.model import ViTMultiClassClassifier
from src.plots import (
    plot_confusion_matrix,
    plot_curve,
    plot_evaluation,
    plot_examples,
    readable,
    save_figure,
)
from src.training import TrainingResult

log = logging.getLogger(__name__)

RULE = "youden"  # of `src.metrics.choose_threshold`, for the reports

# Names in the reports, and the keys of `ViTMultiClassClassifier.detect_anomaly_hybrid` behind them.
METHODS = {
    "Hybrid (Paper Method)": "anomaly_scores",
    "Cosine Similarity": "similarity_scores",
    "Classification Confidence": "classification_scores",
}
CURVES = {
    "loss_train": "cross-entropy, training", "loss_val": "cross-entropy, validation",
    "acc_train": "accuracy, training", "acc_val": "accuracy, validation", "lr": "learning rate",
}  # fmt: skip


@dataclass(frozen=True)
class Predictions:
    """Answers for one part of a split, in the order of its rows."""

    rows: pd.DataFrame
    targets: np.ndarray  # (n,) class indices
    predicted: np.ndarray  # (n,)
    probabilities: np.ndarray  # (n, classes)
    scores: dict[str, np.ndarray]  # by method, (n,), higher is more anomalous

    @property
    def is_defect(self) -> np.ndarray:
        return self.targets != CLASS_NAMES.index(NORMAL_CLASS)


def fill_normal_bank(
    model: ViTMultiClassClassifier, table: pd.DataFrame, *, cache: Path | None = None, **options: Any
) -> int:
    """Stores the features of the normal training images in the model; returns their number."""
    rows = table[(table["part"] == "train") & (table["label"] == model.normal_class)]
    model.store_normal_features(compute_features(model, rows, cache=cache, **options))
    return len(rows)


def predict(
    model: ViTMultiClassClassifier, table: pd.DataFrame, part: str, *, cache: Path | None = None, scores: bool = True,
    **options: Any,
) -> Predictions:  # fmt: skip
    """Classes and the three anomaly scores for one part of a split; no score where ``scores`` is False."""
    rows = table[table["part"] == part].reset_index(drop=True)
    features = compute_features(model, rows, cache=cache, **options).to(model.normal_features.device)
    found = model.detect_from_features(features) if scores else model.classify_features(features)
    return Predictions(
        rows=rows,
        targets=class_indices(rows),
        predicted=found["predicted_classes"].cpu().numpy(),
        probabilities=found["class_probabilities"].cpu().numpy(),
        scores={name: found[key].cpu().numpy().astype(float) for name, key in METHODS.items() if scores},
    )


def choose_thresholds(validation: Predictions, *, rule: str = RULE) -> dict[str, float]:
    """One threshold for each score, from validation data alone."""
    return {name: choose_threshold(validation.is_defect, s, rule=rule) for name, s in validation.scores.items()}


def summarise(
    test: Predictions,
    validation: Predictions,
    thresholds: dict[str, float],
    config: Config,
    run: dict[str, Any],
    *,
    rule: str = RULE,
) -> dict[str, Any]:
    """The content of ``results_summary.json``: figures of the test images with intervals, and where they come from.

    Args:
        test: Looked at once.
        validation: The data the thresholds come from; only its size is reported.
        thresholds: By method, of `choose_thresholds`.
        config: The run's settings.
        run: Facts for the report: dataset, weights, device, seconds ... see `describe_run`.
        rule: That the thresholds were chosen by.
    """
    groups = test.rows["group"].to_numpy()
    by_group = config.protocol.startswith("hide")  # copies and hides share their luck
    resample = {"groups": groups if by_group else None, "seed": config.seed}
    summary = multiclass_metrics(test.targets, test.predicted, CLASS_NAMES)
    summary["multiclass_accuracy_interval"] = bootstrap_interval(
        accuracy_score, test.targets, test.predicted, **resample
    )
    summary["macro_f1_interval"] = bootstrap_interval(macro_f1, test.targets, test.predicted, **resample)
    results = {}
    for name, values in test.scores.items():
        threshold = thresholds[name]
        results[name] = {
            **binary_metrics(test.is_defect, values, threshold=threshold),
            "roc_auc_interval": bootstrap_interval(roc_auc_score, test.is_defect, values, **resample),
            "avg_precision_interval": bootstrap_interval(average_precision_score, test.is_defect, values, **resample),
            "optimal_threshold": threshold,
            "threshold_source": f"validation (n = {len(validation.targets)}), rule {rule}",
            "n_defective": int(test.is_defect.sum()),
            "n_normal": int((~test.is_defect).sum()),
        }
    summary["anomaly_detection_results"] = results
    summary["intervals"] = f"95 %, bootstrap over {'whole hides' if by_group else 'images'}, 500 draws"
    summary["run"] = run
    return summary


def macro_f1(targets: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 of all six classes, in [0, 1]; a class that is neither there nor found counts 0."""
    return f1_score(targets, predicted, average="macro", labels=np.arange(len(CLASS_NAMES)), zero_division=0)


def describe_run(
    config: Config, model: ViTMultiClassClassifier, table: pd.DataFrame, result: TrainingResult, *, dataset: str
) -> dict[str, Any]:
    """What a figure needs beside it to be believed and repeated."""
    return {
        "name": config.run, "dataset": dataset, "protocol": config.protocol, "backbone": config.backbone,
        "weights": model.weights_description, "image_size": model.image_size, "train_mode": config.train_mode,
        "seed": config.seed, "epochs": config.epochs, "best_epoch": result.best_epoch,
        "images": {part: int(n) for part, n in table["part"].value_counts().items()},
        "normal_bank": len(model.normal_features), "device": result.device, "precision": result.precision,
        "cores": os.cpu_count(), "seconds": round(result.seconds, 1),
        "settings": {name: value for name, value in config.to_dict().items() if name != "weights"},  # a path, perhaps
        "versions": {
            "python": platform.python_version(), "torch": str(torch.__version__), "timm": timm.__version__,
            "scikit-learn": sklearn.__version__, "numpy": np.__version__, "matplotlib": matplotlib.__version__,
        },
    }  # fmt: skip


def write_json(content: dict[str, Any], path: Path) -> Path:
    """Writes JSON that people can read, whole or not at all; refuses values that are no JSON numbers (NaN)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
    return path


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
            test.is_defect, test.scores, thresholds,
            {name: (row["recall"], row["support"]) for name, row in summary["per_class"].items()},
            title=f"{about}; {accuracy}",
        ),
        "ejemplos_multiclase": _examples(test, thresholds, title=f"Test images: {about}"),
    }  # fmt: skip
    for column, label in CURVES.items():
        figures[column] = plot_curve(
            history["epoch"].to_numpy(), history[column].to_numpy(), label=label,
            title=f"{label}: {run['name']}", best_epoch=run["best_epoch"] if column != "lr" else None,
        )  # fmt: skip
    written = [
        save_figure(figure, folder / f"{name}.png", photographs=name.startswith("ejemplos"))
        for name, figure in figures.items()
    ]
    return [*written, write_json(summary, folder / "results_summary.json")]


def write_results(content: dict[str, Any], text: str, path: Path) -> list[Path]:
    """A result for programs and for people: ``path`` with the suffix .json, by `write_json`, and with .md."""
    written, table = write_json(content, path.with_suffix(".json")), path.with_suffix(".md")
    table.write_text(text, encoding="utf-8")
    return [written, table]


def markdown_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; every row has as many cells as the header."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return [first, "|---" * len(header) + "|", *others]


def preview(path: Path, *, width: int = 1000) -> display.Image:
    """A report's picture as JPEG of at most that width, small enough to stand in a notebook."""
    picture = load_image(path)
    picture.thumbnail((width, 10 * width))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=70)
    return display.Image(stream.getvalue())


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

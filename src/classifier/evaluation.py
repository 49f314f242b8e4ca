"""What a classifier's answers are worth: one schema and one rule for intervals, for a run and for the baselines.

Thresholds are chosen for each split on its validation part; test answers of all splits are then pooled.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import sklearn
import timm
import torch
from sklearn.metrics import accuracy_score, roc_auc_score

from ..config import Config
from ..data.tables import Classes
from ..metrics import (
    REPEATS,
    average_precision,
    binary_metrics,
    bootstrap_interval,
    choose_threshold,
    image_metrics,
    macro_f1,
    multiclass_metrics,
)
from .features import compute_features
from .model import ViTMultiClassClassifier
from .training import TrainingResult

RULE = "youden"  # of `metrics.choose_threshold`, for the reports

# Names in the reports, and the keys of `ViTMultiClassClassifier.detect_anomaly_hybrid` behind them.
METHODS = {
    "Hybrid (Paper Method)": "anomaly_scores",
    "Cosine Similarity": "similarity_scores",
    "Classification Confidence": "classification_scores",
}


@dataclass(frozen=True)
class Predictions:
    """Answers for one part of a split, in the order of its rows."""

    rows: pd.DataFrame
    probabilities: np.ndarray  # (n, classes)
    scores: dict[str, np.ndarray]  # by method, (n,), higher is more anomalous; empty without normal images
    classes: Classes

    @property
    def targets(self) -> np.ndarray:
        return self.classes.indices(self.rows["label"])

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(1)

    @property
    def is_defect(self) -> np.ndarray:
        return (self.rows["label"] != self.classes.normal).to_numpy()


@dataclass(frozen=True)
class Answers:
    """Answers on one split. If those for test are a mean of models, ``members`` are each one's probabilities."""

    validation: Predictions
    test: Predictions
    members: tuple[np.ndarray, ...] = ()

    @property
    def comparable(self) -> bool:
        """Whether both parts have scores, and normal and defective images."""
        return all(p.scores and 0 < p.is_defect.sum() < len(p.rows) for p in (self.validation, self.test))


def fill_normal_bank(model: ViTMultiClassClassifier, table: pd.DataFrame, **options: Any) -> int:
    """Stores the features of the normal training images in the model; returns their number."""
    rows = table[(table["part"] == "train") & (table["label"] == model.normal_class)]
    model.store_normal_features(compute_features(model, rows, **options))
    return len(rows)


def predict(
    model: ViTMultiClassClassifier, table: pd.DataFrame, part: str, *, scores: bool = True, **options: Any
) -> Predictions:
    """Classes and the three anomaly scores for one part of a split; no score where ``scores`` is False."""
    rows = table[table["part"] == part].reset_index(drop=True)
    features = compute_features(model, rows, **options).to(model.normal_features.device)
    answers = model.detect_from_features(features) if scores else model.classify_features(features)
    return Predictions(
        rows=rows,
        probabilities=answers["class_probabilities"].cpu().numpy(),
        scores={name: answers[key].cpu().numpy().astype(float) for name, key in METHODS.items() if scores},
        classes=model.classes,
    )


def choose_thresholds(validation: Predictions, *, rule: str = RULE) -> dict[str, float]:
    """One threshold for each score, from validation data alone."""
    return {name: choose_threshold(validation.is_defect, s, rule=rule) for name, s in validation.scores.items()}


def evaluate(answers: Mapping[str, Answers], *, seed: int) -> dict[str, Any]:
    """Figures of the test answers of one split or several, pooled, with 95 % intervals.

    Args:
        answers: By the name of the split.
        seed: Of the bootstrap. It draws whole hides where the tables know them, else images.

    Returns:
        The keys of `metrics.multiclass_metrics` with ``multiclass_accuracy_interval`` and ``macro_f1_interval``;
        ``splits``, ``hides`` (None if unknown), ``intervals`` (how); ``anomaly_detection_results``: see
        `evaluate_scores`.
    """
    tests = [split.test for split in answers.values()]
    targets, predicted = pooled(tests, "targets"), pooled(tests, "predicted")
    names = tests[0].classes.names
    resample = resampling(answers, seed=seed)
    f1 = partial(macro_f1, count=len(names))
    hides = resample["groups"]
    return {
        **multiclass_metrics(targets, predicted, names),
        "multiclass_accuracy_interval": bootstrap_interval(accuracy_score, targets, predicted, **resample),
        "macro_f1_interval": bootstrap_interval(f1, targets, predicted, **resample),
        "splits": len(answers),
        "hides": None if hides is None else len(set(hides)),
        "intervals": f"95 %, bootstrap over {'images' if hides is None else 'whole hides'}, {REPEATS} draws",
        "anomaly_detection_results": evaluate_scores(answers, seed=seed),
    }


def evaluate_scores(answers: Mapping[str, Answers], *, seed: int) -> dict[str, dict[str, Any]] | None:
    """Figures of every score; None where no split has normal and defective images in validation and test.

    Returns:
        By score: the keys of `metrics.binary_metrics` at the thresholds of rule Youden, ``roc_auc_interval``,
        ``avg_precision_interval``, ``roc_auc_split_mean``, ``optimal_threshold`` (by split if there are several),
        ``threshold_source``, ``n_defective``, ``n_normal``.
    """
    usable = {name: split for name, split in answers.items() if split.comparable}
    if not usable:
        return None
    tests = [split.test for split in usable.values()]
    is_defect, resample = pooled(tests, "is_defect"), resampling(usable, seed=seed)
    results = {}
    for method in tests[0].scores:
        scores = np.concatenate([test.scores[method] for test in tests])
        thresholds, called = call_defects(usable, method, rule=RULE)
        validation = sum(len(split.validation.rows) for split in usable.values())
        results[method] = {
            **binary_metrics(is_defect, scores, called),
            "roc_auc_interval": bootstrap_interval(roc_auc_score, is_defect, scores, **resample),
            "avg_precision_interval": bootstrap_interval(average_precision, is_defect, scores, **resample),
            "roc_auc_split_mean": float(np.mean([roc_auc_score(t.is_defect, t.scores[method]) for t in tests])),
            "optimal_threshold": thresholds if len(thresholds) > 1 else next(iter(thresholds.values())),
            "threshold_source": f"validation (n = {validation}), rule {RULE}",
            "n_defective": int(is_defect.sum()),
            "n_normal": int((~is_defect).sum()),
        }
    return results


def call_defects(answers: Mapping[str, Answers], method: str, *, rule: str) -> tuple[dict[str, float], np.ndarray]:
    """Each split's threshold from its validation part, and the pooled test images that reach it, bool (n,)."""
    thresholds = {
        name: choose_threshold(split.validation.is_defect, split.validation.scores[method], rule=rule)
        for name, split in answers.items()
    }
    called = [split.test.scores[method] >= thresholds[name] for name, split in answers.items()]
    return thresholds, np.concatenate(called)


def pooled(tests: list[Predictions], name: str) -> np.ndarray:
    """An array of all predictions, one after the other."""
    return np.concatenate([getattr(test, name) for test in tests])


def resampling(answers: Mapping[str, Answers], *, seed: int) -> dict[str, Any]:
    """What an interval is drawn from: tiles of one hide are no independent images."""
    tables = [split.test.rows for split in answers.values()]
    known = all("group" in rows for rows in tables)
    groups = np.concatenate([rows["group"] for rows in tables]) if known else None
    return {"groups": groups, "seed": seed}


def classifier_on_mvtec(model: ViTMultiClassClassifier, test: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Image AUROC and AP of the classifier's three scores on MVTec: what the trained model itself carries over."""
    answers = model.detect_from_features(compute_features(model, test).to(model.normal_features.device))
    is_defect = (test["defect"] != "good").to_numpy()
    return {name: image_metrics(is_defect, answers[key].cpu().numpy()) for name, key in METHODS.items()}


def describe_run(
    config: Config, model: ViTMultiClassClassifier, table: pd.DataFrame, result: TrainingResult, *, dataset: str
) -> dict[str, Any]:
    """What a figure needs beside it to be believed and repeated."""
    return {
        "name": config.run,
        "dataset": dataset,
        "protocol": config.protocol,
        "backbone": config.backbone,
        "weights": model.weights_description,
        "image_size": model.image_size,
        "seed": config.seed,
        "epochs": config.epochs,
        "best_epoch": result.best_epoch,
        "images": {part: int(n) for part, n in table["part"].value_counts().items()},
        "normal_bank": len(model.normal_features),
        "device": result.device,
        "precision": result.precision,
        "seconds": result.seconds,
        "settings": {name: value for name, value in config.to_dict().items() if name != "weights"},  # a path, perhaps
        **describe_machine(),
    }


def describe_machine() -> dict[str, Any]:
    """Cores, and the versions of what computes the figures."""
    versions = {"torch": torch, "timm": timm, "scikit-learn": sklearn, "numpy": np, "matplotlib": matplotlib}
    return {
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()} | {k: str(m.__version__) for k, m in versions.items()},
    }


def run_predictions(
    model: ViTMultiClassClassifier, table: pd.DataFrame, *, cache: Path | None = None, **options: Any
) -> Answers:
    """Validation and test answers of a trained model, whose normal bank is filled first."""
    fill_normal_bank(model, table, cache=cache, **options)
    return Answers(*(predict(model, table, part, cache=cache, **options) for part in ("validation", "test")))

"""What a classifier's answers are worth: one schema and one rule for intervals, for a run and for the baselines.

Thresholds are chosen for each split on its validation part; test answers of all splits are then pooled.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
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

from .. import metrics
from ..config import Config
from ..data.pictures import picture_size
from ..data.tables import Classes
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


def predict(
    model: ViTMultiClassClassifier,
    table: pd.DataFrame,
    *,
    device: torch.device | None = None,
    precision: str = "auto",
    workers: int | None = None,
    cache: Path | None = None,
) -> Answers:
    """Answers for validation and test in one pass, which fills the model's bank with the normal training images.

    Where training has no normal image there is nothing to be similar to, and no score. Options of `compute_features`.
    """
    normal = (table["part"] == "train") & (table["label"] == model.normal_class)
    rows = table[normal | (table["part"] != "train")]
    options = {"device": device, "precision": precision, "workers": workers, "cache": cache}
    features = compute_features(model, rows, **options).to(model.normal_features.device)
    if normal.any():
        model.store_normal_features(features[np.flatnonzero(rows["part"] == "train")])
    answers = model.detect_from_features(features) if normal.any() else model.classify_features(features)

    def of(part: str) -> Predictions:
        chosen = (rows["part"] == part).to_numpy()
        values = {key: answer.cpu().numpy()[chosen] for key, answer in answers.items()}
        scores = {name: values[key].astype(float) for name, key in METHODS.items() if key in values}
        return Predictions(rows[chosen].reset_index(drop=True), values["class_probabilities"], scores, model.classes)

    return Answers(of("validation"), of("test"))


def evaluate(answers: Mapping[str, Answers], *, seed: int) -> dict[str, Any]:
    """Figures of the test answers of one split or several, pooled, with 95 % intervals.

    Intervals are drawn, by the seed, over whole hides where the tables know them, else over images.

    Returns:
        The keys of `metrics.multiclass_metrics` with ``multiclass_accuracy_interval`` and ``macro_f1_interval``;
        ``splits``, ``hides`` (None if unknown), ``intervals`` (how), ``anomaly_detection_results`` (`evaluate_scores`).
    """
    tests = [split.test for split in answers.values()]
    names, hides = tests[0].classes.names, hides_of(tests)
    labels = pooled(tests, "targets"), pooled(tests, "predicted")
    interval = partial(metrics.bootstrap_interval, groups=hides, seed=seed)
    return {
        **metrics.multiclass_metrics(*labels, names),
        "multiclass_accuracy_interval": interval(accuracy_score, *labels),
        "macro_f1_interval": interval(partial(metrics.macro_f1, count=len(names)), *labels),
        "splits": len(answers),
        "hides": None if hides is None else len(set(hides)),
        "intervals": f"95 %, bootstrap over {'images' if hides is None else 'whole hides'}, {metrics.REPEATS} draws",
        "anomaly_detection_results": evaluate_scores(answers, seed=seed),
    }


def evaluate_scores(answers: Mapping[str, Answers], *, seed: int) -> dict[str, dict[str, Any]] | None:
    """Figures of every score; None where no split has normal and defective images in validation and test.

    Returns:
        By score: the keys of `metrics.binary_metrics` at thresholds of rule Youden, ``roc_auc_interval``,
        ``avg_precision_interval``, ``optimal_threshold`` (None of several splits), ``threshold_source``, the counts.
    """
    usable = [split for split in answers.values() if split.comparable]
    if not usable:
        return None
    tests = [split.test for split in usable]
    is_defect = pooled(tests, "is_defect")
    several = f" in {len(usable)} splits" if len(usable) > 1 else ""
    source = f"validation (n = {sum(len(split.validation.rows) for split in usable)}{several}), rule {RULE}"
    interval = partial(metrics.bootstrap_interval, groups=hides_of(tests), seed=seed)
    results = {}
    for method in tests[0].scores:
        scores = np.concatenate([test.scores[method] for test in tests])
        thresholds, called = call_defects(usable, method, rule=RULE)
        results[method] = {
            **metrics.binary_metrics(is_defect, scores, called),
            "roc_auc_interval": interval(roc_auc_score, is_defect, scores),
            "avg_precision_interval": interval(metrics.average_precision, is_defect, scores),
            "optimal_threshold": thresholds[0] if len(thresholds) == 1 else None,
            "threshold_source": source,
            "n_defective": int(is_defect.sum()),
            "n_normal": int((~is_defect).sum()),
        }
    return results


def call_defects(answers: Sequence[Answers], method: str, *, rule: str) -> tuple[list[float], np.ndarray]:
    """Each split's threshold from its validation part, and the pooled test images that reach it, bool (n,)."""
    parts = [(split.validation.is_defect, split.validation.scores[method]) for split in answers]
    thresholds = [metrics.choose_threshold(*part, rule=rule) for part in parts]
    called = [split.test.scores[method] >= limit for split, limit in zip(answers, thresholds, strict=True)]
    return thresholds, np.concatenate(called)


def pooled(tests: Sequence[Predictions], name: str) -> np.ndarray:
    """An array of all predictions, one after the other."""
    return np.concatenate([getattr(test, name) for test in tests])


def hides_of(tests: Sequence[Predictions]) -> np.ndarray | None:
    """The hide of every image, which intervals draw as a whole: its tiles are not independent. None if unknown."""
    hides = [test.rows["group"] for test in tests if "group" in test.rows]
    return np.concatenate(hides) if len(hides) == len(tests) else None


def classifier_on_mvtec(
    model: ViTMultiClassClassifier, test: pd.DataFrame, *, workers: int | None = None
) -> dict[str, dict[str, float]]:
    """Image AUROC and AP of the classifier's three scores on MVTec: what the trained model itself carries over."""
    features = compute_features(model, test, workers=workers).to(model.normal_features.device)
    answers = model.detect_from_features(features)
    is_defect = (test["defect"] != "good").to_numpy()
    return {name: metrics.image_metrics(is_defect, answers[key].cpu().numpy()) for name, key in METHODS.items()}


def describe_run(
    config: Config, model: ViTMultiClassClassifier, table: pd.DataFrame, result: TrainingResult, *, dataset: str
) -> dict[str, Any]:
    """What a figure needs beside it to be believed and repeated: all settings, the data, the time and the machine."""
    settings = config.to_dict()
    return {
        "name": settings.pop("run"),
        "dataset": dataset,
        **settings,
        "weights": model.weights_description,  # never the path of a file
        "image_size": model.image_size,
        "picture_side": int(np.median([max(picture_size(path)) for path in table["path"]])),
        "best_epoch": result.best_epoch,
        "images": {part: int(n) for part, n in table["part"].value_counts().items()},
        "normal_bank": len(model.normal_features),
        "device": result.device,
        "precision": result.precision,
        "half_precision_gain": result.gain,
        "seconds": float(result.seconds),
        **describe_machine(),
    }


def describe_machine() -> dict[str, Any]:
    """Cores, and the versions of what computes the figures."""
    versions = {"torch": torch, "timm": timm, "scikit-learn": sklearn, "numpy": np, "matplotlib": matplotlib}
    return {
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()} | {k: str(m.__version__) for k, m in versions.items()},
    }

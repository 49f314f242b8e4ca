"""Runs a trained classifier over validation and test, and writes the reports of ``resultados_multiclase/``."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import sklearn
import timm
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ..config import CLASS_NAMES, NORMAL_CLASS, Config
from ..data.images import class_indices
from ..metrics import (
    THRESHOLD_RULES,
    at_temperature,
    binary_metrics,
    bootstrap_interval,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    image_metrics,
    multiclass_metrics,
    reliability,
)
from .features import compute_features
from .model import ViTMultiClassClassifier
from .training import TrainingResult

log = logging.getLogger(__name__)

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
    model: ViTMultiClassClassifier,
    table: pd.DataFrame,
    part: str,
    *,
    cache: Path | None = None,
    scores: bool = True,
    **options: Any,
) -> Predictions:
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
        "name": config.run,
        "dataset": dataset,
        "protocol": config.protocol,
        "backbone": config.backbone,
        "weights": model.weights_description,
        "image_size": model.image_size,
        "train_mode": config.train_mode,
        "seed": config.seed,
        "epochs": config.epochs,
        "best_epoch": result.best_epoch,
        "images": {part: int(n) for part, n in table["part"].value_counts().items()},
        "normal_bank": len(model.normal_features),
        "device": result.device,
        "precision": result.precision,
        "cores": os.cpu_count(),
        "seconds": round(result.seconds, 1),
        "settings": {name: value for name, value in config.to_dict().items() if name != "weights"},  # a path, perhaps
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
            "matplotlib": matplotlib.__version__,
        },
    }


def classifier_on_mvtec(model: ViTMultiClassClassifier, test: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Image AUROC and AP of the classifier's three scores on MVTec: what the trained model itself carries over."""
    rows = test.assign(label=model.normal_class)  # the label is not used
    found = model.detect_from_features(compute_features(model, rows).to(model.normal_features.device))
    is_defect = (test["defect"] != "good").to_numpy()
    return {name: image_metrics(is_defect, found[key].cpu().numpy()) for name, key in METHODS.items()}


MIX = "Learned Mix"
MIXED = ("Cosine Similarity", "Classification Confidence")
AT_THRESHOLD = ("binary_accuracy", "precision", "recall", "f1", "false_alarm_rate")


@dataclass(frozen=True)
class Answers:
    """A recipe's answers on one split; ``scores`` are empty where training has no normal image.

    If the test answers are a mean over several models, ``members`` holds each one's probabilities, shape (n, 6).
    """

    validation: Predictions
    test: Predictions
    members: tuple[np.ndarray, ...] = ()


def protocol_report(answers: Mapping[str, Answers], protocol: str, *, seed: int = 42) -> dict[str, Any]:
    """One entry of ``protocols`` in ``results_summary.json``.

    Args:
        answers: By the names of `splits.split_folds`, or one split of `splits.split_index`.
        protocol: Its name; ``leave-one-defect-out`` is reported by absent class.
        seed: Of the bootstrap. It draws whole hides: tiles of one are no independent images.

    Returns:
        ``splits``, ``n``, ``hides``, ``intervals`` (how); for ``leave-one-defect-out`` then ``per_defect``: for each
        absent class ``anomaly_detection_results``; for all others the keys of
        `metrics.multiclass_metrics` with ``multiclass_accuracy_interval`` and ``macro_f1_interval``,
        ``per_split`` (n, accuracy, share of the largest class), ``calibration`` and
        ``anomaly_detection_results``, None where no split has normal and defective images in validation and test.

        ``calibration``: ``temperatures`` by split, ``ece_before``, ``ece_after``, ``reliability_before``,
        ``reliability_after``, see `src.metrics`.

        ``anomaly_detection_results``, for the three scores and the learned mix of two of them: ``roc_auc`` and
        ``avg_precision`` of the pooled scores with intervals, ``roc_auc_split_mean``, ``rules`` (figures at the
        thresholds that a rule chose on validation), ``oracle`` (no results, since each split's best threshold is picked
        on its own test scores: ``accuracy``, and ``recall_at_1`` and ``recall_at_5`` with at most that share of false
        alarms in every split), ``n_defective``, ``n_normal``; the mix also its ``weights`` by split.

        Validation scores are those of single models, test scores may be a mean of several. The mix is fitted on the
        same validation scores that its thresholds come from.
    """
    report = {
        "splits": len(answers),
        "n": sum(len(found.test.rows) for found in answers.values()),
        "hides": len({group for found in answers.values() for group in found.test.rows["group"]}),
        "intervals": "95 %, bootstrap over whole hides, 500 draws",
    }
    if protocol == "leave-one-defect-out":
        by_defect: dict[str, dict[str, Answers]] = {}
        for name, found in answers.items():
            by_defect.setdefault(name.split("/")[1], {})[name] = found
        per_defect = {
            defect: {"anomaly_detection_results": anomaly_report(found, seed=seed)}
            for defect, found in by_defect.items()
        }
        return {**report, "per_defect": per_defect}
    return {
        **report,
        **_classes(answers, seed=seed),
        "calibration": calibration_report(answers),
        "anomaly_detection_results": anomaly_report(answers, seed=seed),
    }


def calibration_report(answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Confidence against accuracy of the pooled test answers, before and after a temperature from validation."""
    temperatures = {
        name: fit_temperature(found.validation.targets, found.validation.probabilities)
        for name, found in answers.items()
    }
    targets = np.concatenate([found.test.targets for found in answers.values()])
    before = np.concatenate([found.test.probabilities for found in answers.values()])
    after = np.concatenate([_softened(found, temperatures[name]) for name, found in answers.items()])
    return {
        "temperatures": temperatures,
        "ece_before": expected_calibration_error(targets, before),
        "ece_after": expected_calibration_error(targets, after),
        "reliability_before": reliability(targets, before),
        "reliability_after": reliability(targets, after),
    }


def _softened(found: Answers, temperature: float) -> np.ndarray:
    """Test probabilities at that temperature. It was fitted on answers of single models: their mean comes after."""
    members = found.members or (found.test.probabilities,)
    return np.mean([at_temperature(probabilities, temperature) for probabilities in members], axis=0)


def anomaly_report(answers: Mapping[str, Answers], *, seed: int) -> dict[str, Any] | None:
    """Figures of every score over the splits whose two parts have scores and both kinds of images."""
    usable = {name: found for name, found in answers.items() if _both_kinds(found)}
    if not usable:
        return None
    mixes = {name: fit_mix(found.validation) for name, found in usable.items()}
    usable = {
        name: Answers(add_mix(found.validation, mixes[name]), add_mix(found.test, mixes[name]))
        for name, found in usable.items()
    }
    is_defect = np.concatenate([found.test.is_defect for found in usable.values()])
    resample = {"groups": _groups(usable), "seed": seed}
    report = {}
    for method in (*METHODS, MIX):
        tests = [found.test for found in usable.values()]
        scores = np.concatenate([test.scores[method] for test in tests])
        each = [binary_metrics(test.is_defect, test.scores[method], threshold=np.inf) for test in tests]
        report[method] = {
            "roc_auc": float(roc_auc_score(is_defect, scores)),
            "roc_auc_interval": bootstrap_interval(roc_auc_score, is_defect, scores, **resample),
            "roc_auc_split_mean": float(np.mean([figures["roc_auc"] for figures in each])),
            "avg_precision": float(average_precision_score(is_defect, scores)),
            "avg_precision_interval": bootstrap_interval(average_precision_score, is_defect, scores, **resample),
            "rules": {rule: _at_rule(usable, method, rule) for rule in THRESHOLD_RULES},
            "oracle": _oracle(tests, each),
            "n_defective": int(is_defect.sum()),
            "n_normal": int((~is_defect).sum()),
        }
    report[MIX]["weights"] = {
        name: dict(zip(MIXED, map(float, mix[-1].coef_[0]), strict=True)) for name, mix in mixes.items()
    }
    return report


def fit_mix(validation: Predictions) -> Pipeline:
    """Logistic regression on the standardised cosine and confidence scores. To be called with validation data only."""
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    return model.fit(_mixed(validation), validation.is_defect)


def add_mix(predictions: Predictions, mix: Pipeline) -> Predictions:
    """The same answers with one more score, the mix's probability of a defect, in [0, 1]."""
    return replace(predictions, scores={**predictions.scores, MIX: mix.predict_proba(_mixed(predictions))[:, 1]})


def _mixed(predictions: Predictions) -> np.ndarray:
    return np.stack([predictions.scores[name] for name in MIXED], axis=1)


def _both_kinds(found: Answers) -> bool:
    return all(part.scores and 0 < part.is_defect.sum() < len(part.rows) for part in (found.validation, found.test))


def _at_rule(usable: Mapping[str, Answers], method: str, rule: str) -> dict[str, Any]:
    """Figures of the pooled test images, each called defective or not by its own split's threshold."""
    thresholds = {
        name: choose_threshold(found.validation.is_defect, found.validation.scores[method], rule=rule)
        for name, found in usable.items()
    }
    is_defect = np.concatenate([found.test.is_defect for found in usable.values()])
    called = np.concatenate([found.test.scores[method] >= thresholds[name] for name, found in usable.items()])
    figures = binary_metrics(is_defect, called.astype(float), threshold=0.5)
    return {**{key: figures[key] for key in AT_THRESHOLD}, "thresholds": thresholds}


def _oracle(tests: Sequence[Predictions], each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the best threshold of each split would give, picked on its own test scores; pooled over the splits."""
    images, defects = [len(test.rows) for test in tests], [test.is_defect.sum() for test in tests]
    weights = {"accuracy": images, "recall_at_1": defects, "recall_at_5": defects}
    return {k: float(np.average([figures[f"oracle_{k}"] for figures in each], weights=w)) for k, w in weights.items()}


def _groups(answers: Mapping[str, Answers]) -> np.ndarray:
    return np.concatenate([found.test.rows["group"] for found in answers.values()])


def _classes(answers: Mapping[str, Answers], *, seed: int) -> dict[str, Any]:
    targets = np.concatenate([found.test.targets for found in answers.values()])
    predicted = np.concatenate([found.test.predicted for found in answers.values()])
    resample = {"groups": _groups(answers), "seed": seed}
    return {
        **multiclass_metrics(targets, predicted, CLASS_NAMES),
        "multiclass_accuracy_interval": bootstrap_interval(accuracy_score, targets, predicted, **resample),
        "macro_f1_interval": bootstrap_interval(macro_f1, targets, predicted, **resample),
        "per_split": {name: _one_split(found.test) for name, found in answers.items()},
    }


def _one_split(test: Predictions) -> dict[str, float]:
    return {
        "n": len(test.rows),
        "accuracy": float(accuracy_score(test.targets, test.predicted)),
        "largest_class": float(np.bincount(test.targets).max() / len(test.rows)),
    }

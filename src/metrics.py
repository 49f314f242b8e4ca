"""Thresholds and figures of merit: numpy in, plain numbers out. Scores are higher where more anomalous."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

REPEATS = 500  # draws of an interval
THRESHOLD_RULES = ("youden", "f1", "false-alarms-1", "false-alarms-5")


def multiclass_metrics(targets: np.ndarray, predictions: np.ndarray, class_names: tuple[str, ...]) -> dict:
    """``multiclass_accuracy``, ``macro_f1`` and ``per_class`` (precision, recall, f1 in [0, 1], support).

    Targets and predictions are class indices (n,). ``confusion_matrix``: rows true, columns predicted. Further keys:
    ``class_names``, ``class_distribution`` and ``total_samples``.
    """
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    indices = np.arange(len(class_names))
    columns = precision_recall_fscore_support(targets, predictions, labels=indices, zero_division=0)
    per_class = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in zip(class_names, *columns, strict=True)
    }
    return {
        "multiclass_accuracy": float(accuracy_score(targets, predictions)),
        "macro_f1": float(np.mean(columns[2])),
        "confusion_matrix": confusion_matrix(targets, predictions, labels=indices).tolist(),
        "class_names": list(class_names),
        "class_distribution": {name: int(np.sum(targets == i)) for i, name in enumerate(class_names)},
        "total_samples": int(len(targets)),
        "per_class": per_class,
    }


def choose_threshold(is_defect: np.ndarray, scores: np.ndarray, *, rule: str = "youden") -> float:
    """The score from which on an image counts as defective. To be called with validation data only.

    Args:
        is_defect: True for defective, shape (n,).
        scores: Shape (n,), higher is more anomalous.
        rule: ``youden``: highest recall minus false-alarm rate; ``f1``: highest F1 of the defects;
            ``false-alarms-1``, ``false-alarms-5``: the lowest threshold at which at most 1 % or 5 % of the normal
            images alarm.

    ``score >= threshold`` means defective. The threshold lies halfway between two neighbouring scores, or at an end: at
    the lowest score (every image is called defective) or just above the highest (none is).

    Raises ValueError if the rule is unknown, a score is not finite, or one of both kinds is missing.
    """
    is_defect, scores = _checked(is_defect, scores)
    values = np.unique(scores)
    # Halfway between neighbours: validation images themselves are not on the edge. Scores so close that rounding
    # takes the middle down to the lower one are parted at the upper one.
    middles = np.maximum(values[1:] / 2 + values[:-1] / 2, np.nextafter(values[:-1], np.inf))
    candidates = np.concatenate([[values[0]], middles, [np.nextafter(values[-1], np.inf)]])
    defects, normals = np.sort(scores[is_defect]), np.sort(scores[~is_defect])
    hits = len(defects) - np.searchsorted(defects, candidates)
    alarms = len(normals) - np.searchsorted(normals, candidates)
    if rule == "youden":
        quality = hits / len(defects) - alarms / len(normals)
    elif rule == "f1":
        quality = 2 * hits / (hits + alarms + len(defects))
    elif rule in THRESHOLD_RULES:
        return float(candidates[np.argmax(alarms / len(normals) <= int(rule.rpartition("-")[2]) / 100)])
    else:
        raise ValueError(f"rule is {rule!r}; expected one of {THRESHOLD_RULES}")
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    return float(candidates[best[(len(best) - 1) // 2]])  # the middle of equally good ones: widest margin


def binary_metrics(is_defect: np.ndarray, scores: np.ndarray, called: np.ndarray) -> dict[str, float]:
    """How well scores tell defective from normal images, and how good the calls at a threshold of other data are.

    All arrays are of shape (n,), all figures in [0, 1]. Raises ValueError if shapes differ, a score is not finite, or
    one of both kinds is missing.
    """
    is_defect, scores = _checked(is_defect, scores)
    precision, recall, f1, _ = precision_recall_fscore_support(is_defect, called, average="binary", zero_division=0)
    return {
        "roc_auc": float(roc_auc_score(is_defect, scores)),
        "avg_precision": average_precision(is_defect, scores),
        "binary_accuracy": float(np.mean(called == is_defect)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "false_alarm_rate": float(np.mean(called[~is_defect])),
    }


def average_precision(is_defect: np.ndarray, scores: np.ndarray) -> float:
    """scikit-learn's, in [0, 1]: its rounding can exceed 1."""
    return min(1.0, float(average_precision_score(is_defect, scores)))


def image_metrics(is_defect: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """``image_auroc`` and ``image_ap`` of scores (n,), in [0, 1]; no threshold is needed."""
    return {
        "image_auroc": float(roc_auc_score(is_defect, scores)),
        "image_ap": average_precision(is_defect, scores),
    }


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    groups: np.ndarray | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
) -> list[float] | None:
    """95 % percentile interval of a statistic, by drawing images, or whole groups of them, with replacement.

    The statistic is given the resampled ``arrays``, each of shape (n, ...). ``groups`` (n,) are drawn as a whole; None
    draws single images. Draws for which the statistic raises ValueError or is not finite are left out; None is
    returned if these are over half. Raises ValueError if the arrays and the groups are not of one length.
    """
    generator = np.random.default_rng(seed)
    count = len(arrays[0])
    lengths = [len(a) for a in (*arrays, *([] if groups is None else [groups]))]
    if len(set(lengths)) > 1:
        raise ValueError(f"arrays and groups of lengths {lengths}; expected one length")
    labels = np.arange(count) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    values = []
    for _ in range(repeats):
        rows = np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UndefinedMetricWarning)  # a draw of one kind: not finite, left out
                value = statistic(*(np.asarray(a)[rows] for a in arrays))
        except ValueError:
            continue
        if np.isfinite(value):
            values.append(value)
    if len(values) < repeats / 2:
        return None
    return [float(v) for v in np.percentile(values, [2.5, 97.5])]


def macro_f1(targets: np.ndarray, predictions: np.ndarray, *, count: int) -> float:
    """Mean F1 of ``count`` classes, in [0, 1]; a class that is neither there nor predicted counts 0."""
    return f1_score(targets, predictions, average="macro", labels=np.arange(count), zero_division=0)


def _checked(is_defect: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    is_defect, scores = np.asarray(is_defect, dtype=bool), np.asarray(scores, dtype=float)
    if is_defect.shape != scores.shape or scores.ndim != 1:
        raise ValueError(f"labels of shape {is_defect.shape} and scores of shape {scores.shape}: expected (n,) twice")
    if not np.isfinite(scores).all():
        raise ValueError("the scores hold values that are not finite")
    if is_defect.all() or not is_defect.any():
        raise ValueError("both defective and normal images are needed")
    return is_defect, scores

"""Thresholds and figures of merit: numpy in, plain numbers out. Scores are higher where more anomalous."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

BINS = 10
TEMPERATURES = (0.05, 20.0)


def fit_temperature(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature at which the true classes are most likely. To be called with validation data only.

    Args:
        targets: True class indices, shape (n,).
        probabilities: Of a softmax, shape (n, classes).

    Returns:
        A temperature in [0.05, 20]; above 1 the probabilities were too sure of themselves.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    logits = _logits(probabilities)
    classes = np.arange(logits.shape[1])

    def loss(log_temperature: float) -> float:
        return log_loss(targets, softmax(logits / np.exp(log_temperature), axis=1), labels=classes)

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def at_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities, shape (n, classes), softened (temperature above 1) or sharpened; their order does not change."""
    return softmax(_logits(probabilities) / temperature, axis=1)


def reliability(targets: np.ndarray, probabilities: np.ndarray, *, bins: int = BINS) -> dict[str, list[float]]:
    """How often answers of a certain confidence are right.

    Args:
        targets: True class indices, shape (n,).
        probabilities: Shape (n, classes); the highest is the confidence.
        bins: Of equal width in (0, 1]; empty ones are left out.

    Returns:
        For each bin with images: ``confidence`` and ``accuracy`` (means, in [0, 1]) and ``images``.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == targets
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    filled = np.unique(place)
    return {
        "confidence": [float(confidence[place == i].mean()) for i in filled],
        "accuracy": [float(right[place == i].mean()) for i in filled],
        "images": [int((place == i).sum()) for i in filled],
    }


def expected_calibration_error(targets: np.ndarray, probabilities: np.ndarray, *, bins: int = BINS) -> float:
    """Mean gap between confidence and accuracy, in [0, 1], bins weighted by their images; arguments of `reliability`.

    Source:
        Guo et al., ICML 2017.
    """
    found = reliability(targets, probabilities, bins=bins)
    gaps = np.abs(np.subtract(found["confidence"], found["accuracy"]))
    return float(np.average(gaps, weights=found["images"]))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Logits up to a constant a row; a probability of 0 counts as the smallest positive number."""
    values = np.asarray(probabilities, dtype=float)
    return log_softmax(np.log(np.maximum(values, np.finfo(np.float32).tiny)), axis=1)


THRESHOLD_RULES = ("youden", "f1", "false-alarms-1", "false-alarms-5")


def multiclass_metrics(targets: np.ndarray, predictions: np.ndarray, class_names: tuple[str, ...]) -> dict:
    """Accuracy, macro F1, the confusion matrix and figures per class.

    Args:
        targets: True class indices, shape (n,).
        predictions: Predicted class indices, shape (n,).
        class_names: Names by index.

    Returns:
        ``multiclass_accuracy`` and ``macro_f1`` in [0, 1], ``confusion_matrix`` (rows true, columns predicted),
        ``class_names``, ``class_distribution``, ``total_samples``, ``per_class``: precision, recall, f1, support.
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

    Returns:
        A threshold halfway between two neighbouring scores, or at an end: the lowest score (every image is called
        defective) or just above the highest (none is). ``score >= threshold`` means defective.

    Raises:
        ValueError: If the rule is unknown, a score is not finite, or one of both kinds is missing.
    """
    is_defect, scores = _checked(is_defect, scores)
    values = np.unique(scores)
    # Halfway between neighbours: validation images themselves are not on the edge. Scores so close that rounding
    # takes the middle down to the lower one are parted at the upper one.
    middles = np.maximum(values[1:] / 2 + values[:-1] / 2, np.nextafter(values[:-1], np.inf))
    candidates = np.concatenate([[values[0]], middles, [np.nextafter(values[-1], np.inf)]])
    defects, normals = np.sort(scores[is_defect]), np.sort(scores[~is_defect])
    found = len(defects) - np.searchsorted(defects, candidates)
    alarms = len(normals) - np.searchsorted(normals, candidates)
    if rule == "youden":
        quality = found / len(defects) - alarms / len(normals)
    elif rule == "f1":
        quality = 2 * found / (found + alarms + len(defects))
    elif rule in THRESHOLD_RULES:
        return float(candidates[np.argmax(alarms / len(normals) <= int(rule.rpartition("-")[2]) / 100)])
    else:
        raise ValueError(f"rule is {rule!r}; expected one of {THRESHOLD_RULES}")
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    return float(candidates[best[(len(best) - 1) // 2]])  # the middle of equally good ones: widest margin


def binary_metrics(is_defect: np.ndarray, scores: np.ndarray, *, threshold: float) -> dict[str, float]:
    """How well a score tells defective from normal images.

    Args:
        is_defect: True for defective, shape (n,), both kinds present.
        scores: Shape (n,), higher is more anomalous.
        threshold: From other data than these, see `choose_threshold`.

    Returns:
        ``roc_auc``, ``avg_precision``; at the threshold ``binary_accuracy``, ``precision``, ``recall``, ``f1``,
        ``false_alarm_rate``; all in [0, 1]. Upper bounds, not results, since their thresholds are picked on these very
        scores: ``oracle_accuracy``, the highest accuracy; ``oracle_recall_at_1`` and ``oracle_recall_at_5``, the
        highest recall with at most 1 % and 5 % false alarms.

    Raises:
        ValueError: If the shapes differ, a score is not finite, or one of both kinds is missing.
    """
    is_defect, scores = _checked(is_defect, scores)
    called = scores >= threshold
    false_rate, recall, _ = roc_curve(is_defect, scores, drop_intermediate=False)
    share = is_defect.mean()
    precision, found, f1, _ = precision_recall_fscore_support(is_defect, called, average="binary", zero_division=0)
    return {
        "roc_auc": float(roc_auc_score(is_defect, scores)),
        "avg_precision": float(average_precision_score(is_defect, scores)),
        "binary_accuracy": float(np.mean(called == is_defect)),
        "precision": float(precision),
        "recall": float(found),
        "f1": float(f1),
        "false_alarm_rate": float(np.mean(called[~is_defect])),
        "oracle_accuracy": float(np.max(share * recall + (1 - share) * (1 - false_rate))),
        "oracle_recall_at_1": float(recall[false_rate <= 0.01].max()),
        "oracle_recall_at_5": float(recall[false_rate <= 0.05].max()),
    }


def image_metrics(is_defect: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """``image_auroc`` and ``image_ap`` of scores (n,), in [0, 1]; no threshold is needed."""
    return {
        "image_auroc": float(roc_auc_score(is_defect, scores)),
        "image_ap": float(average_precision_score(is_defect, scores)),
    }


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    groups: np.ndarray | None = None,
    repeats: int = 500,
    seed: int = 0,
) -> list[float] | None:
    """95 % percentile interval of a statistic, by drawing images, or whole groups of them, with replacement.

    Args:
        statistic: Of the resampled arrays, in the order given.
        arrays: Each of shape (n, ...).
        groups: Group of each image, shape (n,); None draws single images.
        repeats: Number of draws. Draws for which the statistic raises ValueError or is not finite are left out.
        seed: Of the draws.

    Returns:
        [low, high], or None if over half of the draws were left out.

    Raises:
        ValueError: If the arrays and the groups are not of one length.
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


def _checked(is_defect: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    is_defect, scores = np.asarray(is_defect, dtype=bool), np.asarray(scores, dtype=float)
    if is_defect.shape != scores.shape or scores.ndim != 1:
        raise ValueError(f"labels of shape {is_defect.shape} and scores of shape {scores.shape}: expected (n,) twice")
    if not np.isfinite(scores).all():
        raise ValueError("the scores hold values that are not finite")
    if is_defect.all() or not is_defect.any():
        raise ValueError("both defective and normal images are needed")
    return is_defect, scores

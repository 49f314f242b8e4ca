"""The figures of one recipe over all splits of a protocol: classes, anomaly scores, thresholds by rule, calibration.

Everything that is chosen (thresholds, temperature, weights of the mix) is chosen for each split on its validation
part; test answers of all splits are then pooled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from src.calibration import at_temperature, expected_calibration_error, fit_temperature, reliability
from src.config import CLASS_NAMES
from src.evaluation import METHODS, Predictions, macro_f1
from src.metrics import THRESHOLD_RULES, binary_metrics, bootstrap_interval, choose_threshold, multiclass_metrics

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
        answers: By the names of `src.splits.split_folds`, or one split of `src.splits.split_index`.
        protocol: Its name; ``leave-one-defect-out`` is reported by absent class.
        seed: Of the bootstrap. It draws whole hides: tiles of one are no independent images.

    Returns:
        ``splits``, ``n``, ``hides``, ``intervals`` (how); for ``leave-one-defect-out`` then ``per_defect``: for each
        absent class ``anomaly_detection_results``; for all others the keys of
        `src.metrics.multiclass_metrics` with ``multiclass_accuracy_interval`` and ``macro_f1_interval``,
        ``per_split`` (n, accuracy, share of the largest class), ``calibration`` and
        ``anomaly_detection_results``, None where no split has normal and defective images in validation and test.

        ``calibration``: ``temperatures`` by split, ``ece_before``, ``ece_after``, ``reliability_before``,
        ``reliability_after``, see `src.calibration`.

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
        }  # fmt: skip
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
    return {
        k: float(np.average([figures[f"oracle_{k}"] for figures in each], weights=w)) for k, w in weights.items()
    }


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

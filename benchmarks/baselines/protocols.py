"""An entry of the table of baselines: the evaluation of a run, and what only the table shows.

Beside `evaluation.evaluate` these are a learned mix of two scores, every rule for thresholds beside its oracle, and
calibration. What is chosen (thresholds, temperature, weights of the mix) is chosen on each split's validation part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from src.classifier.evaluation import Answers, Predictions, call_defects, evaluate, evaluate_scores, hides_of, pooled
from src.classifier.report import HONEST_PROTOCOL, USUAL
from src.metrics import THRESHOLD_RULES

from .calibration import at_temperature, expected_calibration_error, fit_temperature, reliability

MIX = "Learned Mix"
MIXED = ("Cosine Similarity", "Classification Confidence")
BY_CLASS = ("confusion_matrix", "class_names", "class_distribution", "per_class")  # read for the honest protocol alone
OF_ABSENT = ("roc_auc", "roc_auc_interval", "n_defective", "n_normal")


def protocol_report(answers: Mapping[str, Answers], protocol: str, *, seed: int = 42) -> dict[str, Any]:
    """One entry of the table, from answers by the names of `splits.split_folds`, or on one split of `split_index`.

    Returns:
        The keys of `evaluation.evaluate`, those by class for the honest protocol alone. There each score also has
        ``rules``, ``oracle`` and ``roc_auc_split_mean``, see `_in_detail`. The usual and the honest protocol have
        ``calibration``. ``leave-one-defect-out`` has ``per_defect`` instead: scores by absent class.
    """
    mixed = {name: with_mix(split) for name, split in answers.items()}
    if protocol == "leave-one-defect-out":
        return _absent_defects(mixed, seed=seed)
    entry = evaluate(mixed, seed=seed)
    for method, figures in (entry["anomaly_detection_results"] or {}).items():
        del figures["optimal_threshold"]
        if protocol == HONEST_PROTOCOL:
            figures |= _in_detail([split for split in mixed.values() if split.comparable], method)
    if protocol in (USUAL, HONEST_PROTOCOL):
        entry["calibration"] = calibration_report(answers)
    return {key: value for key, value in entry.items() if protocol == HONEST_PROTOCOL or key not in BY_CLASS}


def _absent_defects(answers: Mapping[str, Answers], *, seed: int) -> dict[str, Any]:
    tests, by_defect = [split.test for split in answers.values()], {}
    for name, split in answers.items():
        by_defect.setdefault(name.split("/")[1], {})[name] = split
    per_defect = {}
    for defect, splits in by_defect.items():
        scores = evaluate_scores(splits, seed=seed) or {}
        kept = {method: {key: figures[key] for key in OF_ABSENT} for method, figures in scores.items()}
        per_defect[defect] = {"anomaly_detection_results": kept or None}
    count = sum(len(test.rows) for test in tests)
    return {"splits": len(tests), "total_samples": count, "hides": len(set(hides_of(tests))), "per_defect": per_defect}


def with_mix(split: Answers) -> Answers:
    """The same answers with one more score: a logistic regression of two scores, fitted on validation, in [0, 1].

    Unchanged if there is nothing to compare. Validation scores are those of single models, test scores may be a mean.
    """
    if not split.comparable:
        return split
    mix = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    mix.fit(_mixed(split.validation), split.validation.is_defect)

    def add(part: Predictions) -> Predictions:
        return replace(part, scores={**part.scores, MIX: mix.predict_proba(_mixed(part))[:, 1]})

    return replace(split, validation=add(split.validation), test=add(split.test))


def _mixed(predictions: Predictions) -> np.ndarray:
    return np.stack([predictions.scores[name] for name in MIXED], axis=1)


def _in_detail(splits: Sequence[Answers], method: str) -> dict[str, Any]:
    """Figures of the pooled test images, each called defective or not by its own split's threshold.

    ``rules``: recall and false alarms at the thresholds that a rule chose on validation. ``oracle``: what the best
    threshold of each split would give, picked on its own test scores. ``roc_auc_split_mean``.
    """
    tests, rules = [split.test for split in splits], {}
    is_defect = pooled(tests, "is_defect")
    for rule in THRESHOLD_RULES:
        _, called = call_defects(splits, method, rule=rule)
        rules[rule] = {"recall": float(called[is_defect].mean()), "false_alarm_rate": float(called[~is_defect].mean())}
    each = [oracle_metrics(test.is_defect, test.scores[method]) for test in tests]
    images, defects = [len(test.rows) for test in tests], [int(test.is_defect.sum()) for test in tests]
    weights = {"accuracy": images, "recall_at_1": defects, "recall_at_5": defects}
    oracle = {name: float(np.average([split[name] for split in each], weights=w)) for name, w in weights.items()}
    areas = [roc_auc_score(test.is_defect, test.scores[method]) for test in tests]
    return {"rules": rules, "oracle": oracle, "roc_auc_split_mean": float(np.mean(areas))}


def oracle_metrics(is_defect: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Upper bounds in [0, 1], not results: their thresholds are picked on these very scores.

    ``accuracy``, the highest; ``recall_at_1`` and ``recall_at_5``, with at most 1 % and 5 % false alarms.
    """
    false_rate, recall, _ = roc_curve(is_defect, scores, drop_intermediate=False)
    share = np.mean(is_defect)
    return {
        "accuracy": float(np.max(share * recall + (1 - share) * (1 - false_rate))),
        "recall_at_1": float(recall[false_rate <= 0.01].max()),
        "recall_at_5": float(recall[false_rate <= 0.05].max()),
    }


def calibration_report(answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Confidence against accuracy of the pooled test answers, before and after a temperature from validation."""
    tests, temperatures, after = [split.test for split in answers.values()], [], []
    for split in answers.values():
        temperatures.append(fit_temperature(split.validation.targets, split.validation.probabilities))
        # It was fitted on answers of single models: their mean comes after.
        members = split.members or (split.test.probabilities,)
        after.append(np.mean([at_temperature(each, temperatures[-1]) for each in members], axis=0))
    report = {"temperature_median": float(np.median(temperatures))}
    for when, probabilities in (("before", pooled(tests, "probabilities")), ("after", np.concatenate(after))):
        curve = reliability(pooled(tests, "targets"), probabilities)
        report |= {f"ece_{when}": expected_calibration_error(curve), f"reliability_{when}": curve}
    return report

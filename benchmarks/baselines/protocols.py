"""An entry of the table of baselines: the evaluation of a run, and what only the table shows.

Beside `evaluation.evaluate` these are a learned mix of two scores, every rule for thresholds beside its oracle, and
calibration. What is chosen (thresholds, temperature, weights of the mix) is chosen on each split's validation part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from src.classifier.evaluation import Answers, Predictions, call_defects, evaluate, evaluate_scores, pooled
from src.metrics import THRESHOLD_RULES, binary_metrics, oracle_metrics

from .calibration import at_temperature, expected_calibration_error, fit_temperature, reliability

MIX = "Learned Mix"
MIXED = ("Cosine Similarity", "Classification Confidence")


def protocol_report(answers: Mapping[str, Answers], protocol: str, *, seed: int = 42) -> dict[str, Any]:
    """One entry of the table.

    Args:
        answers: By the names of `splits.split_folds`, or one split of `splits.split_index`.
        protocol: Its name; ``leave-one-defect-out`` is reported by absent class.
        seed: Of the bootstrap.

    Returns:
        The keys of `evaluation.evaluate`; ``calibration``; each score also has ``rules`` (figures at the thresholds
        that a rule chose on validation) and ``oracle`` (no results: thresholds picked on each split's own test scores).
        ``leave-one-defect-out`` has ``per_defect`` instead: scores by absent class.
    """
    if protocol == "leave-one-defect-out":
        by_defect: dict[str, dict[str, Answers]] = {}
        for name, split in answers.items():
            by_defect.setdefault(name.split("/")[1], {})[name] = split
        per_defect = {
            defect: {"anomaly_detection_results": scores_report(splits, seed=seed)}
            for defect, splits in by_defect.items()
        }
        tests = [split.test.rows for split in answers.values()]
        hides = {hide for rows in tests for hide in rows["group"]}
        return {
            "splits": len(answers),
            "total_samples": sum(map(len, tests)),
            "hides": len(hides),
            "per_defect": per_defect,
        }
    return {
        **evaluate(answers, seed=seed),
        "calibration": calibration_report(answers),
        "anomaly_detection_results": scores_report(answers, seed=seed),
    }


def scores_report(answers: Mapping[str, Answers], *, seed: int) -> dict[str, Any] | None:
    """Figures of every score and of the learned mix, over the splits that can be judged; None if there is none."""
    usable = {name: with_mix(split) for name, split in answers.items() if split.comparable}
    report = evaluate_scores(usable, seed=seed)
    for method, figures in (report or {}).items():
        tests = [split.test for split in usable.values()]
        figures["rules"] = {rule: _at_rule(usable, method, rule) for rule in THRESHOLD_RULES}
        figures["oracle"] = _oracle(tests, method)
        del figures["optimal_threshold"]  # one a split; nobody reads them
    return report


def with_mix(split: Answers) -> Answers:
    """The same answers with one more score: a logistic regression of two scores, fitted on validation, in [0, 1].

    Validation scores are those of single models, test scores may be a mean of several.
    """
    mix = fit_mix(split.validation)
    return Answers(add_mix(split.validation, mix), add_mix(split.test, mix))


def fit_mix(validation: Predictions) -> Pipeline:
    """Logistic regression on the standardised cosine and confidence scores. To be called with validation data only."""
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    return model.fit(_mixed(validation), validation.is_defect)


def add_mix(predictions: Predictions, mix: Pipeline) -> Predictions:
    """The predictions with the mix's probability of a defect as a further score."""
    return replace(predictions, scores={**predictions.scores, MIX: mix.predict_proba(_mixed(predictions))[:, 1]})


def _mixed(predictions: Predictions) -> np.ndarray:
    return np.stack([predictions.scores[name] for name in MIXED], axis=1)


def _at_rule(answers: Mapping[str, Answers], method: str, rule: str) -> dict[str, float]:
    """Figures of the pooled test images, each called defective or not by its own split's threshold."""
    tests = [split.test for split in answers.values()]
    scores = np.concatenate([test.scores[method] for test in tests])
    figures = binary_metrics(pooled(tests, "is_defect"), scores, call_defects(answers, method, rule=rule)[1])
    return {name: value for name, value in figures.items() if name not in ("roc_auc", "avg_precision")}


def _oracle(tests: list[Predictions], method: str) -> dict[str, float]:
    """What the best threshold of each split would give, picked on its own test scores; pooled over the splits."""
    each = [oracle_metrics(test.is_defect, test.scores[method]) for test in tests]
    images, defects = [len(test.rows) for test in tests], [int(test.is_defect.sum()) for test in tests]
    weights = {"accuracy": images, "recall_at_1": defects, "recall_at_5": defects}
    return {name: float(np.average([figures[name] for figures in each], weights=w)) for name, w in weights.items()}


def calibration_report(answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Confidence against accuracy of the pooled test answers, before and after a temperature from validation."""
    temperatures = {
        name: fit_temperature(split.validation.targets, split.validation.probabilities)
        for name, split in answers.items()
    }
    tests = [split.test for split in answers.values()]
    targets, before = pooled(tests, "targets"), pooled(tests, "probabilities")
    after = np.concatenate([_softened(split, temperatures[name]) for name, split in answers.items()])
    return {
        "temperature_median": float(np.median(list(temperatures.values()))),
        "ece_before": expected_calibration_error(targets, before),
        "ece_after": expected_calibration_error(targets, after),
        "reliability_before": reliability(targets, before),
        "reliability_after": reliability(targets, after),
    }


def _softened(split: Answers, temperature: float) -> np.ndarray:
    """Test probabilities at that temperature. It was fitted on answers of single models: their mean comes after."""
    members = split.members or (split.test.probabilities,)
    return np.mean([at_temperature(probabilities, temperature) for probabilities in members], axis=0)

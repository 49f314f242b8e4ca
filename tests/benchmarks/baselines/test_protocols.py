"""One entry of the protocols: pooled figures as scikit-learn's, everything chosen on validation alone."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from benchmarks.baselines.calibration import at_temperature, expected_calibration_error
from benchmarks.baselines.protocols import MIX, add_mix, calibration_report, fit_mix, protocol_report, with_mix
from src import metrics
from src.classifier import evaluation
from src.classifier.evaluation import METHODS, Answers, Predictions, call_defects
from src.config import CLASS_NAMES
from src.metrics import THRESHOLD_RULES, choose_threshold
from tests.conftest import CLASSES, NORMAL_CLASS


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(evaluation, "bootstrap_interval", partial(metrics.bootstrap_interval, repeats=25))


def predictions(seed, *, count=60, classes=CLASS_NAMES, part="test"):
    generator = np.random.default_rng(seed)
    labels = generator.choice(classes, count)
    targets = np.array([CLASS_NAMES.index(label) for label in labels])
    logits = generator.normal(size=(count, 6)) + 1.5 * np.eye(6)[targets]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    is_defect = labels != NORMAL_CLASS
    scores = {
        name: generator.normal(size=count) + strength * is_defect
        for name, strength in zip(METHODS, (1.0, 0.2, 2.0), strict=True)
    }
    rows = pd.DataFrame(
        {
            "file": [f"{part}/{seed}/{i}" for i in range(count)],
            "label": labels,
            "group": [f"hide {seed}-{i % 4}" for i in range(count)],
        }
    )
    return Predictions(rows, probabilities, scores, CLASSES)


def folds(count=3):
    return {f"hide-5fold/{i}": Answers(predictions(100 + i, part="validation"), predictions(i)) for i in range(count)}


def test_figures_are_those_of_the_pooled_answers():
    answers = folds()
    report = protocol_report(answers, "hide-5fold")
    targets = np.concatenate([a.test.targets for a in answers.values()])
    predicted = np.concatenate([a.test.predicted for a in answers.values()])
    assert report["macro_f1"] == pytest.approx(f1_score(targets, predicted, average="macro"))
    assert (report["total_samples"], report["splits"], report["hides"]) == (180, 3, 12)
    name = "Hybrid (Paper Method)"
    pooled = roc_auc_score(targets != 4, np.concatenate([a.test.scores[name] for a in answers.values()]))
    assert report["anomaly_detection_results"][name]["roc_auc"] == pytest.approx(pooled)
    low, high = report["macro_f1_interval"]
    assert low < report["macro_f1"] < high
    assert "whole hides" in report["intervals"]


def test_each_split_is_judged_by_its_own_validation():
    answers = folds()
    report = protocol_report(answers, "hide-5fold")["anomaly_detection_results"]["Cosine Similarity"]
    for rule in THRESHOLD_RULES:
        called = []
        for found in answers.values():
            validation = found.validation
            threshold = choose_threshold(validation.is_defect, validation.scores["Cosine Similarity"], rule=rule)
            called.append(found.test.scores["Cosine Similarity"] >= threshold)
        is_defect = np.concatenate([found.test.is_defect for found in answers.values()])
        assert report["rules"][rule]["recall"] == pytest.approx(np.concatenate(called)[is_defect].mean())
        assert report["rules"][rule]["false_alarm_rate"] == pytest.approx(np.concatenate(called)[~is_defect].mean())


def test_nothing_that_is_chosen_depends_on_the_test_answers():
    answers = folds()
    other = {name: Answers(found.validation, predictions(50 + i)) for i, (name, found) in enumerate(answers.items())}
    first, second = (protocol_report(a, "hide-5fold") for a in (answers, other))
    assert first["calibration"]["temperature_median"] == second["calibration"]["temperature_median"]
    assert first["macro_f1"] != second["macro_f1"]
    for name in METHODS:
        for rule in THRESHOLD_RULES:
            thresholds = [call_defects(a, name, rule=rule)[0] for a in (answers, other)]
            assert thresholds[0] == thresholds[1]
    for split, same in zip(answers.values(), other.values(), strict=True):
        mixed = [with_mix(each).validation.scores[MIX] for each in (split, same)]
        np.testing.assert_array_equal(*mixed)


def test_a_temperature_softens_each_member_before_their_mean():
    plain = next(iter(folds().values()))
    sure = [np.eye(6)[plain.test.predicted] * 0.94 + 0.01, np.eye(6)[plain.test.targets] * 0.94 + 0.01]
    answers = {"hide-5fold/0": replace(plain, members=tuple(sure))}
    report = calibration_report(answers)
    softened = np.mean([at_temperature(each, report["temperature_median"]) for each in sure], axis=0)
    assert report["ece_after"] == pytest.approx(expected_calibration_error(plain.test.targets, softened))
    before = expected_calibration_error(plain.test.targets, plain.test.probabilities)
    assert report["ece_before"] == pytest.approx(before)


def test_no_rule_beats_the_oracle_of_one_split():
    for seed in range(10):
        answers = {"random-80-20": Answers(predictions(100 + seed), predictions(seed))}
        for found in protocol_report(answers, "random-80-20")["anomaly_detection_results"].values():
            for rule in found["rules"].values():
                assert rule["binary_accuracy"] <= found["oracle"]["accuracy"] + 1e-12
                if rule["false_alarm_rate"] <= 0.05:
                    assert rule["recall"] <= found["oracle"]["recall_at_5"] + 1e-12


def test_no_accuracy_beats_the_oracle_of_several_splits():
    for found in protocol_report(folds(5), "hide-5fold")["anomaly_detection_results"].values():
        assert all(rule["binary_accuracy"] <= found["oracle"]["accuracy"] + 1e-12 for rule in found["rules"].values())
    # Scores of two scales: one threshold for both would do worse than each one's own.
    apart = predictions(1)
    scores = {name: apart.is_defect + shift for name, shift in zip(METHODS, (0.0, 5.0, 10.0), strict=True)}
    low, high = replace(apart, scores=scores), replace(apart, scores={k: v + 3 for k, v in scores.items()})
    answers = {"hide-5fold/0": Answers(low, low), "hide-5fold/1": Answers(high, high)}
    oracle = protocol_report(answers, "hide-5fold")["anomaly_detection_results"][next(iter(METHODS))]["oracle"]
    assert oracle == {"accuracy": 1.0, "recall_at_1": 1.0, "recall_at_5": 1.0}


def test_the_mix_follows_the_better_score():
    validation, test = predictions(1, count=600), predictions(2, count=600)
    mix = fit_mix(validation)
    cosine, confidence = mix[-1].coef_[0]
    assert confidence > cosine
    found = add_mix(test, mix)
    areas = {name: roc_auc_score(test.is_defect, values) for name, values in found.scores.items()}
    assert areas[MIX] > areas["Cosine Similarity"]
    assert areas[MIX] > areas["Classification Confidence"] - 0.01
    assert ((found.scores[MIX] >= 0) & (found.scores[MIX] <= 1)).all()
    assert MIX not in test.scores


def test_splits_without_normal_images_have_no_anomaly_figures():
    defects = [name for name in CLASS_NAMES if name != NORMAL_CLASS]
    alone = Answers(predictions(1), predictions(2, classes=defects))
    bare = replace(predictions(3), scores={})
    assert protocol_report({"within-hide/a": alone}, "within-hide")["anomaly_detection_results"] is None
    answers = {"within-hide/a": alone, "within-hide/b": folds()["hide-5fold/0"], "within-hide/c": Answers(bare, bare)}
    report = protocol_report(answers, "within-hide")
    assert report["total_samples"] == 180
    found = report["anomaly_detection_results"][MIX]
    assert found["n_defective"] + found["n_normal"] == 60


def test_an_absent_defect_is_reported_by_itself():
    answers = {}
    for defect in ("pinhole", "grain_off"):
        for number in (1, 2):
            seen = [name for name in CLASS_NAMES if name != defect]
            answers[f"leave-one-defect-out/{defect}/{number}"] = Answers(
                predictions(number, classes=seen), predictions(10 + number, classes=[defect, NORMAL_CLASS])
            )
    report = protocol_report(answers, "leave-one-defect-out")
    assert set(report["per_defect"]) == {"pinhole", "grain_off"}
    assert "macro_f1" not in report  # the absent class cannot be named
    found = report["per_defect"]["pinhole"]["anomaly_detection_results"][MIX]
    assert found["n_defective"] + found["n_normal"] == 120

"""One entry of the protocols: pooled figures as scikit-learn's, everything chosen on validation alone."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from benchmarks.baselines.calibration import at_temperature, expected_calibration_error, reliability
from benchmarks.baselines.protocols import MIX, calibration_report, oracle_metrics, protocol_report, with_mix
from src.classifier.evaluation import METHODS, Answers, Predictions, call_defects
from src.config import CLASS_NAMES
from src.metrics import THRESHOLD_RULES, choose_threshold
from tests.conftest import CLASSES, NORMAL_CLASS


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
    figures = protocol_report(answers, "hide-5fold")["anomaly_detection_results"]["Cosine Similarity"]
    is_defect = np.concatenate([split.test.is_defect for split in answers.values()])
    for rule in THRESHOLD_RULES:
        called = []
        for split in answers.values():
            validation = split.validation
            threshold = choose_threshold(validation.is_defect, validation.scores["Cosine Similarity"], rule=rule)
            called.append(split.test.scores["Cosine Similarity"] >= threshold)
        called = np.concatenate(called)
        assert figures["rules"][rule]["recall"] == pytest.approx(called[is_defect].mean())
        assert figures["rules"][rule]["false_alarm_rate"] == pytest.approx(called[~is_defect].mean())
    areas = [roc_auc_score(split.test.is_defect, split.test.scores["Cosine Similarity"]) for split in answers.values()]
    assert figures["roc_auc_split_mean"] == pytest.approx(np.mean(areas))


def test_nothing_that_is_chosen_depends_on_the_test_answers():
    answers = folds()
    other = {name: Answers(split.validation, predictions(50 + i)) for i, (name, split) in enumerate(answers.items())}
    first, second = (protocol_report(a, "hide-5fold") for a in (answers, other))
    assert first["calibration"]["temperature_median"] == second["calibration"]["temperature_median"]
    assert first["macro_f1"] != second["macro_f1"]
    for name in METHODS:
        for rule in THRESHOLD_RULES:
            thresholds = [call_defects(list(a.values()), name, rule=rule)[0] for a in (answers, other)]
            assert thresholds[0] == thresholds[1]
    for split, same in zip(answers.values(), other.values(), strict=True):
        mixed = [with_mix(each).validation.scores[MIX] for each in (split, same)]
        np.testing.assert_array_equal(*mixed)


def test_only_the_honest_protocol_is_reported_in_detail():
    for protocol, detailed in (("hide-5fold", True), ("random-80-20", False), ("within-hide", False)):
        report = protocol_report(folds(), protocol)
        assert ("per_class" in report) == ("confusion_matrix" in report) == detailed
        assert ("calibration" in report) == (protocol != "within-hide")
        for figures in report["anomaly_detection_results"].values():
            assert ("rules" in figures) == ("oracle" in figures) == detailed
            assert {"roc_auc", "roc_auc_interval", "recall", "false_alarm_rate"} <= set(figures)
            assert "optimal_threshold" not in figures


def test_a_temperature_softens_each_member_before_their_mean():
    plain = next(iter(folds().values()))
    targets = plain.test.targets
    sure = [np.eye(6)[plain.test.predicted] * 0.94 + 0.01, np.eye(6)[targets] * 0.94 + 0.01]
    report = calibration_report({"hide-5fold/0": replace(plain, members=tuple(sure))})
    softened = np.mean([at_temperature(each, report["temperature_median"]) for each in sure], axis=0)
    for when, probabilities in (("before", plain.test.probabilities), ("after", softened)):
        curve = reliability(targets, probabilities)
        assert report[f"ece_{when}"] == pytest.approx(expected_calibration_error(curve))
        assert report[f"reliability_{when}"]["confidence"] == pytest.approx(curve["confidence"])


# -- oracle ---------------------------------------------------------------------------------------------


def test_oracle_metrics_by_hand():
    figures = oracle_metrics([False, False, False, True, True], [0.1, 0.6, 0.3, 0.4, 0.9])
    assert figures == pytest.approx({"accuracy": 4 / 5, "recall_at_1": 1 / 2, "recall_at_5": 1 / 2})


@pytest.mark.parametrize("seed", range(10))
def test_oracle_metrics_against_every_threshold(seed):
    generator = np.random.default_rng(seed)
    is_defect = np.arange(60) < generator.integers(1, 60)
    scores = np.round(generator.random(60) + 0.5 * is_defect, 1)  # many equal ones
    figures, thresholds = oracle_metrics(is_defect, scores), [*scores, np.inf]
    assert figures["accuracy"] == pytest.approx(max(np.mean((scores >= t) == is_defect) for t in thresholds))
    for percent in (1, 5):
        allowed = [t for t in thresholds if np.mean(scores[~is_defect] >= t) <= percent / 100]
        reached = max(np.mean(scores[is_defect] >= t) for t in allowed)
        assert figures[f"recall_at_{percent}"] == pytest.approx(reached)


@pytest.mark.parametrize(("scores", "accuracy"), [([0, 0, 1, 1], 1), ([1, 1, 0, 0], 0.5), ([2, 2, 2, 2], 0.5)])
def test_oracle_metrics_at_both_ends(scores, accuracy):
    assert oracle_metrics([False, False, True, True], scores)["accuracy"] == accuracy


def accuracy_of(rule, figures):
    right = rule["recall"] * figures["n_defective"] + (1 - rule["false_alarm_rate"]) * figures["n_normal"]
    return right / (figures["n_defective"] + figures["n_normal"])


def test_no_rule_beats_the_oracle_of_one_split():
    for seed in range(10):
        answers = {"hide-5fold/0": Answers(predictions(100 + seed), predictions(seed))}
        for figures in protocol_report(answers, "hide-5fold")["anomaly_detection_results"].values():
            for rule in figures["rules"].values():
                assert accuracy_of(rule, figures) <= figures["oracle"]["accuracy"] + 1e-12
                if rule["false_alarm_rate"] <= 0.05:
                    assert rule["recall"] <= figures["oracle"]["recall_at_5"] + 1e-12


def test_no_accuracy_beats_the_oracle_of_several_splits():
    for figures in protocol_report(folds(5), "hide-5fold")["anomaly_detection_results"].values():
        for rule in figures["rules"].values():
            assert accuracy_of(rule, figures) <= figures["oracle"]["accuracy"] + 1e-12
    # Scores of two scales: one threshold for both would do worse than each one's own.
    apart = predictions(1)
    scores = {name: apart.is_defect + shift for name, shift in zip(METHODS, (0.0, 5.0, 10.0), strict=True)}
    low, high = replace(apart, scores=scores), replace(apart, scores={k: v + 3 for k, v in scores.items()})
    answers = {"hide-5fold/0": Answers(low, low), "hide-5fold/1": Answers(high, high)}
    oracle = protocol_report(answers, "hide-5fold")["anomaly_detection_results"][next(iter(METHODS))]["oracle"]
    assert oracle == {"accuracy": 1.0, "recall_at_1": 1.0, "recall_at_5": 1.0}


# -- mix and absent classes -----------------------------------------------------------------------------


def test_the_mix_follows_the_better_score():
    split = Answers(predictions(1, count=600), predictions(2, count=600))
    test = with_mix(split).test
    areas = {name: roc_auc_score(test.is_defect, values) for name, values in test.scores.items()}
    assert areas[MIX] > areas["Cosine Similarity"]
    assert areas[MIX] > areas["Classification Confidence"] - 0.01
    assert ((test.scores[MIX] >= 0) & (test.scores[MIX] <= 1)).all()
    assert MIX not in split.test.scores


def test_splits_without_normal_images_have_no_anomaly_figures():
    defects = [name for name in CLASS_NAMES if name != NORMAL_CLASS]
    alone = Answers(predictions(1), predictions(2, classes=defects))
    bare = replace(predictions(3), scores={})
    assert protocol_report({"within-hide/a": alone}, "within-hide")["anomaly_detection_results"] is None
    answers = {"within-hide/a": alone, "within-hide/b": folds()["hide-5fold/0"], "within-hide/c": Answers(bare, bare)}
    report = protocol_report(answers, "within-hide")
    assert report["total_samples"] == 180
    figures = report["anomaly_detection_results"][MIX]
    assert figures["n_defective"] + figures["n_normal"] == 60


def test_an_absent_defect_is_reported_by_itself():
    answers = {}
    for defect in ("pinhole", "grain_off"):
        for number in (1, 2):
            known = [name for name in CLASS_NAMES if name != defect]
            answers[f"leave-one-defect-out/{defect}/{number}"] = Answers(
                predictions(number, classes=known), predictions(10 + number, classes=[defect, NORMAL_CLASS])
            )
    report = protocol_report(answers, "leave-one-defect-out")
    assert set(report["per_defect"]) == {"pinhole", "grain_off"}
    assert "macro_f1" not in report  # the absent class cannot be named
    figures = report["per_defect"]["pinhole"]["anomaly_detection_results"][MIX]
    assert figures["n_defective"] + figures["n_normal"] == 120 and len(figures["roc_auc_interval"]) == 2

"""Image-level figures of merit: by hand, against scikit-learn and slow literal code, then properties and ends.

Pixel metrics have test_pixel_metrics.py.
"""

import itertools
import json

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
)

from src.metrics import (
    THRESHOLD_RULES,
    average_precision,
    binary_metrics,
    bootstrap_interval,
    choose_threshold,
    multiclass_metrics,
)

# Two defects at 0.5 and 0.9; normal images: eight low ones, three between the defects.
RARE_DEFECTS = np.array([0] * 11 + [1] * 2, bool), np.array([i / 20 for i in range(8)] + [0.6, 0.65, 0.7, 0.5, 0.9])
# 20 normal images from 0.00 to 0.19: exactly 5 % is one of them.
TWENTY_NORMALS = np.array([0] * 20 + [1] * 2, bool), np.array([i / 100 for i in range(20)] + [0.5, 0.9])


def random_scores(seed, *, count=60, levels=12):
    """Labels and scores with many equal values, defects higher on average."""
    generator = np.random.default_rng(seed)
    is_defect = np.arange(count) < generator.integers(1, count)
    return is_defect, np.round(generator.random(count) + 0.5 * is_defect, 1) * levels


def pairs_won(is_defect, scores):
    """AUROC as it is defined: the share of pairs in which the defect scores higher; equal scores count half."""
    difference = scores[is_defect][:, None] - scores[~is_defect][None]
    return np.mean((difference > 0) + 0.5 * (difference == 0))


def test_multiclass_by_hand():
    figures = multiclass_metrics([0, 0, 1, 1, 2], [0, 1, 1, 1, 0], ("a", "b", "c"))
    assert figures["multiclass_accuracy"] == pytest.approx(3 / 5)
    assert figures["confusion_matrix"] == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert figures["per_class"]["a"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2})
    assert figures["per_class"]["b"] == pytest.approx({"precision": 2 / 3, "recall": 1, "f1": 4 / 5, "support": 2})
    assert figures["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert figures["macro_f1"] == pytest.approx((1 / 2 + 4 / 5) / 3)
    assert figures["class_names"] == ["a", "b", "c"] and figures["class_distribution"] == {"a": 2, "b": 2, "c": 1}
    assert figures["total_samples"] == 5 and json.loads(json.dumps(figures)) == figures


def test_multiclass_does_not_depend_on_order_and_keeps_absent_classes():
    generator = np.random.default_rng(0)
    targets, predictions = generator.integers(0, 4, (2, 100))
    names, order = ("a", "b", "c", "d", "never seen"), generator.permutation(100)
    figures = multiclass_metrics(targets, predictions, names)
    assert figures == multiclass_metrics(targets[order], predictions[order], names)
    assert figures["per_class"]["never seen"]["support"] == 0 and np.shape(figures["confusion_matrix"]) == (5, 5)
    assert figures["macro_f1"] == pytest.approx(f1_score(targets, predictions, average="macro") * 4 / 5)


@pytest.mark.parametrize(
    ("data", "rule", "expected"),
    [
        (RARE_DEFECTS, "youden", (0.35 + 0.5) / 2),  # recall 1 - alarms 3/11, against 1/2 - 0 above 0.7
        (RARE_DEFECTS, "f1", 0.8),  # one of two found, no alarm: 2/3; both found, three alarms: 4/7
        (RARE_DEFECTS, "false-alarms-5", 0.8),  # one of 11 would be 9 %
        (TWENTY_NORMALS, "youden", (0.19 + 0.5) / 2),
        (TWENTY_NORMALS, "f1", (0.19 + 0.5) / 2),
        (TWENTY_NORMALS, "false-alarms-5", 0.185),  # one of 20 is 5 %, and 5 % is allowed
        (TWENTY_NORMALS, "false-alarms-1", (0.19 + 0.5) / 2),
        (([0, 1, 0, 1, 0, 1], [1, 2, 3, 4, 5, 6]), "youden", 3.5),  # 1.5, 3.5 and 5.5 are equally good: the middle
    ],
)
def test_threshold_by_hand(data, rule, expected):
    assert choose_threshold(*data, rule=rule) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_threshold_is_better(seed):
    is_defect, scores = random_scores(seed)
    every = [-np.inf, *np.unique(scores), np.inf]

    def youden(t):
        return np.mean(scores[is_defect] >= t) - np.mean(scores[~is_defect] >= t)

    def f1(t):
        called = scores >= t
        return 2 * (called & is_defect).sum() / (called.sum() + is_defect.sum())

    for rule, quality in (("youden", youden), ("f1", f1)):
        assert quality(choose_threshold(is_defect, scores, rule=rule)) == pytest.approx(max(map(quality, every)))


@pytest.mark.parametrize("percent", [1, 5])
@pytest.mark.parametrize("normals", [1, 19, 20, 21, 39, 40, 60, 100, 140])
def test_a_false_alarm_rule_keeps_its_promise_and_no_lower_threshold_does(normals, percent):
    for seed in range(10):
        scores = np.round(np.random.default_rng(seed).random(normals + 7), 2)
        is_defect = np.arange(len(scores)) >= normals
        threshold = choose_threshold(is_defect, scores, rule=f"false-alarms-{percent}")
        alarms = (scores[~is_defect] >= threshold).sum()
        below = scores[scores < threshold].max()
        assert alarms * 100 <= percent * normals < 100 * (scores[~is_defect] >= below).sum()


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
def test_threshold_of_degenerate_scores(rule):
    one, other = 1.0, np.nextafter(1.0, 2)
    assert choose_threshold([False, True], [0.0, 1.0], rule=rule) == 0.5
    assert choose_threshold([False, True], [one, other], rule=rule) == other  # no number lies between them
    assert np.isfinite(choose_threshold([False, True], [1.2e308, 1.6e308], rule=rule))
    same = choose_threshold([False, True, True], [0.3, 0.3, 0.3], rule=rule)
    assert same == (np.nextafter(0.3, 1) if rule.startswith("false-alarms") else 0.3)


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
def test_threshold_follows_a_monotone_map_and_not_the_order(rule):
    is_defect, scores = random_scores(3)
    order = np.random.default_rng(0).permutation(len(scores))
    threshold = choose_threshold(is_defect, scores, rule=rule)
    assert choose_threshold(is_defect[order], scores[order], rule=rule) == threshold
    mapped = np.exp(scores)
    assert ((mapped >= choose_threshold(is_defect, mapped, rule=rule)) == (scores >= threshold)).all()


def test_unknown_rule_is_named():
    with pytest.raises(ValueError, match="'best'.*youden"):
        choose_threshold([False, True], [0.0, 1.0], rule="best")


@pytest.mark.parametrize("function", [choose_threshold, lambda y, s: binary_metrics(y, s, np.ones(len(y), bool))])
@pytest.mark.parametrize(
    ("is_defect", "scores", "message"),
    [
        ([True, False], [0.1], r"\(2,\).*\(1,\)"),
        ([[True, False]], [[0.1, 0.2]], r"expected \(n,\)"),
        ([True, False], [0.1, np.nan], "not finite"),
        ([True, False], [0.1, np.inf], "not finite"),
        ([True, True], [0.1, 0.2], "both"),
        ([False, False], [0.1, 0.2], "both"),
        ([], [], "both"),
    ],
)
def test_unusable_scores_are_refused(function, is_defect, scores, message):
    with pytest.raises(ValueError, match=message):
        function(is_defect, scores)


def test_binary_metrics_by_hand():
    labels, scores = np.array([False, False, False, True, True]), np.array([0.1, 0.6, 0.3, 0.4, 0.9])
    figures = binary_metrics(labels, scores, scores >= 0.5)
    assert figures == pytest.approx(
        {
            "roc_auc": 5 / 6,
            "avg_precision": (1 + 2 / 3) / 2,
            "binary_accuracy": 3 / 5,
            "precision": 1 / 2,
            "recall": 1 / 2,
            "f1": 1 / 2,
            "false_alarm_rate": 1 / 3,
        }
    )


def test_average_precision_never_exceeds_1():
    labels = np.arange(64) >= 28
    assert average_precision(labels, labels.astype(float)) == 1


@pytest.mark.parametrize("seed", range(10))
def test_binary_metrics_against_references(seed):
    is_defect, scores = random_scores(seed)
    called = scores >= 7
    figures = binary_metrics(is_defect, scores, called)
    assert figures["roc_auc"] == pytest.approx(pairs_won(is_defect, scores), abs=1e-12)
    assert figures["avg_precision"] == pytest.approx(average_precision_score(is_defect, scores), abs=1e-12)
    for name, reference in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert figures[name] == pytest.approx(reference(is_defect, called, zero_division=0))
    assert figures["binary_accuracy"] == np.mean(called == is_defect)
    mapped = binary_metrics(is_defect, scores**3 - 5, called)
    assert mapped == pytest.approx(figures, abs=1e-12)


@pytest.mark.parametrize(("scores", "auroc"), [([0, 0, 1, 1], 1), ([1, 1, 0, 0], 0), ([2, 2, 2, 2], 0.5)])
def test_binary_metrics_at_both_ends(scores, auroc):
    figures = binary_metrics(np.array([False, False, True, True]), scores, np.zeros(4, bool))
    assert figures["roc_auc"] == auroc
    assert (figures["precision"], figures["recall"], figures["f1"], figures["false_alarm_rate"]) == (0, 0, 0, 0)


def test_interval_lies_between_the_percentiles_by_hand():
    calls = itertools.count()
    assert bootstrap_interval(lambda _: next(calls), np.arange(3), repeats=201) == [5, 195]  # of 0 to 200


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator, hits = np.random.default_rng(0), 0
    for seed in range(100):
        low, high = bootstrap_interval(np.mean, generator.normal(5, 1, 40), repeats=150, seed=seed)
        hits += low <= 5 <= high
    assert 88 <= hits <= 99


def test_interval_is_seeded_and_draws_arrays_in_step():
    values = np.random.default_rng(1).random(30)

    def ratio(first, second):
        assert np.array_equal(second, 2 * first)
        return first.mean()

    same = [bootstrap_interval(ratio, values, 2 * values, repeats=50, seed=s) for s in (7, 7, 8)]
    assert same[0] == same[1] != same[2]
    assert same[0][0] < values.mean() < same[0][1]


def test_interval_draws_whole_groups():
    groups, drawn = np.array(["b", "a", "c", "a", "c", "c"]), []
    bootstrap_interval(
        lambda rows: drawn.append(np.bincount(rows, minlength=6)) or 0.0, np.arange(6), groups=groups, repeats=40
    )
    counts = np.array(drawn)
    assert (counts[:, 1] == counts[:, 3]).all() and (counts[:, 2] == counts[:, 4]).all()
    assert (counts[:, [0, 1, 2]].sum(axis=1) == 3).all() and counts.max() > 1 and (counts[:, 2] == counts[:, 5]).all()
    assert bootstrap_interval(np.mean, np.array([1.0, 2, 6]), groups=np.zeros(3), repeats=5) == [3, 3]


@pytest.mark.parametrize(("defined", "expected"), [(10, [1, 1]), (5, [1, 1]), (4, None), (0, None)])
@pytest.mark.parametrize("undefined", ["raises", "nan"])
def test_interval_needs_half_of_its_draws(defined, expected, undefined):
    calls = itertools.count()

    def statistic(_):
        if next(calls) < defined:
            return 1.0
        if undefined == "nan":
            return np.nan
        raise ValueError("one class only")

    assert bootstrap_interval(statistic, np.arange(4), repeats=10) == expected


@pytest.mark.parametrize(("second", "groups"), [([1, 2], None), ([1, 2, 3], [0, 1]), ([1, 2, 3], [0, 1, 1, 1])])
def test_interval_refuses_different_lengths(second, groups):
    with pytest.raises(ValueError, match=r"lengths \[3, "):
        bootstrap_interval(lambda *_: 0.0, np.arange(3), second, groups=groups)

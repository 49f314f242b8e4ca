"""Recipes: fitted on training alone, the candidate chosen on validation, members put together."""

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from benchmarks.baselines.recipes import NetworkRecipe, NumbersRecipe, combine
from src.classifier.evaluation import METHODS, Answers, Predictions
from src.config import CLASS_NAMES
from tests.conftest import CLASSES, NORMAL_CLASS

LABELS = np.repeat(CLASS_NAMES, 12)


@pytest.fixture
def split():
    part = np.tile(["train"] * 6 + ["validation"] * 3 + ["test"] * 3, len(CLASS_NAMES))
    files = [f"{label}/{i}" for i, label in enumerate(LABELS)]
    return pd.DataFrame({"file": files, "label": LABELS, "part": part, "group": "a"})


@pytest.fixture
def numbers(split):
    """Numbers that tell the classes."""
    values = np.eye(6)[[CLASS_NAMES.index(label) for label in split["label"]]]
    values = values + np.random.default_rng(0).normal(0, 0.1, values.shape)
    return pd.DataFrame(values, index=split["file"]).add_prefix("n")


def test_numbers_are_learned_and_scored(split, numbers):
    answers = NumbersRecipe(numbers, (LogisticRegression(),), CLASSES).answer([split])
    for part, name in ((answers.validation, "validation"), (answers.test, "test")):
        assert list(part.rows["file"]) == list(split.loc[split["part"] == name, "file"])
        assert (part.predicted == part.targets).all()
        assert part.probabilities.sum(1) == pytest.approx(1)
        cosine = part.scores["Cosine Similarity"]
        assert cosine[~part.is_defect].max() < cosine[part.is_defect].min()
        assert part.scores["Hybrid (Paper Method)"] == pytest.approx(
            0.7 * cosine + 0.3 * part.scores["Classification Confidence"]
        )


def test_the_candidate_is_chosen_on_validation_and_test_labels_change_nothing(split, numbers):
    candidates = (DummyClassifier(), LogisticRegression(), DummyClassifier(strategy="uniform", random_state=0))
    answers = NumbersRecipe(numbers, candidates, CLASSES).answer([split])
    assert (answers.validation.predicted == answers.validation.targets).all()
    shuffled = split.copy()
    test = shuffled["part"] == "test"
    shuffled.loc[test, "label"] = np.roll(shuffled.loc[test, "label"], 3)
    other = NumbersRecipe(numbers, candidates, CLASSES).answer([shuffled])
    np.testing.assert_array_equal(other.test.probabilities, answers.test.probabilities)
    np.testing.assert_array_equal(other.test.scores["Cosine Similarity"], answers.test.scores["Cosine Similarity"])


def test_a_class_that_training_lacks_gets_probability_zero(split, numbers):
    without = split[(split["label"] != "pinhole") | (split["part"] == "test")]
    answers = NumbersRecipe(numbers, (RandomForestClassifier(20, random_state=0),), CLASSES).answer([without])
    assert (answers.test.probabilities[:, CLASS_NAMES.index("pinhole")] == 0).all()
    assert answers.test.probabilities.shape == (18, 6)


def test_without_normal_training_images_there_are_no_scores(split, numbers):
    defects = split[split["label"] != NORMAL_CLASS]
    assert NumbersRecipe(numbers, (LogisticRegression(),), CLASSES).answer([defects]).test.scores == {}


def test_members_are_put_together(split, numbers):
    other = split.copy()
    other["part"] = other["part"].replace({"train": "validation", "validation": "train"})
    recipe = NumbersRecipe(numbers, (LogisticRegression(),), CLASSES)
    first, second = (recipe.answer([member]) for member in (split, other))
    both = recipe.answer([split, other])
    assert set(both.validation.rows["file"]) == set(split.loc[split["part"] != "test", "file"])
    mean = (first.test.probabilities + second.test.probabilities) / 2
    assert both.test.probabilities == pytest.approx(mean)
    for member, alone in zip(both.members, (first, second), strict=True):
        assert member == pytest.approx(alone.test.probabilities)
    for name in METHODS:
        expected = np.concatenate([first.validation.scores[name], second.validation.scores[name]])
        assert both.validation.scores[name] == pytest.approx(expected)


def test_members_without_scores_leave_none(split):
    rows, probabilities = split[split["part"] == "test"].reset_index(drop=True), np.full((18, 6), 1 / 6)
    plain, scored = (Predictions(rows, probabilities, s, CLASSES) for s in ({}, dict.fromkeys(METHODS, np.zeros(18))))
    answers = combine([Answers(plain, plain), Answers(scored, scored)])
    assert answers.test.scores == {} and answers.validation.scores == {}


def test_a_network_learns_the_split_and_leaves_no_state(config, table, tmp_path):
    vit = {"weights": "shipped", "backbone": "vit_tiny_patch16_224", "image_size": 32}
    settings = config.but(**vit, epochs=1, train_mode="head")
    recipe = NetworkRecipe(settings, CLASSES, models=tmp_path / "models", logs=tmp_path / "logs")
    answers = recipe.answer([table])
    assert len(answers.test.rows) == 12 and len(answers.validation.rows) == 12
    assert set(answers.test.scores) == set(METHODS)
    assert not list((tmp_path / "models").glob("*.training.pt"))
    again = recipe.answer([table])
    np.testing.assert_array_equal(again.test.probabilities, answers.test.probabilities)
    defects = table[(table["label"] != NORMAL_CLASS) | (table["part"] != "train")]
    assert recipe.answer([defects]).test.scores == {}

"""Ways to judge an image, from six colour numbers to a Vision Transformer, behind one call: ``answer(splits)``.

``splits`` are the rotations of one split (`splits.rotations`): the same test part, and validation parts that take
turns. A quick recipe is fitted once for each; validation answers are put together, so that thresholds see every image
that is not test, and test answers are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassifierMixin, clone
from torch import Tensor

from src.classifier.evaluation import METHODS, Answers, Predictions, predict
from src.classifier.model import create_model
from src.classifier.training import train_model
from src.config import Config, paths
from src.data.tables import Classes
from src.files import identity_of
from src.metrics import macro_f1
from src.scores import cosine_anomaly_scores, hybrid_anomaly_scores


@dataclass(frozen=True)
class NumbersRecipe:
    """A classifier of scikit-learn on numbers that describe an image.

    The candidate of highest macro F1 on validation is taken. The cosine score compares standardised numbers.
    """

    numbers: pd.DataFrame  # one row an image, index ``file``
    candidates: tuple[ClassifierMixin, ...]
    classes: Classes

    def answer(self, splits: Sequence[pd.DataFrame]) -> Answers:
        answers = [combine([self._fit(candidate, split) for split in splits]) for candidate in self.candidates]
        count = len(self.classes.names)
        return max(answers, key=lambda a: macro_f1(a.validation.targets, a.validation.predicted, count=count))

    def _fit(self, candidate: ClassifierMixin, split: pd.DataFrame) -> Answers:
        train = split[split["part"] == "train"]
        values = self.numbers.loc[train["file"]]
        estimator = clone(candidate).fit(values, train["label"].to_numpy())
        middle, spread = values.mean(), values.std().replace(0.0, 1.0)

        def judge(rows: pd.DataFrame) -> tuple[np.ndarray, Tensor]:
            plain = self.numbers.loc[rows["file"]]
            probabilities = pd.DataFrame(estimator.predict_proba(plain), columns=estimator.classes_)
            probabilities = probabilities.reindex(columns=list(self.classes.names), fill_value=0.0)
            return probabilities.to_numpy(), torch.tensor(((plain - middle) / spread).to_numpy())

        return answers_of(split, self.classes, judge)


@dataclass(frozen=True)
class NetworkRecipe:
    """A network that is trained as its settings say, on the first of the splits: each takes from minutes to hours."""

    config: Config
    classes: Classes
    models: Path = paths.models  # of cached features and of the training that is under way
    logs: Path = paths.logs

    def answer(self, splits: Sequence[pd.DataFrame]) -> Answers:
        digest = identity_of(list(zip(splits[0]["file"], splits[0]["part"], strict=True)))[:12]
        config = self.config.but(run=f"{self.config.run}-{digest}")  # an interrupted training is found again
        model = create_model(config, self.classes)
        train_model(model, splits[0], config, models=self.models, logs=self.logs)
        # Features of a frozen backbone serve every split; those of a trained one are of no use again.
        answers = predict(model, splits[0], cache=self.models / "cache" if config.train_mode == "head" else None)
        (self.models / f"{config.run}.training.pt").unlink()  # the answers are kept, not the weights
        return answers


def answers_of(
    split: pd.DataFrame, classes: Classes, judge: Callable[[pd.DataFrame], tuple[np.ndarray, Tensor]]
) -> Answers:
    """Answers of what gives probabilities (n, classes) and features (n, d) of rows; no scores without normal images."""
    normal = split[(split["part"] == "train") & (split["label"] == classes.normal)]
    bank = judge(normal)[1] if len(normal) else None

    def of(part: str) -> Predictions:
        rows, scores = split[split["part"] == part].reset_index(drop=True), {}
        probabilities, features = judge(rows)
        if bank is not None:
            similarity = cosine_anomaly_scores(features, bank)
            confidence = torch.from_numpy(1 - probabilities[:, classes.normal_index])
            values = hybrid_anomaly_scores(similarity, confidence), similarity, confidence
            scores = {name: value.numpy() for name, value in zip(METHODS, values, strict=True)}
        return Predictions(rows, probabilities, scores, classes)

    return Answers(of("validation"), of("test"))


def combine(members: Sequence[Answers]) -> Answers:
    """Validation answers of all members one after the other; test answers averaged."""
    tests, parts = [member.test for member in members], [member.validation for member in members]
    scored, classes = METHODS if all(test.scores for test in tests) else (), tests[0].classes
    each = tuple(test.probabilities for test in tests)
    means = {name: np.mean([test.scores[name] for test in tests], axis=0) for name in scored}
    joined = {name: np.concatenate([part.scores[name] for part in parts]) for name in scored}
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    validation = Predictions(rows, np.concatenate([part.probabilities for part in parts]), joined, classes)
    return Answers(validation, Predictions(tests[0].rows, np.mean(each, axis=0), means, classes), each)

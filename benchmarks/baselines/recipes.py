"""Ways to judge an image, from six colour numbers to a Vision Transformer, behind one call: ``answer(splits)``.

``splits`` are the rotations of one split (`splits.rotations`): the same test part, and validation parts that take
turns. A quick recipe is fitted once for each; validation answers are put together, so that thresholds see every image
that is not test, and test answers are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassifierMixin, clone

from src.classifier.evaluation import METHODS, Answers, Predictions, fill_normal_bank, predict
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
        bank = (values[(train["label"] == self.classes.normal).to_numpy()] - middle) / spread

        def judge(part: str) -> Predictions:
            rows = split[split["part"] == part].reset_index(drop=True)
            plain = self.numbers.loc[rows["file"]]
            probabilities = pd.DataFrame(estimator.predict_proba(plain), columns=estimator.classes_)
            probabilities = probabilities.reindex(columns=list(self.classes.names), fill_value=0.0).to_numpy()
            similarity = None
            if len(bank):
                scaled, normal = (torch.tensor(values.to_numpy()) for values in ((plain - middle) / spread, bank))
                similarity = cosine_anomaly_scores(scaled, normal).numpy()
            return predictions_of(rows, probabilities, similarity, self.classes)

        return Answers(judge("validation"), judge("test"))


@dataclass(frozen=True)
class NetworkRecipe:
    """A network that is trained as its settings say, on the first of the splits: each takes from minutes to hours."""

    config: Config
    classes: Classes
    models: Path = paths.models  # of cached features and of the training that is under way
    logs: Path = paths.logs

    def answer(self, splits: Sequence[pd.DataFrame]) -> Answers:
        split = splits[0]
        digest = identity_of(list(zip(split["file"], split["part"], strict=True)))[:12]
        config = self.config.but(run=f"{self.config.run}-{digest}")  # an interrupted training is found again
        model = create_model(config, self.classes)
        train_model(model, split, config, models=self.models, logs=self.logs)
        # Features of a frozen backbone serve every split; those of a trained one are of no use again.
        cache = self.models / "cache" if config.train_mode == "head" else None
        normals = bool(((split["part"] == "train") & (split["label"] == self.classes.normal)).any())
        if normals:
            fill_normal_bank(model, split, cache=cache)
        parts = (predict(model, split, part, cache=cache, scores=normals) for part in ("validation", "test"))
        answers = Answers(*parts)
        (self.models / f"{config.run}.training.pt").unlink()  # the answers are kept, not the weights
        return answers


def predictions_of(
    rows: pd.DataFrame, probabilities: np.ndarray, similarity: np.ndarray | None, classes: Classes
) -> Predictions:
    """Predictions with the three scores, or without scores if there is no normal image to be similar to."""
    scores = {}
    if similarity is not None:
        confidence = 1 - probabilities[:, classes.normal_index]
        hybrid = hybrid_anomaly_scores(torch.from_numpy(similarity), torch.from_numpy(confidence)).numpy()
        scores = dict(zip(METHODS, (hybrid, similarity, confidence), strict=True))
    return Predictions(rows, probabilities, scores, classes)


def combine(members: Sequence[Answers]) -> Answers:
    """Validation answers of all members one after the other; test answers averaged."""
    tests, parts = [member.test for member in members], [member.validation for member in members]
    scored = METHODS if all(test.scores for test in tests) else ()
    each, classes = tuple(test.probabilities for test in tests), tests[0].classes
    test = Predictions(
        tests[0].rows,
        np.mean(each, axis=0),
        {name: np.mean([test.scores[name] for test in tests], axis=0) for name in scored},
        classes,
    )
    validation = Predictions(
        pd.concat([part.rows for part in parts], ignore_index=True),
        np.concatenate([part.probabilities for part in parts]),
        {name: np.concatenate([part.scores[name] for part in parts]) for name in scored},
        classes,
    )
    return Answers(validation, test, each)

"""The rows of the table of baselines: from six colour numbers to trained networks, each with its classifiers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from src.classifier.features import compute_features
from src.classifier.model import create_model
from src.config import PAPER, SMALL, Config, paths
from src.data.tables import classes_of
from src.eda.audit import COLOUR_NUMBERS
from src.eda.describe import describe_images

from .convnet import ConvolutionRecipe
from .recipes import NetworkRecipe, NumbersRecipe
from .texture import texture_table

SHARPNESS = "texture_287"  # see `texture.texture_numbers`: its last number
FINE_TUNING_EPOCHS = 3  # 15 are published; that would be five hours on two cores
ABOUT = {
    "colour": "mean and deviation of red, green and blue; random forest",
    "sharpness": "one number, the finest ring's share of the spectrum; random forest",
    "texture": "grey patterns, co-occurrence and spectrum; SVM",
    "frozen": "{vit}, frozen, its own output; logistic regression",
    "frozen-blocks": "{vit}, frozen, blocks {blocks}; logistic regression",
    "honest": "texture, or texture and {vit} (frozen, blocks {blocks}), as validation decides",
    "cnn": "ResNet-18 from scratch on grey pictures freed of light; one network a split",
    "fine-tuned": "{vit}, all weights, published rates, {epochs} epochs; one network a split",
    "small": "{small}, preset small (upper blocks trained); one network a split",
}
SLOW = ("cnn", "fine-tuned", "small")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    about: str  # for readers
    create: Callable[[], NumbersRecipe | NetworkRecipe | ConvolutionRecipe]  # when first needed: features take minutes
    config: Config  # its answers are kept by these settings
    slow: bool = False  # minutes a split: only when asked for, and only on the two protocols that lead
    version: int = 1  # raise it when the same split no longer gives the same answers


def table_rows(
    table: pd.DataFrame, config: Config, *, small_weights: str = SMALL.weights, models: Path = paths.models
) -> list[Row]:
    """All rows, from the simplest to the strongest; the config has the backbone and blocks of the ViT rows.

    ``small_weights`` are those of the row of preset `SMALL`.
    """
    classes, cache, seed = classes_of(table), models / "cache", config.seed

    def frozen(settings: Config) -> pd.DataFrame:
        features = compute_features(create_model(settings, classes), table, cache=cache).numpy()
        return pd.DataFrame(features, index=table["file"].to_list()).add_prefix("feature_")

    def numbers(read: Callable[[], pd.DataFrame], *candidates: ClassifierMixin) -> Callable[[], NumbersRecipe]:
        return lambda: NumbersRecipe(read(), candidates, classes)

    def honest() -> NumbersRecipe:
        texture, tokens = texture_table(table, cache=cache), frozen(config)
        return NumbersRecipe(texture.join(tokens), honest_candidates(texture.columns, tokens.columns, seed), classes)

    def colour() -> pd.DataFrame:
        return describe_images(table).set_index("file")[list(COLOUR_NUMBERS)]

    fine = {"image_size": config.image_size, "epochs": FINE_TUNING_EPOCHS, "seed": seed}
    tuned = PAPER.but(run="fine-tuned", backbone=config.backbone, weights=config.weights, **fine)
    small = SMALL.but(run="small", weights=small_weights, seed=seed)
    forest = RandomForestClassifier(300, random_state=seed, n_jobs=-1)
    coarse = RandomForestClassifier(300, min_samples_leaf=20, random_state=seed, n_jobs=-1)
    machines = [make_pipeline(StandardScaler(), SVC(C=c, probability=True, random_state=seed)) for c in (1, 10)]
    lines = list(map(_linear, (0.001, 0.01, 0.1)))
    recipes = {
        "colour": numbers(colour, forest),
        "sharpness": numbers(lambda: texture_table(table, cache=cache)[[SHARPNESS]], coarse),
        "texture": numbers(lambda: texture_table(table, cache=cache), *machines),
        "frozen": numbers(lambda: frozen(config.but(feature_blocks=None)), *lines),
        "frozen-blocks": numbers(lambda: frozen(config), *lines),
        "honest": honest,
        "cnn": lambda: ConvolutionRecipe(seed=seed, classes=classes),
        "fine-tuned": lambda: NetworkRecipe(tuned, classes),
        "small": lambda: NetworkRecipe(small, classes),
    }
    blocks = ", ".join(map(str, config.feature_blocks))
    facts = {"vit": config.backbone, "small": SMALL.backbone, "blocks": blocks, "epochs": FINE_TUNING_EPOCHS}
    return [
        Row(name, ABOUT[name].format(**facts), recipe, small if name == "small" else config, slow=name in SLOW)
        for name, recipe in recipes.items()
    ]


def honest_candidates(texture: pd.Index, tokens: pd.Index, seed: int) -> tuple[ClassifierMixin, ...]:
    """What carried furthest over to unseen hides; ``docs/experiments.md`` says what did not."""

    def on(columns: pd.Index, classifier: ClassifierMixin) -> Pipeline:
        return make_pipeline(ColumnTransformer([("scaled", StandardScaler(), list(columns))]), classifier)

    forest = {"min_samples_leaf": 3, "max_features": 0.1, "class_weight": "balanced", "random_state": seed}
    lines = on(texture, LogisticRegression(C=0.1, max_iter=500, class_weight="balanced"))
    members = [("lines", lines), ("trees", on(texture, ExtraTreesClassifier(200, n_jobs=-1, **forest)))]
    both = [*members, ("tokens", on(tokens, _linear(0.001)))]
    return lines, VotingClassifier(members, voting="soft"), VotingClassifier(both, voting="soft")


def _linear(strength: float) -> Pipeline:
    """Logistic regression of that inverse regularisation."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500, class_weight="balanced"))

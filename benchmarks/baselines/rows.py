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

from benchmarks.baselines.convnet import ConvolutionRecipe
from benchmarks.baselines.recipes import NetworkRecipe, NumbersRecipe
from benchmarks.baselines.texture import texture_table
from src.classifier.features import compute_features
from src.classifier.model import create_model
from src.config import PAPER, Config, paths
from src.data.tables import Classes, classes_of
from src.eda.audit import COLOUR_NUMBERS
from src.eda.describe import describe_images

SHARPNESS = "texture_287"  # see `texture.texture_numbers`: its last number
FINE_TUNING_EPOCHS = 3  # 15 are published; that would be five hours on two cores
Recipe = NumbersRecipe | NetworkRecipe | ConvolutionRecipe


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    about: str  # for readers
    create: Callable[[], Recipe]  # called when the recipe is first needed: its features take minutes
    slow: bool = False  # minutes a split: only when asked for, and only on the two protocols that lead
    version: int = 1  # raise it when the same split no longer gives the same answers


def table_rows(table: pd.DataFrame, config: Config, *, models: Path = paths.models) -> list[Row]:
    """All rows, from the simplest to the strongest.

    Args:
        table: Of `tables.read_image_list`.
        config: Its backbone, weights and feature blocks are those of the ViT rows.
        models: Folder of the cache.
    """
    classes = classes_of(table)
    vit, blocks, seed = config.backbone, ", ".join(map(str, config.feature_blocks)), config.seed

    def colours() -> pd.DataFrame:
        return describe_images(table).set_index("file")[list(COLOUR_NUMBERS)]

    def texture() -> pd.DataFrame:
        return texture_table(table, cache=models / "cache")

    def frozen(settings: Config) -> pd.DataFrame:
        features = compute_features(create_model(settings, classes), table, cache=models / "cache").numpy()
        return pd.DataFrame(features, index=table["file"].to_list()).add_prefix("feature_")

    forest = RandomForestClassifier(300, random_state=seed, n_jobs=-1)
    coarse = RandomForestClassifier(300, min_samples_leaf=20, random_state=seed, n_jobs=-1)
    machines = tuple(make_pipeline(StandardScaler(), SVC(C=c, probability=True, random_state=seed)) for c in (1, 10))
    lines = tuple(map(_linear, (0.001, 0.01, 0.1)))
    return [
        Row(
            "colour",
            "mean and deviation of red, green and blue; random forest",
            lambda: NumbersRecipe(colours(), (forest,), classes),
        ),
        Row(
            "sharpness",
            "one number, the finest ring's share of the spectrum; random forest",
            lambda: NumbersRecipe(texture()[[SHARPNESS]], (coarse,), classes),
        ),
        Row(
            "texture",
            "grey patterns, co-occurrence and spectrum; SVM",
            lambda: NumbersRecipe(texture(), machines, classes),
        ),
        Row(
            "frozen",
            f"{vit}, frozen, its own output; logistic regression",
            lambda: NumbersRecipe(frozen(config.but(feature_blocks=None)), lines, classes),
        ),
        Row(
            "frozen-blocks",
            f"{vit}, frozen, blocks {blocks}; logistic regression",
            lambda: NumbersRecipe(frozen(config), lines, classes),
        ),
        Row(
            "honest",
            f"texture, or texture and {vit} (frozen, blocks {blocks}), as validation decides",
            lambda: honest_recipe(texture(), frozen(config), classes, seed=seed),
        ),
        Row(
            "cnn",
            "ResNet-18 from scratch on grey pictures freed of light; one network a split",
            lambda: ConvolutionRecipe(seed=seed, classes=classes),
            slow=True,
        ),
        Row(
            "fine-tuned",
            f"{vit}, all weights, published rates, {FINE_TUNING_EPOCHS} epochs; one network a split",
            lambda: NetworkRecipe(
                PAPER.but(
                    run="fine-tuned",
                    backbone=vit,
                    weights=config.weights,
                    image_size=config.image_size,
                    epochs=FINE_TUNING_EPOCHS,
                    seed=seed,
                ),
                classes,
            ),
            slow=True,
        ),
    ]


def honest_recipe(texture: pd.DataFrame, features: pd.DataFrame, classes: Classes, *, seed: int) -> NumbersRecipe:
    """What carried furthest over to hides that training has not seen; ``references/experiments.md`` says what did not.

    Args:
        texture: Of `texture.texture_table`.
        features: Of a frozen backbone, same index.
        seed: Of the trees.
    """

    def on(columns: pd.Index, classifier: ClassifierMixin) -> Pipeline:
        return make_pipeline(ColumnTransformer([("scaled", StandardScaler(), list(columns))]), classifier)

    lines = on(texture.columns, LogisticRegression(C=0.1, max_iter=500, class_weight="balanced"))
    trees = on(
        texture.columns,
        ExtraTreesClassifier(
            200, min_samples_leaf=3, max_features=0.1, class_weight="balanced", random_state=seed, n_jobs=-1
        ),
    )
    tokens = on(features.columns, _linear(0.001))
    members = [("lines", lines), ("trees", trees), ("tokens", tokens)]
    mixtures = (VotingClassifier(members[:2], voting="soft"), VotingClassifier(members, voting="soft"))
    return NumbersRecipe(texture.join(features), (lines, *mixtures), classes)


def _linear(strength: float) -> Pipeline:
    """Logistic regression of that inverse regularisation."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500, class_weight="balanced"))

"""The convolutional baseline: it learns grain from crops, answers for whole pictures, and is the same every time."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks.baselines.convnet import ConvolutionRecipe, _augment
from benchmarks.baselines.texture import SIDE, grain_of
from src.classifier.evaluation import METHODS
from src.config import CLASS_NAMES
from tests.conftest import CLASSES, NORMAL_CLASS

SMALL = {"architecture": "test_resnet", "crop": 64, "batch_size": 8, "classes": CLASSES}
RECIPE = ConvolutionRecipe(**SMALL, epochs=20, learning_rate=5e-3)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Normal pictures of fine stripes, pinhole ones of coarse stripes, in any colour and light."""
    folder, rows = tmp_path_factory.mktemp("stripes"), []
    generator = np.random.default_rng(0)
    for label, waves in ((NORMAL_CLASS, 40), ("pinhole", 8)):
        for i in range(24):
            phase = np.linspace(0, 2 * np.pi * waves, SIDE) + generator.uniform(0, 6)
            grey = generator.uniform(60, 160) + 25 * np.sin(phase) + generator.normal(0, 4, (SIDE, SIDE))
            pixels = np.clip(grey[..., None] * generator.uniform(0.5, 1, 3), 0, 255).astype(np.uint8)
            file = folder / f"{label}_{i}.png"
            Image.fromarray(np.rot90(pixels, i % 2)).save(file)
            rows.append((str(file), file.name, label, "train" if i < 16 else "validation" if i < 20 else "test", "a"))
    return pd.DataFrame(rows, columns=["path", "file", "label", "part", "group"])


@pytest.fixture(scope="module")
def answers(split):
    return RECIPE.answer([split, split.iloc[:0]])  # the second is not looked at


def test_grain_is_learned_whatever_the_colour(split, answers):
    for part, name in ((answers.validation, "validation"), (answers.test, "test")):
        assert list(part.rows["file"]) == list(split.loc[split["part"] == name, "file"])
        assert np.mean(part.predicted == part.targets) == 1
        assert set(np.unique(part.predicted)) <= {CLASS_NAMES.index(NORMAL_CLASS), CLASS_NAMES.index("pinhole")}
        assert part.probabilities.sum(1) == pytest.approx(1, abs=1e-5)
        similarity = part.scores[tuple(METHODS)[1]]
        assert similarity[part.is_defect].min() > similarity[~part.is_defect].max()


def test_the_same_seed_gives_the_same_answers_and_another_seed_others(split, answers):
    again = RECIPE.answer([split])
    np.testing.assert_allclose(again.test.probabilities, answers.test.probabilities, atol=1e-4)
    other = ConvolutionRecipe(**SMALL, epochs=1, seed=1).answer([split])
    assert np.abs(other.test.probabilities - answers.test.probabilities).max() > 1e-3


def test_without_normal_images_there_is_no_score(split):
    defects = split[(split["label"] != NORMAL_CLASS) | (split["part"] != "train")]
    recipe = ConvolutionRecipe(**SMALL, epochs=1)
    assert recipe.answer([defects]).test.scores == {}


def test_crops_are_pieces_of_their_own_picture():
    images = torch.arange(3.0)[:, None, None, None].expand(3, 1, SIDE, SIDE) + 1
    crops = _augment(images, 64, torch.Generator().manual_seed(0))
    assert crops.shape == (3, 1, 64, 64)
    middle = crops.mean((1, 2, 3)) / torch.arange(1.0, 4)
    assert (middle > np.exp(-0.4) - 0.01).all() and (middle < np.exp(0.4) + 0.01).all()
    assert (crops.std((1, 2, 3)) <= 0.06).all()


def test_grain_knows_neither_colour_nor_light(tmp_path):
    pattern, grains = np.random.default_rng(0).normal(0, 1, (SIDE, SIDE, 1)), []
    for level in (60, 160):
        Image.fromarray(np.uint8(np.repeat(level * (1 + 0.1 * pattern), 3, 2))).save(tmp_path / "a.png")
        grains.append(grain_of(str(tmp_path / "a.png")))
    dark, light = grains
    assert abs(dark.mean()) < 0.02 and dark.shape == (SIDE, SIDE)
    assert np.corrcoef(dark.ravel(), light.ravel())[0, 1] > 0.98
    assert 0.7 < dark.std() / light.std() < 1.0  # black has no grain to divide by

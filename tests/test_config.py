"""Settings: the published values, frozen, and nothing outside the documented range."""

import dataclasses
import json

import pytest

from src.config import CLASS_NAMES, FOLD_PROTOCOLS, PAPER, PRECISIONS, PRESETS, PROTOCOLS, SAMPLE, TRAIN_MODES, Config
from tests.conftest import NORMAL_CLASS

PUBLISHED = {
    "run": "best_modelo_kaggle_dataset",
    "backbone": "vit_base_patch16_224",
    "weights": "timm",
    "batch_size": 16,
    "epochs": 15,
    "learning_rate": 2e-5,
    "weight_decay": 1e-4,
    "dropout": 0.1,
    "hidden_features": 512,
    "seed": 42,
    "similarity_weight": 0.7,
    "protocol": "random-80-20",
    "train_mode": "all",
    "frozen_blocks": 0,
}


def test_classes_are_in_the_published_order():
    assert CLASS_NAMES == ("folding_marks", "grain_off", "growth_marks", "loose_grain", "non_defective", "pinhole")
    assert NORMAL_CLASS == "non_defective"


def test_paper_preset_holds_the_published_values():
    assert {name: getattr(PAPER, name) for name in PUBLISHED} == PUBLISHED


def test_sample_preset_needs_no_network_and_keeps_hides_apart():
    assert (SAMPLE.run, SAMPLE.weights, SAMPLE.protocol) == ("sample", "shipped", "hide-60-20-20")
    assert SAMPLE.run != PAPER.run


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_protocols_that_exist_and_survive_json(name):
    config = PRESETS[name]
    assert config.protocol in (*PROTOCOLS, *FOLD_PROTOCOLS)
    assert Config(**json.loads(json.dumps(config.to_dict()))) == config


def test_config_is_frozen_and_a_changed_copy_leaves_it_alone():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPER.epochs = 1
    changed = PAPER.but(epochs=1, run="trial")
    assert (changed.epochs, changed.run, PAPER.epochs) == (1, "trial", 15)
    assert changed.but(epochs=15, run=PAPER.run) == PAPER and hash(changed) != hash(PAPER)


@pytest.mark.parametrize("make", [lambda: PAPER.but(epoch=3), lambda: Config(run="x", epoch=3)])
def test_a_misspelt_name_is_refused(make):
    with pytest.raises(TypeError, match="epoch"):
        make()


@pytest.mark.parametrize("arguments", [("run",), ()])
def test_run_must_be_given_by_name(arguments):
    with pytest.raises(TypeError):
        Config(*arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_mode", "tail"),
        ("precision", "int8"),
        ("epochs", 0),
        ("batch_size", 0),
        ("accumulate_batches", -1),
        ("frozen_blocks", -1),
        ("head_epochs", -1),
        ("similarity_weight", -0.01),
        ("similarity_weight", 1.01),
        ("similarity_weight", float("nan")),
    ],
)
def test_values_outside_their_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; expected"):
        Config(run="x", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 1),
        ("batch_size", 1),
        ("accumulate_batches", 1),
        ("similarity_weight", 0),
        ("similarity_weight", 1),
        ("frozen_blocks", 0),
        ("head_epochs", 0),
        *(("train_mode", mode) for mode in TRAIN_MODES),
        *(("precision", kind) for kind in PRECISIONS),
    ],
)
def test_values_at_the_ends_of_their_range_are_kept(name, value):
    assert getattr(Config(run="x", **{name: value}), name) == value

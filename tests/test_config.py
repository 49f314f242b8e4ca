"""Settings: the published values, frozen, and nothing outside the documented range."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from src.config import (
    CLASS_NAMES,
    FOLD_PROTOCOLS,
    PAPER,
    PRECISIONS,
    PRESETS,
    PROTOCOLS,
    SAMPLE,
    TRAIN_MODES,
    Config,
    Paths,
    setting,
)

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


def test_paper_preset_holds_the_published_values():
    assert {name: getattr(PAPER, name) for name in PUBLISHED} == PUBLISHED


def test_sample_preset_needs_no_network_and_keeps_hides_apart():
    assert (SAMPLE.run, SAMPLE.weights, SAMPLE.protocol) == ("sample", "shipped", "hide-60-20-20")
    assert SAMPLE.run != PAPER.run


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = PRESETS[name]
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
        ("run", ""),
        ("run", "."),
        ("run", ".."),
        ("run", "a/b"),
        ("run", "a\\b"),
        ("run", "C:"),
        ("run", None),
        ("backbone", ""),
        ("backbone", None),
        ("weights", ""),
        ("weights", Path("a.safetensors")),  # a checkpoint holds plain values only
        ("protocol", "random"),
        ("protocol", "hide-5fold/1"),
        ("train_mode", "tail"),
        ("precision", "int8"),
        ("epochs", 0),
        ("epochs", 2.0),
        ("epochs", "2"),
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
    with pytest.raises(ValueError, match=re.escape(f"{name} is {value!r}; expected ")):
        Config(**{"run": "x", name: value})


def test_a_choice_that_is_none_names_the_choices():
    with pytest.raises(ValueError, match="protocol is 'hide'; expected one of random-80-20, .*, within-hide$"):
        PAPER.but(protocol="hide")


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
        *(("precision", precision) for precision in PRECISIONS),
        *(("protocol", protocol) for protocol in (*PROTOCOLS, *FOLD_PROTOCOLS)),
        ("run", "my hides-2_größe.v1"),
        ("run", "..x"),
    ],
)
def test_values_at_the_ends_of_their_range_are_kept(name, value):
    assert getattr(Config(**{"run": "x", name: value}), name) == value


# -- environment variables ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("LEATHER_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("value", "default", "allowed", "expected"),
    [
        (None, "paper", tuple(PRESETS), "paper"),
        ("", "paper", tuple(PRESETS), "paper"),
        ("small", "paper", tuple(PRESETS), "small"),
        ("any text", "", (), "any text"),
        ("7", 15, (), 7),
        (None, 15, (), 15),
        ("0", 15, (), 0),  # its range is the business of Config
    ],
)
def test_a_setting_is_the_variable_or_the_default(monkeypatch, value, default, allowed, expected):
    if value is not None:
        monkeypatch.setenv("LEATHER_PRESET", value)
    assert setting("LEATHER_PRESET", default, allowed=allowed) == expected


@pytest.mark.parametrize(
    ("value", "default", "message"),
    [
        ("papr", "paper", "LEATHER_PRESET is 'papr'; expected one of paper, small, sample, honest"),
        ("Paper", "paper", "LEATHER_PRESET is 'Paper'; expected one of"),
        ("many", 15, "LEATHER_PRESET is 'many'; expected a whole number"),
        ("-1", 15, "LEATHER_PRESET is '-1'; expected a whole number"),
        ("1.5", 15, "LEATHER_PRESET is '1.5'; expected a whole number"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(monkeypatch, value, default, message):
    monkeypatch.setenv("LEATHER_PRESET", value)
    with pytest.raises(ValueError, match=message):
        setting("LEATHER_PRESET", default, allowed=tuple(PRESETS))


@pytest.mark.parametrize("ask", [Paths, lambda: setting("LEATHER_EPOCHS", 15)])
def test_a_misspelt_variable_is_refused_whatever_is_asked_for(monkeypatch, ask):
    monkeypatch.setenv("LEATHER_EPOCH", "3")
    with pytest.raises(ValueError, match="'LEATHER_EPOCH'; expected one of LEATHER_DATA, .*LEATHER_EPOCHS"):
        ask()

"""What the tests of the classifier share: trainings of a second, crafted answers, a run that is described."""

import os
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src import metrics
from src.classifier import tensorboard
from src.classifier.evaluation import METHODS, Answers, Predictions, describe_run, evaluate
from src.classifier.model import create_model
from src.classifier.training import TrainingResult, train_model
from src.config import CLASS_NAMES
from tests.conftest import CLASSES

CPU = torch.device("cpu")
os.environ["ACCELERATE_USE_CPU"] = "1"  # before the first training of this process


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """The bootstrap has its own tests; 25 draws are enough to see what is drawn."""
    monkeypatch.setattr(metrics, "bootstrap_interval", partial(metrics.bootstrap_interval, repeats=25))


@pytest.fixture(autouse=True)
def no_matrix_tiles(monkeypatch):
    """Precision ``auto`` is float32 here on every processor; the others are asked for by name."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)


@pytest.fixture
def quick_figure(monkeypatch):
    """The confusion matrix has its own tests; drawing it takes longer than an epoch here."""
    monkeypatch.setattr(tensorboard, "plot_confusion_matrix", lambda *_, **__: Figure(figsize=(1, 1)))


# -- trainings ------------------------------------------------------------------------------------------


def train(model, table, config, folder, **options):
    return train_model(model, table, config, models=folder / "models", logs=folder / "logs", **options)


def fresh(config):
    return create_model(config, CLASSES, pretrained=False)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before, model):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def events(folder):
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "histograms": 0}).Reload()


# -- answers --------------------------------------------------------------------------------------------


def predictions(table, part, *, seed=0):
    """Answers that are mostly right, with scores that mostly tell defects."""
    rows, generator = table[table["part"] == part].reset_index(drop=True), np.random.default_rng(seed)
    targets = np.array([CLASS_NAMES.index(label) for label in rows["label"]])
    logits = generator.normal(size=(len(rows), 6)) + np.eye(6)[targets]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    is_defect = rows["label"].to_numpy() != "non_defective"
    scores = {name: generator.normal(size=len(rows)) + 0.7 * is_defect for name in METHODS}
    return Predictions(rows, probabilities, scores, CLASSES)


def summary_of(table, run, *, seed=0, test=None):
    answers = Answers(predictions(table, "validation", seed=9), test or predictions(table, "test", seed=seed))
    return evaluate({"hide-60-20-20": answers}, seed=0) | {"run": run, "protocols": {}}


@pytest.fixture
def result():
    epochs = np.arange(1, 4)
    history = pd.DataFrame(
        {
            "epoch": epochs,
            "loss_train": 1 / epochs,
            "loss_val": 1.1 / epochs,
            "acc_train": 1 - 1 / (1 + epochs),
            "acc_val": [0.5, 0.8, 0.7],
            "lr": 1e-3 / epochs,
            "seconds": [1.0, 1.0, 1.25],
        }
    )
    return TrainingResult(history, best_epoch=2, seconds=3.25, device="cpu", precision="torch.float32")


@pytest.fixture
def run(config, model, table, result):
    return describe_run(config, model, table, result, dataset="tiny set")

"""The benchmark of training: both loops are timed on the same pictures, and precisions are compared on validation."""

from functools import partial

import pytest

from benchmarks import training
from benchmarks.training import accuracy_by_precision, training_speed
from src.classifier.model import create_model


@pytest.fixture(autouse=True)
def random_weights(monkeypatch):
    monkeypatch.setattr(training, "create_model", partial(create_model, pretrained=False))


def test_precisions_are_compared_on_the_validation_part(table, config):
    result = accuracy_by_precision(table, config.but(epochs=2, train_mode="all"))
    assert result["n"] == (table["part"] == "validation").sum() and result["epochs"] == 2
    for precision in ("float32", "bfloat16"):
        share, (low, high) = result[precision]["accuracy"], result[precision]["interval"]
        assert 0 <= low <= share <= high <= 1 and (share * result["n"]) % 1 == pytest.approx(0, abs=1e-6)


def test_both_loops_are_timed(table, config):
    result = training_speed(table, config.but(epochs=1), rounds=1)
    for rate in result["images_per_second"].values():
        assert 0 < rate["range"][0] <= rate["median"] <= rate["range"][1]
    ours, published = (result["images_per_second"][name]["median"] for name in ("ours", "published"))
    assert result["training_to_published"] == pytest.approx(ours / published)

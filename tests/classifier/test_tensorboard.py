"""What TensorBoard shows of a training."""

import pytest

from src.config import CLASS_NAMES
from tests.classifier.conftest import events, fresh, train


def test_tensorboard_has_every_curve(table, config, tmp_path):
    result = train(fresh(config), table, config.but(epochs=2), tmp_path)
    log = events(tmp_path / "logs" / "tiny")
    curves = {
        "Loss/train": "loss_train",
        "Loss/val": "loss_val",
        "Accuracy/train": "acc_train",
        "Accuracy/val": "acc_val",
        "Learning Rate": "lr",
    }
    assert set(curves) <= set(log.Tags()["scalars"])
    for tag, column in curves.items():
        assert [event.step for event in log.Scalars(tag)] == [1, 2]
        assert [event.value for event in log.Scalars(tag)] == pytest.approx(list(result.history[column]))
    best = result.history.iloc[result.best_epoch - 1]
    assert log.Scalars("Best/accuracy_val")[0].value == pytest.approx(best["acc_val"])


def test_tensorboard_has_images_histograms_and_settings(table, config, tmp_path):
    train(fresh(config), table, config.but(epochs=2, train_mode="head"), tmp_path)
    log = events(tmp_path / "logs" / "tiny")
    (grid,) = log.Images("Images/train, as the model sees them")
    assert grid.width * grid.height >= 2 * len(CLASS_NAMES) * 48**2  # two images a class
    assert "Confusion matrix/validation" in log.Tags()["images"]
    assert [event.step for event in log.Histograms("classifier/4.weight")] == [1, 2]
    assert "_hparams_/session_start_info" in log.summary_metadata
    assert b"vit" in log.summary_metadata["_hparams_/session_start_info"].plugin_data.content

"""A training that stops: interrupted, out of memory, diverged, or finished; and how it goes on."""

import time

import pytest
import torch

from src.classifier.epochs import Epochs
from src.classifier.training import train_model
from src.config import paths
from src.files import CheckpointError, load_tensors
from tests.classifier.test_training import CPU, changed, events, fresh, quick_figure, train, weights  # noqa: F401

MODES = ("all", "head")


@pytest.fixture
def stop_at(monkeypatch):
    """Makes the n-th batch from now raise an error, once."""
    answer = Epochs.logits

    def arm(batch, error):
        calls = []

        def stop(self, inputs):
            calls.append(1)
            if len(calls) == batch:
                raise error
            return answer(self, inputs)

        monkeypatch.setattr(Epochs, "logits", stop)

    return arm


@pytest.fixture
def forbid_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("a finished training computed something")

    return lambda: monkeypatch.setattr(Epochs, "logits", refuse)


def compare(left, right):
    columns = ["epoch", "loss_train", "loss_val", "acc_train", "acc_val", "lr"]
    return left.history[columns].equals(right.history[columns]) and left.best_epoch == right.best_epoch


# An epoch is 5 batches of training and 2 of validation; in batches 2 and 11 gradients wait for the next step.
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("batch", "same_object"), [(2, True), (11, True), (11, False), (13, False)])
def test_interrupted_and_resumed_is_as_uninterrupted(table, config, tmp_path, stop_at, mode, batch, same_object):
    blocks = (1, 3) if batch == 11 else None  # features of several blocks are standardised, which must survive too
    config = config.but(train_mode=mode, accumulate_batches=2, feature_blocks=blocks, head_epochs=2 if blocks else 0)
    straight = fresh(config)
    wanted = train(straight, table, config, tmp_path / "straight")

    model = fresh(config)
    stop_at(batch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(model, table, config, tmp_path / "broken")
    if batch == 2:
        assert not changed(weights(fresh(config)), model)  # not half trained
    if not same_object:  # as after a restart; with the same object, as when the cell is run again
        model = fresh(config)
    time.sleep(1 - time.time() % 1)  # event files are read in the order of the seconds in their names
    found = train(model, table, config, tmp_path / "broken")

    assert compare(found, wanted) and not changed(weights(straight), model)
    scalars = events(tmp_path / "broken" / "logs" / "tiny").Scalars("Loss/train")
    assert [event.step for event in scalars] == [1, 2, 3]
    assert [event.value for event in scalars] == pytest.approx(list(wanted.history["loss_train"]))


@pytest.mark.parametrize("mode", MODES)
def test_a_finished_training_returns_at_once(table, config, tmp_path, forbid_training, mode):
    config = config.but(train_mode=mode, epochs=2)
    first = fresh(config)
    wanted = train(first, table, config, tmp_path)
    forbid_training()
    second = fresh(config)
    found = train(second, table, config, tmp_path)
    assert compare(found, wanted) and found.seconds == wanted.seconds
    assert not changed(weights(first), second)


def test_a_finished_training_returns_at_once_in_a_model_with_a_bank(table, config, tmp_path, forbid_training):
    config = config.but(train_mode="head", epochs=1)
    model = fresh(config)
    train(model, table, config, tmp_path)
    trained = weights(model)
    model.store_normal_features(torch.ones(5, 64))  # the notebook's next cell; then the training cell again
    forbid_training()
    train(model, table, config, tmp_path)
    assert not changed(trained, model)


@pytest.mark.parametrize("change", [{"learning_rate": 2e-3}, {"epochs": 4}, {"seed": 1}, {"train_mode": "head"}])
def test_other_settings_are_refused(table, config, tmp_path, change):
    train(fresh(config), table, config.but(epochs=1), tmp_path)
    with pytest.raises(ValueError, match=r"tiny\.training\.pt.*resume=False"):
        train(fresh(config), table, config.but(**({"epochs": 1} | change)), tmp_path)


def test_other_images_are_refused_and_other_workers_are_not(table, config, tmp_path):
    config = config.but(train_mode="head", epochs=1)
    train(fresh(config), table, config, tmp_path)
    with pytest.raises(ValueError, match="other settings or images"):
        train(fresh(config), table.drop(index=table.index[0]), config, tmp_path)
    assert len(train(fresh(config), table, config.but(workers=1), tmp_path).history) == 1


def test_resume_false_starts_anew(table, config, tmp_path):
    config = config.but(train_mode="head")
    train(fresh(config), table, config.but(learning_rate=1.0), tmp_path)
    old = set((tmp_path / "logs" / "tiny").iterdir())
    wanted = train(fresh(config), table, config, tmp_path / "straight")
    found = train(fresh(config), table, config, tmp_path, resume=False)
    assert compare(found, wanted)
    scalars = events(tmp_path / "logs" / "tiny").Scalars("Loss/train")
    assert [event.step for event in scalars] == [1, 2, 3]
    assert old and not old & set((tmp_path / "logs" / "tiny").iterdir())  # the earlier curve is gone


def test_a_damaged_state_file_is_named(table, config, tmp_path):
    train(fresh(config), table, config.but(epochs=1), tmp_path)
    file = tmp_path / "models" / "tiny.training.pt"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match="tiny.training.pt"):
        train(fresh(config), table, config.but(epochs=1), tmp_path)
    torch.save({"another": "file"}, file)
    with pytest.raises(ValueError, match="tiny.training.pt"):
        train(fresh(config), table, config.but(epochs=1), tmp_path)


@pytest.mark.parametrize("batch", [9, 13])  # training and validation of epoch 2
def test_a_loss_that_is_not_finite_stops_and_keeps_the_epoch_before(table, config, tmp_path, monkeypatch, batch):
    straight = train(fresh(config), table, config, tmp_path / "straight")
    answer, calls = Epochs.logits, []

    def diverge(self, inputs):
        calls.append(1)
        return answer(self, inputs) * (torch.nan if len(calls) == batch else 1)

    monkeypatch.setattr(Epochs, "logits", diverge)
    with pytest.raises(FloatingPointError, match="nan.*epoch 2.*kept"):
        train(fresh(config), table, config, tmp_path)
    assert len(load_tensors(tmp_path / "models" / "tiny.training.pt")["history"]) == 1
    assert compare(train(fresh(config), table, config, tmp_path), straight)


@pytest.mark.parametrize("mode", MODES)
def test_out_of_memory_comes_with_advice(table, config, tmp_path, stop_at, mode):
    stop_at(2, torch.OutOfMemoryError("HIP: tried to get 2.00 GiB"))
    with pytest.raises(MemoryError, match="batch_size.*accumulate_batches.*checkpoint_gradients"):
        train(fresh(config), table, config.but(train_mode=mode), tmp_path)


@pytest.mark.parametrize(
    "text", ["DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", "MPS backend out of memory"]
)
def test_out_of_memory_by_another_name_comes_with_advice(table, config, tmp_path, stop_at, text):
    stop_at(2, RuntimeError(text))
    with pytest.raises(MemoryError, match="batch_size"):
        train(fresh(config), table, config, tmp_path)


@pytest.mark.parametrize("text", ["mat1 and mat2 shapes", "CUDA error: an illegal memory access was encountered"])
def test_other_errors_are_not_called_a_lack_of_memory(table, config, tmp_path, stop_at, text):
    stop_at(2, RuntimeError(text))
    with pytest.raises(RuntimeError, match=text):
        train(fresh(config), table, config, tmp_path)


def test_float16_scaling_resumes_too(config):
    assert not Epochs(fresh(config), config, CPU).scaler.is_enabled()  # float32 needs none
    half = config.but(precision="float16")
    epochs = Epochs(fresh(half), half, CPU)
    assert epochs.scaler.is_enabled()
    epochs.scaler.scale(torch.ones(1))
    epochs.scaler.update(8.0)
    again = Epochs(fresh(half), half, CPU)
    again.load_state(epochs.state())
    assert again.scaler.get_scale() == 8.0


def test_default_folders_are_those_of_paths():
    defaults = train_model.__kwdefaults__
    assert (defaults["models"], defaults["logs"]) == (paths.models, paths.logs)

"""A training that stops: interrupted, out of memory, diverged, or finished; and how it goes on."""

import multiprocessing
import shutil
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from src.classifier.training import train_model
from src.config import paths
from src.data.tables import digests
from src.files import CheckpointError, load_tensors, save_tensors
from tests.classifier.conftest import changed, events, fresh, train, weights

pytestmark = pytest.mark.usefixtures("quick_figure")
MODES = ("all", "head")


@pytest.fixture
def stop_at(monkeypatch):
    """Makes the n-th loss from now raise an error, once. An epoch computes 5 in training and 1 in validation."""
    plain = F.cross_entropy

    def arm(number, error):
        calls = []

        def stop(*args, **options):
            calls.append(1)
            if len(calls) == number:
                raise error
            return plain(*args, **options)

        monkeypatch.setattr(F, "cross_entropy", stop)

    return arm


@pytest.fixture
def interrupt_at(stop_at):
    """A training that is interrupted at its loss of some number."""

    def run(number, *arguments):
        stop_at(number, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train(*arguments)

    return run


@pytest.fixture
def forbid_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a finished training computed something")

    return lambda: monkeypatch.setattr(F, "cross_entropy", refuse)


def compare(left, right):
    columns = ["epoch", "loss_train", "loss_val", "acc_train", "acc_val", "lr"]
    return left.history[columns].equals(right.history[columns]) and left.best_epoch == right.best_epoch


# At losses 2 and 10 gradients wait for the next step; 12 is the validation of epoch 2.
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("number", "same_object"), [(2, True), (10, True), (10, False), (12, False)])
def test_interrupted_and_resumed_is_as_uninterrupted(table, config, tmp_path, interrupt_at, mode, number, same_object):
    config = config.but(train_mode=mode, accumulate_batches=2)
    straight = fresh(config)
    wanted = train(straight, table, config, tmp_path / "straight")

    model = fresh(config)
    interrupt_at(number, model, table, config, tmp_path / "broken")
    if number == 2:
        assert not changed(weights(fresh(config)), model)  # not half trained
    if not same_object:  # as after a restart; with the same object, as when the cell is run again
        model = fresh(config)
    time.sleep(1 - time.time() % 1)  # event files are read in the order of the seconds in their names
    resumed = train(model, table, config, tmp_path / "broken")

    assert compare(resumed, wanted) and not changed(weights(straight), model)
    scalars = events(tmp_path / "broken" / "logs" / "tiny").Scalars("Loss/train")
    assert [event.step for event in scalars] == [1, 2, 3]
    assert [event.value for event in scalars] == pytest.approx(list(wanted.history["loss_train"]))


@pytest.mark.parametrize("number", [8, 14, 20])  # in epoch 2 of the head, and in epochs 1 and 2 of all weights
@pytest.mark.parametrize("same_object", [True, False])
def test_a_training_with_a_head_start_resumes_too(table, config, tmp_path, interrupt_at, number, same_object):
    # Features of several blocks are standardised, which must survive.
    config = config.but(accumulate_batches=2, feature_blocks=(1, 3), head_epochs=2)
    straight = fresh(config)
    wanted = train(straight, table, config, tmp_path / "straight")
    model = fresh(config)
    interrupt_at(number, model, table, config, tmp_path / "broken")
    model = model if same_object else fresh(config)
    assert compare(train(model, table, config, tmp_path / "broken"), wanted)
    assert not changed(weights(straight), model)


def test_the_head_start_is_a_training_of_the_head(table, config, tmp_path):
    """The same code, so the same head as a head-only training with these settings; then all weights go on from it."""
    model, alone = fresh(config), fresh(config)
    train(model, table, config.but(head_epochs=2, epochs=1, learning_rate=1e-9, head_learning_rate=1e-9), tmp_path)
    train(alone, table, config.but(train_mode="head", epochs=2, head_learning_rate=3e-4), tmp_path / "alone")
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=1e-6, rtol=0)
    assert len(events(tmp_path / "logs" / "tiny.head").Scalars("Loss/train")) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_finished_training_returns_at_once(table, config, tmp_path, forbid_training, mode):
    config = config.but(train_mode=mode, epochs=2)
    first = fresh(config)
    wanted = train(first, table, config, tmp_path)
    forbid_training()
    second = fresh(config)
    again = train(second, table, config, tmp_path)
    assert compare(again, wanted) and again.seconds == wanted.seconds
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
        train(fresh(config), table.drop(index=table.index[table["part"] == "train"][0]), config, tmp_path)
    assert len(train(fresh(config), table, config.but(workers=1), tmp_path).history) == 1


@pytest.mark.parametrize("known", [True, False])  # digests of the pictures, from notebook 2.0
def test_moved_pictures_are_the_same_and_replaced_ones_are_not(
    table, config, tmp_path, pictures, forbid_training, known
):
    def placed(folder):
        moved = table.assign(path=[str(folder / file) for file in table["file"]])
        return moved.assign(digest=digests(moved["path"])) if known else moved

    shutil.copytree(pictures, tmp_path / "a")  # with their times
    config = config.but(train_mode="head", epochs=1)
    train(fresh(config), placed(tmp_path / "a"), config, tmp_path)
    forbid_training()
    (tmp_path / "a").rename(tmp_path / "b")
    train(fresh(config), placed(tmp_path / "b"), config, tmp_path)
    replaced = tmp_path / "b" / table.loc[table["part"] == "train", "file"].iloc[0]
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(replaced)
    with pytest.raises(ValueError, match="other settings or images"):
        train(fresh(config), placed(tmp_path / "b"), config, tmp_path)


def test_weights_go_by_their_content(table, config, tmp_path, forbid_training):
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    files[0].write_bytes(b"weights")  # only looked at for the identity; the model's own are random
    config = config.but(train_mode="head", epochs=1, weights=str(files[0]))
    model = fresh(config)
    train(model, table, config, tmp_path)
    forbid_training()
    files[0].rename(files[1])
    train(model, table, config.but(weights=str(files[1])), tmp_path)
    files[1].write_bytes(b"others")
    with pytest.raises(ValueError, match="other settings or images"):
        train(model, table, config.but(weights=str(files[1])), tmp_path)


def test_resume_false_starts_anew(table, config, tmp_path):
    config = config.but(train_mode="head")
    train(fresh(config), table, config.but(learning_rate=1.0), tmp_path)
    old = set((tmp_path / "logs" / "tiny").iterdir())
    wanted = train(fresh(config), table, config, tmp_path / "straight")
    again = train(fresh(config), table, config, tmp_path, resume=False)
    assert compare(again, wanted)
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


@pytest.mark.parametrize("number", [9, 12])  # training and validation of epoch 2
def test_a_loss_that_is_not_finite_stops_and_keeps_the_epoch_before(table, config, tmp_path, monkeypatch, number):
    straight = train(fresh(config), table, config, tmp_path / "straight")
    plain, calls = F.cross_entropy, []

    def diverge(*args, **options):
        calls.append(1)
        return plain(*args, **options) * (torch.nan if len(calls) == number else 1)

    monkeypatch.setattr(F, "cross_entropy", diverge)
    with pytest.raises(FloatingPointError, match=r"nan.*after epoch 1 is kept in .*tiny\.training\.pt"):
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="scaling is for float16 on a GPU")
def test_float16_scaling_resumes_too(table, config, tmp_path, interrupt_at):
    config, file = config.but(train_mode="head", precision="float16"), tmp_path / "models" / "tiny.training.pt"
    steps = []
    for number in (8, 8):  # in epoch 2, then in epoch 3
        interrupt_at(number, fresh(config), table, config, tmp_path)
        steps.append(load_tensors(file)["scaler"]["_growth_tracker"])
    assert steps == [5, 10]  # batches since the scale last changed


def test_float16_is_refused_on_a_processor(table, config, tmp_path):
    with pytest.raises(ValueError, match="float16, which needs a GPU"):
        train(fresh(config), table, config.but(train_mode="head", precision="float16"), tmp_path)


# -- files of the run -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [{"history": 3}, {"best_state": {}}, {"best_state": None}, {"optimizer": {"state": 1}}, {"model": {}}]
)
def test_a_state_with_wrong_keys_is_named_with_a_remedy(table, config, tmp_path, interrupt_at, wrong):
    config, file = config.but(train_mode="head"), tmp_path / "models" / "tiny.training.pt"
    interrupt_at(8, fresh(config), table, config, tmp_path)
    state = load_tensors(file)
    assert not [name for name in (*state["model"], *state["best_state"]) if name.startswith("backbone.")]  # frozen
    save_tensors(state | wrong, file)
    with pytest.raises(CheckpointError, match=r"tiny\.training\.pt.*pass resume=False"):
        train(fresh(config), table, config, tmp_path)
    save_tensors({key: part for key, part in state.items() if key not in wrong}, file)
    with pytest.raises(CheckpointError, match=r"tiny\.training\.pt.*pass resume=False"):
        train(fresh(config), table, config, tmp_path)


def test_a_full_disk_under_tensorboard_is_named(table, config, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("src.classifier.tensorboard.write_epoch", fail)
    with pytest.raises(OSError, match="could not write .*logs/tiny: No space left.*Free some space"):
        train(fresh(config), table, config.but(train_mode="head"), tmp_path)


def _train(table, config, folder, answers):
    torch.set_num_threads(1)
    model = fresh(config)
    result = train(model, table, config, folder)
    answers.put((len(result.history), sum(tensor.double().sum().item() for tensor in weights(model).values())))


def test_two_trainings_of_one_name_take_turns(table, config, tmp_path):
    config, context = config.but(train_mode="head", epochs=8), multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_train, args=(table, config, tmp_path, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = answers.get(timeout=60), answers.get(timeout=60)
    for process in processes:
        process.join()
    assert first == second and first[0] == 8
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["cache", "tiny.training.pt"]


def test_default_folders_are_those_of_paths():
    defaults = train_model.__kwdefaults__
    assert (defaults["models"], defaults["logs"]) == (paths.models, paths.logs)

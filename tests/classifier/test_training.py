"""The training loop: what it learns, what it leaves alone, and that every pooled figure is right by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.classifier import tensorboard
from src.classifier.epochs import Epochs
from src.classifier.features import PictureDataset, compute_features
from src.classifier.model import create_model
from src.classifier.training import train_model
from src.config import CLASS_NAMES
from tests.conftest import CLASSES

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick_figure(monkeypatch):
    """The confusion matrix has its own tests; drawing it takes longer than an epoch here."""
    monkeypatch.setattr(tensorboard, "plot_confusion_matrix", lambda *_, **__: Figure(figsize=(1, 1)))


def train(model, table, config, folder, **options):
    return train_model(model, table, config, device=CPU, models=folder / "models", logs=folder / "logs", **options)


def fresh(config):
    return create_model(config, CLASSES, pretrained=False)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before, model):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


# -- learning -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "epochs"), [("all", 6), ("head", 6)])
def test_it_learns_the_easy_set(table, config, tmp_path, mode, epochs):
    model = fresh(config.but(train_mode=mode))
    result = train(model, table, config.but(train_mode=mode, epochs=epochs, dropout=0.0), tmp_path)
    best = result.history.iloc[result.best_epoch - 1]
    assert best["acc_val"] >= 0.6 and best["loss_val"] < result.history["loss_val"].iloc[0]  # chance is 1/6
    assert list(result.history["epoch"]) == list(range(1, epochs + 1))
    assert (result.device, result.precision) == ("cpu", "torch.float32")
    assert result.seconds == pytest.approx(result.history["seconds"].sum()) and result.seconds > 0


@pytest.mark.parametrize("mode", ["all", "head"])
def test_no_float64_is_made_on_the_device(table, config, tmp_path, mode, no_float64):
    config = config.but(train_mode=mode, epochs=1, feature_blocks=(1, 4))
    with no_float64:
        train(fresh(config), table, config, tmp_path)


@pytest.mark.parametrize("mode", ["all", "head"])
def test_features_of_several_blocks_are_standardised_on_training_images(table, config, tmp_path, mode):
    config = config.but(train_mode=mode, feature_blocks=(1, 4), epochs=1, learning_rate=1e-9)
    model = fresh(config)
    train(model, table, config, tmp_path)
    rows = table[table["part"] == "train"]
    torch.testing.assert_close(
        model.feature_mean, compute_features(model, rows, device=CPU, raw=True).mean(0), rtol=1e-3, atol=1e-4
    )


def test_the_head_may_start_on_the_frozen_backbone(table, config, tmp_path):
    slow = config.but(epochs=1, learning_rate=1e-9, head_learning_rate=1e-9)
    model, started = fresh(slow), fresh(slow)
    before = weights(model)
    noise = train(model, table, slow, tmp_path / "noise").history["loss_val"].iloc[0]
    learned = train(started, table, slow.but(head_epochs=40), tmp_path / "head").history["loss_val"].iloc[0]
    assert learned < noise - 0.02
    apart = {name: (tensor - before[name]).abs().max().item() for name, tensor in started.named_parameters()}
    assert max(value for name, value in apart.items() if name.startswith("backbone.")) < 1e-6
    assert max(value for name, value in apart.items() if name.startswith("classifier.")) > 1e-3


@pytest.mark.parametrize("mode", ["all", "head"])
def test_same_seed_same_weights(table, config, tmp_path, mode):
    config, found = config.but(train_mode=mode, epochs=2), []
    for number, seed in enumerate((42, 42, 43)):
        model = fresh(config)  # the first weights are those of seed 42 every time
        train(model, table, config.but(seed=seed), tmp_path / str(number))
        found.append(weights(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.equal(found[0]["classifier.4.weight"], found[2]["classifier.4.weight"])


def test_the_learning_rate_falls_along_a_cosine(table, config, tmp_path):
    result = train(fresh(config), table, config.but(epochs=4, train_mode="head"), tmp_path)
    wanted = [1e-2 * (1 + np.cos(np.pi * done / 4)) / 2 for done in range(4)]
    assert list(result.history["lr"]) == pytest.approx(wanted)


def test_the_optimiser_is_the_published_one(table, config, tmp_path):
    config = config.but(learning_rate=2e-5, head_learning_rate=None, weight_decay=1e-4)
    optimizer = Epochs(fresh(config), config, CPU).optimizer
    assert type(optimizer) is torch.optim.AdamW
    assert {(group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {(2e-5, 1e-4)}


def test_every_epoch_has_its_own_order(table, config, tmp_path, monkeypatch):
    orders, draw = [], Epochs.batches

    def record(self, *arguments):
        orders.append([])
        for inputs, truth in draw(self, *arguments):
            orders[-1] += truth.tolist()
            yield inputs, truth

    monkeypatch.setattr(Epochs, "batches", record)
    train(fresh(config), table, config.but(train_mode="head", epochs=2), tmp_path)
    first, _, second, validation = orders
    targets = {part: [CLASS_NAMES.index(name) for name in rows["label"]] for part, rows in table.groupby("part")}
    assert sorted(first) == sorted(second) == sorted(targets["train"])
    assert targets["train"] != first != second and validation == targets["validation"]


@pytest.mark.parametrize("mode", ["all", "head"])
def test_the_test_part_is_never_read(table, config, tmp_path, mode):
    table.loc[table["part"] == "test", "path"] = "/nonexistent/test.png"
    result = train(fresh(config), table, config.but(train_mode=mode, epochs=1), tmp_path)
    assert len(result.history) == 1


def test_a_part_without_images_is_named(table, config, tmp_path):
    with pytest.raises(ValueError, match="validation"):
        train(fresh(config), table[table["part"] != "validation"], config, tmp_path)


# -- what is trained ------------------------------------------------------------------------------------


def test_frozen_blocks_keep_their_weights(table, config, tmp_path):
    model = fresh(config)
    before = weights(model)
    train(model, table, config.but(frozen_blocks=4, epochs=1), tmp_path)
    moved = changed(before, model)
    lower = ("cls_token", "pos_embed", "patch_embed.", *(f"blocks.{i}." for i in range(4)))
    assert not [name for name in moved if name.removeprefix("backbone.").startswith(lower)]
    upper = {name for name in before if name.startswith(("backbone.blocks.4.", "backbone.blocks.5.", "classifier."))}
    assert upper <= moved and "backbone.norm.weight" in moved


def test_all_mode_moves_every_weight(table, config, tmp_path):
    model = fresh(config)
    before = weights(model)
    train(model, table, config.but(epochs=1), tmp_path)
    assert changed(before, model) == set(dict(model.named_parameters()))


def test_head_mode_leaves_the_backbone_alone(table, config, tmp_path):
    model = fresh(config)
    before = weights(model)
    train(model, table, config.but(train_mode="head", epochs=1), tmp_path)
    assert changed(before, model) == {name for name in before if name.startswith("classifier.")}


def test_more_frozen_blocks_than_there_are_is_an_error(table, config, tmp_path):
    with pytest.raises(ValueError, match="frozen_blocks is 7.*6 blocks"):
        train(fresh(config), table, config.but(frozen_blocks=7), tmp_path)


def test_gradient_checkpointing_changes_memory_only(table, config, tmp_path):
    plain = train(fresh(config), table, config.but(epochs=2), tmp_path / "a")
    saving = train(fresh(config), table, config.but(epochs=2, checkpoint_gradients=True), tmp_path / "b")
    for column in ("loss_train", "loss_val"):
        assert list(saving.history[column]) == pytest.approx(list(plain.history[column]), abs=1e-4)


# -- sums over batches ----------------------------------------------------------------------------------


@pytest.fixture
def plain_descent(monkeypatch):
    """Steps that are proportional to the gradient; those of Adam would hide a wrong factor."""
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, weight_decay: torch.optim.SGD(groups))


def test_a_step_follows_the_mean_loss_of_its_images(table, config, tmp_path, plain_descent):
    rows = table[table["part"] == "train"].iloc[[0, 20]]
    # A group of 2 images where 8 would have room.
    config = config.but(epochs=1, learning_rate=0.1, head_learning_rate=0.2, dropout=0.0)
    model, trained = fresh(config), fresh(config)
    images, targets = zip(*PictureDataset(rows, model.transform, CLASSES.indices(rows["label"])), strict=True)
    F.cross_entropy(model(torch.stack(images))[0], torch.tensor(targets)).backward()
    train(trained, pd.concat([rows, table[table["part"] == "validation"]]), config, tmp_path)
    for (name, before), after in zip(model.named_parameters(), trained.parameters(), strict=True):
        rate = 0.2 if name.startswith("classifier") else 0.1
        torch.testing.assert_close(after, before - rate * before.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rows", [32, 34, 29])  # the last group: whole, half a batch, a batch and one image
def test_two_batches_of_4_are_one_of_8(table, config, tmp_path, plain_descent, rows):
    table = table.drop(index=table.index[table["part"] == "train"][rows:])
    config, found = config.but(epochs=1, learning_rate=0.05, head_learning_rate=None, dropout=0.0), []
    for batch_size, batches in ((8, 1), (4, 2)):
        model = fresh(config)
        result = train(
            model, table, config.but(batch_size=batch_size, accumulate_batches=batches), tmp_path / str(batches)
        )
        found.append((weights(model), result.history))
    (whole, whole_history), (parts, parts_history) = found
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-5, rtol=1e-4)
    for column in ("loss_train", "loss_val", "acc_train", "acc_val"):
        assert parts_history[column].item() == pytest.approx(whole_history[column].item(), abs=1e-5)


@pytest.mark.parametrize("mode", ["all", "head"])
def test_loss_and_accuracy_are_pooled_over_uneven_batches(table, config, tmp_path, monkeypatch, mode):
    table = table.drop(index=table.index[table["part"] == "train"][34:])
    logits, targets = [], []
    answer, draw = Epochs.logits, Epochs.batches

    def record_logits(self, inputs):
        logits.append(answer(self, inputs))
        return logits[-1]

    def record_targets(self, *arguments):
        for inputs, truth in draw(self, *arguments):
            targets.append(truth)
            yield inputs, truth

    monkeypatch.setattr(Epochs, "logits", record_logits)
    monkeypatch.setattr(Epochs, "batches", record_targets)
    history = train(fresh(config), table, config.but(train_mode=mode, epochs=1), tmp_path).history.iloc[0]
    assert [len(batch) for batch in targets] == [8, 8, 8, 8, 2, 8, 4]
    for part, first, last in (("train", 0, 5), ("val", 5, 7)):
        found, truth = torch.cat(logits[first:last]).detach(), torch.cat(targets[first:last])
        probability = found.softmax(1)[torch.arange(len(truth)), truth]
        assert history[f"loss_{part}"] == pytest.approx(-probability.log().mean().item(), rel=1e-5)
        assert history[f"acc_{part}"] == pytest.approx((found.argmax(1) == truth).sum().item() / len(truth))


# -- the best epoch -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "losses", "best"),
    [
        ((5, 9, 9, 7), (1.0, 0.5, 0.4, 0.1), 3),  # accuracy first, then loss
        ((5, 9, 9, 9), (1.0, 0.4, 0.4, 0.5), 2),  # the earlier of equals
        ((9, 5, 5, 5), (2.0, 1.0, 1.0, 1.0), 1),
    ],
)
def test_the_best_epoch_is_kept(table, config, tmp_path, monkeypatch, right, losses, best):
    kept = []

    def validate(self, epoch, dataset):
        targets = np.zeros(12, int)
        predictions = np.arange(12) >= right[len(kept)]
        kept.append(weights(self.model))
        return losses[len(kept) - 1], predictions.astype(int), targets

    monkeypatch.setattr(Epochs, "validate", validate)
    model = fresh(config)
    result = train(model, table, config.but(train_mode="head", epochs=4), tmp_path)
    assert result.best_epoch == best
    assert list(result.history["acc_val"]) == pytest.approx([count / 12 for count in right])
    assert not changed(kept[best - 1], model)
    assert changed(kept[best % 4], model)


# -- TensorBoard ----------------------------------------------------------------------------------------


def events(folder):
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "histograms": 0}).Reload()


def test_tensorboard_has_every_curve(table, config, tmp_path):
    result = train(fresh(config), table, config.but(epochs=2), tmp_path)
    found = events(tmp_path / "logs" / "tiny")
    curves = {
        "Loss/train": "loss_train",
        "Loss/val": "loss_val",
        "Accuracy/train": "acc_train",
        "Accuracy/val": "acc_val",
        "Learning Rate": "lr",
    }
    assert set(curves) <= set(found.Tags()["scalars"])
    for tag, column in curves.items():
        assert [event.step for event in found.Scalars(tag)] == [1, 2]
        assert [event.value for event in found.Scalars(tag)] == pytest.approx(list(result.history[column]))
    best = result.history.iloc[result.best_epoch - 1]
    assert found.Scalars("Best/accuracy_val")[0].value == pytest.approx(best["acc_val"])


def test_tensorboard_has_images_histograms_and_settings(table, config, tmp_path):
    train(fresh(config), table, config.but(epochs=2, train_mode="head"), tmp_path)
    found = events(tmp_path / "logs" / "tiny")
    (grid,) = found.Images("Images/train, as the model sees them")
    assert grid.width * grid.height >= 2 * len(CLASS_NAMES) * 48**2  # two images a class
    assert "Confusion matrix/validation" in found.Tags()["images"]
    assert [event.step for event in found.Histograms("classifier/4.weight")] == [1, 2]
    assert "_hparams_/session_start_info" in found.summary_metadata
    assert b"vit" in found.summary_metadata["_hparams_/session_start_info"].plugin_data.content


def test_validation_is_without_dropout(table, config, tmp_path):
    config = config.but(train_mode="head", epochs=1, dropout=0.5)
    model = fresh(config)
    history = train(model, table, config, tmp_path).history
    rows = table[table["part"] == "validation"]
    images, targets = zip(*PictureDataset(rows, model.transform, CLASSES.indices(rows["label"])), strict=True)
    with torch.no_grad():
        loss = F.cross_entropy(model.eval()(torch.stack(images))[0], torch.tensor(targets)).item()
    assert history["loss_val"].item() == pytest.approx(loss, rel=1e-4)

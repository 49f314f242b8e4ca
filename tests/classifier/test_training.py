"""The training loop: what it learns, what it leaves alone, and that every pooled figure is right by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from src.classifier import epochs
from src.classifier.evaluation import describe_run
from src.classifier.features import PictureDataset, compute_features
from src.config import CLASS_NAMES
from tests.classifier.conftest import CPU, changed, fresh, train, weights
from tests.conftest import CLASSES

pytestmark = pytest.mark.usefixtures("quick_figure")


@pytest.fixture
def losses(monkeypatch):
    """The logits and targets that each loss was computed from: of a batch in training, of all images in validation."""
    calls, plain = [], F.cross_entropy

    def record(logits, targets, **options):
        calls.append((logits.detach().clone(), targets.clone()))
        return plain(logits, targets, **options)

    monkeypatch.setattr(F, "cross_entropy", record)
    return calls


# -- learning -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "last"), [("all", 6), ("head", 6)])
def test_it_learns_the_easy_set(table, config, tmp_path, mode, last):
    model = fresh(config.but(train_mode=mode))
    result = train(model, table, config.but(train_mode=mode, epochs=last, dropout=0.0), tmp_path)
    best = result.history.iloc[result.best_epoch - 1]
    assert best["acc_val"] >= 0.6 and best["loss_val"] < result.history["loss_val"].iloc[0]  # chance is 1/6
    assert list(result.history["epoch"]) == list(range(1, last + 1))
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


def test_the_optimiser_is_the_published_one(table, config, tmp_path, monkeypatch):
    made, published = [], torch.optim.AdamW
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda *args, **kwargs: made.append(published(*args, **kwargs)) or made[0]
    )
    config = config.but(epochs=1, learning_rate=2e-5, head_learning_rate=None, weight_decay=1e-4)
    train(fresh(config), table, config, tmp_path)
    groups = made[0].param_groups
    assert len(made) == 1 and {(g["initial_lr"], g["weight_decay"]) for g in groups} == {(2e-5, 1e-4)}


def test_every_epoch_has_its_own_order(table, config, tmp_path, losses):
    train(fresh(config), table, config.but(train_mode="head", epochs=2), tmp_path)
    targets = {part: [CLASS_NAMES.index(name) for name in rows["label"]] for part, rows in table.groupby("part")}
    batches = [truth.tolist() for _, truth in losses]
    first, second = (sum(batches[start : start + 5], []) for start in (0, 6))
    assert sorted(first) == sorted(second) == sorted(targets["train"])
    assert targets["train"] != first != second
    assert batches[5] == batches[11] == targets["validation"]


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


def all_of(rows, model):
    """The images and targets of a table in one batch."""
    return PictureDataset(rows, model.transform, torch.from_numpy(CLASSES.indices(rows["label"])))[range(len(rows))]


@pytest.fixture
def plain_descent(monkeypatch):
    """Steps that are proportional to the gradient; those of Adam would hide a wrong factor."""
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **_: torch.optim.SGD(groups))


def test_a_step_follows_the_mean_loss_of_its_images(table, config, tmp_path, plain_descent):
    rows = table[table["part"] == "train"].iloc[[0, 20]]
    # A group of 2 images where 8 would have room.
    config = config.but(epochs=1, learning_rate=0.1, head_learning_rate=0.2, dropout=0.0)
    model, trained = fresh(config), fresh(config)
    images, targets = all_of(rows, model)
    F.cross_entropy(model(images)[0], targets).backward()
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
def test_loss_and_accuracy_are_pooled_over_uneven_batches(table, config, tmp_path, losses, mode):
    table = table.drop(index=table.index[table["part"] == "train"][34:])
    history = train(fresh(config), table, config.but(train_mode=mode, epochs=1), tmp_path).history.iloc[0]
    assert [len(truth) for _, truth in losses] == [8, 8, 8, 8, 2, 12]
    for part, calls in (("train", losses[:5]), ("val", losses[5:])):
        logits, truth = (torch.cat(values) for values in zip(*calls, strict=True))
        probability = logits.softmax(1)[torch.arange(len(truth)), truth]
        assert history[f"loss_{part}"] == pytest.approx(-probability.log().mean().item(), rel=1e-5)
        assert history[f"acc_{part}"] == pytest.approx((logits.argmax(1) == truth).sum().item() / len(truth))


def test_validation_is_without_dropout(table, config, tmp_path):
    config = config.but(train_mode="head", epochs=1, dropout=0.5)
    model = fresh(config)
    history = train(model, table, config, tmp_path).history
    rows = table[table["part"] == "validation"]
    images, targets = all_of(rows, model)
    with torch.no_grad():
        loss = F.cross_entropy(model.eval()(images)[0], targets).item()
    assert history["loss_val"].item() == pytest.approx(loss, rel=1e-4)


# -- the best epoch -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "margins", "best"),
    [
        ((5, 9, 9, 7), (0.1, 0.2, 0.3, 0.5), 3),  # accuracy first, then loss, which falls with the margin
        ((5, 9, 9, 9), (0.1, 0.3, 0.3, 0.2), 2),  # the earlier of equals
        ((9, 5, 5, 5), (0.1, 0.5, 0.5, 0.5), 1),
    ],
)
def test_the_best_epoch_is_kept(table, config, tmp_path, monkeypatch, right, margins, best):
    config, kept = config.but(train_mode="head", epochs=4, batch_size=36), []
    model, targets = fresh(config), CLASSES.indices(table.loc[table["part"] == "validation", "label"])
    plain = model.classifier.forward

    def answer(features):
        """In validation: so many right answers, by a margin, and the rest wrong by it."""
        if model.training:
            return plain(features)
        epoch, named = len(kept), np.where(np.arange(12) < right[len(kept)], targets, (targets + 1) % 6)
        kept.append(weights(model))
        return margins[epoch] * F.one_hot(torch.from_numpy(named), 6).float()

    monkeypatch.setattr(model.classifier, "forward", answer)
    result = train(model, table, config, tmp_path)
    assert result.best_epoch == best
    assert list(result.history["acc_val"]) == pytest.approx([count / 12 for count in right])
    assert not changed(kept[best - 1], model)
    assert changed(kept[best % 4], model)


# -- precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "precision"), [(1.05, "torch.float32"), (1.4, "torch.bfloat16")])
def test_half_precision_is_taken_where_it_is_measured_to_gain(table, config, tmp_path, monkeypatch, gain, precision):
    config, measured = config.but(precision="auto", epochs=1), []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.setattr(epochs, "training_gain", lambda *_: measured.append(1) or gain)
    kinds = []
    model = fresh(config)
    model.classifier[1].register_forward_hook(lambda _, __, answers: kinds.append(answers.dtype))
    for _ in range(2):  # the second time it is read from the state file
        result = train(model, table, config, tmp_path)
        assert (result.precision, result.gain) == (precision, gain)
    assert len(measured) == 1 and {str(kind) for kind in kinds} == {precision}
    assert describe_run(config, model, table, result, dataset="tiny")["half_precision_gain"] == gain


def test_a_precision_that_is_asked_for_is_not_measured(table, config, tmp_path):
    assert train(fresh(config), table, config.but(epochs=1, precision="bfloat16"), tmp_path).gain is None

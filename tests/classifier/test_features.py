"""One pass of the backbone over a table: order, cache, and what makes it start anew."""

import logging
import os

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src import files
from src.classifier import features
from src.classifier.features import PictureDataset, compute_features, load_batches, weights_identity
from src.config import paths
from src.data.pictures import UnreadableImageError, load_image
from src.data.tables import digests
from src.files import CheckpointError, load_tensors

CPU = torch.device("cpu")


@pytest.fixture
def rows(table, tmp_path):
    """Ten images of the table, copied so that a test may change them."""
    rows = table.sample(10, random_state=0).reset_index(drop=True)
    paths = []
    for number, path in enumerate(rows["path"]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.open(path).save(paths[-1])
    return rows.assign(path=paths)


@pytest.fixture
def passed(model):
    """How many images the network has been given, as a list of batch sizes."""
    sizes = []
    model.backbone.register_forward_hook(lambda _, images, __: sizes.append(len(images[0])))
    return sizes


@pytest.fixture(autouse=True)
def batches_of_4(monkeypatch):
    monkeypatch.setattr(features, "IMAGES_AT_ONCE", 4)


def compute(model, rows, **options):
    return compute_features(model, rows, **{"device": CPU, "workers": 0} | options)


def one_by_one(model, rows):
    return torch.cat([model.extract_features(model.transform(load_image(path))[None]) for path in rows["path"]])


def touch(path, pixels):
    """Other pixels, and a time that differs whatever the file system's grain."""
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(1, os.stat(path).st_mtime_ns + 10**9))


# -- features -------------------------------------------------------------------------------------------


def test_features_stand_in_the_order_of_the_table(model, rows):
    model.train()  # dropout and the like must not matter
    values = compute(model, rows)
    torch.testing.assert_close(values, one_by_one(model, rows))
    assert values.shape == (10, 64) and values.dtype == torch.float32 and values.device == CPU
    assert model.training
    torch.testing.assert_close(compute(model, rows.iloc[::-1]), values.flip(0))
    assert (values[0] - values[1]).abs().max() > 1e-3


def test_known_copies_are_computed_once(model, rows, passed):
    copied = pd.concat([rows, rows.iloc[:3]], ignore_index=True)
    values = compute(model, copied.assign(digest=digests(copied["path"])))
    assert sum(passed) == 10 and torch.equal(values[10:], values[:3])


def test_worker_processes_change_nothing(model, rows):
    torch.testing.assert_close(compute(model, rows, workers=1), compute(model, rows))


def test_an_unreadable_image_is_named_and_the_rest_is_kept(model, rows, passed, tmp_path):
    (tmp_path / "8.png").write_bytes((tmp_path / "8.png").read_bytes()[:100])
    with pytest.raises(UnreadableImageError, match="8.png"):
        compute(model, rows, cache=tmp_path / "cache")
    assert passed == [4, 4]
    assert compute(model, rows.drop(index=8), cache=tmp_path / "cache").shape == (9, 64)
    assert passed == [4, 4, 1]


# -- cache ----------------------------------------------------------------------------------------------


def test_a_second_pass_does_not_run_the_model(model, rows, passed, tmp_path):
    first = compute(model, rows, cache=tmp_path / "cache")
    again = compute(model, rows.sample(frac=1, random_state=1).sort_index(), cache=tmp_path / "cache")
    assert passed == [4, 4, 2] and torch.equal(first, again)
    part = compute(model, rows.iloc[[7, 2]], cache=tmp_path / "cache")
    assert passed == [4, 4, 2] and torch.equal(part, first[[7, 2]])


def test_without_a_cache_nothing_is_written(model, rows, passed, tmp_path):
    before = sorted(tmp_path.iterdir())
    compute(model, rows)
    compute(model, rows)
    assert sum(passed) == 20 and sorted(tmp_path.iterdir()) == before


def test_an_interrupted_pass_goes_on(model, rows, passed, tmp_path, monkeypatch):
    wanted = compute(model, rows)
    passed.clear()
    transform, calls = model.transform.forward, []

    def interrupt(image):
        calls.append(image)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return transform(image)

    monkeypatch.setattr(model.transform, "forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compute(model, rows, cache=tmp_path / "cache")
    assert passed == [4]
    torch.testing.assert_close(compute(model, rows, cache=tmp_path / "cache"), wanted)
    assert passed == [4, 4, 2] and len(calls) == 7 + 6


def test_a_long_pass_is_saved_on_the_way(model, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SAVE_EVERY_SECONDS", -1)
    written = []
    monkeypatch.setattr(features, "write_kept", lambda kept, _: written.append(len(kept["identities"])))
    compute(model, rows, cache=tmp_path / "cache")
    assert written == [4, 8, 10, 10]


def test_a_full_disk_costs_the_cache_not_the_features(model, rows, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise CheckpointError("could not write x: No space left on device")

    monkeypatch.setattr(files, "save_tensors", full)
    torch.testing.assert_close(compute(model, rows, cache=tmp_path / "cache"), one_by_one(model, rows))
    assert "No space left" in caplog.text


def test_a_changed_picture_is_computed_anew(model, rows, passed, tmp_path):
    before = compute(model, rows, cache=tmp_path / "cache")
    touch(tmp_path / "3.png", np.zeros((48, 48, 3), np.uint8))
    after = compute(model, rows, cache=tmp_path / "cache")
    assert passed == [4, 4, 2, 1]
    assert (before != after).any(1).nonzero().flatten().tolist() == [3]
    torch.testing.assert_close(after, one_by_one(model, rows))
    passed.clear()
    os.utime(tmp_path / "5.png", ns=(1, 2 * 10**18))  # the same picture at another time
    compute(model, rows, cache=tmp_path / "cache")
    assert passed == []
    Image.new("RGB", (48, 48), (1, 2, 3)).save(tmp_path / "5.png")
    os.utime(tmp_path / "5.png", ns=(1, 2 * 10**18))  # another picture of the same time
    compute(model, rows, cache=tmp_path / "cache")
    assert passed == [1]


def test_other_weights_or_another_precision_are_computed_anew(model, rows, passed, tmp_path):
    before = compute(model, rows, cache=tmp_path / "cache")
    compute(model, rows, cache=tmp_path / "cache", precision="bfloat16")
    assert sum(passed) == 20
    with torch.no_grad():
        model.backbone.blocks[2].mlp.fc1.bias[5] += 1
    after = compute(model, rows, cache=tmp_path / "cache")
    assert sum(passed) == 30 and (before != after).any(1).all()
    with torch.no_grad():
        model.classifier[1].bias[0] += 1  # the head has no part in the features
    compute(model, rows, cache=tmp_path / "cache")
    assert sum(passed) == 30


@pytest.mark.parametrize("known", [True, False])  # digests of the pictures, from notebook 2.0
def test_moved_pictures_are_the_same_and_replaced_ones_are_not(model, rows, passed, tmp_path, known):
    def placed(folder):
        moved = rows.assign(path=[str(folder / f"{i}.png") for i in range(10)])
        return moved.assign(digest=digests(moved["path"])) if known else moved

    before = compute(model, placed(tmp_path), cache=tmp_path / "cache")
    (tmp_path / "other").mkdir()
    for i in range(10):
        (tmp_path / f"{i}.png").rename(tmp_path / "other" / f"{i}.png")
    assert torch.equal(compute(model, placed(tmp_path / "other"), cache=tmp_path / "cache"), before)
    assert sum(passed) == 10
    touch(tmp_path / "other" / "3.png", np.zeros((48, 48, 3), np.uint8))
    compute(model, placed(tmp_path / "other"), cache=tmp_path / "cache")
    assert sum(passed) == 11


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_damaged_cache_is_reported_and_replaced(model, rows, passed, tmp_path, caplog, damage):
    wanted = compute(model, rows, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-500])
    else:
        file.write_text("no tensors")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(compute(model, rows, cache=tmp_path / "cache"), wanted)
    assert "anew" in caplog.text and sum(passed) == 20
    compute(model, rows, cache=tmp_path / "cache")
    assert sum(passed) == 20


@pytest.mark.parametrize(
    "wrong",
    [torch.ones(9), torch.full((64,), torch.nan), [1, 2], "text", torch.ones(64, 1)],
    ids=lambda each: str(each)[:9],
)
def test_a_cache_of_something_else_is_reported_and_replaced(model, rows, passed, tmp_path, caplog, wrong):
    wanted = compute(model, rows, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    torch.save(load_tensors(file) | {"features": wrong}, file)
    assert torch.equal(compute(model, rows, cache=tmp_path / "cache"), wanted)
    assert "anew" in caplog.text and file.name in caplog.text and sum(passed) == 20


def _replace(number, model, rows):
    """Replaces one of 20 inputs, and returns the options of the second pass; a file keeps its size and time."""
    if number < 10:
        path, times = rows["path"][number], os.stat(rows["path"][number])
        Image.fromarray(np.asarray(Image.open(path)) ^ 1).save(path)
        with open(path, "ab") as file:
            file.truncate(times.st_size)  # Pillow reads a PNG with bytes behind its end, and one without its last
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif number < 17:
        tensors = list(model.backbone.state_dict().values())
        with torch.no_grad():
            tensors[(number - 10) * len(tensors) // 7].view(-1)[0] += 0.5
    elif number == 17:
        model.settings["backbone"] = "test_vit4"
    elif number == 18:
        model.image_size = 32
    return {"precision": "bfloat16" if number == 19 else "float32"}


@pytest.mark.parametrize("number", range(20))
def test_no_replaced_input_gets_the_answer_of_the_old_one(model, rows, passed, tmp_path, number):
    for path in rows["path"]:  # so much room that another picture fits into as many bytes
        Image.open(path).save(path, compress_level=0)
    rows = rows.drop(columns="digest", errors="ignore")
    compute(model, rows, cache=tmp_path / "cache", precision="float32")
    passed.clear()
    options = _replace(number, model, rows)
    compute(model, rows, cache=tmp_path / "cache", **options)
    assert sum(passed) == (1 if number < 10 else 10)


def test_weights_go_by_their_file_or_by_their_name(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert weights_identity(str(tmp_path / "a")) != weights_identity(str(tmp_path / "b"))
    assert weights_identity("timm") == "timm"
    assert weights_identity("shipped") == weights_identity(str(paths.shipped_backbone))


# -- data set -------------------------------------------------------------------------------------------


def mean_grey(image):
    return torch.tensor(np.asarray(image, dtype=np.float32).mean())


def test_a_data_set_gives_transformed_images_and_targets_many_at_a_time(tmp_path):
    for name, colour in (("a", 10), ("b", 20), ("c", 30)):
        Image.new("L", (4, 3), colour).save(tmp_path / f"{name}.png")
    table = pd.DataFrame({"path": [str(tmp_path / f"{name}.png") for name in "abc"]})
    for targets in (np.array(["x", "y", "z"]), torch.tensor([5, 0, 4])):
        images, chosen = PictureDataset(table, mean_grey, targets)[[2, 0]]
        assert images.tolist() == [30, 10] and list(chosen) == [targets[2], targets[0]]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_follow_the_generator_or_the_table(rows, model, workers):
    dataset = PictureDataset(rows, model.transform, torch.arange(10))

    def order(generator=None):
        loader = load_batches(dataset, 4, device=CPU, workers=workers, generator=generator)
        batches = [targets.tolist() for _, targets in loader]
        assert [len(batch) for batch in batches] == [4, 4, 2]
        return sum(batches, [])

    assert order() == list(range(10))
    first, second, other = (order(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert sorted(first) == list(range(10)) and first == second != other


def test_an_empty_table_is_refused(model, rows):
    with pytest.raises(ValueError, match="empty"):
        compute(model, rows.iloc[:0])

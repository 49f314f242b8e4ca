"""One pass of the backbone over a table: order, cache, what makes it start anew, and the choices by machine."""

import logging
import os

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src import files
from src.backbone.device import autocast, choose_device, choose_precision, choose_workers
from src.classifier import features
from src.classifier.features import PictureDataset, compute_features
from src.data.pictures import UnreadableImageError, load_image
from src.files import CheckpointError
from tests.conftest import CLASSES
from tests.data.test_tables import draw

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


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
def seen(model, monkeypatch):
    """How many images the backbone has been given, as a list of batch sizes."""
    sizes, extract = [], model.extract_features
    monkeypatch.setattr(
        model, "extract_features", lambda images, **options: sizes.append(len(images)) or extract(images, **options)
    )
    return sizes


def compute(model, rows, **options):
    return compute_features(model, rows, **{"device": CPU, "batch_size": 4, "workers": 0} | options)


def one_by_one(model, rows):
    return torch.cat([model.extract_features(model.transform(load_image(path))[None]) for path in rows["path"]])


def touch(path, pixels):
    """Other pixels, and a time that differs whatever the file system's grain."""
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(1, os.stat(path).st_mtime_ns + 10**9))


# -- features -------------------------------------------------------------------------------------------


def test_features_stand_in_the_order_of_the_table(model, rows):
    model.train()  # dropout and the like must not matter
    found = compute(model, rows)
    torch.testing.assert_close(found, one_by_one(model, rows))
    assert found.shape == (10, 64) and found.dtype == torch.float32 and found.device == CPU
    assert model.training
    turned = rows.iloc[::-1]
    torch.testing.assert_close(compute(model, turned), found.flip(0))
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_worker_processes_change_nothing(model, rows):
    torch.testing.assert_close(compute(model, rows, workers=1), compute(model, rows))


def test_an_unreadable_image_is_named_and_the_rest_is_kept(model, rows, seen, tmp_path):
    (tmp_path / "8.png").write_bytes((tmp_path / "8.png").read_bytes()[:100])
    with pytest.raises(UnreadableImageError, match="8.png"):
        compute(model, rows, cache=tmp_path / "cache")
    assert seen == [4, 4]
    found = compute(model, rows.drop(index=8), cache=tmp_path / "cache")
    assert seen == [4, 4, 1] and found.shape == (9, 64)


# -- cache ----------------------------------------------------------------------------------------------


def test_a_second_pass_does_not_run_the_model(model, rows, seen, tmp_path):
    first = compute(model, rows, cache=tmp_path / "cache")
    again = compute(model, rows.sample(frac=1, random_state=1).sort_index(), cache=tmp_path / "cache")
    assert seen == [4, 4, 2] and torch.equal(first, again)
    part = compute(model, rows.iloc[[7, 2]], cache=tmp_path / "cache")
    assert seen == [4, 4, 2] and torch.equal(part, first[[7, 2]])


def test_without_a_cache_nothing_is_written(model, rows, seen, tmp_path):
    before = sorted(tmp_path.iterdir())
    compute(model, rows)
    compute(model, rows)
    assert sum(seen) == 20 and sorted(tmp_path.iterdir()) == before


def test_an_interrupted_pass_goes_on(model, rows, seen, tmp_path, monkeypatch):
    wanted = compute(model, rows)
    seen.clear()
    transform, calls = model.transform.forward, []

    def interrupt(image):
        calls.append(image)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return transform(image)

    monkeypatch.setattr(model.transform, "forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compute(model, rows, cache=tmp_path / "cache")
    assert seen == [4]
    found = compute(model, rows, cache=tmp_path / "cache")
    assert seen == [4, 4, 2] and len(calls) == 7 + 6
    torch.testing.assert_close(found, wanted)


def test_a_long_pass_is_saved_on_the_way(model, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SAVE_EVERY_SECONDS", -1)
    written = []
    monkeypatch.setattr(features, "write_kept", lambda content, _: written.append(len(content["keys"])))
    compute(model, rows, cache=tmp_path / "cache")
    assert written == [4, 8, 10, 10]


def test_a_full_disk_costs_the_cache_not_the_features(model, rows, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise CheckpointError("could not write x: No space left on device")

    monkeypatch.setattr(files, "save_tensors", full)
    torch.testing.assert_close(compute(model, rows, cache=tmp_path / "cache"), one_by_one(model, rows))
    assert "No space left" in caplog.text


def test_a_changed_picture_is_computed_anew(model, rows, seen, tmp_path):
    before = compute(model, rows, cache=tmp_path / "cache")
    touch(tmp_path / "3.png", np.zeros((48, 48, 3), np.uint8))
    after = compute(model, rows, cache=tmp_path / "cache")
    assert seen == [4, 4, 2, 1]
    assert (before != after).any(1).nonzero().flatten().tolist() == [3]
    torch.testing.assert_close(after, one_by_one(model, rows))
    seen.clear()
    os.utime(tmp_path / "5.png", ns=(1, 2 * 10**18))  # of the same size, perhaps another picture
    compute(model, rows, cache=tmp_path / "cache")
    assert seen == [1]
    Image.new("RGB", (48, 48)).save(tmp_path / "5.png")
    os.utime(tmp_path / "5.png", ns=(1, 2 * 10**18))  # of the same time
    compute(model, rows, cache=tmp_path / "cache")
    assert seen == [1, 1]


def test_other_weights_or_another_precision_are_computed_anew(model, rows, seen, tmp_path):
    before = compute(model, rows, cache=tmp_path / "cache")
    compute(model, rows, cache=tmp_path / "cache", precision="bfloat16")
    assert sum(seen) == 20
    with torch.no_grad():
        model.backbone.blocks[2].mlp.fc1.bias[5] += 1
    after = compute(model, rows, cache=tmp_path / "cache")
    assert sum(seen) == 30 and (before != after).any(1).all()
    with torch.no_grad():
        model.classifier[1].bias[0] += 1  # the head has no part in the features
    compute(model, rows, cache=tmp_path / "cache")
    assert sum(seen) == 30


@pytest.mark.parametrize("damage", ["cut", "text", "other content", "other lengths"])
def test_a_damaged_cache_is_reported_and_replaced(model, rows, seen, tmp_path, caplog, damage):
    wanted = compute(model, rows, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-500])
    elif damage == "text":
        file.write_text("no tensors")
    else:
        torch.save({"other content": {"a": 1}, "other lengths": {"keys": ["a"], "features": wanted}}[damage], file)
    with caplog.at_level(logging.WARNING):
        found = compute(model, rows, cache=tmp_path / "cache")
    assert "anew" in caplog.text and sum(seen) == 20
    assert torch.equal(found, wanted)
    compute(model, rows, cache=tmp_path / "cache")
    assert sum(seen) == 20


# -- choices by machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "images", "device", "cores", "workers"),
    [
        (3, 10, CPU, 1, 3),  # what is asked for
        (0, 10_000, CUDA, 64, 0),
        (None, 255, CPU, 8, 0),  # too few images to pay
        (None, 256, CPU, 8, 2),
        (None, 256, CPU, 2, 1),  # one core computes
        (None, 10_000, CPU, 1, 0),
        (None, 10_000, CPU, None, 0),
        (None, 10_000, CUDA, 4, 4),
        (None, 10_000, CUDA, 64, 8),
    ],
)
def test_choose_workers(monkeypatch, wanted, images, device, cores, workers):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert choose_workers(wanted, images, device) == workers


@pytest.mark.parametrize(
    ("device", "bfloat16", "tiles", "precision"),
    [
        (CUDA, True, False, torch.bfloat16),
        (CUDA, False, False, torch.float16),
        (CPU, False, True, torch.bfloat16),
        (CPU, True, False, torch.float32),
        (torch.device("mps"), True, True, torch.float32),
    ],
)
def test_choose_precision(monkeypatch, device, bfloat16, tiles, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": tiles})
    assert choose_precision(device) == precision
    assert choose_precision(device, "float16") == torch.float16
    assert choose_precision(device, "float32") == torch.float32


@pytest.mark.parametrize(("cuda", "mps", "device"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_choose_device(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device().type == device
    assert choose_device("cpu") == CPU


def test_autocast_changes_the_type_of_products():
    product = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (product @ product).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (product @ product).dtype == torch.float32


def mean_grey(image):
    return torch.tensor(np.asarray(image, dtype=np.float32).mean())


def test_dataset_gives_transformed_images_and_class_indices(tmp_path):
    rows = [("pinhole", 10), ("folding_marks", 20), ("non_defective", 30)]
    for name, colour in rows:
        draw(tmp_path / f"{name}.png", colour=colour)
    table = pd.DataFrame({"path": [str(tmp_path / f"{n}.png") for n, _ in rows], "label": [n for n, _ in rows]})
    dataset = PictureDataset(table, mean_grey, CLASSES.indices(table["label"]))
    assert [(image.item(), target) for image, target in (dataset[i] for i in range(len(dataset)))] == [
        (10, 5),
        (20, 0),
        (30, 4),
    ]
    (tmp_path / "pinhole.png").write_text("no picture")
    with pytest.raises(UnreadableImageError, match="pinhole.png"):
        dataset[0]


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="empty"):
        PictureDataset(pd.DataFrame(columns=["path", "label"]), mean_grey)

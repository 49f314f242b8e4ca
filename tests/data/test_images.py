"""Tables and data sets: forgiving names, errors that name the file.

Reading odd pictures has test_datasets_images.py.
"""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.config import CLASS_NAMES
from src.data.images import (
    LeatherDefectDataset,
    MVTecTestDataset,
    UnreadableImageError,
    canonical_class_name,
    index_images,
    index_mvtec,
)


def draw(path, *, size=(4, 3), colour=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, colour).save(path)


def six_classes(root, *, images=2, skip=()):
    for name in CLASS_NAMES:
        (root / name).mkdir(parents=True)
        for number in range(images if name not in skip else 0):
            draw(root / name / f"{number}.png")
    return root


def mvtec(root, *files):
    for file in files or ("train/good/0.png", "test/good/0.png", "test/cut/0.png", "ground_truth/cut/0_mask.png"):
        draw(root / "leather" / file)
    return root


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        *((name, name) for name in CLASS_NAMES),
        ("loose_grains", "loose_grain"),
        ("Loose grain", "loose_grain"),
        ("LooseGrain", "loose_grain"),
        ("Folding marks", "folding_marks"),
        ("folding-mark", "folding_marks"),
        ("Growth mark", "growth_marks"),
        ("Grain off", "grain_off"),
        ("non-defective", "non_defective"),
        ("Non defective", "non_defective"),
        ("nondefective", "non_defective"),
        ("Pinholes", "pinhole"),
        (" PINHOLE ", "pinhole"),
        ("defective", None),
        ("grain", None),
        ("marks", None),
        ("good", None),
        ("", None),
        ("123", None),
    ],
)
def test_class_folders_are_matched_forgivingly(folder, expected):
    assert canonical_class_name(folder) == expected


def test_index_by_hand(tmp_path, caplog):
    for file in (
        "Folding marks/b.png",
        "Folding marks/a.PNG",
        "grain_off/x.tif",
        "Growth mark/x.bmp",
        "loose_grains/x.jpg",
        "non-defective/x.jpeg",
        "Pinholes/x.webp",
        "misc/x.png",
    ):
        draw(tmp_path / file)
    (tmp_path / "grain_off" / "Thumbs.db").touch()
    with caplog.at_level(logging.WARNING):
        table = index_images(tmp_path)
    assert table["file"].tolist() == [
        "Folding marks/a.PNG",
        "Folding marks/b.png",
        "Growth mark/x.bmp",
        "Pinholes/x.webp",
        "grain_off/x.tif",
        "loose_grains/x.jpg",
        "non-defective/x.jpeg",
    ]
    assert table["label"].tolist() == [
        "folding_marks",
        "folding_marks",
        "growth_marks",
        "pinhole",
        "grain_off",
        "loose_grain",
        "non_defective",
    ]
    assert table["path"].tolist() == [str(tmp_path / file) for file in table["file"]]
    assert table["group"].tolist() == table["file"].tolist()
    assert [str(tmp_path / "misc") in record.getMessage() for record in caplog.records] == [True]


def test_missing_folder_and_classes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'nowhere'}.*1.0.download-datasets.ipynb"):
        index_images(tmp_path / "nowhere")
    six_classes(tmp_path, skip=("pinhole", "grain_off"))  # folders that are there, but empty
    (tmp_path / "grain_off").rmdir()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} has no image of: grain_off, pinhole"):
        index_images(tmp_path)


def test_one_image_a_class_can_be_indexed(tmp_path):
    table = index_images(six_classes(tmp_path, images=1))
    assert len(table) == 6


def test_hides_are_read_as_text(tmp_path):
    six_classes(tmp_path)
    rows = [f"{name}/{number}.png,{name},0{number}" for name in CLASS_NAMES for number in range(2)]
    (tmp_path / "hides.csv").write_text("\n".join(["path,label,hide", *rows, "pinhole/gone.png,pinhole,7"]))
    table = index_images(tmp_path)
    assert table["group"].tolist() == ["00", "01"] * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "no hide for 1 images, the first is pinhole/1.png"),
        (
            lambda rows: [*rows[:-2], "pinhole/0.png,pinhole,", rows[-1]],
            "no hide for 1 images, the first is pinhole/0.png",
        ),
        (lambda rows: rows[:1], "no hide for 12 images, the first is folding_marks/0.png"),
        (lambda rows: [*rows, rows[1]], "lists folding_marks/0.png more than once"),
        (lambda rows: ["path,label,skin", *rows[1:]], r"no column \['hide'\]"),
    ],
)
def test_incomplete_hides_are_refused(tmp_path, change, message):
    six_classes(tmp_path)
    rows = ["path,label,hide", *(f"{name}/{number}.png,{name},h{number}" for name in CLASS_NAMES for number in (0, 1))]
    (tmp_path / "hides.csv").write_text("\n".join(change(rows)))
    with pytest.raises(ValueError, match=f"{tmp_path / 'hides.csv'}.*{message}"):
        index_images(tmp_path)


def mean_grey(image):
    return torch.tensor(np.asarray(image, dtype=np.float32).mean())


def test_dataset_gives_transformed_images_and_class_indices(tmp_path):
    rows = [("pinhole", 10), ("folding_marks", 20), ("non_defective", 30)]
    for name, colour in rows:
        draw(tmp_path / f"{name}.png", colour=colour)
    table = pd.DataFrame({"path": [str(tmp_path / f"{n}.png") for n, _ in rows], "label": [n for n, _ in rows]})
    dataset = LeatherDefectDataset(table, mean_grey)
    assert [(image.item(), target) for image, target in (dataset[i] for i in range(len(dataset)))] == [
        (10, 5),
        (20, 0),
        (30, 4),
    ]
    (tmp_path / "pinhole.png").write_text("no picture")
    with pytest.raises(UnreadableImageError, match="pinhole.png"):
        dataset[0]


@pytest.mark.parametrize("kind", [LeatherDefectDataset, MVTecTestDataset])
def test_empty_tables_are_refused(kind):
    with pytest.raises(ValueError, match="empty"):
        kind(pd.DataFrame(columns=["path", "label", "defect", "mask"]), mean_grey)


def test_mvtec_table_by_hand(tmp_path):
    root = mvtec(tmp_path)
    (root / "leather" / "test" / "cut" / "notes.txt").touch()
    table = index_mvtec(root)
    assert table[["file", "part", "defect"]].to_numpy().tolist() == [
        ["train/good/0.png", "train", "good"],
        ["test/cut/0.png", "test", "cut"],
        ["test/good/0.png", "test", "good"],
    ]
    assert table["mask"].tolist() == ["", str(root / "leather/ground_truth/cut/0_mask.png"), ""]
    assert table["path"].tolist() == [str(root / "leather" / file) for file in table["file"]]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("test/good/0.png",), "leather/train.*leather/train/good"),
        (("train/odd/0.png", "ground_truth/odd/0_mask.png", "test/good/0.png"), "leather/train"),
        (("train/good/0.png",), "leather/test"),
        (
            ("train/good/0.png", "test/cut/7.png", "ground_truth/cut/0_mask.png"),
            "leather/test/cut/7.png has no ground truth; expected .*ground_truth/cut/7_mask.png",
        ),
    ],
)
def test_mvtec_layout_errors_name_the_place(tmp_path, files, message):
    with pytest.raises(FileNotFoundError, match=message):
        index_mvtec(mvtec(tmp_path, *files))
    with pytest.raises(FileNotFoundError, match="no images below .*carpet/train"):
        index_mvtec(tmp_path, "carpet")


def test_mvtec_dataset_gives_masks_of_the_pictures_size(tmp_path):
    dataset = MVTecTestDataset(index_mvtec(mvtec(tmp_path)), mean_grey)
    items = [dataset[i] for i in range(len(dataset))]
    assert [(image.item(), is_defect) for image, _, is_defect in items] == [(200, 0), (200, 1), (200, 0)]
    assert [(mask.dtype, mask.shape) for _, mask, _ in items] == [(torch.bool, (3, 4))] * 3
    assert [int(mask.sum()) for _, mask, _ in items] == [0, 12, 0]
    draw(tmp_path / "leather/ground_truth/cut/0_mask.png", size=(3, 4))
    with pytest.raises(ValueError, match="0_mask.png is 3x4, its image 4x3"):
        dataset[1]

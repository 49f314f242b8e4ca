"""MVTec AD's layout as a table, and the pictures that a protocol calls normal."""

import pandas as pd
import pytest

from src.data.mvtec import index_mvtec, mvtec_split
from tests.data.test_tables import mvtec


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


def table_of(train=4, good=32):
    rows = [("train", "good", f"train/good/{i:03d}.png") for i in range(train)]
    rows += [("test", "good", f"test/good/{i:03d}.png") for i in range(good)]
    rows += [("test", "cut", f"test/cut/{i:03d}.png") for i in range(3)]
    table = pd.DataFrame(rows, columns=["part", "defect", "file"])
    return table.sample(frac=1, random_state=0)


def test_normals_16_by_hand():
    normals, test = mvtec_split(table_of(train=6), "normals-16")
    assert list(normals["file"][:4]) == [f"train/good/{i:03d}.png" for i in range(4)]
    assert list(normals["file"][4:]) == [f"test/good/{i:03d}.png" for i in range(0, 24, 2)]
    assert len(test) == 32 + 3 - 12 and not set(test["file"]) & set(normals["file"])


@pytest.mark.parametrize("shots", [1, 3, 10])
def test_shots_are_drawn_by_the_seed_from_the_training_images(shots):
    table = table_of(train=10)
    drawn = [mvtec_split(table, f"{shots}-shot", seed=seed)[0]["file"].tolist() for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] == sorted(drawn[0]) and len(set(drawn[0])) == shots
    assert all(file.startswith("train/") for file in drawn[0])
    assert (len({tuple(files) for files in drawn}) == 1) == (shots == 10)
    assert len(mvtec_split(table, f"{shots}-shot")[1]) == 35


def test_all_training_images_are_the_published_protocol():
    normals, test = mvtec_split(table_of(train=245), "mvtec-full")
    assert len(normals) == 245 and len(test) == 35


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("mvtec-full", "all 245 .* there are 4"),
        ("5-shot", "needs 5 .* there are 4"),
        ("0-shot", "expected mvtec-full"),
        ("shot", "expected mvtec-full"),
    ],
)
def test_impossible_mvtec_protocols_are_refused(protocol, message):
    with pytest.raises(ValueError, match=message):
        mvtec_split(table_of(), protocol)
    with pytest.raises(ValueError, match="24 of test/good"):
        mvtec_split(table_of(good=20), "normals-16")

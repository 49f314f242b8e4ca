"""Small odd files that people have, with the right answer to each, where ``LEATHER_CASES`` names their folder."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from src.data.archives import install
from src.data.manifest import CLASSES, PARTS
from src.data.pictures import UnreadableImageError, load_image, load_mask, picture_size
from src.data.splits import split_index
from src.localisation.localise import evaluated_mask

FOLDER = Path(os.environ.get("LEATHER_CASES", ""))
pytestmark = pytest.mark.skipif("LEATHER_CASES" not in os.environ, reason="LEATHER_CASES names no folder")


def rows():
    return pd.read_csv(FOLDER / "cases.csv").itertuples(index=False) if "LEATHER_CASES" in os.environ else []


@pytest.mark.parametrize(("file", "right"), rows())
def test_the_answer_is_the_right_one(file, right, tmp_path, caplog):
    path = FOLDER / file
    {"masks": judge_mask, "pictures": judge_picture, "archives": judge_archive, "splits": judge_split}[
        file.split("/")[0]
    ](path, right, tmp_path)


def judge_mask(path, right, _):
    size = picture_size(path)
    if "named error" in right:
        with pytest.raises(ValueError, match=f"{path.name}.*of the picture would be one"):
            load_mask(str(path), size=size)
        return
    mask = load_mask(str(path), size=size)
    if right.endswith("defect pixels"):
        assert mask.sum() == int(right.split()[0])
    elif right.startswith("1 region"):
        assert ndimage.label(mask, np.ones((3, 3)))[1] == ndimage.label(evaluated_mask(mask), np.ones((3, 3)))[1] == 1
    else:
        assert not mask.any()  # `check_masks` warns of it


def judge_picture(path, right, _):
    if "named error" in right or right.startswith("as camera"):
        with pytest.raises(UnreadableImageError, match=f"{path.name}, .* do not tell their range"):
            load_image(path)
    else:
        reference = load_image(FOLDER / "pictures" / "reference.png")
        assert np.abs(np.asarray(load_image(path), int) - np.asarray(reference, int)).max() <= 1


def judge_archive(path, _, tmp_path):
    left = {}
    install(path, tmp_path / "data", wanted=PARTS, left=left)
    assert [len(list(folder.iterdir())) for folder in (tmp_path / "data" / CLASSES).iterdir()] == [3] * 6 and not left


def judge_split(path, *_):
    table = pd.read_csv(path).rename(columns={"path": "file", "hide": "group"})
    for seed in range(100):
        split = split_index(table.assign(copy_of=table["file"]), "hide-60-20-20", seed=seed)
        assert (split.groupby(["label", "part"]).size().unstack() > 0).all(axis=None)
        assert (split.groupby("group")["part"].nunique() == 1).all()

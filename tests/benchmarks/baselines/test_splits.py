"""Splits as files: what was saved comes back, and a file of other images is refused."""

import pandas as pd
import pytest

from benchmarks.baselines.splits import load_split, save_split
from src.data.splits import split_folds, split_index
from tests.conftest import NORMAL_CLASS
from tests.data.test_splits import table_of


def test_saved_splits_come_back(tmp_path):
    table = table_of({"good": 60, "pinhole": 60}, groups=12)
    split = split_folds(table, "hide-5fold")["hide-5fold/2"]
    path = save_split(split, tmp_path / "splits" / "two.csv")
    again = load_split(path, table.assign(group="unknown"))
    pd.testing.assert_frame_equal(again[split.columns], split, check_dtype=False)
    assert [p.name for p in path.parent.iterdir()] == ["two.csv"]
    assert path.read_text(encoding="utf-8").startswith("path,label,group,part\n")
    with pytest.raises(ValueError, match="two.csv does not fit.*is missing or has another label"):
        load_split(path, table.iloc[5:])
    with pytest.raises(ValueError, match="another label"):
        load_split(path, table.assign(label=NORMAL_CLASS))


def test_a_packed_split_is_the_same_file_each_time_and_may_lack_hides(tmp_path):
    table = table_of({"None": 20, "good": 20}).drop(columns=["group", "copy_of"])
    split = split_index(table, "random-80-20")
    first, second = (save_split(split, tmp_path / f"{name}.csv.gz") for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    pd.testing.assert_frame_equal(load_split(first, table), split, check_dtype=False)

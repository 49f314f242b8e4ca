"""Protocols of several splits, and splits as files: what was saved comes back, and one of other images is refused."""

import pandas as pd
import pytest

from benchmarks.baselines.splits import load_split, save_split, split_folds
from src.config import FOLD_PROTOCOLS, PROTOCOLS
from src.data.splits import PARTS, split_index
from tests.conftest import NORMAL_CLASS, SAVED_SPLITS
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


def test_the_files_of_the_real_set_keep_hides_apart_and_are_what_the_seed_draws(real):
    packed = {file: file.relative_to(SAVED_SPLITS).as_posix() for file in SAVED_SPLITS.rglob("*.csv.gz")}
    files = {name.removesuffix(".csv.gz"): file for file, name in packed.items()}
    saved = {name: pd.read_csv(file) for name, file in files.items()}
    assert (len(real), (real["copy_of"] == real["file"]).sum(), len(saved)) == (3600, 3023, 1 + 1 + 5 + 25 + 6)
    table = real
    drawn = {protocol: split_index(table, protocol) for protocol in PROTOCOLS[:2]}
    for protocol in FOLD_PROTOCOLS:
        drawn |= split_folds(table, protocol)
    assert set(drawn) == set(saved)
    for name, split in saved.items():
        assert split[["path", "label", "group", "part"]].to_numpy().tolist() == (
            drawn[name][["file", "label", "group", "part"]].to_numpy().tolist()
        )
        if name.startswith(("hide-5fold", "leave-one-defect-out")):
            assert (split.groupby("group")["part"].nunique() == 1).all()


@pytest.mark.parametrize("protocol", ["hide-5fold", "leave-one-defect-out"])
def test_no_hide_and_no_copy_crosses(audited, protocol):
    for split in split_folds(audited, protocol).values():
        assert (split.groupby("group")["part"].nunique() == 1).all()
        assert not split["copy_of"].duplicated().any()
        assert set(split["part"]) <= set(PARTS) and {"train", "validation"} <= set(split["part"])


def test_no_copy_crosses_within_a_hide(audited):
    for split in split_folds(audited, "within-hide").values():
        assert not split["copy_of"].duplicated().any() and set(split["part"]) == set(PARTS)


@pytest.mark.parametrize("protocol", FOLD_PROTOCOLS)
def test_what_a_protocol_promises_needs_the_list_of_notebook_2(audited, protocol):
    for column in ("copy_of", "group"):
        with pytest.raises(ValueError, match=f"{protocol} needs .*2.0-EDA-Leather-Defect-dataset.ipynb"):
            split_folds(audited.drop(columns=column), protocol)


@pytest.mark.parametrize("protocol", FOLD_PROTOCOLS)
def test_folds_are_seeded_and_leave_the_table_alone(audited, protocol):
    before = audited.copy()
    first, second = (split_folds(audited, protocol, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(audited, before)
    assert list(first) == list(second)
    for name, split in first.items():
        pd.testing.assert_frame_equal(split, second[name])


def test_the_defect_that_is_left_out_is_only_tested(audited):
    splits = split_folds(audited, "leave-one-defect-out")
    folds = split_folds(audited, "hide-5fold")
    assert len(splits) == 5 * len(folds)
    for name, split in splits.items():
        _, defect, number = name.split("/")
        parts = {part: set(rows["label"]) for part, rows in split.groupby("part")}
        assert defect not in parts["train"] | parts["validation"]
        assert parts.get("test", set()) <= {defect, NORMAL_CLASS}
        fold = folds[f"hide-5fold/{number}"]
        test = fold[(fold["part"] == "test") & fold["label"].isin([defect, NORMAL_CLASS])]
        assert sorted(split.loc[split["part"] == "test", "file"]) == sorted(test["file"])


def test_within_a_hide_blocks_follow_the_file_numbers():
    files = [f"{label}/x ({number}).jpg" for label in ("pinhole", "grain_off") for number in range(1, 31)]
    table = pd.DataFrame({"file": files, "label": ["pinhole"] * 30 + ["grain_off"] * 30, "group": "a"})
    few = pd.DataFrame({"file": [f"loose_grain/{i}.jpg" for i in range(19)], "label": "loose_grain", "group": "a"})
    alone = pd.DataFrame({"file": [f"non_defective/{i}.jpg" for i in range(40)], "label": NORMAL_CLASS, "group": "b"})
    shuffled = pd.concat([table, few, alone]).sample(frac=1, random_state=0)
    splits = split_folds(shuffled.assign(copy_of=shuffled["file"]), "within-hide")
    assert list(splits) == ["within-hide/a"]  # one class on a hide cannot be told from others
    rows = splits["within-hide/a"].set_index("file")["part"]
    assert len(rows) == 60
    for label in ("pinhole", "grain_off"):
        parts = [rows[f"{label}/x ({number}).jpg"] for number in range(1, 31)]
        assert parts == ["train"] * 18 + ["validation"] * 6 + ["test"] * 6

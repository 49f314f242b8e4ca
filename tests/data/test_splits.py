"""Splits: the same seed the same parts, and no hide and no copy on two sides, whatever the protocol."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.model_selection import StratifiedGroupKFold

from src.config import CLASS_NAMES, PROTOCOLS
from src.data.splits import (
    PARTS,
    hide_folds,
    mvtec_split,
    protocol_name,
    rotations,
    split_index,
    transfer_normals,
)

NORMAL_CLASS = "non_defective"
sklearn_version = tuple(int(part) for part in sklearn.__version__.split(".")[:2])


def table_of(sizes, *, groups=None):
    """A table without files or copies: ``sizes`` images by class; each its own group, or dealt to shared groups."""
    labels = [name for name, size in sizes.items() for _ in range(size)]
    files = [f"{name}/{number}.png" for number, name in enumerate(labels)]
    hides = files if groups is None else [f"hide {number % groups}" for number in range(len(files))]
    return pd.DataFrame({"path": files, "file": files, "label": labels, "group": hides, "copy_of": files})


def distinct(table):
    return table[table["copy_of"] == table["file"]]


@pytest.mark.parametrize(
    ("images", "test", "validation"), [(7, 1, 1), (10, 2, 1), (60, 12, 5), (100, 20, 8), (600, 120, 48)]
)
def test_random_split_by_hand(images, test, validation):
    table = split_index(table_of(dict.fromkeys(CLASS_NAMES, images)), "random-80-20", seed=1)
    expected = {"test": test, "validation": validation, "train": images - test - validation}
    for name in CLASS_NAMES:
        assert table.loc[table["label"] == name, "part"].value_counts().to_dict() == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_split_is_seeded_and_leaves_the_table_alone(protocol):
    table = table_of({"pinhole": 70, "grain_off": 35}, groups=15).set_index(pd.Index(range(500, 605)))
    before = table.copy()
    parts = [split_index(table, protocol, seed=seed)["part"] for seed in (3, 3, 4)]
    assert parts[0].equals(parts[1]) and not parts[0].equals(parts[2])
    assert set(parts[0]) == set(PARTS) and parts[0].index.equals(table.index)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize("seed", range(20))
def test_no_group_is_on_two_sides(seed):
    table = table_of({"pinhole": 90, "grain_off": 61}, groups=4 + seed % 12)
    table = split_index(table, "hide-60-20-20", seed=seed)
    assert (table.groupby("group")["part"].nunique() == 1).all()
    assert set(table["part"]) == set(PARTS) and table["part"].notna().all()


@pytest.mark.parametrize(
    ("hides", "expected"), [(3, (1, 1, 1)), (5, (1, 1, 3)), (10, (2, 2, 6)), (15, (3, 3, 9)), (100, (20, 20, 60))]
)
def test_hide_split_shares_equal_hides_out_by_hand(hides, expected):
    table = split_index(table_of({"pinhole": 4 * hides}, groups=hides), "hide-60-20-20")
    counts = table.groupby("part")["group"].nunique()
    assert tuple(counts[part] for part in ("test", "validation", "train")) == expected


@pytest.mark.parametrize("seed", range(20))
def test_hide_split_finds_three_parts_whatever_the_sizes(seed):
    table = table_of({"pinhole": 100})
    table["group"] = np.repeat(["a", "b", "large"], [10, 10, 80])
    assert set(split_index(table, "hide-60-20-20", seed=seed)["part"]) == set(PARTS)


def hides_of_one_class(classes, hides, images):
    """So many hides a class, each of this class alone."""
    rows = [(f"{c}/{h}_{i}.png", c, f"{c} {h}") for c in classes for h in range(hides) for i in range(images)]
    table = pd.DataFrame(rows, columns=["file", "label", "group"])
    return table.assign(copy_of=table["file"])


@pytest.mark.parametrize("seed", range(30))
def test_hide_split_is_found_where_there_is_one(seed):
    """A blind draw would almost never find one of them."""
    table = split_index(hides_of_one_class(CLASS_NAMES, 5, 10), "hide-60-20-20", seed=seed)
    counts = table.groupby(["label", "part"])["group"].nunique().unstack()
    assert counts.to_numpy().tolist() == [[1, 3, 1]] * 6  # test, train, validation
    assert (table.groupby("group")["part"].nunique() == 1).all()
    three = split_index(hides_of_one_class(CLASS_NAMES, 3, 4), "hide-60-20-20", seed=seed)
    assert (three.groupby(["label", "part"])["group"].nunique() == 1).all()


def test_the_class_with_too_few_hides_is_named():
    table = hides_of_one_class(("good", "pinhole", "scar"), 5, 10)
    table = table[(table["label"] != "scar") | table["group"].isin(["scar 0", "scar 3"])]
    with pytest.raises(
        ValueError, match="no image of scar for .*: the class has 20 images on 2 hides, and needs 3 hides"
    ):
        split_index(table, "hide-60-20-20")


@pytest.mark.parametrize(("seed", "sizes"), [(9, [1917, 507, 599]), (11, [1900, 817, 306]), (55, [1815, 723, 485])])
def test_what_a_blind_draw_finds_on_the_real_set_is_kept(real, seed, sizes):
    split = split_index(real, "hide-60-20-20", seed=seed)
    assert split["part"].value_counts()[list(PARTS)].tolist() == sizes


@pytest.mark.parametrize("seed", range(20))
def test_hide_split_is_found_on_the_real_set(real, seed):
    split = split_index(real, "hide-60-20-20", seed=seed)
    assert (split.groupby("group")["part"].nunique() == 1).all()
    assert (split.groupby(["label", "part"]).size().unstack() > 0).all(axis=None)
    shares = split["part"].value_counts(normalize=True)
    assert 0.4 < shares["train"] < 0.8 and shares.min() > 0.09


def test_random_split_puts_hides_on_both_sides_as_it_says():
    table = split_index(table_of({"pinhole": 100}, groups=5), "random-80-20")
    assert (table.groupby("group")["part"].nunique() > 1).all()


@pytest.mark.parametrize(
    ("table", "protocol", "message"),
    [
        (table_of({"pinhole": 9, "grain_off": 9}), "random", "'random'.*random-80-20.*hide-60-20-20"),
        (table_of(dict.fromkeys(CLASS_NAMES, 1)), "random-80-20", "no image of folding_marks for .* has 1 images"),
        (
            table_of({"pinhole": 60, "grain_off": 6}),
            "random-80-20",
            "no image of grain_off for validation.*has 6 images",
        ),
        (
            table_of({"pinhole": 60, "grain_off": 2}),
            "random-80-20",
            "no image of grain_off for validation.*has 2 images",
        ),
        (table_of({"pinhole": 60}, groups=2), "hide-60-20-20", "at least 3 hides; there are 2"),
        (
            table_of({"pinhole": 60, "grain_off": 1}, groups=9),
            "hide-60-20-20",
            "grain_off.* has 1 images on 1 hides, and needs 3 hides",
        ),
        (table_of({"pinhole": 60}), "hide-60-20-20", "on a hide of its own.*hides.csv.*random-80-20"),
        (table_of({"pinhole": 9}).assign(group=[None, "a", "b"] * 3), "hide-60-20-20", "hide; 3 have none"),
    ],
)
def test_impossible_splits_are_refused(table, protocol, message):
    with pytest.raises(ValueError, match=message):
        split_index(table, protocol)


BY_HIDE = ("hide-60-20-20", "hide-5fold")


def split_by(protocol, table):
    return split_index(table, protocol) if protocol in PROTOCOLS else hide_folds(table)


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "hide-5fold"])
def test_what_a_protocol_promises_needs_the_list_of_notebook_2(audited, protocol):
    needed = (["copy_of"] if protocol != "random-80-20" else []) + (["group"] if protocol in BY_HIDE else [])
    for column in needed:
        with pytest.raises(ValueError, match=f"{protocol} needs .*2.0-EDA-Leather-Defect-dataset.ipynb"):
            split_by(protocol, audited.drop(columns=column))
    if "group" not in needed:
        plain = split_by(protocol, audited.drop(columns=["group", "copy_of"][: 2 - len(needed)]))
        assert plain["part"].equals(split_by(protocol, audited)["part"])


# -- folds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["hide-60-20-20", "hide-5fold"])
def test_no_hide_and_no_copy_crosses(audited, protocol):
    assert (audited["copy_of"] != audited["file"]).sum() > 20
    if protocol in PROTOCOLS:
        splits = [split_index(audited.assign(label="pinhole"), protocol)]  # rare classes would not reach all parts
    else:
        splits = hide_folds(audited).values()
    for split in splits:
        assert (split.groupby("group")["part"].nunique() == 1).all()
        assert not split["copy_of"].duplicated().any()
        assert set(split["part"]) <= set(PARTS) and {"train", "validation"} <= set(split["part"])


def test_no_copy_crosses_where_hides_do(audited):
    split = split_index(audited, "random-60-20-20")
    assert not split["copy_of"].duplicated().any() and set(split["part"]) == set(PARTS)


def test_folds_are_seeded_and_leave_the_table_alone(audited):
    before = audited.copy()
    first, second = (hide_folds(audited, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(audited, before)
    assert list(first) == list(second)
    for name, split in first.items():
        pd.testing.assert_frame_equal(split, second[name])


def test_five_folds_test_every_picture_once(audited):
    folds = hide_folds(audited)
    assert list(folds) == [f"hide-5fold/{number}" for number in range(1, 6)]
    tested = pd.concat([fold[fold["part"] == "test"] for fold in folds.values()])
    assert sorted(tested["file"]) == sorted(distinct(audited)["file"])
    assert all(len(fold) == len(distinct(audited)) for fold in folds.values())


@pytest.mark.skipif(sklearn_version < (1, 8), reason="StratifiedGroupKFold does not stratify there when it shuffles")
@pytest.mark.parametrize("seed", range(5))
def test_folds_are_those_of_the_library_where_it_stratifies(real, seed):
    table = distinct(real)
    folds = hide_folds(real, seed=seed).values()
    library = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(table, table["label"], table["group"])
    for fold, (_, test) in zip(folds, library, strict=True):
        assert (fold["part"] == "test").to_numpy().nonzero()[0].tolist() == test.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_folds_of_hides_that_are_all_alike_are_even(seed):
    """Every choice is a tie there: the folds are as large and as mixed as each other, whatever the last bit says."""
    folds = hide_folds(hides_of_one_class(CLASS_NAMES, 5, 7), seed=seed)
    for fold in folds.values():
        assert fold[fold["part"] == "test"].groupby("label")["group"].nunique().tolist() == [1] * 6


def test_rotations_validate_every_other_image_once_and_keep_hides_apart(audited):
    for fold in hide_folds(audited).values():
        rotated = rotations(fold)
        assert len(rotated) == 4
        pd.testing.assert_frame_equal(rotated[0], fold)
        validated = pd.concat([split[split["part"] == "validation"] for split in rotated])
        assert sorted(validated["file"]) == sorted(fold.loc[fold["part"] != "test", "file"])
        for split in rotated:
            assert (split.groupby("group")["part"].nunique() == 1).all()
            assert ((split["part"] == "test") == (fold["part"] == "test")).all()


def test_impossible_folds_are_refused():
    table = table_of(dict.fromkeys(CLASS_NAMES, 30))
    with pytest.raises(ValueError, match="on a hide of its own"):
        hide_folds(table)
    with pytest.raises(ValueError, match="at least 10 hides; there are 9"):
        hide_folds(table_of(dict.fromkeys(CLASS_NAMES, 30), groups=9))


def test_normals_for_the_transfer_are_drawn_from_training_by_the_seed():
    table = split_index(table_of({"bad": 100, "good": 100}), "random-80-20")
    first, second, other = (transfer_normals(table, "good", seed=seed) for seed in (1, 1, 2))
    assert first == second != other and len(set(first)) == len(other) == 64
    assert set(first) <= set(table.loc[(table["part"] == "train") & (table["label"] == "good"), "path"])
    few = table.groupby(["part", "label"]).head(3)
    assert len(transfer_normals(few, "good", seed=1)) == 3


# -- MVTec AD -------------------------------------------------------------------------------------------


def mvtec(train=4, good=32):
    rows = [("train", "good", f"train/good/{i:03d}.png") for i in range(train)]
    rows += [("test", "good", f"test/good/{i:03d}.png") for i in range(good)]
    rows += [("test", "cut", f"test/cut/{i:03d}.png") for i in range(3)]
    table = pd.DataFrame(rows, columns=["part", "defect", "file"])
    return table.sample(frac=1, random_state=0)


@pytest.mark.parametrize("shots", [1, 3, 10])
def test_shots_are_drawn_by_the_seed_from_the_training_images(shots):
    table = mvtec(train=10)
    drawn = [mvtec_split(table, f"{shots}-shot", seed=seed)[0]["file"].tolist() for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] == sorted(drawn[0]) and len(set(drawn[0])) == shots
    assert all(file.startswith("train/") for file in drawn[0])
    assert (len({tuple(files) for files in drawn}) == 1) == (shots == 10)
    assert len(mvtec_split(table, f"{shots}-shot")[1]) == 35


def test_all_training_images_are_the_published_protocol():
    normals, test = mvtec_split(mvtec(train=245), "mvtec-full")
    assert len(normals) == 245 and len(test) == 35
    with pytest.raises(ValueError, match="needs 245 .* there are 246"):
        mvtec_split(mvtec(train=246), "mvtec-full")
    assert [protocol_name(count) for count in (245, 4, 246)] == ["mvtec-full", "4-shot", "246-shot"]


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("mvtec-full", "needs 245 .* there are 4"),
        ("5-shot", "needs 5 .* there are 4"),
        ("0-shot", "expected mvtec-full"),
        ("shot", "expected mvtec-full"),
    ],
)
def test_impossible_mvtec_protocols_are_refused(protocol, message):
    with pytest.raises(ValueError, match=message):
        mvtec_split(mvtec(), protocol)

"""Splits: the same seed the same parts, and no hide and no copy on two sides, whatever the protocol."""

import numpy as np
import pandas as pd
import pytest

from src.config import CLASS_NAMES, FOLD_PROTOCOLS, PROTOCOLS, paths
from src.data.splits import PARTS, distinct, load_split, rotations, save_split, split_folds, split_index
from tests.conftest import NORMAL_CLASS

DEFECTS = [name for name in CLASS_NAMES if name != NORMAL_CLASS]


def table_of(sizes, *, groups=None):
    """A table without files: ``sizes`` images by class; each its own group, or dealt to so many shared groups."""
    labels = [name for name, size in sizes.items() for _ in range(size)]
    files = [f"{name}/{number}.png" for number, name in enumerate(labels)]
    hides = files if groups is None else [f"hide {number % groups}" for number in range(len(files))]
    return pd.DataFrame({"path": files, "file": files, "label": labels, "group": hides, "copy_of": files})


@pytest.fixture(params=range(4))
def audited(request):
    """Six classes on 24 hides, most of one class, with copies on the same and on other hides."""
    generator = np.random.default_rng(request.param)
    rows = []
    for hide in range(24):
        classes = generator.choice(CLASS_NAMES, 1 + 2 * (hide % 3 == 0), replace=False)
        if hide < 6:
            classes[0] = CLASS_NAMES[hide]  # every class somewhere
        for label in dict.fromkeys(classes):
            for number in range(generator.integers(22, 45)):
                file = f"{label}/tile ({1000 * hide + number}).jpg"
                earlier = [row[3] for row in rows if row[1] == label]
                copied = number > 21 and earlier and generator.random() < 0.4
                rows.append((file, label, str(hide), generator.choice(earlier) if copied else file))
    return pd.DataFrame(rows, columns=["file", "label", "group", "copy_of"])


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
    found = table.groupby("part")["group"].nunique()
    assert tuple(found[part] for part in ("test", "validation", "train")) == expected


@pytest.mark.parametrize("seed", range(20))
def test_hide_split_finds_three_parts_whatever_the_sizes(seed):
    table = table_of({"pinhole": 100})
    table["group"] = np.repeat(["a", "b", "large"], [10, 10, 80])
    assert set(split_index(table, "hide-60-20-20", seed=seed)["part"]) == set(PARTS)


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
        (table_of({"pinhole": 60, "grain_off": 1}, groups=9), "hide-60-20-20", "grain_off.*1 images on 1 hides"),
        (table_of({"pinhole": 60}), "hide-60-20-20", "every image is its own hide.*hides.csv.*random-80-20"),
        (table_of({"pinhole": 9}).assign(group=[None, "a", "b"] * 3), "hide-60-20-20", "hide; 3 have none"),
    ],
)
def test_impossible_splits_are_refused(table, protocol, message):
    with pytest.raises(ValueError, match=message):
        split_index(table, protocol)


# -- folds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["hide-60-20-20", "hide-5fold", "leave-one-defect-out"])
def test_no_hide_and_no_copy_crosses(audited, protocol):
    assert (audited["copy_of"] != audited["file"]).sum() > 20
    if protocol in PROTOCOLS:
        splits = [split_index(audited.assign(label="pinhole"), protocol)]  # rare classes would not reach all parts
    else:
        splits = split_folds(audited, protocol).values()
    for split in splits:
        assert (split.groupby("group")["part"].nunique() == 1).all()
        assert not split["copy_of"].duplicated().any()
        assert set(split["part"]) <= set(PARTS) and {"train", "validation"} <= set(split["part"])


@pytest.mark.parametrize("protocol", ["random-60-20-20", "within-hide"])
def test_no_copy_crosses_where_hides_do(audited, protocol):
    splits = [split_index(audited, protocol)] if protocol in PROTOCOLS else split_folds(audited, protocol).values()
    for split in splits:
        assert not split["copy_of"].duplicated().any() and set(split["part"]) == set(PARTS)


def test_the_files_of_the_real_set_keep_hides_apart_and_are_what_the_seed_draws():
    folder = paths.root / "reports" / "baselines" / "splits"
    whole, distinct_ones = (pd.read_csv(folder / f"random-{name}.csv.gz") for name in ("80-20", "60-20-20"))
    assert (len(whole), len(distinct_ones)) == (3600, 3023)
    for split, protocol in ((whole, "random-80-20"), (distinct_ones, "random-60-20-20")):
        again = split_index(
            split.rename(columns={"path": "file"}).drop(columns="part").assign(copy_of=split["path"]), protocol
        )
        assert again["part"].equals(split["part"])
    folds = [pd.read_csv(folder / "hide-5fold" / f"{number}.csv.gz") for number in range(1, 6)]
    absent = [pd.read_csv(file) for file in (folder / "leave-one-defect-out").rglob("*.csv.gz")]
    assert len(absent) == 25
    for split in (*folds, *absent):
        assert (split.groupby("group")["part"].nunique() == 1).all()
        assert set(split["path"]) <= set(distinct_ones["path"])
    tested = pd.concat([split[split["part"] == "test"] for split in folds])
    assert sorted(tested["path"]) == sorted(distinct_ones["path"])


def test_five_folds_test_every_picture_once(audited):
    folds = split_folds(audited, "hide-5fold")
    assert list(folds) == [f"hide-5fold/{number}" for number in range(1, 6)]
    tested = pd.concat([fold[fold["part"] == "test"] for fold in folds.values()])
    assert sorted(tested["file"]) == sorted(distinct(audited, "hide-5fold")["file"])
    assert all(len(fold) == len(distinct(audited, "hide-5fold")) for fold in folds.values())


def test_rotations_validate_every_other_image_once_and_keep_hides_apart(audited):
    for fold in split_folds(audited, "hide-5fold").values():
        found = rotations(fold)
        assert len(found) == 4
        pd.testing.assert_frame_equal(found[0], fold)
        validated = pd.concat([split[split["part"] == "validation"] for split in found])
        assert sorted(validated["file"]) == sorted(fold.loc[fold["part"] != "test", "file"])
        for split in found:
            assert (split.groupby("group")["part"].nunique() == 1).all()
            assert ((split["part"] == "test") == (fold["part"] == "test")).all()


def test_the_defect_that_is_left_out_is_only_tested(audited):
    found = split_folds(audited, "leave-one-defect-out")
    folds = split_folds(audited, "hide-5fold")
    assert len(found) == len(DEFECTS) * len(folds)
    for name, split in found.items():
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
    shuffled = pd.concat([table, few, alone]).assign(copy_of=lambda rows: rows["file"]).sample(frac=1, random_state=0)
    found = split_folds(shuffled, "within-hide")
    assert list(found) == ["within-hide/a"]  # one class on a hide cannot be told from others
    rows = found["within-hide/a"].set_index("file")["part"]
    assert len(rows) == 60
    for label in ("pinhole", "grain_off"):
        parts = [rows[f"{label}/x ({number}).jpg"] for number in range(1, 31)]
        assert parts == ["train"] * 18 + ["validation"] * 6 + ["test"] * 6


@pytest.mark.parametrize("protocol", FOLD_PROTOCOLS)
def test_folds_are_seeded_and_leave_the_table_alone(audited, protocol):
    before = audited.copy()
    first, second = (split_folds(audited, protocol, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(audited, before)
    assert list(first) == list(second)
    for name, split in first.items():
        pd.testing.assert_frame_equal(split, second[name])


def test_impossible_folds_are_refused():
    table = table_of(dict.fromkeys(CLASS_NAMES, 30))
    with pytest.raises(ValueError, match="'hide'.*hide-5fold"):
        split_folds(table, "hide")
    with pytest.raises(ValueError, match="every image is its own hide"):
        split_folds(table, "hide-5fold")
    with pytest.raises(ValueError, match="at least 10 hides; there are 9"):
        split_folds(table_of(dict.fromkeys(CLASS_NAMES, 30), groups=9), "hide-5fold")


def test_saved_splits_come_back(audited, tmp_path):
    split = split_folds(audited, "hide-5fold")["hide-5fold/2"]
    path = save_split(split, tmp_path / "splits" / "two.csv")
    again = load_split(path, audited.assign(group="unknown"))
    pd.testing.assert_frame_equal(again[split.columns], split, check_dtype=False)
    assert [p.name for p in path.parent.iterdir()] == ["two.csv"]
    assert path.read_text(encoding="utf-8").startswith("path,label,group,part\n")
    with pytest.raises(ValueError, match="two.csv does not fit.*is missing or has another label"):
        load_split(path, audited.iloc[5:])
    with pytest.raises(ValueError, match="another label"):
        load_split(path, audited.assign(label=NORMAL_CLASS))


@pytest.mark.parametrize(
    ("protocol", "column"),
    [(protocol, column) for protocol in ("hide-60-20-20", *FOLD_PROTOCOLS) for column in ("group", "copy_of")]
    + [("random-60-20-20", "copy_of")],
)
def test_a_promise_that_the_table_cannot_keep_is_refused(audited, protocol, column):
    split = split_index if protocol in PROTOCOLS else split_folds
    with pytest.raises(ValueError, match=f"{protocol} keeps .* apart.*Run 2.0-EDA.*or use random-80-20"):
        split(audited.drop(columns=column), protocol)


def test_the_published_split_needs_neither_hides_nor_copies(audited):
    plain = audited.drop(columns=["group", "copy_of"])
    assert split_index(plain, "random-80-20")["part"].equals(split_index(audited, "random-80-20")["part"])

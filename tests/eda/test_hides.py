"""Hides by colour: runs of file numbers, joined across classes, whatever the order of the table."""

import numpy as np
import pandas as pd
import pytest

from src.data.splits import natural_key
from src.eda.hides import group_hides

BROWN, TEAL, BLACK = (150, 100, 60), (50, 130, 120), (25, 25, 25)


def images(*runs):
    """A table of runs (label, colour, number of images), with a little light falling off along each run."""
    rows, numbers = [], {}
    for label, colour, count in runs:
        for step in range(count):
            numbers[label] = numbers.get(label, 0) + 1
            rows.append((f"{label}/{label} ({numbers[label]}).jpg", label, *(np.array(colour) * (1 - 0.003 * step))))
    table = pd.DataFrame(rows, columns=["file", "label", "red", "green", "blue"])
    return table.assign(copy_of=table["file"])


def test_one_colour_is_one_hide_across_classes():
    table = images(("pinhole", BROWN, 12), ("pinhole", TEAL, 3), ("grain_off", BROWN, 4), ("grain_off", BLACK, 5))
    groups = group_hides(table)
    assert groups.tolist() == ["hide_00"] * 12 + ["hide_02"] * 3 + ["hide_00"] * 4 + ["hide_01"] * 5


def test_the_order_of_the_table_does_not_matter():
    table = images(("pinhole", BROWN, 12), ("pinhole", TEAL, 3), ("grain_off", BLACK, 5))
    shuffled = table.sample(frac=1, random_state=1)
    assert group_hides(shuffled).sort_index().equals(group_hides(table))


def test_file_numbers_are_numbers():
    files = ["a/x (10).jpg", "a/x (9).jpg", "a/x.jpg", "a/x (1) b 2.jpg", "a/x (1) b 11.jpg"]
    assert sorted(files, key=natural_key) == [files[i] for i in (3, 4, 1, 0, 2)]


def test_copies_share_a_hide():
    table = images(("pinhole", BROWN, 4), ("pinhole", TEAL, 2))
    table.loc[5, "copy_of"] = table.loc[0, "file"]
    assert group_hides(table).tolist() == ["hide_00"] * 4 + ["hide_01", "hide_00"]


def test_a_larger_distance_joins():
    table = images(("pinhole", BROWN, 4), ("grain_off", (160, 115, 80), 4), ("grain_off", BLACK, 4))
    assert group_hides(table, distance=3).nunique() == 3
    assert group_hides(table, distance=25).nunique() == 2
    assert group_hides(table, distance=500).nunique() == 1


def test_what_cannot_be_grouped_is_refused():
    table = images(("pinhole", BROWN, 3))
    with pytest.raises(ValueError, match="can all be read"):
        group_hides(table.assign(red=[1.0, np.nan, 2.0]))
    with pytest.raises(ValueError, match="two or more"):
        group_hides(table.iloc[:1])

"""Which images come from the same hide, guessed from colour where a data set does not say it.

Neighbouring file numbers are tiles of one photograph, and one hide under one light has one colour. So a class's files
are cut into runs wherever the colour jumps, and runs of like colour, of all classes, make a hide. Two hides of one
colour become one group: for splits that keep hides apart this errs on the safe side.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from skimage.color import rgb2lab

from ..data.splits import natural_key

RUN_DISTANCE = 8.0  # a run ends where the colour is so far from the run's median (CIELAB units)
HIDE_DISTANCE = 10.0  # runs join while their clusters' mean distance is below this (CIELAB units)


def group_hides(table: pd.DataFrame, *, distance: float = HIDE_DISTANCE) -> pd.Series:
    """The hide of every image, by name; ``hide_00`` has most distinct images. Row order does not matter.

    Args:
        table: Rows with ``file``, ``label``, ``copy_of`` (copies share a hide) and ``red``, ``green``, ``blue``: mean
            colour, 0..255, as `describe.describe_images` gives it.
        distance: Highest mean distance between two clusters of runs that are joined, in CIELAB units.

    Raises ValueError if an image has no colour (it is unreadable), or there are fewer than two images.
    """
    colours = table[["red", "green", "blue"]]
    if len(table) < 2 or colours.isna().any(axis=None):
        raise ValueError("hides are told apart by colour; expected two or more images that can all be read")
    originals = table[table["file"] == table["copy_of"]]
    lab = pd.DataFrame(rgb2lab(colours.to_numpy()[:, None] / 255)[:, 0], index=table.index).loc[originals.index]
    run = _runs(originals, lab)
    centres = lab.groupby(run).median()
    clusters = pd.Series(1, index=centres.index)
    if len(centres) > 1:
        clusters[:] = fcluster(linkage(centres, "average"), distance, "distance")
    cluster = run.map(clusters)
    # The largest first; of equal ones the one whose first file comes first.
    order = originals.assign(cluster=cluster).groupby("cluster")["file"].agg(["size", "min"])
    order = order.sort_values(["size", "min"], ascending=[False, True]).index
    names = {number: f"hide_{position:02d}" for position, number in enumerate(order)}
    by_file = pd.Series(cluster.map(names).to_numpy(), index=originals["file"])
    return table["copy_of"].map(by_file).rename("group")


def _runs(table: pd.DataFrame, lab: pd.DataFrame) -> pd.Series:
    """The number of each image's run: files of one class, in order of their numbers, without a jump of colour."""
    numbers = np.empty(len(table), dtype=int)
    number, members, label = -1, [], None
    order = sorted(range(len(table)), key=lambda i: (table["label"].iloc[i], natural_key(table["file"].iloc[i])))
    values = lab.to_numpy()
    for i in order:
        here = table["label"].iloc[i]
        if here != label or np.linalg.norm(values[i] - np.median(values[members], axis=0)) > RUN_DISTANCE:
            number, members, label = number + 1, [], here
        members.append(i)
        numbers[i] = number
    return pd.Series(numbers, index=table.index)

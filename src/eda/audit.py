"""Can the numbers of a data set be believed: copies, hides, and how far plain colour gets without any defect.

``audit`` finds out and returns what ``reports/eda/audit.json`` holds. Copies and hides are found by `eda.copies`
and `eda.hides`; figures are in `eda.audit_figures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import adjusted_rand_score, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from ..config import CLASS_NAMES, NORMAL_CLASS
from ..data.splits import FOLDS, split_index
from .copies import NEAR, copy_groups, exact_copies, near_duplicates
from .hides import HIDE_DISTANCE, group_hides

COLOUR_NUMBERS = ("red", "green", "blue", "red_std", "green_std", "blue_std")
OTHER_DISTANCES = (8.0, 9.0, 11.0, 12.0)  # that the hides are grouped with too, to see how stable they are


@dataclass(frozen=True)
class Audit:
    """What `audit` found.

    The table has three columns more: ``copy_of``, the first file of the same picture; ``copy_kind``, ``distinct`` for
    that file, ``exact`` for one with the bytes of an earlier file, else ``changed``; and ``group``, the hide.
    """

    table: pd.DataFrame  # the readable images, with ``copy_of``, ``copy_kind``, ``group``
    pairs: pd.DataFrame  # near duplicates among the distinct files: first, second, correlation
    report: dict[str, Any]  # the content of audit.json


def audit(described: pd.DataFrame, *, seed: int = 42, progress: bool = True) -> Audit:
    """Looks for copies, hides and shortcuts in a six-class set.

    Args:
        described: Table of `images.index_images` that `describe.describe_images` has added to.
        seed: Of the splits and the random forest.
        progress: Show progress bars.

    Returns:
        The findings. Keys of the report:
        ``images``, ``unreadable``, ``unexpected_size`` (files); ``exact_duplicate_files`` (files that have the bytes
        of an earlier one), ``unique_images`` (the others), ``pixel_duplicate_files`` (other bytes, same pixels),
        ``near_duplicate_pairs`` and ``near_duplicate_files`` (among the unique ones; files that are a changed copy of
        an earlier one), ``near_duplicate_threshold``, ``label_conflicts`` (lists of files that are one picture and
        have several labels); ``hide_groups``: ``source``, ``count``, ``sizes``, ``classes_per_group``,
        ``threshold``, ``stability`` (by other thresholds: number of groups, adjusted Rand index);
        ``colour_only_baseline``: see `colour_only_baseline`.
    """
    readable = described.dropna(subset=["brightness"])
    exact = exact_copies(readable)
    originals = readable[exact == readable["file"]]
    pairs = near_duplicates(originals, progress=progress)
    near = copy_groups(originals["file"], pairs)
    first = exact.map(pd.Series(near.to_numpy(), index=originals["file"]))
    known = (readable["group"] != readable["file"]).any()
    group = readable["group"] if known else group_hides(readable, copies=first)
    kind = np.select([exact != readable["file"], first != readable["file"]], ["exact", "changed"], "distinct")
    table = readable.assign(copy_of=first, copy_kind=kind, group=group)
    labels = table.groupby("copy_of")["label"].nunique()
    same = pairs["correlation"] > 1 - 1e-5
    report = {
        "images": len(described),
        "unreadable": sorted(set(described["file"]) - set(readable["file"])),
        "unexpected_size": sorted(described.loc[described["problem"].str.contains("odd size"), "file"]),
        "exact_duplicate_files": int((exact != readable["file"]).sum()),
        "unique_images": len(originals),
        "pixel_duplicate_files": int(pairs.loc[same, "second"].nunique()),
        "near_duplicate_pairs": len(pairs),
        "near_duplicate_files": int((near != originals["file"]).sum()),
        "near_duplicate_threshold": NEAR,
        "label_conflicts": [sorted(table.loc[table["copy_of"] == name, "file"]) for name in labels[labels > 1].index],
        "hide_groups": {
            "source": "hides.csv" if known else "colour of runs of file numbers",
            "count": int(group.nunique()),
            "sizes": {name: int(size) for name, size in group.value_counts().sort_index().items()},
            "classes_per_group": {
                name: {label: int(n) for label, n in rows["label"].value_counts().sort_index().items()}
                for name, rows in table.groupby("group")
            },
            **({} if known else {"threshold": HIDE_DISTANCE, "stability": _stability(readable, first, group)}),
        },
        "colour_only_baseline": colour_only_baseline(table, seed=seed),
    }
    return Audit(table, pairs, report)


def _stability(readable: pd.DataFrame, first: pd.Series, group: pd.Series) -> dict[str, dict[str, float]]:
    found = {}
    for distance in OTHER_DISTANCES:
        other = group_hides(readable, copies=first, distance=distance)
        agreement = float(adjusted_rand_score(group, other))
        found[str(distance)] = {"count": int(other.nunique()), "adjusted_rand_index": agreement}
    return found


def colour_only_baseline(
    table: pd.DataFrame, *, columns: Sequence[str] = COLOUR_NUMBERS, seed: int = 42
) -> dict[str, dict[str, float]]:
    """A random forest on six colour numbers, which know no defect: the shortcut test.

    Args:
        table: Rows with ``label``, ``group`` and the columns, mean and deviation of red, green and blue.
        columns: The numbers that the forest sees.
        seed: Of the splits and the forest.

    Returns:
        ``random``: published random 80/20 split, trained on all but the test part. ``hide``: five folds, stratified
        by class, that keep groups apart; predictions of all folds pooled. Each holds ``accuracy``, ``macro_f1``,
        ``auroc`` of 1 - p(normal) for defective or not, ``n`` and ``chance`` (share of the largest class).
    """
    labels = table["label"].to_numpy()
    values = table[list(columns)].to_numpy()
    test = (split_index(table, "random-80-20", seed=seed)["part"] == "test").to_numpy()
    random = _forest(values[~test], labels[~test], values[test], seed=seed)
    pooled = np.zeros((len(table), len(CLASS_NAMES)))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fit, part in folds.split(values, labels, table["group"]):
        pooled[part] = _forest(values[fit], labels[fit], values[part], seed=seed)
    return {"random": _figures(labels[test], random), "hide": _figures(labels, pooled)}


def _forest(values: np.ndarray, labels: np.ndarray, unseen: np.ndarray, *, seed: int) -> np.ndarray:
    """Class probabilities, shape (n, 6), in the order of ``CLASS_NAMES``."""
    forest = RandomForestClassifier(300, random_state=seed, n_jobs=-1).fit(values, labels)
    found = pd.DataFrame(forest.predict_proba(unseen), columns=forest.classes_)
    return found.reindex(columns=list(CLASS_NAMES), fill_value=0.0).to_numpy()  # a fold may lack a class


def _figures(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    found = np.array(CLASS_NAMES)[probabilities.argmax(1)]
    normal = probabilities[:, CLASS_NAMES.index(NORMAL_CLASS)]
    return {
        "accuracy": float(np.mean(found == labels)),
        "macro_f1": float(f1_score(labels, found, average="macro")),
        "auroc": float(roc_auc_score(labels != NORMAL_CLASS, -normal)),
        "n": len(labels),
        "chance": float(pd.Series(labels).value_counts(normalize=True).max()),
    }

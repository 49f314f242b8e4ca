"""Can the numbers of a data set be believed: copies, hides, and how far plain colour gets without any defect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import adjusted_rand_score, f1_score, roc_auc_score

from ..data.splits import FOLDS, split_folds, split_index
from ..data.tables import Classes, classes_of, digests
from .copies import NEAR, copy_groups, near_duplicates
from .hides import HIDE_DISTANCE, group_hides

COLOUR_NUMBERS = ("red", "green", "blue", "red_std", "green_std", "blue_std")
OTHER_DISTANCES = (8.0, 9.0, 11.0, 12.0)  # that the hides are grouped with too, to see how stable they are


@dataclass(frozen=True)
class Audit:
    """What `audit` returns.

    ``table`` holds the readable images with four columns more: ``digest``; ``copy_of``, the first file of the same
    picture; ``copy_kind``, ``distinct`` for that file, ``exact`` for one with the bytes of an earlier file, else
    ``changed``; and ``group``, the hide.
    """

    table: pd.DataFrame
    images: pd.DataFrame  # all images, for `tables.write_image_list`
    pairs: pd.DataFrame  # near duplicates among the distinct files: first, second, correlation
    report: dict[str, Any]  # the content of audit.json


def audit(described: pd.DataFrame, *, seed: int = 42, progress: bool = True) -> Audit:
    """Looks for copies, hides and shortcuts in a set of classes.

    Args:
        described: Table of `tables.index_images` that `describe.describe_images` has added to.
        seed: Of the splits and the random forest.
        progress: Show progress bars.

    Returns:
        Keys of the report: ``images``, ``unreadable``, ``unexpected_size`` (files); ``exact_duplicate_files`` (files
        that have the bytes of an earlier one), ``unique_images`` (the others), ``pixel_duplicate_files`` (other bytes,
        same pixels), ``near_duplicate_pairs`` and ``near_duplicate_files`` (among the unique ones; files that are a
        changed copy of an earlier one), ``near_duplicate_threshold``, ``label_conflicts`` (lists of files that are one
        picture and have several labels); ``hide_groups``: ``source``, ``count``, ``sizes``, ``classes_per_group``,
        ``threshold``, ``stability`` (by other thresholds: number of groups, adjusted Rand index);
        ``colour_only_baseline``: see `colour_only_baseline`.
    """
    described = described.assign(digest=digests(described["path"]))
    readable = described.dropna(subset=["brightness"])
    exact = readable["file"].groupby(readable["digest"]).transform("first")
    originals = readable[exact == readable["file"]]
    pairs = near_duplicates(originals, progress=progress)
    near = copy_groups(originals["file"], pairs)
    first = exact.map(pd.Series(near.to_numpy(), index=originals["file"]))
    known = "group" in readable
    group = readable["group"] if known else group_hides(readable, copies=first)
    kind = np.select([exact != readable["file"], first != readable["file"]], ["exact", "changed"], "distinct")
    table = readable.assign(copy_of=first, copy_kind=kind, group=group)
    labels = table.groupby("copy_of")["label"].nunique()
    report = {
        "images": len(described),
        "unreadable": sorted(set(described["file"]) - set(readable["file"])),
        "unexpected_size": sorted(described.loc[described["problem"].str.contains("odd size"), "file"]),
        "exact_duplicate_files": int((exact != readable["file"]).sum()),
        "unique_images": len(originals),
        "pixel_duplicate_files": int(pairs.loc[pairs["correlation"] > 1 - 1e-5, "second"].nunique()),
        "near_duplicate_pairs": len(pairs),
        "near_duplicate_files": int((near != originals["file"]).sum()),
        "near_duplicate_threshold": NEAR,
        "label_conflicts": [sorted(table.loc[table["copy_of"] == name, "file"]) for name in labels[labels > 1].index],
        "hide_groups": _describe_hides(table, guessed=not known),
        "colour_only_baseline": colour_only_baseline(table, seed=seed),
    }
    images = described[["file", "digest", "label"]].join(table[["group", "copy_of"]])
    return Audit(table, images.assign(unreadable=~described.index.isin(readable.index)), pairs, report)


def _describe_hides(table: pd.DataFrame, *, guessed: bool) -> dict[str, Any]:
    report = {
        "source": "colour of runs of file numbers" if guessed else "hides.csv",
        "count": int(table["group"].nunique()),
        "sizes": {name: int(size) for name, size in table["group"].value_counts().sort_index().items()},
        "classes_per_group": {
            name: {label: int(n) for label, n in rows["label"].value_counts().sort_index().items()}
            for name, rows in table.groupby("group")
        },
    }
    if guessed:
        report |= {"threshold": HIDE_DISTANCE, "stability": {}}
        for distance in OTHER_DISTANCES:
            other = group_hides(table, copies=table["copy_of"], distance=distance)
            agreement = float(adjusted_rand_score(table["group"], other))
            report["stability"][str(distance)] = {"count": int(other.nunique()), "adjusted_rand_index": agreement}
    return report


def colour_only_baseline(
    table: pd.DataFrame, *, columns: Sequence[str] = COLOUR_NUMBERS, seed: int = 42
) -> dict[str, dict[str, float]]:
    """A random forest on six colour numbers, which know no defect: the shortcut test.

    Args:
        table: Of `Audit`, with the columns, mean and deviation of red, green and blue.
        columns: The numbers that the forest sees.
        seed: Of the splits and the forest.

    Returns:
        ``random``: protocol ``random-80-20``, trained on all but the test part. ``hide``: protocol ``hide-5fold``,
        copies left out, trained on all but the test part of each fold; predictions of all folds pooled; absent where
        there are fewer than ten hides. Each holds ``accuracy``, ``macro_f1``, ``auroc`` of 1 - p(normal) for defective
        or not, ``n`` and ``chance`` (share of the largest class).
    """
    classes = classes_of(table)
    splits = {"random": [split_index(table, "random-80-20", seed=seed)]}
    if table["group"].nunique() >= 2 * FOLDS:
        splits["hide"] = list(split_folds(table, "hide-5fold", seed=seed).values())
    figures = {}
    for name, folds in splits.items():
        tests = [fold[fold["part"] == "test"] for fold in folds]
        trains = [fold[fold["part"] != "test"] for fold in folds]
        answers = [_forest(*pair, list(columns), classes, seed) for pair in zip(trains, tests, strict=True)]
        figures[name] = _figures(pd.concat(tests)["label"].to_numpy(), np.concatenate(answers), classes)
    return figures


def _forest(train: pd.DataFrame, test: pd.DataFrame, columns: list[str], classes: Classes, seed: int) -> np.ndarray:
    """Class probabilities (n, classes) of the test rows."""
    forest = RandomForestClassifier(300, random_state=seed, n_jobs=-1)
    forest.fit(train[columns].to_numpy(), train["label"])
    probabilities = pd.DataFrame(forest.predict_proba(test[columns].to_numpy()), columns=forest.classes_)
    return probabilities.reindex(columns=list(classes.names), fill_value=0.0).to_numpy()  # a fold may lack a class


def _figures(labels: np.ndarray, probabilities: np.ndarray, classes: Classes) -> dict[str, float]:
    predicted = np.array(classes.names)[probabilities.argmax(1)]
    normal = probabilities[:, classes.normal_index]
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
        "auroc": float(roc_auc_score(labels != classes.normal, -normal)),
        "n": len(labels),
        "chance": float(pd.Series(labels).value_counts(normalize=True).max()),
    }

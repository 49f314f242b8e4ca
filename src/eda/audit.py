"""Can the numbers of a data set be believed: copies, hides, and how far plain colour gets without any defect."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from ..data.splits import hide_folds, rotations, split_index
from ..data.tables import HIDES, Classes, classes_of, digests
from ..metrics import macro_f1
from .copies import NEAR, copy_groups, near_duplicates
from .hides import HIDE_DISTANCE, group_hides

log = logging.getLogger(__name__)

COLOUR_NUMBERS = ("red", "green", "blue", "red_std", "green_std", "blue_std")
TREES = 300  # of a forest
OTHER_DISTANCES = (8.0, 9.0, 11.0, 12.0)  # that the hides are grouped with too, to see how stable they are


@dataclass(frozen=True)
class Audit:
    """What `audit` returns.

    ``table`` holds the readable images with ``digest``; ``copy_of``, the first file of the same picture; ``group``, the
    hide; ``copy_kind``: ``distinct`` for a first file, ``exact`` for the bytes of an earlier one, else ``changed``.
    """

    table: pd.DataFrame
    images: pd.DataFrame  # all images, for `tables.write_image_list`
    report: dict[str, Any]  # the content of audit.json


def audit(described: pd.DataFrame, *, seed: int = 42) -> Audit:
    """Copies, hides and shortcuts of a set of classes, described by `describe.describe_images`.

    In the report, ``near_duplicate_...`` are changed copies among ``unique_images``, ``pixel_duplicate_files`` have
    other bytes and the same pixels, ``label_conflicts`` are lists of files that are one picture with several labels.
    """
    described = described.assign(digest=digests(described["path"]))
    table = described.dropna(subset=["brightness"])
    exact = table["file"].groupby(table["digest"]).transform("first")
    originals = table[exact == table["file"]]
    pairs = near_duplicates(originals)
    near = copy_groups(originals["file"], pairs)
    first = exact.map(pd.Series(near.to_numpy(), index=originals["file"]))
    kind = np.select([exact != table["file"], first != table["file"]], ["exact", "changed"], "distinct")
    table = table.assign(copy_of=first, copy_kind=kind)
    known = "group" in table
    table = table if known else table.assign(group=group_hides(table))
    labels = table.groupby("copy_of")["label"].nunique()
    report = {
        "images": len(described),
        "unreadable": sorted(set(described["file"]) - set(table["file"])),
        "unexpected_size": sorted(described.loc[described["problem"].str.contains("odd size"), "file"]),
        "exact_duplicate_files": int((kind == "exact").sum()),
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
    return Audit(table, images.assign(unreadable=~described.index.isin(table.index)), report)


def _describe_hides(table: pd.DataFrame, *, guessed: bool) -> dict[str, Any]:
    report = {
        "source": "colour of runs of file numbers" if guessed else HIDES,
        "count": int(table["group"].nunique()),
        "sizes": table["group"].value_counts().sort_index().to_dict(),
        "classes_per_group": {
            hide: rows["label"].value_counts().sort_index().to_dict() for hide, rows in table.groupby("group")
        },
    }
    if guessed:
        report |= {"threshold": HIDE_DISTANCE, "stability": {}}
        for distance in OTHER_DISTANCES:
            other = group_hides(table, distance=distance)
            agreement = float(adjusted_rand_score(table["group"], other))
            report["stability"][str(distance)] = {"count": int(other.nunique()), "adjusted_rand_index": agreement}
    return report


def colour_only_baseline(table: pd.DataFrame, *, seed: int = 42) -> dict[str, dict[str, float]]:
    """What a random forest reaches on `COLOUR_NUMBERS`, which know no defect: the shortcut test.

    ``random`` is protocol ``random-80-20`` over all files; ``hide`` is ``hide-5fold``, without copies, the answers of
    its folds pooled and, as in the table of baselines, averaged over `splits.rotations`. A protocol that cannot be made
    of these images is left out, with a warning. ``auroc``: of 1 - p(normal); ``chance``: the largest class's share.
    """
    classes, figures = classes_of(table), {}
    for name, protocol in (("random", "random-80-20"), ("hide", "hide-5fold")):
        try:
            if name == "random":
                folds = [[split_index(table, protocol, seed=seed, needed=("train", "test"))]]
            else:
                folds = [rotations(fold, seed=seed) for fold in hide_folds(table, seed=seed).values()]
        except ValueError as error:
            log.warning("no colour-only baseline: %s", error)
            continue
        answers = [np.mean([_forest(split, classes, seed) for split in members], axis=0) for members in folds]
        tests = [members[0].loc[members[0]["part"] == "test", "label"] for members in folds]
        figures[name] = _figures(classes.indices(pd.concat(tests)), np.concatenate(answers), classes)
    return figures


def _forest(split: pd.DataFrame, classes: Classes, seed: int) -> np.ndarray:
    """Class probabilities (n, classes) of the test images, learned from those of training."""
    train, test = (split[split["part"] == part] for part in ("train", "test"))
    forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=-1)
    forest.fit(train[list(COLOUR_NUMBERS)], train["label"])
    probabilities = pd.DataFrame(forest.predict_proba(test[list(COLOUR_NUMBERS)]), columns=forest.classes_)
    return probabilities.reindex(columns=list(classes.names), fill_value=0.0).to_numpy()  # a fold may lack a class


def _figures(targets: np.ndarray, probabilities: np.ndarray, classes: Classes) -> dict[str, float]:
    normal = probabilities[:, classes.normal_index].round(9)  # equal shares of trees are ties, whatever their rounding
    predicted = probabilities.argmax(1)
    return {
        "accuracy": float(np.mean(predicted == targets)),
        "macro_f1": float(macro_f1(targets, predicted, count=len(classes.names))),
        "auroc": float(roc_auc_score(targets != classes.normal_index, -normal)),
        "n": len(targets),
        "chance": float(np.bincount(targets).max() / len(targets)),
    }

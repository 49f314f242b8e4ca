"""How images are shared out among training, validation and test: named protocols.

A split is a table with ``part``: train, validation or test. Protocols of several folds give several tables, whose test
parts together hold every image once.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from ..config import FOLD_PROTOCOLS, PROTOCOLS
from .groups import PARTS, group_parts, stratified_folds
from .tables import AUDIT_FIRST, HIDES, classes_of

FOLDS = 5
FEWEST = 20  # images that a class needs on a hide to be told apart there
FULL_TRAINING_SET = 245  # train/good of MVTec AD leather
TRANSFER_BANK_IMAGES = 64


def split_index(table: pd.DataFrame, protocol: str, *, seed: int = 42) -> pd.DataFrame:
    """The table with a ``part`` (train, validation, test) for every image; the same seed gives the same parts.

    Protocols:
        ``random-80-20``: the published one. Of each class a random 20 % is test; a tenth of the other 80 % is
            validation. Tiles of one hide, and copies of one file, land on both sides: its figures are too good.
        ``random-60-20-20``: 60, 20 and 20 % of each class, without copies. Tiles of one hide still land on both sides.
        ``hide-60-20-20``: whole hides, without copies, are drawn until they hold about 60, 20 and 20 % of the pictures,
            and moved until every class is in every part.

    Raises:
        ValueError: If the protocol is unknown, the table lacks the ``group`` or ``copy_of`` that it needs, a class is
            too small to stand in all three parts, or hides cannot be kept apart.
    """
    generator = np.random.default_rng(seed)
    if protocol == "random-80-20":
        parts = _random_parts(table["label"], generator, test=0.2, validation=0.1)
    elif protocol == "random-60-20-20":
        table = _distinct(table, protocol)
        parts = _random_parts(table["label"], generator, test=0.2, validation=0.25)
    elif protocol == "hide-60-20-20":
        table = _distinct(table, protocol)
        _check_hides(table, protocol, fewest=3)
        parts = group_parts(table, generator)
    else:
        raise ValueError(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    table = table.assign(part=parts)
    counts = table.groupby(["label", "part"]).size().unstack(fill_value=0).reindex(columns=PARTS, fill_value=0)
    if (counts == 0).any(axis=None):
        hides = table.groupby("label")["group"].nunique() if "group" in table else counts.sum(axis=1)
        label = hides[(counts == 0).any(axis=1)].idxmin()
        on = f" on {hides[label]} hides" if "group" in table else ""
        needed = ", and needs 3 hides at least" if protocol == "hide-60-20-20" else ""
        raise ValueError(
            f"{protocol} leaves no image of {label} for {counts.loc[label].idxmin()}: the class has "
            f"{counts.loc[label].sum()} images{on}{needed}. Add images or use another protocol."
        )
    return table


def _random_parts(labels: pd.Series, generator: np.random.Generator, *, test: float, validation: float) -> pd.Series:
    parts = pd.Series("train", index=labels.index)
    for name in sorted(labels.unique()):
        order = generator.permutation(labels.index[labels == name])
        tests = round(test * len(order))
        validations = round(validation * (len(order) - tests))
        parts.loc[order[:tests]] = "test"
        parts.loc[order[tests : tests + validations]] = "validation"
    return parts


def _distinct(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """The rows that are no copy of another file."""
    if "copy_of" not in table:
        raise ValueError(f"{protocol} needs to know which pictures are copies. {AUDIT_FIRST}")
    return table[table["copy_of"] == table["file"]]


def _check_hides(table: pd.DataFrame, protocol: str, *, fewest: int) -> None:
    if "group" not in table:
        raise ValueError(f"{protocol} needs every picture's hide. {AUDIT_FIRST}")
    groups = table["group"]
    if groups.isna().any():
        raise ValueError(f"{protocol} needs every picture's hide; {groups.isna().sum()} have none. {AUDIT_FIRST}")
    if groups.is_unique:
        advice = f"Correct {HIDES} beside the class folders, or use random-80-20 and say that it leaks."
        raise ValueError(f"{protocol} cannot keep hides apart: every picture is on a hide of its own. {advice}")
    if groups.nunique() < fewest:
        raise ValueError(f"{protocol} needs at least {fewest} hides; there are {groups.nunique()}")


def split_folds(table: pd.DataFrame, protocol: str, *, seed: int = 42) -> dict[str, pd.DataFrame]:
    """The splits of a protocol by name, without copies; the same seed gives the same splits.

    Protocols:
        ``hide-5fold/1`` ... ``/5``: folds stratified by class, hides kept apart; validation is a fold of the rest.
        ``leave-one-defect-out/pinhole/1`` ...: these folds, but the class is absent from training and validation, and
            test holds only that class and normal images. The true test of anomaly detection.
        ``within-hide/<hide>``, for each hide with 20 images or more of two classes or more: of each such class the
            first 60 % by file number are training, the next 20 % validation, the last 20 % test. The hide's colour
            cannot help, a photograph's can; neighbouring tiles meet at two borders only.

    Raises:
        ValueError: If the protocol is unknown, the table lacks ``group`` or ``copy_of``, or there are too few hides.
    """
    if protocol not in FOLD_PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; expected one of {', '.join(FOLD_PROTOCOLS)}")
    pictures = _distinct(table, protocol)
    _check_hides(pictures, protocol, fewest=1 if protocol == "within-hide" else 2 * FOLDS)
    if protocol == "within-hide":
        return _within_hides(pictures)
    folds = _hide_folds(pictures, seed)
    if protocol == "hide-5fold":
        return folds
    classes, splits = classes_of(table), {}
    for defect in classes.names:
        for number, fold in enumerate(folds.values(), start=1):
            if defect != classes.normal:
                test = fold["part"] == "test"
                kept = np.where(test, fold["label"].isin([defect, classes.normal]), fold["label"] != defect)
                splits[f"{protocol}/{defect}/{number}"] = fold[kept]
    return splits


def rotations(split: pd.DataFrame, *, seed: int = 42) -> list[pd.DataFrame]:
    """A split by hide four times: the test part stays, every fold by hide of the rest is validation once.

    With the seed that `split_folds` was given, the first rotation of ``hide-5fold`` is the split itself.
    """
    rest, rotated = split[split["part"] != "test"], []
    folds = stratified_folds(rest, FOLDS - 1, seed)
    for number in range(FOLDS - 1):
        part = split["part"].where(split["part"] == "test", "train")
        part[rest.index[folds == number]] = "validation"
        rotated.append(split.assign(part=part))
    return rotated


def _hide_folds(table: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    folds, splits = stratified_folds(table, FOLDS, seed), {}
    for number in range(FOLDS):
        part = np.where(folds == number, "test", "train").astype(object)
        splits[f"hide-5fold/{number + 1}"] = rotations(table.assign(part=part), seed=seed)[0]
    return splits


def _within_hides(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    splits = {}
    for hide, rows in table.groupby("group"):
        sizes = rows["label"].value_counts()
        rows = rows[rows["label"].map(sizes) >= FEWEST]
        if rows["label"].nunique() < 2:
            continue
        rows = rows.sort_values("file", key=lambda files: files.map(natural_key))
        place = (rows.groupby("label").cumcount() + 0.5) / rows["label"].map(sizes)
        part = np.select([place < 0.6, place < 0.8], ["train", "validation"], "test")
        splits[f"within-hide/{hide}"] = rows.assign(part=part).sort_index()
    return splits


def natural_key(file: str) -> list[tuple[int, str]]:
    """For sorting file names: 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file)]


def mvtec_split(table: pd.DataFrame, protocol: str, *, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Normal images and test images of a table of `index_mvtec` for a protocol, each with a fresh index.

    Protocols:
        ``mvtec-full``: all of train/good, as published.
        ``<k>-shot``, e.g. ``4-shot``: k images of train/good, drawn by the seed; all of them if there are k.
        ``normals-16``: the first four of train/good and every second of the first 24 of test/good are normal; test is
            the rest. For copies of the set with few training images.

    Raises ValueError if the protocol is unknown or there are too few normal images.
    """
    train = table[(table["part"] == "train") & (table["defect"] == "good")].sort_values("file")
    test = table[table["part"] == "test"]
    if protocol == "normals-16":
        good = test[test["defect"] == "good"].sort_values("file").iloc[0:24:2]
        normals, test = pd.concat([train.iloc[:4], good]), test.drop(index=good.index)
        if len(normals) != 16:
            raise ValueError("normals-16 needs 4 images of train/good and 24 of test/good")
        return normals.reset_index(drop=True), test.reset_index(drop=True)
    shots = re.fullmatch(r"([1-9]\d*)-shot", protocol)
    if not shots and protocol != "mvtec-full":
        raise ValueError(f"protocol is {protocol!r}; expected mvtec-full, normals-16 or <k>-shot")
    wanted = int(shots[1]) if shots else FULL_TRAINING_SET
    if len(train) < wanted or (len(train) > wanted and not shots):
        raise ValueError(f"{protocol} needs {wanted} images of train/good; there are {len(train)}")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train))[:wanted])
    return train.iloc[chosen].reset_index(drop=True), test.reset_index(drop=True)


def protocol_name(normal_images: int) -> str:
    """``mvtec-full`` with the published training set, else ``<k>-shot``."""
    return "mvtec-full" if normal_images == FULL_TRAINING_SET else f"{normal_images}-shot"


def transfer_normals(table: pd.DataFrame, normal_class: str, *, seed: int) -> list[str]:
    """Some normal training images of the class folders, for the bank of ``six-class-transfer``."""
    rows = table[(table["part"] == "train") & (table["label"] == normal_class)]
    return list(rows.sample(min(len(rows), TRANSFER_BANK_IMAGES), random_state=seed)["path"])

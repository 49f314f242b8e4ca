"""How images are shared out among training, validation and test: named protocols.

A split is a table with ``part``: train, validation or test. Protocols of several folds give several tables, whose test
parts together hold every image once.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from ..config import PROTOCOLS
from .groups import PARTS, group_parts, stratified_folds
from .tables import AUDIT_FIRST, HIDES

FOLDS = 5
FULL_TRAINING_SET = 245  # train/good of MVTec AD leather
TRANSFER_BANK_IMAGES = 64


def split_index(table: pd.DataFrame, protocol: str, *, seed: int = 42, needed: tuple[str, ...] = PARTS) -> pd.DataFrame:
    """The table with a ``part`` (train, validation, test) for every image; the same seed gives the same parts.

    Protocols:
        ``random-80-20``: the published one. Of each class a random 20 % is test; a tenth of the other 80 % is
            validation. Tiles of one hide, and copies of one file, land on both sides: its figures are too good.
        ``random-60-20-20``: 60, 20 and 20 % of each class, without copies. Tiles of one hide still land on both sides.
        ``hide-60-20-20``: whole hides, without copies, are drawn until they hold about 60, 20 and 20 % of the pictures,
            and moved until every class is in every part.

    Raises:
        ValueError: If the protocol is unknown, the table lacks the ``group`` or ``copy_of`` that it needs, a class is
            too small to stand in all parts ``needed``, or hides cannot be kept apart.
    """
    generator = np.random.default_rng(seed)
    if protocol == "random-80-20":
        parts = _random_parts(table["label"], generator, test=0.2, validation=0.1)
    elif protocol == "random-60-20-20":
        table = distinct_pictures(table, protocol)
        parts = _random_parts(table["label"], generator, test=0.2, validation=0.25)
    elif protocol == "hide-60-20-20":
        table = distinct_pictures(table, protocol)
        check_hides(table, protocol, fewest=3)
        parts = group_parts(table, generator)
    else:
        raise ValueError(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    table = table.assign(part=parts)
    counts = table.groupby(["label", "part"]).size().unstack(fill_value=0).reindex(columns=needed, fill_value=0)
    if (counts == 0).any(axis=None):
        hides = table.groupby("label")["group"].nunique() if "group" in table else counts.sum(axis=1)
        label = hides[(counts == 0).any(axis=1)].idxmin()
        on = f" on {hides[label]} hides" if "group" in table else ""
        fewest = ", and needs 3 hides at least" if protocol == "hide-60-20-20" else ""
        raise ValueError(
            f"{protocol} leaves no image of {label} for {counts.loc[label].idxmin()}: the class has "
            f"{counts.loc[label].sum()} images{on}{fewest}. Add images or use another protocol."
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


def distinct_pictures(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """The rows that are no copy of another file."""
    if "copy_of" not in table:
        raise ValueError(f"{protocol} needs to know which pictures are copies. {AUDIT_FIRST}")
    return table[table["copy_of"] == table["file"]]


def check_hides(table: pd.DataFrame, protocol: str, *, fewest: int) -> None:
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


def hide_folds(table: pd.DataFrame, *, seed: int = 42) -> dict[str, pd.DataFrame]:
    """The splits ``hide-5fold/1`` ... ``/5``, stratified by class, without copies, no hide in two parts.

    Validation is a fold of the rest. Raises ValueError if the table lacks ``group`` or ``copy_of``, or there are fewer
    than ten hides.
    """
    pictures = distinct_pictures(table, "hide-5fold")
    check_hides(pictures, "hide-5fold", fewest=2 * FOLDS)
    folds, splits = stratified_folds(pictures, FOLDS, seed), {}
    for number in range(FOLDS):
        part = np.where(folds == number, "test", "train").astype(object)
        splits[f"hide-5fold/{number + 1}"] = rotations(pictures.assign(part=part), seed=seed)[0]
    return splits


def rotations(split: pd.DataFrame, *, seed: int = 42) -> list[pd.DataFrame]:
    """A split by hide four times: the test part stays, every fold by hide of the rest is validation once.

    With the seed that `hide_folds` was given, the first rotation is the split itself.
    """
    rest, rotated = split[split["part"] != "test"], []
    folds = stratified_folds(rest, FOLDS - 1, seed)
    for number in range(FOLDS - 1):
        part = split["part"].where(split["part"] == "test", "train")
        part[rest.index[folds == number]] = "validation"
        rotated.append(split.assign(part=part))
    return rotated


def natural_key(file: str) -> list[tuple[int, str]]:
    """For sorting file names: 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file)]


def mvtec_split(table: pd.DataFrame, protocol: str, *, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Normal images and test images of a table of `index_mvtec` for a protocol, each with a fresh index.

    Protocols:
        ``mvtec-full``: all of train/good, as published.
        ``<k>-shot``, e.g. ``4-shot``: k images of train/good, drawn by the seed; all of them if there are k.

    Raises ValueError if the protocol is unknown or there are too few normal images.
    """
    train = table[(table["part"] == "train") & (table["defect"] == "good")].sort_values("file")
    test = table[table["part"] == "test"]
    shots = re.fullmatch(r"([1-9]\d*)-shot", protocol)
    if not shots and protocol != "mvtec-full":
        raise ValueError(f"protocol is {protocol!r}; expected mvtec-full or <k>-shot")
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

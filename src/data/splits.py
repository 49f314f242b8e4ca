"""How images are shared out among training, validation and test: named protocols, kept as files.

A split is a table with ``part``: train, validation or test. Protocols of several folds give several tables, whose test
parts together hold every image once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from ..config import CLASS_NAMES, NORMAL_CLASS


def natural_key(file: str) -> list[tuple[int, str]]:
    """For sorting file names: 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file)]


TRANSFER_BANK_IMAGES = 64


def protocol_name(normal_images: int) -> str:
    """``mvtec-full`` with the published training set, else ``<k>-shot``."""
    return "mvtec-full" if normal_images == FULL_TRAINING_SET else f"{normal_images}-shot"


def transfer_normals(table: pd.DataFrame, normal_class: str, *, seed: int) -> list[str]:
    """Some normal training images of the six-class set, for the bank of ``six-class-transfer``."""
    rows = table[(table["part"] == "train") & (table["label"] == normal_class)]
    return list(rows.sample(min(len(rows), TRANSFER_BANK_IMAGES), random_state=seed)["path"])


PARTS = ("train", "validation", "test")
PROTOCOLS = ("random-80-20", "random-60-20-20", "hide-60-20-20")  # of one split
FOLD_PROTOCOLS = ("hide-5fold", "leave-one-defect-out", "within-hide")
FOLDS = 5
FULL_TRAINING_SET = 245  # train/good of MVTec AD leather
FEWEST = 20  # images that a class needs on a hide to be told apart there


def split_index(table: pd.DataFrame, protocol: str, *, seed: int = 42) -> pd.DataFrame:
    """The table with a ``part`` (train, validation, test) for every image; the same seed gives the same parts.

    Protocols:
        ``random-80-20``: the published one. Of each class a random 20 % is test; a tenth of the other 80 % is
            validation. Tiles of one hide, and copies of one file, land on both sides: its figures are too good.
        ``random-60-20-20``: as above, with 60, 20 and 20 %, of pictures that are no copy of another one. Tiles of one
            hide still land on both sides.
        ``hide-60-20-20``: whole groups of pictures that are no copy of another one are drawn until they hold about 60,
            20 and 20 % of them; no group is in two parts.

    Args:
        table: Rows with ``label`` and ``group``. Copies are known by ``file`` and ``copy_of``, see `audit.audit`.
        protocol: One of the above.
        seed: Of the draw.

    Raises:
        ValueError: If the protocol is unknown, a class is too small to stand in all three parts, or, for a split by
            hide, there are fewer than three groups to share out, images without a group, or nothing but groups of one.
    """
    generator = np.random.default_rng(seed)
    if protocol == "random-80-20":
        parts = _random_parts(table["label"], generator, test=0.2, validation=0.1)
    elif protocol == "random-60-20-20":
        table = distinct(table)
        parts = _random_parts(table["label"], generator, test=0.2, validation=0.25)
    elif protocol == "hide-60-20-20":
        table = distinct(table)
        parts = _group_parts(table["group"], generator)
    else:
        raise ValueError(f"protocol is {protocol!r}; expected one of {PROTOCOLS}")
    table = table.assign(part=parts)
    counts = table.groupby(["label", "part"]).size().unstack(fill_value=0).reindex(columns=PARTS, fill_value=0)
    if (counts == 0).any(axis=None):
        label, part = next((c, p) for c in counts.index for p in PARTS if counts.loc[c, p] == 0)
        raise ValueError(
            f"{protocol} leaves no image of {label} for {part}: the class has {int(counts.loc[label].sum())} images"
            f" in {table.loc[table['label'] == label, 'group'].nunique()} groups. Add images or use another protocol."
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


def _group_parts(groups: pd.Series, generator: np.random.Generator) -> pd.Series:
    sizes = _check_groups(groups, fewest=3)
    order = generator.permutation(sizes.index.to_numpy())
    ends = np.cumsum([sizes[name] for name in order]) / len(groups)
    part_of = {}
    for position, (name, end) in enumerate(zip(order, ends, strict=True)):
        left = len(order) - position  # the last two groups are kept for parts that have none yet
        if position == 0 or (end <= 0.2 and left > 2):
            part_of[name] = "test"
        elif end <= 0.4 or "validation" not in part_of.values():
            part_of[name] = "validation"
        else:
            part_of[name] = "train"
    return groups.map(part_of)


def _check_groups(groups: pd.Series, *, fewest: int) -> pd.Series:
    """Images of each group, if a split can keep the groups apart."""
    if groups.isna().any():
        raise ValueError(f"a split by hide needs every image's group; {int(groups.isna().sum())} have none")
    sizes = groups.value_counts().sort_index()
    if (sizes == 1).all():
        raise ValueError(
            "every image is its own group, so hides cannot be kept apart. Add a hides.csv (columns path, label, hide) "
            "beside the class folders, or use random-80-20 and say that it leaks."
        )
    if len(sizes) < fewest:
        raise ValueError(f"a split by hide needs at least {fewest} groups; there are {len(sizes)}")
    return sizes


def split_folds(table: pd.DataFrame, protocol: str, *, seed: int = 42) -> dict[str, pd.DataFrame]:
    """The splits of a protocol by name, e.g. ``hide-5fold/1``; the same seed gives the same splits.

    Every picture counts once: copies of another file are left out if the table has ``copy_of``.

    Protocols:
        ``hide-5fold``: five folds stratified by class, hides kept apart; validation is a fold by hide of the rest.
        ``leave-one-defect-out``: of each of these folds and each defect class, e.g. ``leave-one-defect-out/pinhole/1``:
            the class is absent from training and validation, and test holds only that class and normal images, on
            hides that training has not seen. The true test of anomaly detection.
        ``within-hide``: one split for each hide that carries two classes or more with 20 images each: of each such
            class the first 60 % by file number are training, the next 20 % validation, the last 20 % test. The hide's
            colour cannot help, a photograph's can; neighbouring tiles meet at two borders only.

    Args:
        table: Rows with ``file``, ``label`` and ``group``, the hide.
        protocol: One of the above.
        seed: Of the folds.

    Raises:
        ValueError: If the protocol is unknown, the images have no hides, or there are too few hides.
    """
    if protocol not in FOLD_PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; expected one of {FOLD_PROTOCOLS}")
    table = distinct(table)
    _check_groups(table["group"], fewest=1 if protocol == "within-hide" else 2 * FOLDS)
    if protocol == "within-hide":
        return _within_hides(table)
    folds = _hide_folds(table, seed)
    if protocol == "hide-5fold":
        return folds
    found = {}
    for defect in CLASS_NAMES:
        if defect != NORMAL_CLASS:
            for number, fold in enumerate(folds.values(), start=1):
                test = fold["part"] == "test"
                kept = np.where(test, fold["label"].isin([defect, NORMAL_CLASS]), fold["label"] != defect)
                found[f"{protocol}/{defect}/{number}"] = fold[kept]
    return found


def rotations(split: pd.DataFrame, *, seed: int = 42) -> list[pd.DataFrame]:
    """A split by hide four times: the test part stays, every fold by hide of the rest is validation once.

    Args:
        split: One of `split_folds`, of a protocol that keeps hides apart.
        seed: As given there; the first rotation of ``hide-5fold`` is then the split itself. Training and validation
            are always drawn anew.
    """
    return list(_rotate(split, seed))


def _rotate(split: pd.DataFrame, seed: int) -> Iterator[pd.DataFrame]:
    rest = split[split["part"] != "test"]
    folds = StratifiedGroupKFold(FOLDS - 1, shuffle=True, random_state=seed)
    for _, validation in folds.split(rest, rest["label"], rest["group"]):
        part = split["part"].where(split["part"] == "test", "train")
        part[rest.index[validation]] = "validation"
        yield split.assign(part=part)


def distinct(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are no copy of another file; all if the table does not know (no ``copy_of``)."""
    return table[table["copy_of"] == table["file"]] if "copy_of" in table else table


def _hide_folds(table: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    labels, found = table["label"].to_numpy(), {}
    outer = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(outer.split(labels, labels, table["group"]), start=1):
        part = np.full(len(table), "train", dtype=object)
        part[test] = "test"
        found[f"hide-5fold/{number}"] = next(_rotate(table.assign(part=part), seed))
    return found


def _within_hides(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = {}
    for hide, rows in table.groupby("group"):
        sizes = rows["label"].value_counts()
        rows = rows[rows["label"].map(sizes) >= FEWEST]
        if rows["label"].nunique() < 2:
            continue
        rows = rows.sort_values("file", key=lambda files: files.map(natural_key))
        place = (rows.groupby("label").cumcount() + 0.5) / rows["label"].map(sizes)
        part = np.select([place < 0.6, place < 0.8], ["train", "validation"], "test")
        found[f"within-hide/{hide}"] = rows.assign(part=part).sort_index()
    return found


def mvtec_split(table: pd.DataFrame, protocol: str, *, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Normal images and test images of an MVTec AD table for a protocol, each with a fresh index.

    Protocols:
        ``mvtec-full``: all of train/good, as published.
        ``<k>-shot``, e.g. ``4-shot``: k images of train/good, drawn by the seed; all of them if there are k.
        ``normals-16``: the first four of train/good and every second of the first 24 of test/good are normal; test is
            the rest. For copies of the set with few training images.

    Args:
        table: Of `images.index_mvtec`.
        protocol: One of the above.
        seed: Of the draw.

    Raises:
        ValueError: If the protocol is unknown or there are too few normal images.
    """
    train = table[(table["part"] == "train") & (table["defect"] == "good")].sort_values("file")
    test = table[table["part"] == "test"]
    if protocol == "mvtec-full":
        if len(train) != FULL_TRAINING_SET:
            raise ValueError(f"mvtec-full is all {FULL_TRAINING_SET} normal training images; there are {len(train)}")
        normals = train
    elif protocol == "normals-16":
        good = test[test["defect"] == "good"].sort_values("file")
        normals = pd.concat([train.iloc[:4], good.iloc[0:24:2]])
        test = test.drop(index=good.index[0:24:2])
        if len(normals) != 16:
            raise ValueError(f"normals-16 needs 4 images of train/good and 24 of test/good; it found {len(normals)}")
    elif (match := re.fullmatch(r"(\d+)-shot", protocol)) and int(match[1]) > 0:
        shots = int(match[1])
        if len(train) < shots:
            raise ValueError(f"{protocol} needs {shots} images of train/good; there are {len(train)}")
        chosen = np.random.default_rng(seed).permutation(len(train))[:shots]
        normals = train.iloc[np.sort(chosen)]
    else:
        raise ValueError(f"protocol is {protocol!r}; expected mvtec-full, normals-16 or <k>-shot")
    return normals.reset_index(drop=True), test.reset_index(drop=True)


def save_split(table: pd.DataFrame, path: Path) -> Path:
    """Writes a split as CSV, packed if the path ends in .gz: columns path (relative), label, group and part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = table[["file", "label", "group", "part"]].rename(columns={"file": "path"})
    part = path.with_name(path.name + ".part")
    # Without the time in it, the same split is the same file.
    columns.to_csv(part, index=False, compression={"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None)
    part.replace(path)
    return path


def load_split(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of an index in the parts that `save_split` wrote; images that the file does not name are left out.

    Raises:
        ValueError: If an image of the split is missing from the index, or its label has changed.
    """
    saved = pd.read_csv(path, dtype=str).set_index("path")
    known = table.set_index("file")["label"].reindex(saved.index)
    wrong = saved.index[known != saved["label"]]
    if len(wrong):
        raise ValueError(
            f"{path} does not fit the images: {wrong[0]} is missing or has another label. Delete the file to draw the "
            "split anew, or give another folder."
        )
    rows = table[table["file"].isin(saved.index)]
    return rows.assign(**{name: rows["file"].map(saved[name]) for name in ("group", "part")})

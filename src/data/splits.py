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

from ..config import FOLD_PROTOCOLS, PROTOCOLS
from ..files import whole_file
from .tables import classes_of

PARTS = ("train", "validation", "test")
FOLDS = 5
FEWEST = 20  # images that a class needs on a hide to be told apart there
TRANSFER_BANK_IMAGES = 64


def natural_key(file: str) -> list[tuple[int, str]]:
    """For sorting file names: 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file)]


def transfer_normals(table: pd.DataFrame, normal_class: str, *, seed: int) -> list[str]:
    """Some normal training images of the six-class set, for the bank of ``six-class-transfer``."""
    rows = table[(table["part"] == "train") & (table["label"] == normal_class)]
    return list(rows.sample(min(len(rows), TRANSFER_BANK_IMAGES), random_state=seed)["path"])


def split_index(table: pd.DataFrame, protocol: str, *, seed: int = 42) -> pd.DataFrame:
    """The table with a ``part`` (train, validation, test) for every image; the same seed gives the same parts.

    Protocols:
        ``random-80-20``: the published one. Of each class a random 20 % is test; a tenth of the other 80 % is
            validation. Tiles of one hide, and copies of one file, land on both sides: its figures are too high.
        ``random-60-20-20``: as above, with 60, 20 and 20 %, of pictures that are no copy of another one. Tiles of one
            hide still land on both sides.
        ``hide-60-20-20``: whole hides, copies left out, are drawn until they hold about 60, 20 and 20 % of the
            pictures; no hide is in two parts.

    Args:
        table: Of `tables.read_image_list`; of `tables.index_images` for the published protocol.
        protocol: One of the above.
        seed: Of the draw.

    Raises:
        ValueError: If the protocol is unknown, the table lacks what it promises to keep apart, a class is too small to
            stand in all three parts, or there are fewer than three hides to share out.
    """
    generator = np.random.default_rng(seed)
    if protocol == "random-80-20":
        parts = _random_parts(table["label"], generator, test=0.2, validation=0.1)
    elif protocol == "random-60-20-20":
        table = distinct(table, protocol)
        parts = _random_parts(table["label"], generator, test=0.2, validation=0.25)
    elif protocol == "hide-60-20-20":
        table = distinct(table, protocol)
        parts = _group_parts(_hides(table, protocol, fewest=3), generator)
    else:
        raise ValueError(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    table = table.assign(part=parts)
    counts = table.groupby(["label", "part"]).size().unstack(fill_value=0).reindex(columns=PARTS, fill_value=0)
    for label, part in ((label, part) for label in counts.index for part in PARTS if counts.loc[label, part] == 0):
        hides = f" on {table.loc[table['label'] == label, 'group'].nunique()} hides" if "group" in table else ""
        raise ValueError(
            f"{protocol} leaves no image of {label} for {part}: the class has {int(counts.loc[label].sum())} images"
            f"{hides}. Add images or use another protocol."
        )
    return table


def distinct(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """The rows that are no copy of another file; ValueError if the table does not know its copies."""
    _require(table, "copy_of", protocol, "copies")
    return table[table["copy_of"] == table["file"]]


def _require(table: pd.DataFrame, column: str, protocol: str, what: str) -> None:
    if column not in table:
        raise ValueError(
            f"{protocol} keeps {what} apart, but this table does not know them. Run "
            "2.0-EDA-Leather-Defect-dataset.ipynb on these pictures first, or use random-80-20 and say that it leaks."
        )


def _hides(table: pd.DataFrame, protocol: str, *, fewest: int) -> pd.Series:
    """The hide of each image, if a split can keep them apart."""
    _require(table, "group", protocol, "hides")
    hides = table["group"]
    if hides.isna().any():
        raise ValueError(f"a split by hide needs every image's hide; {int(hides.isna().sum())} have none")
    sizes = hides.value_counts()
    if (sizes == 1).all():
        raise ValueError(
            "every image is its own hide, so hides cannot be kept apart. Correct hides.csv (columns path, label, hide) "
            "beside the class folders, or use random-80-20 and say that it leaks."
        )
    if len(sizes) < fewest:
        raise ValueError(f"a split by hide needs at least {fewest} hides; there are {len(sizes)}")
    return hides


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
    sizes = groups.value_counts().sort_index()
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


def split_folds(table: pd.DataFrame, protocol: str, *, seed: int = 42) -> dict[str, pd.DataFrame]:
    """The splits of a protocol by name, e.g. ``hide-5fold/1``; the same seed gives the same splits.

    Every picture counts once: copies of another file are left out.

    Protocols:
        ``hide-5fold``: five folds stratified by class, hides kept apart; validation is a fold by hide of the rest.
        ``leave-one-defect-out``: of each of these folds and each defect class, e.g. ``leave-one-defect-out/pinhole/1``:
            the class is absent from training and validation, and test holds only that class and normal images, on
            hides that training has not seen. The true test of anomaly detection.
        ``within-hide``: one split for each hide that carries two classes or more with 20 images each: of each such
            class the first 60 % by file number are training, the next 20 % validation, the last 20 % test. The hide's
            colour cannot help, a photograph's can; neighbouring tiles meet at two borders only.

    Args:
        table: Of `tables.read_image_list`.
        protocol: One of the above.
        seed: Of the folds.

    Raises:
        ValueError: If the protocol is unknown, the table does not know hides and copies, or there are too few hides.
    """
    if protocol not in FOLD_PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; expected one of {', '.join(FOLD_PROTOCOLS)}")
    table = distinct(table, protocol)
    _hides(table, protocol, fewest=1 if protocol == "within-hide" else 2 * FOLDS)
    if protocol == "within-hide":
        return _within_hides(table)
    folds = _hide_folds(table, seed)
    if protocol == "hide-5fold":
        return folds
    classes, splits = classes_of(table), {}
    for defect in (name for name in classes.names if name != classes.normal):
        for number, fold in enumerate(folds.values(), start=1):
            test = fold["part"] == "test"
            kept = np.where(test, fold["label"].isin([defect, classes.normal]), fold["label"] != defect)
            splits[f"{protocol}/{defect}/{number}"] = fold[kept]
    return splits


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


def _hide_folds(table: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    labels, folds = table["label"].to_numpy(), {}
    outer = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(outer.split(labels, labels, table["group"]), start=1):
        part = np.full(len(table), "train", dtype=object)
        part[test] = "test"
        folds[f"hide-5fold/{number}"] = next(_rotate(table.assign(part=part), seed))
    return folds


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


def save_split(table: pd.DataFrame, path: Path) -> Path:
    """Writes a split as CSV, packed if the path ends in .gz: columns path (relative), label, group and part."""
    columns = [name for name in ("file", "label", "group", "part") if name in table]
    packed = {"method": "gzip", "mtime": 0}  # without the time in it, the same split is the same file
    with whole_file(path) as stream:
        table[columns].rename(columns={"file": "path"}).to_csv(
            stream, index=False, lineterminator="\n", compression=packed if Path(path).suffix == ".gz" else None
        )
    return Path(path)


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
    return rows.assign(**{name: rows["file"].map(saved[name]) for name in ("group", "part") if name in saved})

"""The splits of the table of baselines, each kept as a file: another version of a library must not draw others."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd

from src.classifier.report import HONEST_PROTOCOL
from src.config import FOLD_PROTOCOLS
from src.data.splits import FOLDS, check_hides, distinct_pictures, hide_folds, natural_key, rotations, split_index
from src.data.tables import classes_of, read_text_table
from src.files import whole_file

FEWEST = 20  # images that a class needs on a hide to be told apart there


def splits_of(table: pd.DataFrame, protocol: str, seed: int, folder: Path) -> dict[str, list[pd.DataFrame]]:
    """The splits of a protocol by name, each with the members that a recipe is fitted for; files decide, if there."""
    folds = protocol in FOLD_PROTOCOLS
    drawn = split_folds(table, protocol, seed=seed) if folds else {protocol: split_index(table, protocol, seed=seed)}
    for name, split in drawn.items():
        if not (file := folder / f"{name}.csv.gz").is_file():
            save_split(split, file)
        drawn[name] = load_split(file, table)
    return {name: rotations(s, seed=seed) if protocol == HONEST_PROTOCOL else [s] for name, s in drawn.items()}


def split_folds(table: pd.DataFrame, protocol: str, *, seed: int = 42) -> dict[str, pd.DataFrame]:
    """The splits of a protocol of several by name, without copies; the same seed gives the same splits.

    Protocols:
        ``hide-5fold``: see `hide_folds`.
        ``leave-one-defect-out/pinhole/1`` ...: these folds, but the class is absent from training and validation, and
            test holds only that class and normal images. The true test of anomaly detection.
        ``within-hide/<hide>``, for each hide with 20 images or more of two classes or more: of each such class the
            first 60 % by file number are training, the next 20 % validation, the last 20 % test. The hide's colour
            cannot help, a photograph's can; neighbouring tiles meet at two borders only.

    Raises ValueError if the table lacks ``group`` or ``copy_of``, or there are too few hides.
    """
    pictures = distinct_pictures(table, protocol)
    check_hides(pictures, protocol, fewest=1 if protocol == "within-hide" else 2 * FOLDS)
    if protocol == "within-hide":
        return _within_hides(pictures)
    folds = hide_folds(table, seed=seed)
    return folds if protocol == "hide-5fold" else _without_a_defect(folds, table)


def _without_a_defect(folds: dict[str, pd.DataFrame], table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    classes, splits = classes_of(table), {}
    for defect in classes.names:
        for number, fold in enumerate(folds.values(), start=1):
            if defect != classes.normal:
                test = fold["part"] == "test"
                kept = np.where(test, fold["label"].isin([defect, classes.normal]), fold["label"] != defect)
                splits[f"leave-one-defect-out/{defect}/{number}"] = fold[kept]
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


def save_split(table: pd.DataFrame, path: Path) -> Path:
    """Writes a split as CSV, packed if the path ends in .gz: columns path (relative), label, group (if known), part."""
    columns = table[[name for name in ("file", "label", "group", "part") if name in table]]
    text = columns.rename(columns={"file": "path"}).to_csv(index=False, lineterminator="\n").encode()
    with whole_file(path) as stream:  # without the time in it, the same split is the same file
        stream.write(gzip.compress(text, mtime=0) if Path(path).suffix == ".gz" else text)
    return Path(path)


def load_split(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table in the parts that `save_split` wrote; images that the file does not name are left out."""
    advice = "Delete the file to draw the split anew, or give another folder."
    saved = read_text_table(path, ("path", "label", "part"), advice=advice).set_index("path")
    wrong = saved.index[table.set_index("file")["label"].reindex(saved.index) != saved["label"]]
    if len(wrong):
        raise ValueError(f"{path} does not fit the images: {wrong[0]} is missing or has another label. {advice}")
    rows = table[table["file"].isin(saved.index)]
    return rows.assign(**{name: rows["file"].map(saved[name]) for name in ("group", "part") if name in saved})

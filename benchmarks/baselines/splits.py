"""The splits of the table of baselines, each kept as a file: another version of a library must not draw others."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd

from src.classifier.report import HONEST_PROTOCOL
from src.config import FOLD_PROTOCOLS
from src.data.splits import rotations, split_folds, split_index
from src.data.tables import read_text_table
from src.files import whole_file


def splits_of(table: pd.DataFrame, protocol: str, seed: int, folder: Path) -> dict[str, list[pd.DataFrame]]:
    """The splits of a protocol by name, each with the members that a recipe is fitted for; files decide, if there."""
    folds = protocol in FOLD_PROTOCOLS
    drawn = split_folds(table, protocol, seed=seed) if folds else {protocol: split_index(table, protocol, seed=seed)}
    for name, split in drawn.items():
        if not (file := folder / f"{name}.csv.gz").is_file():
            save_split(split, file)
        drawn[name] = load_split(file, table)
    return {name: rotations(s, seed=seed) if protocol == HONEST_PROTOCOL else [s] for name, s in drawn.items()}


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

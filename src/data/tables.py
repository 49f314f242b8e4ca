"""Tables of pictures, and the classes that they show.

A table (pandas) has one row a picture: ``path`` (absolute), ``file`` (relative to the data set, the name that reports
print) and ``label`` (a class name). Where it is known there are ``group`` (the hide), ``copy_of`` (the first file that
shows the same picture, or its own) and ``digest`` (SHA-256 of the file).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..config import CLASS_NAMES, KAGGLE_FOLDER, MVTEC_FOLDER, paths, setting
from ..files import file_identity, whole_file
from .pictures import IMAGE_SUFFIXES, is_picture

log = logging.getLogger(__name__)

NORMAL_NAMES = ("non_defective", "good", "normal", "ok")  # the class that counts as not anomalous, by default
IMAGE_LIST = "images.csv"  # notebook 2.0 writes it into the folder of its figures
COLUMNS = ("file", "digest", "label", "hide", "copy_of", "unreadable")


@dataclass(frozen=True)
class Classes:
    """The classes of a set in the order of a model's outputs, and the one that counts as normal.

    Raises:
        ValueError: If there are fewer than two, a name twice, or the normal one is not among them.
    """

    names: tuple[str, ...]
    normal: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if len(set(self.names)) != len(self.names) or len(self.names) < 2:
            raise ValueError(f"the classes are {self.names}; expected two or more different names")
        if self.normal not in self.names:
            raise ValueError(f"the normal class is {self.normal!r}; expected one of {', '.join(self.names)}")

    @property
    def normal_index(self) -> int:
        return self.names.index(self.normal)

    def indices(self, labels: Iterable[str]) -> np.ndarray:
        """Position of each label among the names, shape (n,); ValueError for a label that is none of them."""
        positions = {name: position for position, name in enumerate(self.names)}
        if unknown := sorted(set(labels) - set(self.names)):
            raise ValueError(f"the label {unknown[0]!r} is none of the classes {', '.join(self.names)}")
        return np.array([positions[label] for label in labels], dtype=int)


def classes_of(table: pd.DataFrame) -> Classes:
    """The classes of a whole table, ordered by `order_classes`.

    The normal class is the one that ``LEATHER_NORMAL_CLASS`` names, else the one that is called non_defective, good,
    normal or ok.

    Raises:
        ValueError: If there is no class or more than one of that kind, or fewer than two classes.
    """
    names = order_classes(table["label"])
    if named := setting("LEATHER_NORMAL_CLASS"):
        normal = [name for name in names if _plain(name) == _plain(named)]
    else:
        normal = [name for name in names if name.lower() in NORMAL_NAMES]
    if len(normal) != 1:
        raise ValueError(
            f"the normal class is {named or 'not known'}; set LEATHER_NORMAL_CLASS to one of {', '.join(names)}"
        )
    return Classes(names, normal[0])


def order_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Each label once: published names in their published order, then the others by name."""
    order = {name: position for position, name in enumerate(CLASS_NAMES)}
    return tuple(sorted(set(labels), key=lambda name: (order.get(name, len(order)), name)))


def class_name(folder: str) -> str:
    """The class that a folder means: a published one whatever its case, spaces, hyphens or plural s, else its name."""
    return _PUBLISHED.get(_plain(folder), folder.strip())


def _plain(name: str) -> str:
    words = re.findall(r"[^\W_]+", name.lower())
    return "".join(word.removesuffix("s") for word in words)


_PUBLISHED = {_plain(name): name for name in CLASS_NAMES}


def class_root(data: Path) -> Path:
    """The folder of the class folders: ``leather_defect_classification`` of a data folder, or that folder itself."""
    return data / KAGGLE_FOLDER if (data / KAGGLE_FOLDER).is_dir() else data


def published(root: Path) -> bool:
    """Whether a folder's classes are exactly the published six."""
    return {class_name(folder.name) for folder in _class_folders(root)} == set(CLASS_NAMES)


def has_classes(root: Path) -> bool:
    """Whether a folder holds two folders of pictures or more."""
    return root.is_dir() and sum(any(map(is_picture, folder.iterdir())) for folder in _class_folders(root)) > 1


def _class_folders(root: Path) -> list[Path]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [folder for folder in folders if folder.name != MVTEC_FOLDER]


def index_images(root: Path) -> pd.DataFrame:
    """The table of a folder of classes: ``path``, ``file``, ``label``, in a fixed order.

    Hides come from ``hides.csv`` (columns path, label, hide) where the folder has one, as column ``group``.

    Args:
        root: Holds two or more folders of pictures, named after their classes; ``mvtec`` is none.

    Raises:
        FileNotFoundError: If the folder is missing or holds fewer than two classes with pictures.
        ValueError: If ``hides.csv`` lacks a column, lists an image twice, or gives no hide for an image.
    """
    root, rows = Path(root), []
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}. Run 1.0.download-datasets.ipynb first, or set LEATHER_DATA to the folder "
            f"that holds {KAGGLE_FOLDER}/ or the class folders themselves."
        )
    for folder in _class_folders(root):
        pictures = [path for path in sorted(folder.iterdir()) if is_picture(path)]
        if not pictures:
            log.warning("%s holds no picture; left out", folder)
        rows += [(str(path), path.relative_to(root).as_posix(), class_name(folder.name)) for path in pictures]
    table = pd.DataFrame(rows, columns=["path", "file", "label"])
    if table["label"].nunique() < 2:
        labels = ", ".join(table["label"].unique()) or "none"
        raise FileNotFoundError(
            f"{root} has pictures of fewer than two classes ({labels}). Expected one folder a class with at least one "
            f"of {', '.join(sorted(IMAGE_SUFFIXES))}. Run 1.0.download-datasets.ipynb to get and check the data."
        )
    hides = _read_hides(root / "hides.csv", table["file"])
    return table if hides is None else table.assign(group=hides)


def _read_hides(file: Path, files: pd.Series) -> pd.Series | None:
    if not file.is_file():
        return None
    listed = pd.read_csv(file, dtype=str)  # as text: hides 01 and 1 are two
    if missing := {"path", "hide"} - set(listed.columns):
        raise ValueError(f"{file} has no column {sorted(missing)}; expected path, label, hide")
    known = listed.dropna(subset=["path", "hide"]).set_index("path")["hide"]
    if known.index.has_duplicates:
        raise ValueError(f"{file} lists {known.index[known.index.duplicated()][0]} more than once")
    unknown = sorted(set(files) - set(known.index))
    if unknown:
        raise ValueError(f"{file} gives no hide for {len(unknown)} images, the first is {unknown[0]}")
    return files.map(known)


def digest(file: str | Path) -> str:
    """SHA-256 of a file's content, as hexadecimal text."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def digests(files: Iterable[str]) -> list[str]:
    """`digest` of each file, many at a time."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(digest, files))


def picture_identities(table: pd.DataFrame) -> list[str]:
    """What each picture's kept answers go by: its digest where it is known, else its name, size and time."""
    if "digest" in table:
        return list(table["digest"])
    return [f"{row.file} {file_identity(row.path)}" for row in table.itertuples()]


def write_image_list(table: pd.DataFrame, file: Path) -> Path:
    """Writes the list of all pictures that the other notebooks read, see `read_image_list`.

    Args:
        table: Rows with ``file``, ``digest``, ``label``, ``group``, ``copy_of`` and ``unreadable`` (bool); unreadable
            ones have no group and no copy_of.
        file: Usually ``reports/eda/images.csv``.
    """
    with whole_file(file) as stream:
        table.rename(columns={"group": "hide"})[list(COLUMNS)].to_csv(stream, index=False, lineterminator="\n")
    return Path(file)


def write_hides(table: pd.DataFrame, file: Path) -> Path:
    """Writes a template of ``hides.csv``, to be corrected and put beside the class folders: path, label, hide."""
    known = table.dropna(subset=["group"])[["file", "label", "group"]]
    with whole_file(file) as stream:
        known.set_axis(["path", "label", "hide"], axis=1).to_csv(stream, index=False, lineterminator="\n")
    return Path(file)


def read_image_list(root: Path, file: Path) -> pd.DataFrame:
    """The readable pictures of a folder of classes, as notebook 2.0 saw them: with group, copy_of and digest.

    Args:
        root: As for `index_images`.
        file: Of `write_image_list`.

    Raises:
        FileNotFoundError: If the list or the folder is missing.
        ValueError: If a picture is new, missing or changed, has another label or hide, or the list lacks a column.
    """
    name, advice = paths.relative(file), "Run 2.0-EDA-Leather-Defect-dataset.ipynb on these pictures first."
    if not Path(file).is_file():
        raise FileNotFoundError(f"no list of pictures {name}. {advice}")
    listed = pd.read_csv(file, dtype={"unreadable": bool} | dict.fromkeys(COLUMNS[:-1], str))
    if missing := set(COLUMNS) - set(listed.columns):
        raise ValueError(f"{name} has no column {sorted(missing)}. {advice}")
    table = index_images(root)
    table["digest"] = digests(table["path"])
    listed = listed.set_index("file")
    was = listed.reindex(table["file"])[["digest", "label", "hide"]].reset_index(drop=True)
    now = table[["digest", "label"]].assign(hide=table["group"] if "group" in table else was["hide"])
    unfit = (now != was).any(axis=1) & ~listed["unreadable"].reindex(table["file"]).eq(True).to_numpy()
    changed = [*table.loc[unfit, "file"], *sorted(set(listed.index) - set(table["file"]))]
    if changed:
        raise ValueError(
            f"{name} does not fit the pictures in {paths.relative(root)}: {len(changed)} are new, missing, changed or "
            f"have another label or hide, the first is {changed[0]}. {advice}"
        )
    rows = listed.loc[table["file"], ["hide", "copy_of", "unreadable"]].reset_index(drop=True)
    table = table.assign(group=rows["hide"], copy_of=rows["copy_of"])
    return table[~rows["unreadable"]].reset_index(drop=True)

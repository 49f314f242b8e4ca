"""Tables of pictures, and the classes that they show.

A table (pandas) has one row a picture: ``path`` (absolute), ``file`` (relative to the data set, the name that reports
print) and ``label`` (a class name). Where it is known there are ``group`` (the hide), ``copy_of`` (the first file that
shows the same picture, or its own) and ``digest`` (SHA-256 of the file).
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..config import CLASS_NAMES, KAGGLE_FOLDER, MVTEC_FOLDER, setting
from ..files import file_digest, whole_file
from .pictures import IMAGE_SUFFIXES, is_picture

log = logging.getLogger(__name__)

NORMAL_NAMES = ("non_defective", "good", "normal", "ok")  # the class that counts as not anomalous, by default
HIDES = "hides.csv"  # beside the class folders: which pictures show the same hide
IMAGE_LIST = "images.csv"  # notebook 2.0 writes it into the folder of its figures
COLUMNS = ("file", "digest", "label", "hide", "copy_of", "unreadable")  # of that list
AUDIT_FIRST = "Run 2.0-EDA-Leather-Defect-dataset.ipynb on these pictures first."
MVTEC_ADVICE = (
    "MVTec AD is optional: get it from https://www.mvtec.com/company/research/datasets/mvtec-ad, accept its terms, and "
    "give its folder or archive to 1.0.download-datasets.ipynb as MVTEC_LOCAL."
)


@dataclass(frozen=True)
class Classes:
    """The classes of a set in the order of a model's outputs, and the one that counts as normal."""

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

    The normal one is the class that ``LEATHER_NORMAL_CLASS`` names, else the one called non_defective, good, normal
    or ok. Raises ValueError unless there is exactly one.
    """
    names = order_classes(table["label"])
    named = setting("LEATHER_NORMAL_CLASS", "")
    normal = [name for name in names if (_plain(name) == _plain(named) if named else name.lower() in NORMAL_NAMES)]
    if len(normal) != 1:
        known = f"{named}, which is no class here" if named else "not known"
        raise ValueError(f"the normal class is {known}; set LEATHER_NORMAL_CLASS to one of {', '.join(names)}")
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


def class_folders(root: Path) -> dict[Path, list[Path]]:
    """The pictures of each folder in ``root``, in a fixed order; ``mvtec`` and hidden folders are no classes."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    return {
        folder: [path for path in sorted(folder.iterdir()) if is_picture(path) and path.is_file()]
        for folder in folders
        if folder.name != MVTEC_FOLDER
    }


def index_images(root: Path) -> pd.DataFrame:
    """The table of a folder of classes (`class_root`): ``path``, ``file``, ``label``, in a fixed order.

    Hides come from ``hides.csv`` (columns path, label, hide) where the folder has one, as column ``group``.

    Raises FileNotFoundError for fewer than two classes with pictures, ValueError if ``hides.csv`` does not fit.
    """
    root, rows = Path(root), []
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}. Run 1.0.download-datasets.ipynb first, or set LEATHER_DATA to the folder "
            f"that holds {KAGGLE_FOLDER}/ or the class folders themselves."
        )
    for folder, pictures in class_folders(root).items():
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
    return table.assign(group=_hides(root / HIDES, table)) if (root / HIDES).is_file() else table


def _hides(file: Path, table: pd.DataFrame) -> pd.Series:
    """Hides by their names as people mean them: one Unicode form, no stray blanks, case only where it tells apart."""
    listed = read_text_table(file, ("path", "hide")).dropna(subset=["path"])
    listed.index = listed["path"].map(_plain_path)
    if listed.index.has_duplicates:
        raise ValueError(f"{file} lists {listed.index[listed.index.duplicated()][0]} more than once")
    rows = listed.reindex(table["file"].map(_plain_path)).set_index(table.index)
    hides = rows["hide"].str.normalize("NFKC").str.split().str.join(" ").replace("", np.nan)
    labels = rows.get("label", table["label"]).fillna(table["label"]).map(class_name)
    for odd, what in ((hides.isna(), "no hide for"), (labels != table["label"], "another label to")):
        if odd.any():
            raise ValueError(f"{file} gives {what} {odd.sum()} images, the first is {table['file'][odd.idxmax()]}")
    hides = hides.groupby(hides.str.casefold()).transform("first")
    for name, hide in sorted({(name, hide) for name, hide in zip(rows["hide"], hides, strict=True) if name != hide}):
        log.warning("%s: the hide %r is taken as %r", file, name, hide)
    return hides


def _plain_path(file: str) -> str:
    return unicodedata.normalize("NFC", file.strip().replace("\\", "/"))


def read_text_table(file: Path, columns: Sequence[str], *, advice: str = "Add it.") -> pd.DataFrame:
    """A CSV file as text: hides 01 and 1 are two, a class may be called None; an empty cell is missing."""
    try:  # spreadsheets put a mark before the first column's name, hence -sig
        table = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig")
    except ValueError as error:
        raise ValueError(f"{file} cannot be read as a table in UTF-8 ({error}). {advice}") from error
    if missing := sorted(set(columns) - set(table.columns)):
        raise ValueError(f"{file} has no column {missing}; expected {', '.join(columns)}. {advice}")
    return table


def digests(files: Iterable[str]) -> list[str]:
    """SHA-256 of each file's content, as hexadecimal text."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(file_digest, files))


def picture_identities(table: pd.DataFrame) -> list[str]:
    """What each picture's kept answers go by: the digest of its content, read from the file where it is not known."""
    return list(table["digest"]) if "digest" in table else digests(table["path"])


def write_image_list(table: pd.DataFrame, file: Path) -> Path:
    """Writes a table that also has ``unreadable`` (bool); unreadable pictures have no group and no copy_of."""
    with whole_file(file) as stream:
        table.rename(columns={"group": "hide"})[list(COLUMNS)].to_csv(stream, index=False, lineterminator="\n")
    return Path(file)


def write_hides(table: pd.DataFrame, file: Path) -> Path:
    """Writes the hides of a table as a template of ``hides.csv``, to be corrected and put beside the class folders."""
    known = table.dropna(subset=["group"])[["file", "label", "group"]]
    with whole_file(file) as stream:
        known.set_axis(["path", "label", "hide"], axis=1).to_csv(stream, index=False, lineterminator="\n")
    return Path(file)


def read_image_list(root: Path, file: Path) -> pd.DataFrame:
    """The readable pictures of `index_images` with ``group``, ``copy_of`` and ``digest``, as notebook 2.0 found them.

    Raises ValueError if a picture is new, missing or changed, has another label or hide, or the list lacks a column;
    FileNotFoundError if there is no list.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"no list of pictures {file}. {AUDIT_FIRST}")
    listed = read_text_table(file, COLUMNS, advice=AUDIT_FIRST).drop_duplicates("file").set_index("file")
    table = index_images(root)
    table["digest"] = digests(table["path"])
    was = listed.reindex(table["file"]).reset_index(drop=True)
    readable = was["unreadable"] != "True"
    unfit = (table[["digest", "label"]] != was[["digest", "label"]]).any(axis=1)
    unfit |= readable & (was["copy_of"].isna() | (table.get("group", was["hide"]) != was["hide"]))
    changed = [*table.loc[unfit, "file"], *sorted(set(listed.index) - set(table["file"]))]
    if changed:
        raise ValueError(
            f"{file} does not fit the pictures in {root}: {len(changed)} are new, missing, changed or "
            f"have another label or hide, the first is {changed[0]}. {AUDIT_FIRST}"
        )
    return table.assign(group=was["hide"], copy_of=was["copy_of"])[readable].reset_index(drop=True)


def index_mvtec(root: Path, category: str = "leather") -> pd.DataFrame:
    """The table of one category of MVTec AD's folder: ``path``, ``file``, ``part`` (train, test), ``defect``, ``mask``.

    ``defect`` is ``good`` or the defect's folder; ``mask`` is the ground truth's path, empty for good images.

    Raises FileNotFoundError if images for training or test, or the mask of an anomalous image, are missing.
    """
    home = Path(root) / category
    rows = []
    for part, pattern in (("train", "good/*"), ("test", "*/*")):
        for path in sorted((home / part).glob(pattern)):
            if not is_picture(path):
                continue
            defect = path.parent.name
            mask = "" if defect == "good" else str(home / "ground_truth" / defect / f"{path.stem}_mask.png")
            if mask and not Path(mask).is_file():
                raise FileNotFoundError(f"{path} has no ground truth; expected {mask}")
            rows.append((str(path), path.relative_to(home).as_posix(), part, defect, mask))
    table = pd.DataFrame(rows, columns=["path", "file", "part", "defect", "mask"])
    for part in ("train", "test"):
        if not (table["part"] == part).any():
            raise FileNotFoundError(
                f"no images below {home / part}. Expected MVTec AD's layout: {category}/train/good, "
                f"{category}/test/<defect>, {category}/ground_truth/<defect>. {MVTEC_ADVICE}"
            )
    return table

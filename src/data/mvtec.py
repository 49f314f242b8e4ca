"""MVTec AD: the table of a category, and which of its pictures are the normal ones of a protocol."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from .pictures import is_picture

FULL_TRAINING_SET = 245  # train/good of MVTec AD leather


def index_mvtec(root: Path, category: str = "leather") -> pd.DataFrame:
    """The table of one MVTec AD category: ``path``, ``file``, ``part`` (train, test), ``defect``, ``mask``.

    ``defect`` is ``good`` or the defect's folder; ``mask`` is the ground truth's path, empty for good images.

    Args:
        root: The folder that holds the categories.

    Raises:
        FileNotFoundError: If the category or its normal training images are missing, or an anomalous test image
            has no mask.
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
                f"{category}/test/<defect>, {category}/ground_truth/<defect>. Run 1.0.download-datasets.ipynb."
            )
    return table


def protocol_name(normal_images: int) -> str:
    """``mvtec-full`` with the published training set, else ``<k>-shot``."""
    return "mvtec-full" if normal_images == FULL_TRAINING_SET else f"{normal_images}-shot"


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
            raise ValueError(f"normals-16 needs 4 images of train/good and 24 of test/good; there are {len(normals)}")
    elif (match := re.fullmatch(r"(\d+)-shot", protocol)) and int(match[1]) > 0:
        shots = int(match[1])
        if len(train) < shots:
            raise ValueError(f"{protocol} needs {shots} images of train/good; there are {len(train)}")
        chosen = np.random.default_rng(seed).permutation(len(train))[:shots]
        normals = train.iloc[np.sort(chosen)]
    else:
        raise ValueError(f"protocol is {protocol!r}; expected mvtec-full, normals-16 or <k>-shot")
    return normals.reset_index(drop=True), test.reset_index(drop=True)

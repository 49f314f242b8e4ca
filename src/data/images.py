"""Images on disk as tables and tensors.

A table (pandas) has one row an image: ``path`` (absolute), ``file`` (relative to the data set, the name that
reports print), ``label`` (a class name) and ``group`` (the hide it comes from, or the file itself if unknown).
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from ..config import CLASS_NAMES

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 178_000_000  # where Pillow stops too: more is a damaged header or an attack, not a photograph


class UnreadableImageError(ValueError):
    """An image file that cannot be decoded; the message names the file and what to do."""


def canonical_class_name(folder: str) -> str | None:
    """The class that a folder's name means, or None. Case, spaces, hyphens and a plural s do not matter."""
    return _FORGIVING.get(_plain(folder))


def _plain(name: str) -> str:
    words = re.findall(r"[a-z]+", name.lower())
    return "".join(word.removesuffix("s") for word in words)


_FORGIVING = {_plain(name): name for name in CLASS_NAMES}


def load_image(path: Path) -> Image.Image:
    """A picture as 8-bit RGB, upright, whatever it was stored as.

    Grey, palette, CMYK, transparent (laid on white) and 16-bit pictures are converted; 16-bit grey is scaled by
    its type's range, not by the picture's own, so that brightness stays comparable; 32-bit grey is taken as 8-bit if
    no value exceeds 255, else as 16-bit; EXIF rotation is applied.

    Raises:
        UnreadableImageError: If the file is missing, no image, truncated, or larger than 178 megapixels.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is checked below
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(
            f"cannot read the image {path}: {error}. Replace it by a good copy or remove it from the folder."
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        scale = 255 / 65535 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 1.0
        image = Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def index_images(root: Path) -> pd.DataFrame:
    """The table of a six-class folder: ``path``, ``file``, ``label``, ``group``, in a fixed order.

    Hides come from ``hides.csv`` (columns path, label, hide) where the folder has one; otherwise every file is its
    own group. Folders that name no class are left out with a warning.

    Args:
        root: The folder that holds the six class folders.

    Raises:
        FileNotFoundError: If the folder or one of its classes is missing, or a class has no image.
        ValueError: If ``hides.csv`` lacks a column, lists an image twice, or gives no hide for an image.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}. Run 1.0.download-datasets.ipynb first, or set LEATHER_DATA to the folder "
            "that holds leather_defect_classification/."
        )
    rows = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        label = canonical_class_name(folder.name)
        if label is None:
            log.warning("%s names none of the classes %s; left out", folder, ", ".join(CLASS_NAMES))
            continue
        files = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
        rows += [(str(p), p.relative_to(root).as_posix(), label) for p in files]
    table = pd.DataFrame(rows, columns=["path", "file", "label"])
    missing = [name for name in CLASS_NAMES if name not in set(table["label"])]
    if missing:
        raise FileNotFoundError(
            f"{root} has no image of: {', '.join(missing)}. Expected one folder a class with at least one of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}. Run 1.0.download-datasets.ipynb to get and check the data."
        )
    return table.assign(group=_groups(root, table))


def _groups(root: Path, table: pd.DataFrame) -> pd.Series:
    hides = root / "hides.csv"
    if not hides.is_file():
        return table["file"]
    listed = pd.read_csv(hides, dtype=str)  # as text: hides 01 and 1 are two
    if missing := {"path", "hide"} - set(listed.columns):
        raise ValueError(f"{hides} has no column {sorted(missing)}; expected path, label, hide")
    known = listed.dropna(subset=["path", "hide"]).set_index("path")["hide"]
    if known.index.has_duplicates:
        raise ValueError(f"{hides} lists {known.index[known.index.duplicated()][0]} more than once")
    unknown = sorted(set(table["file"]) - set(known.index))
    if unknown:
        raise ValueError(f"{hides} gives no hide for {len(unknown)} images, the first is {unknown[0]}")
    return table["file"].map(known)


def class_indices(table: pd.DataFrame) -> np.ndarray:
    """The index in ``CLASS_NAMES`` of every row's label, shape (n,)."""
    return np.array([CLASS_NAMES.index(label) for label in table["label"]])


class LeatherDefectDataset(Dataset):
    """Images of a table as tensors with their class index.

    Args:
        table: Rows with ``path`` and ``label``, e.g. one part of a split.
        transform: Turns an RGB picture into a tensor, e.g. ``model.transform``.

    ``dataset[i]`` is (image, class index in ``CLASS_NAMES``); an unreadable file raises `UnreadableImageError`.
    """

    def __init__(self, table: pd.DataFrame, transform: Callable[[Image.Image], Tensor]) -> None:
        if table.empty:
            raise ValueError("the table of images is empty")
        self.paths = list(table["path"])
        self.targets = class_indices(table).tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(load_image(self.paths[index])), self.targets[index]


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
            if path.suffix.lower() not in IMAGE_SUFFIXES:
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


class MVTecTestDataset(Dataset):
    """Images of an MVTec table as tensors, with their masks.

    ``dataset[i]`` is (image, mask, is_defect): the mask is bool, shape (height, width) of the original picture.
    """

    def __init__(self, table: pd.DataFrame, transform: Callable[[Image.Image], Tensor]) -> None:
        if table.empty:
            raise ValueError("the table of images is empty")
        self.table = table.reset_index(drop=True)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        row = self.table.iloc[index]
        image = load_image(row["path"])
        mask = load_mask(row["mask"], size=image.size)
        return self.transform(image), torch.from_numpy(mask), int(row["defect"] != "good")


def load_mask(path: str, *, size: tuple[int, int]) -> np.ndarray:
    """A ground-truth mask as bool, shape (height, width); all False without a path.

    Raises:
        ValueError: If the mask's size differs from ``size`` (width, height).
    """
    if not path:
        return np.zeros(size[::-1], dtype=bool)
    mask = load_image(Path(path)).convert("L")
    if mask.size != size:
        raise ValueError(f"the mask {path} is {mask.size[0]}x{mask.size[1]}, its image {size[0]}x{size[1]}")
    values = np.asarray(mask)
    return values > (127 if values.max(initial=0) > 1 else 0)  # some tools write 0 and 1

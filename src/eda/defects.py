"""What the masks of an MVTec AD category say: counts, light, and size, place and contrast of its defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from scipy import ndimage

from ..config import paths
from ..data.pictures import load_image, load_mask
from .describe import even_steps, in_threads

AROUND = 0.05  # width of the frame around a defect that it is compared with, as a share of the picture's longer side


def example_masks(table: pd.DataFrame, *, number: int, side: int = 256) -> dict[str, list[np.ndarray]]:
    """The ground truth of the pictures that `example_pictures` chooses from the same table by ``defect``.

    Returns:
        Type of defect to arrays of shape (side, side), float in [0, 1]: how much of a pixel is defective. All 0 for
        good pictures.
    """
    return {
        name: [_read_share(row, side) for row in rows.itertuples()]
        for name, rows in even_steps(table, number, "defect")
    }


def _read_mask(row: tuple) -> tuple[Image.Image, np.ndarray]:
    picture = load_image(row.path)
    return picture, load_mask(row.mask, size=picture.size)


def _read_share(row: tuple, side: int) -> np.ndarray:
    mask = Image.fromarray(_read_mask(row)[1].astype(np.float32))
    return np.asarray(ImageOps.fit(mask, (side, side), method=Image.Resampling.BOX))


def find_mvtec_categories(root: Path) -> list[str]:
    """Names of the categories below an MVTec AD folder, ``leather`` first; none, with a line how to get it, without."""
    root = Path(root)
    names = {folder.parents[1].name for folder in root.glob("*/train/good")}
    if not names:
        print(
            f"MVTec AD is left out: {paths.relative(root)} has no category with train/good. Run "
            "1.0.download-datasets.ipynb with a source that has it (drive, sample, or MVTEC_LOCAL)."
        )
    return sorted(names, key=lambda name: (name != "leather", name))


def count_mvtec(table: pd.DataFrame) -> pd.DataFrame:
    """Images of each type (rows: ``good`` first, then defects by name) in ``train`` and ``test`` (columns)."""
    counts = pd.crosstab(table["defect"], table["part"])
    order = sorted(counts.index, key=lambda name: (name != "good", name))
    return counts.reindex(index=order, columns=["train", "test"], fill_value=0)


def separate_by_brightness(described: pd.DataFrame) -> pd.Series:
    """How well brightness alone tells each type of defect from the good test pictures of an MVTec table.

    Args:
        described: From `describe_images`.

    Returns:
        AUROC of brightness for each type, in [0, 1]: 0.5 if it says nothing, 1 if every defective picture is brighter
        than every good one, 0 if darker. Far from 0.5, the light of the photographs gives the answer away.

    Raises:
        ValueError: If there is no readable good picture in ``test``.
    """
    test = described[(described["part"] == "test") & described["brightness"].notna()]
    good = test.loc[test["defect"] == "good", "brightness"]
    if good.empty:
        raise ValueError("no readable good picture in test to compare with")
    groups = test[test["defect"] != "good"].groupby("defect")["brightness"]
    return groups.agg(lambda values: _share_higher(values, good)).rename("auroc_of_brightness")


def _share_higher(values: pd.Series, others: pd.Series) -> float:
    """The share of pairs in which the value is higher, ties count half: the area under the ROC curve."""
    return float(np.mean((np.sign(values.to_numpy()[:, None] - others.to_numpy()) + 1) / 2))


def describe_defects(table: pd.DataFrame, *, progress: bool = True) -> pd.DataFrame:
    """What the masks say about each defective image of an MVTec table, one row an image.

    Brightness and contrast (mean and standard deviation of grey) are taken inside the mask and in a frame around it
    that is ``AROUND`` of the picture wide: neighbours share the light, so drift between pictures does not count.

    Returns:
        ``file``, ``defect``; ``area``: pixels; ``area_percent``: of the picture, in [0, 100]; ``regions``: parts of
        the mask that do not touch, not even by a corner; ``brightness_difference``: inside minus around, grey levels;
        ``contrast_ratio``: inside by around, 1 if equal. The last two are NaN if the mask is empty or all there is.

    Raises:
        ValueError: If no image is defective, or a mask's size is not its image's.
        UnreadableImageError: If an image or a mask cannot be decoded.
    """
    table = table[table["defect"] != "good"]
    if table.empty:
        raise ValueError("the table has no defective image")
    rows = in_threads(_describe_defect, table.itertuples(), name="masks", progress=progress)
    return table[["file", "defect"]].join(pd.DataFrame(rows, index=table.index))


def _describe_defect(row: tuple) -> dict[str, float]:
    picture, mask = _read_mask(row)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    reach = max(1, round(AROUND * max(mask.shape)))
    around = ndimage.maximum_filter(mask, size=2 * reach + 1, mode="constant") & ~mask
    known = mask.any() and around.any()
    deviation = grey[around].std() if known else 0
    return {
        "area": int(mask.sum()),
        "area_percent": 100 * float(mask.mean()),
        "regions": ndimage.label(mask, structure=np.ones((3, 3)))[1],
        "brightness_difference": float(grey[mask].mean() - grey[around].mean()) if known else np.nan,
        "contrast_ratio": float(grey[mask].std() / deviation) if deviation > 0 else np.nan,
    }


def compare_defects(defects: pd.DataFrame) -> pd.DataFrame:
    """Images and medians of each type of defect, from `describe_defects`; units as there."""
    columns = ["area", "area_percent", "regions", "brightness_difference", "contrast_ratio"]
    groups = defects.groupby("defect")
    return pd.concat([groups.size().rename("images"), groups[columns].median().add_prefix("median_")], axis=1)


def map_positions(table: pd.DataFrame, *, side: int = 64) -> dict[str, np.ndarray]:
    """Where the defects of each type lie.

    Returns:
        Type of defect to an array of shape (side, side), float in [0, 1]: the share of that type's pictures that are
        defective there, with every picture brought to the same square.
    """
    anomalous = table[table["defect"] != "good"]
    return {
        name: np.mean([_read_share(row, side) for row in rows.itertuples()], axis=0)
        for name, rows in anomalous.groupby("defect")
    }

"""What the masks of an MVTec AD category say: counts, light, and size, place and contrast of its defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from ..config import paths
from ..data.checks import check_masks
from ..data.pictures import load_image, load_mask
from ..data.tables import MVTEC_ADVICE
from .describe import in_threads

AROUND = 0.05  # width of the frame around a defect that it is compared with, as a share of the picture's longer side


def find_categories(root: Path) -> list[str]:
    """Names of the categories below an MVTec AD folder, ``leather`` first; none, and how to get them, without."""
    names = {folder.parents[1].name for folder in Path(root).glob("*/train/good")}
    if not names:
        print(f"{paths.relative(root)} has no category with train/good, so nothing is shown. {MVTEC_ADVICE}")
    return sorted(names, key=lambda name: (name != "leather", name))


def count_images(table: pd.DataFrame) -> pd.DataFrame:
    """Images of each type (rows: ``good`` first, then defects by name) in ``train`` and ``test`` (columns)."""
    counts = pd.crosstab(table["defect"], table["part"])
    order = sorted(counts.index, key=lambda name: (name != "good", name))
    return counts.reindex(index=order, columns=["train", "test"], fill_value=0)


def separate_by_brightness(described: pd.DataFrame) -> pd.Series:
    """AUROC of brightness alone for each type of defect against the good test pictures, in [0, 1].

    0.5 says nothing, 1 that every defective picture is brighter than every good one, 0 darker. Far from 0.5, the light
    of the photographs gives the answer away. Raises ValueError without a readable good picture in ``test``.
    """
    test = described[(described["part"] == "test") & described["brightness"].notna()]
    good = test["defect"] == "good"
    if not good.any():
        raise ValueError("no readable good picture in test to compare with")
    areas = {}
    for name, rows in test[~good].groupby("defect"):
        both = pd.concat([test[good], rows])
        areas[name] = roc_auc_score(both["defect"] == name, both["brightness"])
    return pd.Series(areas, name="auroc_of_brightness").rename_axis("defect")


def describe_defects(table: pd.DataFrame) -> pd.DataFrame:
    """``file`` and ``defect`` of each defective image of an MVTec table, with what its mask says:

    ``area``: pixels; ``area_percent``: of the picture; ``regions``: parts that do not touch, not even by a corner;
    ``brightness_difference``: inside minus around, grey levels; ``contrast_ratio``: inside by around. Around is a frame
    `AROUND` of the picture wide: neighbours share the light, so drift between pictures does not count. The last two
    are NaN if the mask is empty or all there is.

    Raises ValueError if no image is defective, or a mask's size is not its image's.
    """
    table = table[table["defect"] != "good"]
    if table.empty:
        raise ValueError("the table has no defective image")
    check_masks(table)
    rows = in_threads(_describe_defect, table.itertuples(), name="masks")
    return table[["file", "defect"]].join(pd.DataFrame(rows, index=table.index))


def _describe_defect(row: tuple) -> dict[str, float]:
    picture = load_image(row.path)
    mask = load_mask(row.mask, size=picture.size)
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
    groups = defects.groupby("defect")
    medians = groups.median(numeric_only=True).add_prefix("median_")
    return pd.concat([groups.size().rename("images"), medians], axis=1)


def defect_shares(table: pd.DataFrame, *, side: int) -> dict[str, list[np.ndarray]]:
    """The masks of each type's pictures: how much of a pixel is defective, (side, side) in [0, 1], middle squares."""
    shares = {}
    for row in table[table["defect"] != "good"].itertuples():
        mask = Image.fromarray(load_mask(row.mask, size=load_image(row.path).size).astype(np.float32))
        share = ImageOps.fit(mask, (side, side), method=Image.Resampling.BOX)
        shares.setdefault(row.defect, []).append(np.asarray(share))
    return shares

"""What a set is checked for before its numbers are believed: files that are not taken, and masks that say nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import PurePosixPath

import pandas as pd

from ..config import CLASS_NAMES
from ..files import printable
from .pictures import is_picture, load_mask, open_picture, orientation
from .tables import class_name

log = logging.getLogger(__name__)

SPLITS = ("train", "test", "ground_truth")


def left_out(files: Iterable[str]) -> dict[str, str]:
    """Why files that a source holds are not taken: how many for each reason, and the first of them."""
    reasons = pd.Series({printable(file): _why_left(PurePosixPath(file)) for file in files}, dtype=object)
    groups = reasons.index.to_series().groupby(reasons)
    return {reason: f"{len(names)}, the first is {names.iloc[0]}" for reason, names in groups}


def _why_left(file: PurePosixPath) -> str:
    folders = [folder.lower() for folder in file.parts[:-1]]
    if any(part.startswith((".", "__MACOSX")) for part in file.parts):
        return "hidden, or added by macOS"
    if not is_picture(file):
        return "no picture by its name"
    if set(folders) & set(SPLITS):
        return "not as MVTec AD has it: mvtec/<category>/train/good, test/<defect>, ground_truth/<defect>"
    if any(class_name(folder) in CLASS_NAMES for folder in folders[:-1]) or len(folders) > 2:
        return "in a folder inside a class folder: move it up"
    return "in no class folder, or of a set that is here already"


def check_masks(table: pd.DataFrame) -> str:
    """Warns, once for a table of `index_mvtec`, of masks that are likely to be wrong; returns the warning, else ''."""
    files_by_fault: dict[str, list[str]] = {}
    for row in table[table["mask"] != ""].itertuples():
        try:
            with open_picture(row.path) as image, open_picture(row.mask) as mask:
                turned = {orientation(image), orientation(mask)} - {1}
                size = image.size if orientation(image) < 5 else image.size[::-1]
            share = load_mask(row.mask, size=size).mean()
        except ValueError as error:
            files_by_fault.setdefault(f"unfit ({error})", []).append(row.file)
            continue
        for fault, is_so in {"empty": share == 0, "almost full": share > 0.5, "turned by EXIF": turned}.items():
            if is_so:
                files_by_fault.setdefault(fault, []).append(row.file)
    if not files_by_fault:
        return ""
    faults = "; ".join(f"{len(files)} {fault}, the first of {files[0]}" for fault, files in files_by_fault.items())
    warning = f"masks of defective pictures that are likely to be wrong: {faults}. Put them right or take them out."
    log.warning(warning)
    return warning

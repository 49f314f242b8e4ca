"""Loose boxes around real defects: where they lie on a picture, and what training makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import Tensor

BOX = 3  # label of a pixel in a box; 1 is the core of a painted defect
USES = ("normal", "ignored", "defects", "weak")  # what a pixel in a box counts as, see `targets`
SHOWN = 0.6  # least share of a box in a crop, for its likeliest pixels to be looked for there
DEFECTIVE = 0.1  # share of a box that counts as defect
FOUND = 0.3  # weight of a pixel that does: nobody has seen that it is one


def read_boxes(boxes: Path) -> pd.DataFrame:
    """The rows of ``<folder>_boxes.csv``, with ``file`` as `head_data.read_textures` has it."""
    listed = pd.read_csv(boxes, dtype={"file": str})
    return listed.assign(file=boxes.stem.removesuffix("_boxes") + "/" + listed["file"])


def box_mask(listed: pd.DataFrame, file: str, side: int) -> np.ndarray:
    """Where the boxes of a file are, bool (side, side)."""
    mask = np.zeros((side, side), bool)
    for box in listed[listed["file"] == file].itertuples():
        left, right = int(box.left * side), int(np.ceil(box.right * side))
        mask[int(box.top * side) : int(np.ceil(box.bottom * side)), left:right] = True
    return mask


def shown_boxes(label: Tensor, crop: tuple[slice, slice]) -> Tensor:
    """Numbers from 1, uint8, of the boxes in a crop of a label (h, w); 255 where less than `SHOWN` of one is in it."""
    if not (label[crop] == BOX).any():
        return torch.zeros_like(label[crop])
    numbered, count = ndimage.label(label.numpy() == BOX)
    part = numbered[crop]
    whole, inside = (np.bincount(each.ravel(), minlength=count + 1) for each in (numbered, part))
    hidden = inside < SHOWN * whole
    hidden[0] = False
    return torch.from_numpy(np.where(hidden[part], 255, part).astype(np.uint8))


def targets(logits: Tensor, truth: Tensor, boxes: Tensor, *, use: str, share: float = FOUND) -> tuple[Tensor, Tensor]:
    """What maps (n, h, w) should say, 0 or 1, and the weight of each pixel; ``boxes`` are those of `shown_boxes`.

    ``normal`` boxes are as anything else, ``ignored`` ones have no weight, all of ``defects`` is defective, and of
    ``weak`` ones the likeliest tenth by the logits is, with the weight ``share``, while the rest has none.
    """
    target, inside = truth.float(), (boxes > 0) & ~truth
    if use == "defects":
        target = target + inside
    weight = 1 - inside.float() * (use in ("ignored", "weak"))
    for number in range(len(boxes)) if use == "weak" else ():
        for box in set(boxes[number].unique().tolist()) - {0, 255}:
            place = boxes[number] == box
            least = torch.quantile(logits[number][place].detach(), 1 - DEFECTIVE)
            likeliest = place & (logits[number] >= least)
            target[number][likeliest], weight[number][likeliest] = 1.0, share
    return target, weight

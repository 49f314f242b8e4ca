"""Where is the defect: how far every patch of a picture is from the patches of normal pictures, at any picture size.

Patch tokens of middle blocks of a Vision Transformer are kept for a few normal pictures. A picture is scored by the
cosine distance of its patches to their nearest neighbours in that bank; large pictures are scored in overlapping tiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..backbone.vit import Backbone
from ..files import CheckpointError, load_tensors, save_tensors
from ..scores import nearest_cosine_distance
from .encoder import BankSettings, Encoder

EVALUATION_SIZE = 256  # maps and masks are compared at 256 x 256 px, as most of the field does


def evaluated_map(bank: PatchBank, patches: Tensor) -> np.ndarray:
    """A patch map as it is compared with masks: float32 (256, 256)."""
    return bank.full_size(patches, (EVALUATION_SIZE, EVALUATION_SIZE))


def evaluated_mask(mask: np.ndarray) -> np.ndarray:
    """A mask as it is compared with maps: bool (256, 256)."""
    if mask.shape == (EVALUATION_SIZE, EVALUATION_SIZE):
        return mask
    return np.asarray(Image.fromarray(mask).resize((EVALUATION_SIZE, EVALUATION_SIZE), Image.Resampling.NEAREST))


BANK_FORMAT = 2  # 1 had image scores in absolute distances
HIGHEST = 0.01  # share of a picture's patches whose mean is its score
TYPICAL_ROWS = 1024  # of a bank, drawn at random, that tell how far its patches lie apart


class PatchBank:
    """Patches of normal pictures, and maps of how far other pictures are from them.

    Args:
        encoder: Reads the pictures.
        rows: Patch tokens, shape (m, d), m >= 1, each of unit length.
    """

    def __init__(self, encoder: Encoder, rows: Tensor) -> None:
        self.encoder, self.settings, self.rows = encoder, encoder.settings, rows

    @classmethod
    def build(cls, encoder: Encoder, pictures: list[Image.Image], *, seed: int = 0) -> PatchBank:
        """The bank of some normal pictures; ``seed`` decides which patches are kept if there are too many.

        Raises:
            ValueError: If there is no picture.
        """
        if not pictures:
            raise ValueError("a bank needs one normal picture at least")
        return cls.of_rows(encoder, picture_rows(encoder, pictures, seed=seed), seed=seed)

    @classmethod
    def of_rows(cls, encoder: Encoder, rows: list[Tensor], *, seed: int = 0) -> PatchBank:
        """The bank of the rows of some pictures, reduced to the settings' limit."""
        joined, limit = torch.cat(rows), encoder.settings.limit
        return cls(encoder, _some(joined, limit, seed))

    def patch_map(self, picture: Image.Image) -> Tensor:
        """Distance of each patch, shape (rows, columns) of the whole picture's patch grid, in [0, 2].

        Overlapping tiles are blended with weights that fall off linearly towards their edges: no seams.
        """
        return self.map_of(self.encoder.tiles(picture), picture.size)

    def map_of(self, tiles: Iterable[tuple[list[tuple[int, int]], Tensor]], size: tuple[int, int]) -> Tensor:
        """As `patch_map`, from the `tiles` of a picture of a size of (width, height)."""
        columns, rows = (side // self.encoder.patch for side in self.encoder.input_size(size))
        total, weights = torch.zeros(rows, columns), torch.zeros(rows, columns)
        for places, tokens in tiles:
            n, d, h, w = tokens.shape
            flat = tokens.permute(0, 2, 3, 1).reshape(-1, d)
            distances = nearest_cosine_distance(flat, self.rows, neighbours=self.settings.neighbours, normalise=False)
            maps = distances.view(n, h, w)
            weight = torch.minimum(_ramp(h)[:, None], _ramp(w)[None, :])
            for (top, left), distance in zip(places, maps, strict=True):
                total[top : top + h, left : left + w] += weight * distance
                weights[top : top + h, left : left + w] += weight
        return total / weights

    def score(self, picture: Image.Image) -> tuple[np.ndarray, float]:
        """The anomaly map of a picture, float32 of its height and width, in [0, 2], and its `image_score`.

        Higher is more anomalous; a picture of the bank scores 0 in both.
        """
        patches = self.patch_map(picture)
        return self.full_size(patches, picture.size), self.image_score(patches)

    def image_score(self, patches: Tensor) -> float:
        """Mean of the highest 1 % of a patch map, shape (h, w), in multiples of the picture's median distance.

        Light, sharpness or compression other than the bank's shift all patches of a picture alike: not a defect. Where
        the bank's `typical_distance` is larger than the median, it takes its place, so a picture of the bank scores 0.
        What covers more than half of a picture counts as its normal state and raises no alarm.
        """
        highest = patches.flatten().topk(max(1, round(HIGHEST * patches.numel()))).values.mean()
        return float(highest / max(float(patches.median()), self.typical_distance, 1e-6))

    @functools.cached_property
    def typical_distance(self) -> float:
        """Median distance of the bank's patches to the next one in it, in [0, 2]; 0 of a single patch."""
        if len(self.rows) < 2:
            return 0.0
        nearest_two = (_some(self.rows, TYPICAL_ROWS, 0) @ self.rows.T).topk(2, dim=1).values  # the first is itself
        return max(0.0, float((1 - nearest_two[:, 1]).median()))

    def full_size(self, patches: Tensor, size: tuple[int, int]) -> np.ndarray:
        """A patch map, smoothed, at a size of (width, height)."""
        sigma = self.settings.smoothing * size[0] / patches.shape[1]
        return upsample_maps(patches[None], (size[1], size[0]), sigma=sigma)[0].numpy()

    def save(self, path: Path, **extra: object) -> None:
        """Writes rows, settings, the backbone's identity and extra plain values, whole or not at all."""
        content = {"format": BANK_FORMAT, "settings": asdict(self.settings), "backbone": self.encoder.backbone.identity}
        save_tensors({**content, "rows": self.rows, "extra": extra}, path)

    @classmethod
    def load(cls, path: Path, backbone: Backbone) -> tuple[PatchBank, dict[str, object]]:
        """A saved bank for the backbone that it was made with, and the extra values.

        Raises:
            CheckpointError: If the file is missing, damaged, no bank, or made with another backbone.
        """
        content = load_tensors(path)
        if content.get("format") != BANK_FORMAT or "rows" not in content:
            raise CheckpointError(f"{path} holds no patch bank of format {BANK_FORMAT}")
        if content["backbone"] != (wanted := backbone.identity):
            raise CheckpointError(f"{path} was made with the backbone {content['backbone']}, not with {wanted}")
        return cls(Encoder(backbone, BankSettings(**content["settings"])), content["rows"]), content["extra"]


def picture_rows(encoder: Encoder, pictures: list[Image.Image], *, seed: int = 0) -> list[Tensor]:
    """Unit patch tokens of each normal picture, (patches, d); at most its share of the limit, drawn at random.

    Memory is bounded, however many and large the pictures are.
    """
    most, rows = math.ceil(encoder.settings.limit / len(pictures)), []
    for picture in tqdm(pictures, desc="normal images", unit="img"):
        tokens = [tile.permute(0, 2, 3, 1).flatten(0, 2) for _, tile in encoder.tiles(picture)]
        rows.append(_some(torch.cat(tokens), most, seed))
    return rows


def _some(rows: Tensor, most: int, seed: int) -> Tensor:
    """Rows drawn at random, in their order, if there are more than wanted."""
    if len(rows) <= most:
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:most].sort().values]


def _ramp(length: int) -> Tensor:
    """Weights 1, 2, ... up to the middle and down again."""
    up = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(up, up.flip(0))


def upsample_maps(maps: Tensor, size: tuple[int, int], *, sigma: float = 0.0) -> Tensor:
    """Maps at picture size, bilinear, optionally smoothed.

    Args:
        maps: Shape (n, h, w).
        size: (height, width) in pixels.
        sigma: Standard deviation of a Gaussian, in pixels of ``size``; 0 for none.

    Returns:
        Shape (n, height, width), in the range of the input.
    """
    large = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
    if sigma > 0:
        radius = round(3 * sigma)
        weights = torch.exp(-((torch.arange(-radius, radius + 1) / sigma) ** 2) / 2)
        weights = (weights / weights.sum()).to(large)
        # Along columns, then along rows: torchvision's blur takes the square of this time.
        large = F.conv2d(F.pad(large, (0, 0, radius, radius), mode="reflect"), weights.view(1, 1, -1, 1))
        large = F.conv2d(F.pad(large, (radius, radius, 0, 0), mode="reflect"), weights.view(1, 1, 1, -1))
    return large[:, 0]

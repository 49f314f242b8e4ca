"""A bank of patch tokens of normal pictures, and how far every patch of another picture is from them by cosine."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..scores import nearest_cosine_distance
from .encoder import Encoder, Tokens

EVALUATION_SIZE = 256, 256  # px at which maps and masks are compared, as most of the field does
HIGHEST = 0.01  # share of a picture's patches whose mean is its score
TYPICAL_ROWS = 1024  # of a bank, drawn at random, that tell how far its patches lie apart


def evaluated_mask(mask: np.ndarray) -> np.ndarray:
    """A mask as it is compared with maps: bool (256, 256)."""
    return np.asarray(Image.fromarray(mask).resize(EVALUATION_SIZE, Image.Resampling.NEAREST))


class PatchBank:
    """Patch tokens of normal pictures, ``rows`` (m >= 1, d) of unit length, and distances of other pictures to them.

    Higher is more anomalous everywhere; a picture of the bank scores 0.
    """

    def __init__(self, encoder: Encoder, rows: Tensor) -> None:
        self.encoder, self.settings, self.rows = encoder, encoder.settings, rows

    def patch_map(self, tokens: Tokens) -> Tensor:
        """Distance of each patch, shape (rows, columns) of the whole picture's patch grid, in [0, 2].

        Tiles are blended with weights that fall off towards their edges: no seams.
        """
        count, _, _, h, w = tokens.tiles.shape
        queries = tokens.rows(self.settings.blocks)
        distances = nearest_cosine_distance(queries, self.rows, neighbours=self.settings.neighbours, normalise=False)
        total, weights = torch.zeros(tokens.grid), torch.zeros(tokens.grid)
        weight = torch.minimum(_ramp(h)[:, None], _ramp(w)[None, :])
        for (top, left), tile in zip(tokens.places, distances.view(count, h, w), strict=True):
            total[top : top + h, left : left + w] += weight * tile
            weights[top : top + h, left : left + w] += weight
        return total / weights

    def score(self, picture: Image.Image) -> tuple[np.ndarray, float]:
        """The anomaly map of a picture, float32 of its height and width, in [0, 2], and its `image_score`."""
        patches = self.patch_map(self.encoder.tokens(picture))
        return self.full_size(patches, picture.size), self.image_score(patches)

    def image_score(self, patches: Tensor) -> float:
        """Mean of the highest 1 % of a patch map, shape (h, w), in multiples of the picture's median distance.

        Light, sharpness or compression other than the bank's shift all patches alike: no defect. Where the bank's
        `typical_distance` is larger than the median, it takes its place, so a picture of the bank scores 0.
        What covers more than half of a picture counts as its normal state and raises no alarm.
        """
        highest = patches.flatten().topk(max(1, round(HIGHEST * patches.numel()))).values.mean()
        return float(highest / max(float(patches.median()), self.typical_distance, 1e-6))

    @functools.cached_property
    def typical_distance(self) -> float:
        """Median distance of the bank's patches to the next one in it, in [0, 2]; 0 of a single patch."""
        if len(self.rows) < 2:
            return 0.0
        nearest_two = (some_rows(self.rows, TYPICAL_ROWS, 0) @ self.rows.T).topk(2, dim=1).values  # the first is itself
        return max(0.0, float((1 - nearest_two[:, 1]).median()))

    def full_size(self, patches: Tensor, size: tuple[int, int] = EVALUATION_SIZE) -> np.ndarray:
        """A patch map, smoothed, at a size of (width, height), float32."""
        sigma = self.settings.smoothing * size[0] / patches.shape[1]
        return upsample_maps(patches[None], (size[1], size[0]), sigma=sigma)[0].numpy()


def some_rows(rows: Tensor, most: int, seed: int) -> Tensor:
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
    """Maps (n, h, w) at a size of (height, width) in pixels; ``sigma`` of a Gaussian over them in the same pixels."""
    large = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
    if sigma > 0:
        radius = round(3 * sigma)
        weights = torch.exp(-((torch.arange(-radius, radius + 1) / sigma) ** 2) / 2)
        weights = (weights / weights.sum()).to(large)
        # Along columns, then along rows: torchvision's blur takes the square of this time.
        large = F.conv2d(F.pad(large, (0, 0, radius, radius), mode="reflect"), weights.view(1, 1, -1, 1))
        large = F.conv2d(F.pad(large, (radius, radius, 0, 0), mode="reflect"), weights.view(1, 1, 1, -1))
    return large[:, 0]

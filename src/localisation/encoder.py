"""How a backbone looks at a picture: at which scale, in which tiles, with the tokens of which blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..backbone.vit import Backbone, image_transform

TILES_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class BankSettings:
    """What decides a bank's maps; saved with it."""

    blocks: tuple[int, ...]  # whose tokens are compared, from 0; of several, the mean of their cosines counts
    side: int  # pixels that a picture's shorter side is brought to, whatever its size
    tile: int  # side of the network's input in pixels, a multiple of the patch; larger pictures are cut into such tiles
    overlap: float = 0.25  # share of a tile that its neighbour sees too
    neighbours: int = 1  # whose mean distance counts
    limit: int = 20_000  # patches kept at most
    smoothing: float = 0.5  # standard deviation of the Gaussian over maps, in patches

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))  # JSON and checkpoints have lists
        if not self.blocks:
            raise ValueError("blocks is empty; expected one block at least")
        if not 0 <= self.overlap < 1 or min(self.side, self.tile, self.neighbours, self.limit) < 1:
            raise ValueError(f"expected overlap in [0, 1), side, tile, neighbours, limit of 1 or more; got {self}")


def default_settings(backbone: Backbone, picture: Image.Image) -> BankSettings:
    """Settings for pictures like this one: small ones are enlarged to the tile, large ones cut into tiles.

    The tile is the model's input, or twice that if it is under 400 px: patches should be small beside defects.
    """
    tile = backbone.image_size * (2 if backbone.image_size < 400 else 1)
    return BankSettings(blocks=(backbone.patch_block,), side=max(tile, min(picture.size)), tile=tile)


class Encoder:
    """A backbone with the settings by which it reads pictures.

    Args:
        backbone: Gives the tokens; on whatever device it is.
        settings: See `BankSettings`.

    Raises:
        ValueError: If the tile does not fit the backbone's patch.
    """

    def __init__(self, backbone: Backbone, settings: BankSettings) -> None:
        self.backbone, self.settings, self.patch = backbone, settings, backbone.patch
        if settings.tile % self.patch:
            raise ValueError(f"tile is {settings.tile} px; expected a multiple of the patch, {self.patch} px")
        self._normalise = image_transform(None, mean=backbone.mean, std=backbone.std)

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the network's input for a whole picture of a size, multiples of the patch."""
        zoom = self.settings.side / min(size)
        width, height = (max(1, round(side * zoom / self.patch)) * self.patch for side in size)
        return width, height

    def tiles(self, picture: Image.Image) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
        """Places (row, column) on the patch grid, and tokens (n, d, h, w) of unit length, a few tiles at a time."""
        width, height = self.input_size(picture.size)
        tile = self.settings.tile
        # A picture that is little larger than a tile is seen whole: borders between tiles cost more.
        whole = max(width, height) <= 1.5 * tile
        high, wide = (height, width) if whole else (min(tile, height), min(tile, width))
        places = [
            (top, left)
            for top in _starts(height // self.patch, high // self.patch, self.settings.overlap)
            for left in _starts(width // self.patch, wide // self.patch, self.settings.overlap)
        ]
        for start in range(0, len(places), TILES_AT_ONCE):
            chosen = places[start : start + TILES_AT_ONCE]
            images = [self._crop(picture, place, (high, wide), (height, width)) for place in chosen]
            tokens = self.backbone.tokens(torch.stack(images).to(self.backbone.device), blocks=self.settings.blocks)
            unit = [F.normalize(block, dim=1) for block in tokens]
            yield chosen, (torch.cat(unit, dim=1) / math.sqrt(len(unit))).cpu()

    def _crop(
        self, picture: Image.Image, place: tuple[int, int], tile: tuple[int, int], whole: tuple[int, int]
    ) -> Tensor:
        """One tile of the enlarged picture, normalised: float (3, height, width); never all at once."""
        (top, left), (high, wide) = (p * self.patch for p in place), tile
        across, down = picture.width / whole[1], picture.height / whole[0]  # picture pixels for one input pixel
        box = (left * across, top * down, (left + wide) * across, (top + high) * down)
        return self._normalise(picture.resize((wide, high), Image.Resampling.BICUBIC, box=box))


def select_blocks(tokens: Tensor, blocks: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor:
    """Unit tokens of some of the blocks that they were made of: features are dimension 1 of any shape (n, d, ...)."""
    parts = dict(zip(blocks, tokens.chunk(len(blocks), dim=1), strict=True))
    return torch.cat([parts[block] for block in wanted], dim=1) * math.sqrt(len(blocks) / len(wanted))


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Evenly spread starts of windows that cover a length, neighbours overlapping by the share or more."""
    if length <= window:
        return [0]
    count = math.ceil((length - window) / max(1, round(window * (1 - overlap)))) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]

"""How a backbone reads a picture: at which scale, in which tiles, with the tokens of which blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

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
    overlap: float = 0.25  # share of a tile that its neighbour shows too
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
    """Settings for pictures like this one: small ones are enlarged to the tile, large ones cut into tiles."""
    tile = backbone.image_size * (2 if backbone.image_size < 400 else 1)  # patches should be small beside defects
    return BankSettings(blocks=(backbone.patch_block,), side=max(tile, min(picture.size)), tile=tile)


@dataclass(frozen=True)
class Tokens:
    """Patch tokens of one picture, each of unit length: a picture's one way through the network."""

    size: tuple[int, int]  # of the picture: width and height in pixels
    grid: tuple[int, int]  # rows and columns of its patches
    blocks: tuple[int, ...]  # of the network
    places: list[tuple[int, int]]  # row and column of each tile's first patch
    tiles: Tensor  # (tiles, blocks, d, h, w), on the CPU

    def rows(self, blocks: tuple[int, ...]) -> Tensor:
        """(patches, len(blocks) * d), of unit length, tile by tile; patches that two tiles show are there twice."""
        chosen = self.tiles[:, [self.blocks.index(block) for block in blocks]]
        return chosen.permute(0, 3, 4, 1, 2).flatten(3).flatten(0, 2) / math.sqrt(len(blocks))


class Encoder:
    """A backbone with the settings by which it reads pictures; ValueError if the tile is no multiple of its patch."""

    def __init__(self, backbone: Backbone, settings: BankSettings) -> None:
        self.backbone, self.settings, self.patch = backbone, settings, backbone.patch
        if settings.tile % self.patch:
            raise ValueError(f"tile is {settings.tile} px; expected a multiple of the patch, {self.patch} px")
        self._normalise = image_transform(None, mean=backbone.mean, std=backbone.std)

    def tokens(self, picture: Image.Image) -> Tokens:
        """The tokens of a picture, brought to the settings' side; a few tiles at a time pass the network."""
        patch, tile, zoom = self.patch, self.settings.tile, self.settings.side / min(picture.size)
        width, height = (max(1, round(side * zoom / patch)) * patch for side in picture.size)
        # A picture that is little larger than a tile is read whole: borders between tiles cost more.
        is_whole = max(width, height) <= 1.5 * tile
        wide, high = (width, height) if is_whole else (min(tile, width), min(tile, height))
        tops = _starts(height // patch, high // patch, self.settings.overlap)
        lefts = _starts(width // patch, wide // patch, self.settings.overlap)
        places = list(product(tops, lefts))
        across, down = picture.width / width, picture.height / height  # picture pixels for one input pixel
        parts = []
        for start in range(0, len(places), TILES_AT_ONCE):
            images = []
            for top, left in places[start : start + TILES_AT_ONCE]:
                x, y = left * patch, top * patch
                box = (x * across, y * down, (x + wide) * across, (y + high) * down)
                images.append(self._normalise(picture.resize((wide, high), Image.Resampling.BICUBIC, box=box)))
            blocks = self.backbone.tokens(torch.stack(images).to(self.backbone.device), blocks=self.settings.blocks)
            parts.append(torch.stack([F.normalize(block, dim=1) for block in blocks], dim=1).cpu())
        return Tokens(picture.size, (height // patch, width // patch), self.settings.blocks, places, torch.cat(parts))


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Evenly spread starts of windows that cover a length, neighbours overlapping by the share or more."""
    if length <= window:
        return [0]
    count = math.ceil((length - window) / max(1, round(window * (1 - overlap)))) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]

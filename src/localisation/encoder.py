"""How a backbone reads a picture: at the camera's scale, in tiles where it is large, patch tokens out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from itertools import product

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..backbone.vit import Backbone, image_transform

TILE = 448  # px: side of the network's input; larger pictures are cut into such tiles
WHOLE = 1.5 * TILE  # a picture with no longer side is read whole: borders between tiles cost more
OVERLAP = 0.25  # share of a tile that its neighbour shows too
TILES_AT_ONCE = 4


def camera_zoom(sizes: Iterable[tuple[int, int]]) -> float:
    """One zoom for all pictures of a camera: small ones are enlarged until the median one fills a tile.

    ``sizes`` are (width, height) in pixels. Crops and strips keep the scale of the other pictures.
    """
    return max(1.0, TILE / statistics.median(max(size) for size in sizes))


class Encoder:
    """Patch tokens of pictures by some ``blocks`` of a backbone; ``zoom``: input pixels for a picture's pixel."""

    def __init__(self, backbone: Backbone, blocks: tuple[int, ...], *, zoom: float = 1.0) -> None:
        self.backbone, self.blocks, self.zoom = backbone, tuple(blocks), zoom
        self._normalise = image_transform(None, mean=backbone.mean, std=backbone.std)

    def input_size(self, picture: Image.Image) -> tuple[int, int]:
        """Width and height of a picture in pixels of the network's input, multiples of the patch."""
        patch = self.backbone.patch
        width, height = (max(1, round(side * self.zoom / patch)) * patch for side in picture.size)
        return width, height

    def tokens(self, picture: Image.Image) -> Tensor:
        """Tokens of unit length, (blocks, rows, columns, d) of the picture's patches, float16, on the CPU.

        A few tiles at a time pass the network. Tiles are blended with weights that fall off to their edges: no seams.
        """
        patch, (width, height) = self.backbone.patch, self.input_size(picture)
        if max(width, height) <= WHOLE:
            return self._read([picture.resize((width, height), Image.Resampling.BICUBIC)])[0].half()
        wide, high = (min(TILE // patch, side // patch) for side in (width, height))
        places = list(product(_starts(height // patch, high), _starts(width // patch, wide)))
        across, down = picture.width / width * patch, picture.height / height * patch  # picture pixels a patch
        weight = torch.minimum(_ramp(high)[:, None], _ramp(wide))[..., None]
        total = None
        for start in range(0, len(places), TILES_AT_ONCE):
            some = places[start : start + TILES_AT_ONCE]
            boxes = [(x * across, y * down, (x + wide) * across, (y + high) * down) for y, x in some]
            size = wide * patch, high * patch
            tiles = self._read([picture.resize(size, Image.Resampling.BICUBIC, box=box) for box in boxes])
            if total is None:
                total = torch.zeros(len(self.blocks), height // patch, width // patch, tiles.shape[-1])
            for (y, x), tile in zip(some, tiles, strict=True):
                total[:, y : y + high, x : x + wide] += weight * tile
        halves = torch.empty(total.shape, dtype=torch.float16)
        for block, sums in zip(halves, total, strict=True):  # one by one: large pictures are large
            block.copy_(F.normalize(sums, dim=-1))
        return halves

    def _read(self, images: list[Image.Image]) -> Tensor:
        """Tokens (n, blocks, h, w, d), float32, of unit length, of images of one size."""
        batch = torch.stack([self._normalise(image) for image in images]).to(self.backbone.device)
        tokens = torch.stack(self.backbone.tokens(batch, blocks=self.blocks), dim=1)
        return F.normalize(tokens.permute(0, 1, 3, 4, 2), dim=-1).cpu()


def _starts(length: int, window: int) -> list[int]:
    """Evenly spread starts of windows that cover a length, neighbours overlapping by `OVERLAP` or more."""
    if length <= window:
        return [0]
    count = math.ceil((length - window) / max(1, round(window * (1 - OVERLAP)))) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


def _ramp(length: int) -> Tensor:
    """Weights 1, 2, ... up to the middle and down again."""
    up = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(up, up.flip(0))

"""How a backbone reads a picture: at the camera's scale, in tiles where it is large, patch tokens out."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice, product

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..backbone.engines import Engine, TorchEngine
from ..backbone.vit import Backbone

TILE = 448  # px: side of the network's input; larger pictures are cut into such tiles
WHOLE = 1.5 * TILE  # a picture with no longer side is read whole: borders between tiles cost more
OVERLAP = 0.25  # share of a tile that its neighbour shows too


def camera_zoom(sizes: Iterable[tuple[int, int]]) -> float:
    """One zoom for all pictures of a camera: small ones are enlarged until the median one fills a tile.

    ``sizes`` are (width, height) in pixels. Crops and strips keep the scale of the other pictures.
    """
    return max(1.0, TILE / statistics.median(max(size) for size in sizes))


class Encoder:
    """Patch tokens of pictures by some ``blocks`` of a backbone; ``zoom``: input pixels for a picture's pixel.

    ``engine`` runs these blocks; None is torch in float32.
    """

    def __init__(
        self, backbone: Backbone, blocks: tuple[int, ...], *, zoom: float = 1.0, engine: Engine | None = None
    ) -> None:
        self.backbone, self.blocks, self.zoom = backbone, tuple(blocks), zoom
        self.engine = engine or TorchEngine(backbone, self.blocks)

    def input_size(self, picture: Image.Image) -> tuple[int, int]:
        """Width and height of a picture in pixels of the network's input, multiples of the patch."""
        patch = self.backbone.patch
        width, height = (max(1, round(side * self.zoom / patch)) * patch for side in picture.size)
        return width, height

    def tokens(self, picture: Image.Image) -> Tensor:
        """Tokens of unit length, (blocks, rows, columns, d) of the picture's patches, float16, on the CPU."""
        return next(self.tokens_of([picture]))

    def tokens_of(self, pictures: Iterable[Image.Image]) -> Iterator[Tensor]:
        """The `tokens` of pictures, in order. Their tiles pass the network in one stream, as they are needed.

        Tiles are blended with weights that fall off to their edges: no seams.
        """
        grids: deque[tuple[int, int]] = deque()

        def inputs() -> Iterator[np.ndarray]:
            for picture in pictures:
                width, height = self.input_size(picture)
                grids.append((height // self.backbone.patch, width // self.backbone.patch))
                yield from self.inputs(picture)

        tiles = self.engine.tokens(inputs())
        for first in tiles:
            grid = grids.popleft()
            size, places = _places(grid, self.backbone.patch)
            yield (
                first.half() if size == grid else _blended(chain([first], islice(tiles, len(places) - 1)), places, grid)
            )

    def inputs(self, picture: Image.Image) -> Iterator[np.ndarray]:
        """What the network reads of a picture, uint8 (h, w, 3): all of it, or its tiles."""
        patch, (width, height) = self.backbone.patch, self.input_size(picture)
        (high, wide), places = _places((height // patch, width // patch), patch)
        across, down = picture.width / width * patch, picture.height / height * patch  # picture pixels a patch
        for y, x in places:
            box = x * across, y * down, (x + wide) * across, (y + high) * down
            yield np.asarray(picture.resize((wide * patch, high * patch), Image.Resampling.BICUBIC, box=box))


def _places(grid: tuple[int, int], patch: int) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """Rows and columns of a tile, and the first row and column of each, row by row; all of a small picture is one."""
    if max(grid) * patch <= WHOLE:
        return grid, [(0, 0)]
    high, wide = (min(TILE // patch, side) for side in grid)
    return (high, wide), list(product(_starts(grid[0], high), _starts(grid[1], wide)))


def _blended(tiles: Iterator[Tensor], places: list[tuple[int, int]], grid: tuple[int, int]) -> Tensor:
    """Tokens (blocks, rows, columns, d), float16, of tiles of one size. Only a band of the sums is in memory."""
    whole = band = weight = None
    top = 0  # of the band
    for (y, x), tile in zip(places, tiles, strict=True):
        if whole is None:
            blocks, high, wide, width = tile.shape
            whole = torch.empty(blocks, *grid, width, dtype=torch.float16)
            band = torch.zeros(blocks, high, grid[1], width)
            weight = torch.minimum(_ramp(high)[:, None], _ramp(wide))[..., None]
        if y > top:  # no further tile reaches the rows above
            whole[:, top:y] = F.normalize(band[:, : y - top], dim=-1)
            band = torch.cat([band[:, y - top :], torch.zeros_like(band[:, : y - top])], dim=1)
            top = y
        band[:, :, x : x + wide] += weight * tile
    whole[:, top:] = F.normalize(band, dim=-1)
    return whole


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

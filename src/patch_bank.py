"""Where is the defect: how far every patch of a picture is from the patches of normal pictures, at any picture size.

Patch tokens of middle blocks of a Vision Transformer are kept for a few normal pictures. A picture is scored by the
cosine distance of its patches to their nearest neighbours in that bank; large pictures are scored in overlapping tiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from src.backbone import weights_digest
from src.checkpoints import CheckpointError, load_file, save_atomically
from src.model import ViTMultiClassClassifier, image_transform
from src.scoring import greedy_coreset, nearest_cosine_distance, upsample_maps

BANK_FORMAT = 2  # 1 had image scores in absolute distances
TILES_AT_ONCE = 4
HIGHEST = 0.01  # share of a picture's patches whose mean is its score
TYPICAL_ROWS = 1024  # of a bank, drawn at random, that tell how far its patches lie apart


@dataclass(frozen=True, kw_only=True)
class BankSettings:
    """What decides a bank's maps; saved with it."""

    blocks: tuple[int, ...]  # whose tokens are compared, from 0; of several, the mean of their cosines counts
    side: int  # pixels that a picture's shorter side is brought to, whatever its size
    tile: int  # side of the network's input in pixels, a multiple of the patch; larger pictures are cut into such tiles
    overlap: float = 0.25  # share of a tile that its neighbour sees too
    turns: bool = False  # normal pictures are kept in all quarter turns and mirrored: leather has no upside
    neighbours: int = 1  # whose mean distance counts
    limit: int = 20_000  # patches kept at most
    coreset: str = "random"  # how they are chosen: "random", or "greedy" (farthest first)
    smoothing: float = 0.5  # standard deviation of the Gaussian over maps, in patches

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))  # JSON and checkpoints have lists
        if not self.blocks:
            raise ValueError("blocks is empty; expected one block at least")
        if not 0 <= self.overlap < 1 or min(self.side, self.tile, self.neighbours, self.limit) < 1:
            raise ValueError(f"expected overlap in [0, 1), side, tile, neighbours, limit of 1 or more; got {self}")
        if self.coreset not in ("random", "greedy"):
            raise ValueError(f"coreset is {self.coreset!r}; expected 'random' or 'greedy'")


def default_settings(model: ViTMultiClassClassifier, picture: Image.Image) -> BankSettings:
    """Settings for pictures like this one: small ones are enlarged to the tile, large ones cut into tiles.

    The tile is the model's input, or twice that if it is under 400 px: patches should be small beside defects.
    """
    tile = model.image_size * (2 if model.image_size < 400 else 1)
    return BankSettings(blocks=(model.patch_block,), side=max(tile, min(picture.size)), tile=tile)


class PatchBank:
    """Patches of normal pictures, and maps of how far other pictures are from them.

    Args:
        model: Its backbone gives the tokens; on whatever device it is.
        settings: See `BankSettings`.
        rows: Patch tokens, shape (m, d), m >= 1, each of unit length.
    """

    def __init__(self, model: ViTMultiClassClassifier, settings: BankSettings, rows: Tensor) -> None:
        self.model, self.settings, self.rows = model, settings, rows
        self.patch = model.backbone.patch_embed.patch_size[0]
        if settings.tile % self.patch:
            raise ValueError(f"tile is {settings.tile} px; expected a multiple of the patch, {self.patch} px")
        self._normalise = image_transform(None, mean=model.mean, std=model.std)

    @classmethod
    def build(
        cls, model: ViTMultiClassClassifier, pictures: list[Image.Image], settings: BankSettings, *, seed: int = 0
    ) -> PatchBank:
        """The bank of some normal pictures; ``seed`` decides which patches are kept if there are too many.

        Raises:
            ValueError: If there is no picture, or the tile does not fit the model's patch.
        """
        if not pictures:
            raise ValueError("a bank needs one normal picture at least")
        bank = cls(model, settings, torch.empty(0))
        rows = [bank.tokens(picture, share=1 / len(pictures), seed=seed) for picture in pictures]
        return bank.with_rows(torch.cat(rows), seed=seed)

    def with_rows(self, rows: Tensor, *, seed: int = 0) -> PatchBank:
        """A bank of other rows, reduced to the settings' limit."""
        limit = self.settings.limit
        if len(rows) > limit and self.settings.coreset == "greedy":
            rows = rows[greedy_coreset(rows, limit, seed=seed)]
        return PatchBank(self.model, self.settings, _some(rows, limit, seed))

    def tokens(self, picture: Image.Image, *, share: float = 1.0, seed: int = 0) -> Tensor:
        """Unit patch tokens of a normal picture, shape (patches, d), in all its turns if the settings say so.

        A random choice of them if there are more than the picture's share of the limit (four times that if the
        coreset is greedy): memory is bounded, however many and large the pictures are.
        """
        pictures = turns_of(picture) if self.settings.turns else [picture]
        share *= 4 if self.settings.coreset == "greedy" else 1
        most = math.ceil(self.settings.limit * share / len(pictures))
        rows = []
        for turned in pictures:
            pieces = [tokens.permute(0, 2, 3, 1).flatten(0, 2) for _, tokens in self.tiles(turned)]
            rows.append(_some(torch.cat(pieces), most, seed))
        return torch.cat(rows)

    def patch_map(self, picture: Image.Image) -> Tensor:
        """Distance of each patch, shape (rows, columns) of the whole picture's patch grid, in [0, 2].

        Overlapping tiles are blended with weights that fall off linearly towards their edges: no seams.
        """
        return self.map_of(self.tiles(picture), picture.size)

    def map_of(self, tiles: Iterable[tuple[list[tuple[int, int]], Tensor]], size: tuple[int, int]) -> Tensor:
        """As `patch_map`, from the `tiles` of a picture of a size of (width, height)."""
        columns, rows = (side // self.patch for side in self._input_size(size))
        total, weights = torch.zeros(rows, columns), torch.zeros(rows, columns)
        for places, tokens in tiles:
            n, d, h, w = tokens.shape
            flat = tokens.permute(0, 2, 3, 1).reshape(-1, d)
            distances = nearest_cosine_distance(
                flat, self.rows, neighbours=self.settings.neighbours, normalise=False
            )
            maps = distances.view(n, h, w)
            weight = torch.minimum(_ramp(h)[:, None], _ramp(w)[None, :])
            for (top, left), found in zip(places, maps, strict=True):
                total[top : top + h, left : left + w] += weight * found
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
        content = {"format": BANK_FORMAT, "settings": asdict(self.settings), "backbone": backbone_identity(self.model)}
        save_atomically({**content, "rows": self.rows, "extra": extra}, path)

    @classmethod
    def load(cls, path: Path, model: ViTMultiClassClassifier) -> tuple[PatchBank, dict[str, object]]:
        """A saved bank for the model that it was made with, and the extra values.

        Raises:
            CheckpointError: If the file is missing, damaged, no bank, or made with another backbone.
        """
        content = load_file(path)
        if content.get("format") != BANK_FORMAT or "rows" not in content:
            raise CheckpointError(f"{path} holds no patch bank of format {BANK_FORMAT}")
        if content["backbone"] != (wanted := backbone_identity(model)):
            raise CheckpointError(f"{path} was made with the backbone {content['backbone']}, not with {wanted}")
        return cls(model, BankSettings(**content["settings"]), content["rows"]), content["extra"]

    def _input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the network's input for a whole picture of a size, multiples of the patch."""
        zoom = self.settings.side / min(size)
        width, height = (max(1, round(side * zoom / self.patch)) * self.patch for side in size)
        return width, height

    def tiles(self, picture: Image.Image) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
        """Places (row, column) on the patch grid, and tokens (n, d, h, w) of unit length, a few tiles at a time."""
        width, height = self._input_size(picture.size)
        tile = self.settings.tile
        # A picture that is little larger than a tile is seen whole: borders between tiles cost more.
        whole = max(width, height) <= 1.5 * tile
        high, wide = (height, width) if whole else (min(tile, height), min(tile, width))
        places = [
            (top, left)
            for top in _starts(height // self.patch, high // self.patch, self.settings.overlap)
            for left in _starts(width // self.patch, wide // self.patch, self.settings.overlap)
        ]
        device = next(self.model.parameters()).device
        for start in range(0, len(places), TILES_AT_ONCE):
            chosen = places[start : start + TILES_AT_ONCE]
            images = [self._crop(picture, place, (high, wide), (height, width)) for place in chosen]
            found = self.model.patch_tokens(torch.stack(images).to(device), blocks=self.settings.blocks)
            unit = [F.normalize(tokens, dim=1) for tokens in found]
            yield chosen, (torch.cat(unit, dim=1) / math.sqrt(len(unit))).cpu()

    def _crop(
        self, picture: Image.Image, place: tuple[int, int], tile: tuple[int, int], whole: tuple[int, int]
    ) -> Tensor:
        """One tile of the enlarged picture, normalised: float (3, height, width); never all at once."""
        (top, left), (high, wide) = (p * self.patch for p in place), tile
        across, down = picture.width / whole[1], picture.height / whole[0]  # picture pixels for one input pixel
        box = (left * across, top * down, (left + wide) * across, (top + high) * down)
        return self._normalise(picture.resize((wide, high), Image.Resampling.BICUBIC, box=box))


def backbone_identity(model: ViTMultiClassClassifier) -> str:
    """Name and fingerprint of a backbone's weights."""
    return f"{model.settings['backbone']} {weights_digest(model.backbone)[:16]}"


def turns_of(picture: Image.Image) -> list[Image.Image]:
    """A picture in its four quarter turns and their mirror images, itself first."""
    kinds = Image.Transpose
    both = [picture, picture.transpose(kinds.FLIP_LEFT_RIGHT)]
    return [p if turn is None else p.transpose(turn) for p in both
            for turn in (None, kinds.ROTATE_90, kinds.ROTATE_180, kinds.ROTATE_270)]  # fmt: skip


def select_blocks(tokens: Tensor, blocks: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor:
    """Unit tokens of some of the blocks that they were made of: features are dimension 1 of any shape (n, d, ...)."""
    parts = dict(zip(blocks, tokens.chunk(len(blocks), dim=1), strict=True))
    return torch.cat([parts[block] for block in wanted], dim=1) * math.sqrt(len(blocks) / len(wanted))


def _some(rows: Tensor, most: int, seed: int) -> Tensor:
    """Rows drawn at random, in their order, if there are more than wanted."""
    if len(rows) <= most:
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:most].sort().values]


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Evenly spread starts of windows that cover a length, neighbours overlapping by the share or more."""
    if length <= window:
        return [0]
    count = math.ceil((length - window) / max(1, round(window * (1 - overlap)))) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


def _ramp(length: int) -> Tensor:
    """Weights 1, 2, ... up to the middle and down again."""
    up = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(up, up.flip(0))

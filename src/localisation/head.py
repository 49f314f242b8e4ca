"""A small network that reads distances and relative pixels, and says where something is wrong with any leather.

It works on a grid of cells, 14 input pixels wide, with 8 x 8 map pixels each: 256 x 256 for an input of 448 px.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from ..backbone.vit import Backbone, weights_digest
from ..config import paths
from ..files import fitting, identity_of, load_tensors, whole_file

CELL = 14  # input pixels, along each side
FINE = 8  # map pixels a cell, along each side
PIXEL_CHANNELS = 8
REMEDY = "remove it, or get it again from the project"
BLOCK = 1024  # map pixels, along each side: a larger map is made block by block, which bounds memory
REACH = 28 * FINE, 8 * FINE  # map pixels around a block that change its pixel channels, and the head's answer
FLOORS = 0.004, 0.004, 0.004, None, None, None, 0.012, 0.012  # lowest spread of a pixel channel; None: it is a log


class DefectHead(nn.Module):
    """Distances on the grid of cells and pixels at eight times its resolution in, logits of a defect out.

    ``blocks`` of the backbone give three own distances and one to references each, see `distance_channels`; ``mean``
    and ``deviation`` standardise them. Without references their channels are 0.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        channels = 4 * blocks + 1
        self.register_buffer("mean", torch.zeros(channels - 1))
        self.register_buffer("deviation", torch.ones(channels - 1))
        self.pixels_half = nn.Conv2d(4 * PIXEL_CHANNELS, 16, 3, padding=1)
        self.pixels_quarter = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.pixels_cell = nn.Conv2d(32, 48, 3, stride=2, padding=1)
        self.distances = nn.Conv2d(channels, 48, 3, padding=1)
        self.distances_skip = nn.Conv2d(channels, 4, 1)
        self.mix = nn.Conv2d(96, 64, 3, padding=1)
        self.wide = nn.Conv2d(64, 64, 3, padding=2, dilation=2)
        self.up_quarter = nn.Conv2d(64 + 4 + 32, 32, 3, padding=1)
        self.up_half = nn.Conv2d(32 + 16, 16, 3, padding=1)
        self.out = nn.Conv2d(16, 4, 1)
        nn.init.constant_(self.out.bias, -3.0)  # defects are rare

    def forward(self, distances: Tensor, pixels: Tensor) -> Tensor:
        """Logits (n, 8 h, 8 w) of distances (n, channels, h, w) and pixels (n, 8, 8 h, 8 w)."""
        relative, present = distances[:, :-1], distances[:, -1:]
        relative = (relative - self.mean[:, None, None]) / self.deviation[:, None, None]
        own = relative.shape[1] // 4 * 3
        distances = torch.cat([relative[:, :own], relative[:, own:] * present, present], 1)
        half = F.gelu(self.pixels_half(F.pixel_unshuffle(pixels, 2)))  # (n, 16, 4 h, 4 w)
        quarter = F.gelu(self.pixels_quarter(half))  # (n, 32, 2 h, 2 w)
        cell = F.gelu(self.pixels_cell(quarter))  # (n, 48, h, w)
        mixed = F.gelu(self.mix(torch.cat([F.gelu(self.distances(distances)), cell], 1)))
        mixed = mixed + F.gelu(self.wide(mixed))
        skip = torch.cat([mixed, self.distances_skip(distances)], 1)
        mixed = F.gelu(self.up_quarter(torch.cat([_larger(skip), quarter], 1)))
        mixed = F.gelu(self.up_half(torch.cat([_larger(mixed), half], 1)))
        return F.pixel_shuffle(self.out(mixed), 2)[:, 0]


def _larger(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Maps (n, c, h, w) smoothed by a Gaussian of ``sigma`` pixels; wide ones at a lower resolution."""
    if sigma >= 2:
        factor = 2 ** int(math.log2(sigma))
        height, width = maps.shape[-2:]
        padded = F.pad(maps, (0, -width % factor, 0, -height % factor), mode="replicate")
        small = gaussian_blur(F.avg_pool2d(padded, factor), sigma / factor)
        large = F.interpolate(small, scale_factor=factor, mode="bilinear", align_corners=False)
        return large[..., :height, :width]
    radius = int(3 * sigma + 0.5)
    weights = torch.exp(-(torch.arange(-radius, radius + 1).to(maps) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(maps.shape[1], 1, 1, -1)
    for kernel, pad in ((weights, (radius, radius, 0, 0)), (weights.transpose(2, 3), (0, 0, radius, radius))):
        maps = F.conv2d(F.pad(maps, pad, mode="replicate"), kernel, groups=maps.shape[1])
    return maps


def pixel_channels(pictures: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Eight numbers a pixel (n, 8, h, w), each relative to the picture's own median and spread; large ones in float16.

    Light against its surroundings at three scales, gradient, local contrast at two scales, colour in two opponents.

    Args:
        pictures: RGB, uint8, shape (n, 3, h, w).
        valid: Bool (n, h, w): pixels that count for median and spread; None takes all.
    """
    size = pictures.shape[-2:]
    blocks = list(product(*(_spans(side, BLOCK, REACH[0]) for side in size)))
    shape, kind = (len(pictures), PIXEL_CHANNELS, *size), torch.float32 if len(blocks) == 1 else torch.float16
    channels = torch.empty(shape, dtype=kind, device=pictures.device)
    for (rows, seen_rows, own_rows), (columns, seen_columns, own_columns) in blocks:
        block = _absolute_channels(pictures[..., seen_rows, seen_columns])
        channels[..., rows, columns] = block[..., own_rows, own_columns]
    for channel, floor in zip(channels.unbind(1), FLOORS, strict=True):  # (n, h, w)
        sampled = channel[:, ::3, ::3].float()
        if valid is not None:
            sampled = sampled.masked_fill(~valid[:, ::3, ::3], torch.nan)
        middle = _median(sampled)
        spread = 1 if floor is None else (_median((sampled - middle).abs()) * 1.48).clamp(min=floor)
        for part in channel.split(BLOCK, dim=1):
            part.copy_((part / middle).log() if floor is None else torch.asinh((part - middle) / spread))
    channels[:, 4:6] *= 1.5
    return channels


def _spans(length: int, size: int, reach: int) -> Iterator[tuple[slice, slice, slice]]:
    """Parts of a length: what each covers, what it has to see, and where the first is in the second."""
    for start in range(0, length, size):
        end, first = min(start + size, length), max(0, start - reach)
        yield slice(start, end), slice(first, end + reach), slice(start - first, end - first)


def _absolute_channels(pictures: Tensor) -> Tensor:
    colour = pictures.float() / 255
    light = colour.mean(1, keepdim=True)
    channels = [light - gaussian_blur(light, sigma) for sigma in (2, 6, 20)]
    smooth = gaussian_blur(light, 1.0)
    across = F.pad(smooth.diff(dim=-1), (0, 1, 0, 0))
    down = F.pad(smooth.diff(dim=-2), (0, 0, 0, 1))
    channels.append((across**2 + down**2).sqrt() + 0.002)
    for sigma in (2.5, 8):
        channels.append(gaussian_blur((light - gaussian_blur(light, sigma)) ** 2, sigma).sqrt() + 0.003)
    red, green, blue = colour.split(1, dim=1)
    for opponent in (red - green, blue - (red + green) / 2):
        opponent = gaussian_blur(opponent, 0.8)
        channels.append(opponent - 0.5 * gaussian_blur(opponent, 40))
    return torch.cat(channels, 1)


def _median(values: Tensor) -> Tensor:
    """Median (n, 1, 1) of values (n, h, w), without NaN."""
    return values.flatten(1).nanmedian(1).values[:, None, None]


def distance_channels(own: Tensor, reference: Tensor | None, *, valid: Tensor | None = None) -> Tensor:
    """Distance maps as the head reads them: the log of each over its median in the picture, and a flag.

    Args:
        own: Of `references.own_distances`, shape (3 * blocks, h, w).
        reference: Of `References.distances`, shape (blocks, h, w); None where the picture stands alone.
        valid: Bool (h, w): patches that count for the medians; None takes all.

    Returns:
        Shape (4 * blocks + 1, h, w); without references their channels and the flag, the last channel, are 0.
    """
    maps = own if reference is None else torch.cat([own, reference])
    chosen = maps.flatten(1) if valid is None else maps[:, valid]
    medians = chosen.median(1).values.clamp(min=1e-6)[:, None, None]
    relative = (maps.clamp(min=1e-6) / medians).log()
    missing = relative.new_zeros(0 if reference is not None else len(own) // 3, *relative.shape[1:])
    return torch.cat([relative, missing, torch.full_like(relative[:1], float(reference is not None))])


def cells_of(width: int, height: int) -> tuple[int, int]:
    """Rows and columns of the cells of an input of that many pixels."""
    return max(1, round(height / CELL)), max(1, round(width / CELL))


def on_cells(channels: Tensor, cells: tuple[int, int]) -> Tensor:
    """Channels (c, h, w) of the patch grid on the grid of cells, (c, rows, columns)."""
    if channels.shape[1:] == cells:
        return channels
    return F.interpolate(channels[None], cells, mode="bilinear", align_corners=False)[0]


def fine_picture(picture: Image.Image, cells: tuple[int, int]) -> Tensor:
    """The picture as `pixel_channels` wants it, uint8 (3, 8 rows, 8 columns)."""
    size = FINE * cells[1], FINE * cells[0]
    return pil_to_tensor(picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC))


def defect_logits(head: DefectHead, distances: Tensor, pixels: Tensor) -> Tensor:
    """The head's map (n, 8 h, 8 w), smoothed by a pixel, with half the mean log distance added: not calibrated.

    ``distances`` (n, channels, h, w) on cells; ``pixels`` (n, 8, 8 h, 8 w).
    """
    smooth = gaussian_blur(head(distances, pixels)[:, None], 1.0)
    blocks, present = distances.shape[1] // 4, distances[:, -1:]
    mean = distances[:, :-1].sum(1, keepdim=True) / (3 * blocks + blocks * present)
    return (smooth + 0.5 * F.interpolate(mean, smooth.shape[-2:], mode="bilinear", align_corners=False))[:, 0]


@dataclass(frozen=True)
class HeadFacts:
    """What a head's file says beside its weights."""

    tokens: str  # digest of the backbone up to the last block that it reads, see `Backbone.digest_up_to`
    blocks: tuple[int, ...]  # of the backbone, from 0
    slope: float  # probability = sigmoid(slope * logit + offset)
    offset: float
    outline: float  # probability from which on a pixel belongs to a region
    verdict: dict[str, dict[str, Any]]  # by references and false alarm rate: threshold of a picture's score, interval
    made: dict[str, Any]  # recipe, data, licences, date, validation figures


@dataclass(frozen=True)
class Head:
    """A trained head and what its file says."""

    network: DefectHead
    facts: HeadFacts

    @torch.inference_mode()
    def probabilities(self, distances: Tensor, pixels: Tensor) -> np.ndarray:
        """Calibrated map (8 h, 8 w), float32, of `distance_channels` (c, h, w) on cells and `pixel_channels`."""
        logits = torch.empty(pixels.shape[-2:])
        for spans in product(*(_spans(side, BLOCK, REACH[1]) for side in logits.shape)):
            covered, seen, own = zip(*spans, strict=True)
            cells = tuple(slice(part.start // FINE, part.stop // FINE) for part in seen)
            block = defect_logits(self.network, distances[(None, slice(None), *cells)], pixels[(..., *seen)].float())
            logits[covered] = block[0][own]
        return torch.sigmoid(self.facts.slope * logits + self.facts.offset).numpy()


def save_head(head: Head, file: Path) -> Path:
    """Writes weights in float16, and as metadata facts and a digest of both, safetensors."""
    weights = {name: tensor.half().contiguous() for name, tensor in head.network.state_dict().items()}
    facts = json.dumps(asdict(head.facts))
    with whole_file(file) as stream:
        stream.write(save(weights, {"head": facts, "sha256": _digest(head.network, facts)}))
    return Path(file)


def _digest(network: DefectHead, facts: str) -> str:
    return identity_of(weights_digest(network, dtype=torch.float16), facts)


def find_head(backbone: Backbone, folder: Path | None = None) -> Head | None:
    """The head in a folder (default: ``models/heads``) that was trained on these very tokens, or None."""
    heads = (load_head(file, backbone) for file in sorted((folder or paths.heads).glob("*.safetensors")))
    return next((head for head in heads if head), None)


def load_head(file: Path, backbone: Backbone) -> Head | None:
    """The head of a file, or None if it was trained on other tokens; CheckpointError if it is damaged or no head."""
    with fitting(file, remedy=REMEDY):
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata()
        said = json.loads(metadata["head"])
        facts = HeadFacts(**said | {"blocks": tuple(said["blocks"])})
        network = DefectHead(len(facts.blocks))
        network.load_state_dict(load_tensors(file, remedy=REMEDY))
        if metadata.get("sha256") not in (None, _digest(network, metadata["head"])):
            raise ValueError("its digest is not that of its content")
    fits = max(facts.blocks) < backbone.depth and facts.tokens == backbone.digest_up_to(max(facts.blocks))
    return Head(network.eval(), facts) if fits else None

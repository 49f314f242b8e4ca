"""What a head reads of a picture: relative distances of its patches, and relative pixels.

They lie on a grid of cells, 14 input pixels wide, with 8 x 8 map pixels each: 256 x 256 for an input of 448 px.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

CELL = 14  # input pixels, along each side
FINE = 8  # map pixels a cell, along each side
PIXEL_CHANNELS = 8
BLOCK = 1024  # map pixels, along each side: a larger map is made block by block, which bounds memory
REACH = 28 * FINE, 8 * FINE  # map pixels around a block that change its pixel channels, and the head's answer
FLOORS = 0.004, 0.004, 0.004, None, None, None, 0.012, 0.012  # lowest spread of a pixel channel; None: it is a log


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
    blocks = list(product(*(spans_of(side, BLOCK, REACH[0]) for side in size)))
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


def spans_of(length: int, size: int, reach: int) -> Iterator[tuple[slice, slice, slice]]:
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

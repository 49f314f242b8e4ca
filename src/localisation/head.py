"""A small network that reads distances and relative pixels, and says where something is wrong with any leather."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ..backbone.vit import Backbone, weights_digest
from ..config import paths
from ..files import fitting, identity_of, load_tensors
from .channels import BLOCK, FINE, PIXEL_CHANNELS, REACH, gaussian_blur, spans_of

REMEDY = "remove it, or get it again from the project"


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
        for spans in product(*(spans_of(side, BLOCK, REACH[1]) for side in logits.shape)):
            covered, seen, own = zip(*spans, strict=True)
            cells = tuple(slice(part.start // FINE, part.stop // FINE) for part in seen)
            block = defect_logits(self.network, distances[(None, slice(None), *cells)], pixels[(..., *seen)].float())
            logits[covered] = block[0][own]
        return torch.sigmoid(self.facts.slope * logits + self.facts.offset).numpy()


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
        if metadata.get("sha256") not in (None, head_digest(network, metadata["head"])):
            raise ValueError("its digest is not that of its content")
    fits = max(facts.blocks) < backbone.depth and facts.tokens == backbone.digest_up_to(max(facts.blocks))
    return Head(network.eval(), facts) if fits else None


def head_digest(network: DefectHead, facts: str) -> str:
    """Of weights in float16 and facts as JSON, as a head's file keeps it."""
    return identity_of(weights_digest(network, dtype=torch.float16), facts)

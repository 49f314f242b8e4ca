"""What normal pictures alone can tell: which blocks find painted defects best, and where the thresholds lie.

Every normal picture is judged by a bank of the others, as a new picture would be. No test image or mask is used.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from ..backbone.device import choose_device
from ..backbone.vit import Backbone
from ..synthetic.defects import add_synthetic_defect
from .bank import EVALUATION_SIZE, PatchBank, evaluated_mask, some_rows
from .encoder import BankSettings, Encoder, Tokens, default_settings
from .pixel_metrics import best_pixel_threshold, pixel_average_precision, threshold_metrics

PAINTED = 40  # pictures with a painted defect, at least
HELD_OUT = 16  # normal pictures, at most, that are judged by the others
LIGHT = (1.0, 0.8, 1.25)  # brightness and contrast of tomorrow's pictures, as factors, that must not raise an alarm
FALSE_ALARMS = 0.05  # share of normal pictures that may alarm
CHOICE_LIMIT = 4096  # patches of a bank while settings are compared: a minute instead of ten
KEPT_BYTES = 2**31  # of painted pictures' tokens; if there are more, they are computed again for the threshold


@dataclass(frozen=True)
class Thresholds:
    """From which value on a pixel and an image count as defective, and where that comes from."""

    pixel: float  # of the maps
    image: float  # of the image score
    pixel_source: str
    image_source: str
    painted_f1: float  # of pixels; optimistic, the threshold was chosen on the same painted pictures


@dataclass(frozen=True)
class Detector:
    """A bank of normal patches with its thresholds: all that judges a picture."""

    protocol: str  # name under which its figures are reported
    bank: PatchBank
    thresholds: Thresholds
    facts: dict[str, Any]  # what a report says of backbone and bank


def fit_detector(
    backbone: Backbone,
    pictures: list[Image.Image],
    *,
    protocol: str,
    candidates: list[BankSettings] | None = None,
    source: str = "given",
    seed: int = 0,
    device: torch.device | None = None,
) -> Detector:
    """The bank and the thresholds of some normal pictures, one at least; no other picture is used.

    ``candidates`` differ in nothing but ``blocks``; None takes `candidate_settings`. ``source`` says where a single one
    comes from. ``seed`` chooses the patches that are kept, if there are too many. The backbone is moved to ``device``.
    """
    if not pictures:
        raise ValueError(f"{protocol} has no normal image; one at least is needed")
    backbone.network.to(device or choose_device())
    candidates = candidates or candidate_settings(backbone, pictures[0])
    normals, settings = Normals(backbone, pictures, candidates, seed=seed), candidates[0]
    if len(candidates) > 1:
        settings, scores = choose_settings(normals, candidates)
        source = f"highest pixel AP, {max(scores):.3f}, of {len(scores)} candidates on defects painted on normal images"
    rows = normals.rows(settings, range(len(normals.pictures)))
    thresholds, encoder = choose_thresholds(normals, settings, rows), Encoder(backbone, settings)
    kept = list(rows.values())
    if normals.is_quartered:
        kept = [encoder.tokens(pictures[0]).rows(settings.blocks)]
    bank = PatchBank(encoder, some_rows(torch.cat(kept), settings.limit, seed))
    facts = {
        "backbone": backbone.identity,
        "weights": backbone.weights,
        "normal_images": len(pictures),
        "bank_patches": len(bank.rows),
        "seed": seed,
        "evaluation_size": EVALUATION_SIZE[0],
        "settings_source": source,
    }
    return Detector(protocol, bank, thresholds, facts)


def candidate_settings(backbone: Backbone, picture: Image.Image) -> list[BankSettings]:
    """Settings worth a try for any Vision Transformer: one block, or two neighbours, of its upper two thirds.

    Smoothing is no candidate: painted masks end at the exact pixel, those that people draw do not.
    """
    depth, plain = backbone.depth, default_settings(backbone, picture)
    choices = [range(start, start + count) for count in (1, 2) for start in range(depth // 3, depth - count + 1)]
    return [replace(plain, blocks=tuple(blocks)) for blocks in choices]


class Normals:
    """Normal pictures, of which some, evenly spread, are judged by a bank of the others, as a new picture would be.

    Of a single picture the quarters take the place of pictures, at the same scale. The judged ones pass the network
    here, for the blocks of all ``candidates``.
    """

    def __init__(
        self, backbone: Backbone, pictures: list[Image.Image], candidates: list[BankSettings], *, seed: int = 0
    ) -> None:
        self.backbone, self.seed, self.is_quartered = backbone, seed, len(pictures) == 1
        self.pictures = _quarters(pictures[0]) if self.is_quartered else pictures
        self.scale = 0.5 if self.is_quartered else 1.0  # of these pictures' sides in whole ones
        blocks = tuple(sorted({block for settings in candidates for block in settings.blocks}))
        self.encoder = self._encoder(replace(candidates[0], blocks=blocks))
        judged = np.unique(np.linspace(0, len(self.pictures) - 1, HELD_OUT).round().astype(int)).tolist()
        self.judged = {number: self.encoder.tokens(self.pictures[number]) for number in tqdm(judged, desc="normal")}
        self._painted: dict[int, list[tuple[Tokens, np.ndarray]]] = {}

    def rows(self, settings: BankSettings, numbers: Collection[int]) -> dict[int, Tensor]:
        """Tokens of some pictures by their number, each with its share of the limit; those not judged pass here."""
        encoder, share, rows = self._encoder(settings), math.ceil(settings.limit / len(numbers)), {}
        for number in numbers:
            tokens = self.judged[number] if number in self.judged else encoder.tokens(self.pictures[number])
            rows[number] = some_rows(tokens.rows(settings.blocks), share, self.seed)
        return rows

    def others(self, number: int, settings: BankSettings, rows: dict[int, Tensor]) -> PatchBank:
        """The bank of these `rows` but for those of one picture."""
        chosen = torch.cat([part for other, part in rows.items() if other != number])
        return PatchBank(self._encoder(settings), some_rows(chosen, settings.limit, 0))

    def painted(self, number: int) -> list[tuple[Tokens, np.ndarray]]:
        """Copies of a judged picture with a defect painted on each: their tokens, and masks (256, 256)."""
        if number in self._painted:
            return self._painted[number]
        generator, copies = np.random.default_rng([0, number]), []
        for _ in range(math.ceil(PAINTED / len(self.judged))):
            pixels, mask = add_synthetic_defect(np.asarray(self.pictures[number]), generator, scale=1 / self.scale)
            copies.append((self.encoder.tokens(Image.fromarray(pixels)), evaluated_mask(mask.astype(bool))))
        if PAINTED * self.judged[number].tiles.nbytes <= KEPT_BYTES:
            self._painted[number] = copies
        return copies

    def _encoder(self, settings: BankSettings) -> Encoder:
        return Encoder(self.backbone, replace(settings, side=round(settings.side * self.scale)))


def choose_settings(normals: Normals, candidates: list[BankSettings]) -> tuple[BankSettings, list[float]]:
    """The settings whose maps find painted defects best, and each one's pixel average precision, in [0, 1]."""
    small = [replace(settings, limit=min(settings.limit, CHOICE_LIMIT)) for settings in candidates]
    maps, masks = _painted_maps(normals, [(settings, normals.rows(settings, normals.judged)) for settings in small])
    scores = [pixel_average_precision(its_maps, masks) for its_maps in maps]
    return candidates[int(np.argmax(scores))], scores


def choose_thresholds(normals: Normals, settings: BankSettings, rows: dict[int, Tensor]) -> Thresholds:
    """Thresholds from normal pictures alone, each judged by a bank of the others.

    Pixels: highest F1 on painted defects. Images: `prediction_bound` of scores under each pair of factors of `LIGHT`.
    """
    (maps,), masks = _painted_maps(normals, [(settings, rows)])
    pixel, scores = best_pixel_threshold(maps, masks), []
    for number, tokens in tqdm(normals.judged.items(), desc="light", unit="img"):
        others = normals.others(number, settings, rows)
        relit = [others.encoder.tokens(picture) for picture in _relit(normals.pictures[number])]
        scores.append([others.image_score(others.patch_map(each)) for each in (tokens, *relit)])
    pieces = "quarters of the one normal image" if normals.is_quartered else f"{len(scores)} normal images"
    return Thresholds(
        pixel=pixel,
        image=prediction_bound(np.array(scores)),
        pixel_source=f"highest F1 on {len(masks)} defects painted on {pieces}, each judged by the others",
        image_source=f"{FALSE_ALARMS:.0%} false alarms expected from {pieces}, each judged by the others at "
        f"brightnesses and contrasts of {min(LIGHT)} to {max(LIGHT)}",
        painted_f1=threshold_metrics(maps, masks, threshold=pixel)["pixel_f1_at_threshold"],
    )


def prediction_bound(scores: np.ndarray, *, rate: float = FALSE_ALARMS) -> float:
    """The value that one more picture's score exceeds with a chance of ``rate``; scores are taken as log-normal.

    mean + t * deviation * sqrt(1 + 1/k), with Student's t of k - 1 degrees of freedom: few pictures make it cautious.
    ``scores`` (k >= 2 pictures, conditions) are above 0. Conditions widen the spread; they are no further pictures.
    """
    if scores.ndim != 2 or len(scores) < 2 or not (scores > 0).all():
        raise ValueError(f"expected scores above 0 of two pictures or more, got {scores.shape}, {scores.min()}")
    count, logs = len(scores), np.log(scores)
    variance = logs.mean(1).var(ddof=1) + logs.var(1).mean()  # between pictures, and within them
    reach = stats.t.ppf(1 - rate, count - 1) * math.sqrt(variance * (1 + 1 / count))
    return float(np.exp(logs.mean() + reach))


def _painted_maps(
    normals: Normals, choices: list[tuple[BankSettings, dict[int, Tensor]]]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Maps by settings with their rows, and masks, (n, 256, 256), of painted pictures, each judged by the others."""
    maps, masks = [[] for _ in choices], []
    for number in tqdm(normals.judged, desc="painted defects", unit="img"):
        banks = [normals.others(number, settings, rows) for settings, rows in choices]
        for tokens, mask in normals.painted(number):
            masks.append(mask)
            for bank, its_maps in zip(banks, maps, strict=True):
                its_maps.append(bank.full_size(bank.patch_map(tokens)))
    return [np.stack(its_maps) for its_maps in maps], np.stack(masks)


def _relit(picture: Image.Image) -> list[Image.Image]:
    """The picture under every light but its own, which is the first."""
    bright = [
        (ImageEnhance.Brightness(picture).enhance(factor), contrast) for factor, contrast in product(LIGHT, LIGHT)
    ]
    return [ImageEnhance.Contrast(image).enhance(contrast) for image, contrast in bright[1:]]


def _quarters(picture: Image.Image) -> list[Image.Image]:
    x, y = picture.width // 2, picture.height // 2
    return [picture.crop((left, top, left + x, top + y)) for top in (0, y) for left in (0, x)]

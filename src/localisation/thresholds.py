"""What normal pictures alone can tell: which settings find painted defects best, and where the thresholds lie.

Every normal picture is judged by a bank of the others, as a new picture would be. No test image, no mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from PIL import Image, ImageEnhance
from scipy import stats
from sklearn.metrics import average_precision_score
from torch import Tensor
from tqdm import tqdm

from ..backbone.vit import Backbone
from ..data.pictures import load_image
from ..synthetic.defects import add_synthetic_defect
from .bank import PatchBank, evaluated_map, evaluated_mask, picture_rows
from .encoder import BankSettings, Encoder, default_settings, select_blocks
from .pixel_metrics import best_pixel_threshold, threshold_metrics

PAINTED = 40  # pictures with a painted defect, at least
HELD_OUT = 16  # normal pictures, at most, that are judged by the others
LIGHT = (1.0, 0.8, 1.25)  # brightness and contrast of tomorrow's pictures, as factors, that must not raise an alarm
FALSE_ALARMS = 0.05  # share of normal pictures that may alarm
BLOCKS_AT_ONCE = (1, 2)
CHOICE_LIMIT = 4096  # patches of a bank while settings are compared: a minute instead of ten


@dataclass(frozen=True)
class PixelThreshold:
    """From which value of the maps on a pixel counts as defective: that of highest F1 on painted defects."""

    value: float
    painted_f1: float  # of the pixels of the painted pictures: optimistic, the threshold was chosen on them
    pictures: int  # that were painted on


@dataclass(frozen=True)
class Choice:
    """Settings that were chosen on painted defects."""

    settings: BankSettings
    scores: tuple[float, ...]  # pixel average precision of each candidate, in [0, 1]
    threshold: PixelThreshold  # of the chosen settings, from the same maps


@dataclass(frozen=True)
class Thresholds:
    """From which value on a pixel and an image count as defective, and where that comes from."""

    pixel: float  # of the maps
    image: float  # of the image score
    pixel_source: str
    image_source: str
    painted_f1: float  # see `PixelThreshold`


class Normals:
    """Normal pictures, each of them to be judged by a bank of the others.

    Of a single picture the quarters take the place of pictures, at the same scale: three judge the fourth.

    Args:
        pictures: One or more. If there are many, some, evenly spread, are judged, and all are in the banks.
        seed: Of the choice of patches that are kept, if there are too many.
    """

    def __init__(self, pictures: list[Image.Image], *, seed: int = 0) -> None:
        self.seed = seed
        self.wholes, self.quartered = pictures, len(pictures) == 1
        self.pictures = _quarters(pictures[0]) if self.quartered else pictures
        self.judged = np.unique(np.linspace(0, len(self.pictures) - 1, HELD_OUT).round().astype(int))
        self.scale = 0.5 if self.quartered else 1.0  # of these pictures' sides in whole ones

    @classmethod
    def load(cls, paths: list[str], what: str, *, seed: int = 0) -> Normals:
        """Raises ValueError if there is none; ``what`` says what they are for."""
        if not paths:
            raise ValueError(f"{what} has no normal image; one at least is needed")
        return cls([load_image(path) for path in paths], seed=seed)

    def encoder(self, backbone: Backbone, settings: BankSettings) -> Encoder:
        """Reads these pictures at the scale of the settings."""
        return Encoder(backbone, replace(settings, side=round(settings.side * self.scale)))

    def rows(self, encoder: Encoder) -> list[Tensor]:
        """Rows of each picture for banks, bounded by the settings' limit."""
        return picture_rows(encoder, self.pictures, seed=self.seed)

    def whole_bank(self, encoder: Encoder, rows: list[Tensor]) -> PatchBank:
        """The bank of all pictures, as whole pictures; ``encoder`` and ``rows`` are those of `rows`."""
        if self.quartered:
            whole = Encoder(encoder.backbone, replace(encoder.settings, side=round(encoder.settings.side / self.scale)))
            return PatchBank.build(whole, self.wholes, seed=self.seed)
        return PatchBank.of_rows(encoder, rows, seed=self.seed)

    def paint(self, number: int) -> list[tuple[Image.Image, np.ndarray]]:
        """Copies of a picture with a defect painted on each, and masks of 256 x 256."""
        generator = np.random.default_rng([0, number])
        pixels, copies = np.asarray(self.pictures[number]), []
        for _ in range(math.ceil(PAINTED / len(self.judged))):
            painted, mask = add_synthetic_defect(pixels, generator, scale=1 / self.scale)
            copies.append((Image.fromarray(painted), evaluated_mask(mask.astype(bool))))
        return copies


def candidate_settings(backbone: Backbone, picture: Image.Image) -> list[BankSettings]:
    """Settings worth a try for any Vision Transformer: one block, or two neighbours, of its upper two thirds.

    The rest is as in `default_settings`. Smoothing is no candidate: painted masks end at the exact pixel, those that
    people draw do not, so painted defects would ask for less of it than people do.
    """
    depth = backbone.depth
    plain, lowest = default_settings(backbone, picture), depth // 3
    return [
        replace(plain, blocks=tuple(range(start, start + length)))
        for length in BLOCKS_AT_ONCE
        for start in range(lowest, depth - length + 1)
    ]


def choose_settings(backbone: Backbone, normals: Normals, candidates: Iterable[BankSettings] | None = None) -> Choice:
    """The settings whose maps find painted defects best, without any test image.

    Args:
        backbone: Gives the patch tokens; on whatever device it is.
        normals: Each picture is painted on and compared with the others.
        candidates: One or more; None takes `candidate_settings`. Those that differ only in blocks and neighbours
            share the passes through the network.
    """
    candidates = list(candidates or candidate_settings(backbone, normals.wholes[0]))
    scores, thresholds = {}, {}
    for passes in dict.fromkeys(map(_without_blocks, candidates)):
        group = [settings for settings in candidates if _without_blocks(settings) == passes]
        small = [replace(settings, limit=min(settings.limit, CHOICE_LIMIT)) for settings in group]
        blocks = tuple(sorted({block for settings in group for block in settings.blocks}))
        encoder = normals.encoder(backbone, replace(small[0], blocks=blocks))
        maps, masks = _painted_maps(normals, encoder, normals.rows(encoder), small)
        for settings, of_settings in zip(group, maps, strict=True):
            scores[settings] = float(average_precision_score(masks.ravel(), of_settings.ravel()))
            thresholds[settings] = _threshold_of(of_settings, masks)
    best = max(candidates, key=scores.__getitem__)
    return Choice(best, tuple(scores[settings] for settings in candidates), thresholds[best])


def choose_pixel_threshold(normals: Normals, encoder: Encoder, rows: list[Tensor]) -> PixelThreshold:
    """That of settings which were not chosen here; ``encoder`` and ``rows`` are those of the normals."""
    (maps,), masks = _painted_maps(normals, encoder, rows, [encoder.settings])
    return _threshold_of(maps, masks)


def _threshold_of(maps: np.ndarray, masks: np.ndarray) -> PixelThreshold:
    value = best_pixel_threshold(maps, masks)
    f1 = threshold_metrics(maps, masks, threshold=value)["pixel_f1_at_threshold"]
    return PixelThreshold(value, f1, len(masks))


def choose_thresholds(normals: Normals, encoder: Encoder, rows: list[Tensor], pixel: PixelThreshold) -> Thresholds:
    """The threshold of image scores from normal pictures alone, beside that of pixels.

    It is the score that the next normal picture exceeds with a chance of 5 %, if log scores are normally distributed:
    mean + t * deviation * sqrt(1 + 1/k), with Student's t of k - 1 degrees of freedom for k pictures judged, so that
    few pictures give a cautious threshold. Each is judged under each pair of factors of `LIGHT`, by a bank of one
    picture less than in use, which makes scores slightly higher: another caution.

    Source:
        Prediction interval for one further observation of a normal distribution, any textbook of statistics.
    """
    scores = []
    for number, others in _held_out(normals, encoder, rows):
        variants = [_relit(normals.pictures[number], *light) for light in product(LIGHT, LIGHT)]
        scores.append([others.image_score(others.patch_map(variant)) for variant in variants])
    pieces = "quarters of the one normal image" if normals.quartered else f"{len(scores)} normal images"
    return Thresholds(
        pixel=pixel.value,
        image=prediction_bound(np.array(scores)),
        pixel_source=f"highest F1 on {pixel.pictures} defects painted on {pieces}, each judged by the others",
        image_source=f"{FALSE_ALARMS:.0%} false alarms expected from {pieces}, each judged by the others at "
        f"brightnesses and contrasts of {min(LIGHT)} to {max(LIGHT)}",
        painted_f1=pixel.painted_f1,
    )


def prediction_bound(scores: np.ndarray, *, rate: float = FALSE_ALARMS) -> float:
    """The value that one more picture's score exceeds with a chance of ``rate``; scores are taken as log-normal.

    Args:
        scores: Of k >= 2 pictures under several conditions, shape (k, conditions), above 0. Conditions widen the
            spread and add no degree of freedom: they are no further pictures.
        rate: In (0, 1).

    Raises:
        ValueError: With fewer than two pictures, or a score that is not above 0.
    """
    if scores.ndim != 2 or len(scores) < 2 or not (scores > 0).all():
        raise ValueError(f"expected scores above 0 of two pictures or more, got {scores.shape}, {scores.min()}")
    count, logs = len(scores), np.log(scores)
    between = logs.mean(1).var(ddof=1)
    within = logs.var(1).mean()
    reach = stats.t.ppf(1 - rate, count - 1) * math.sqrt((between + within) * (1 + 1 / count))
    return float(np.exp(logs.mean() + reach))


def _painted_maps(
    normals: Normals, encoder: Encoder, rows: list[Tensor], group: list[BankSettings]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Maps by settings, and masks, (n, 256, 256), of painted pictures.

    The settings differ in blocks, neighbours and smoothing only; the encoder reads the blocks of all of them.
    """
    blocks = encoder.settings.blocks
    encoders = [
        Encoder(
            encoder.backbone,
            replace(encoder.settings, blocks=s.blocks, neighbours=s.neighbours, smoothing=s.smoothing),
        )
        for s in group
    ]
    maps, masks = [[] for _ in group], []
    for number, others in _held_out(normals, encoder, rows):
        banks = [PatchBank(each, select_blocks(others.rows, blocks, each.settings.blocks)) for each in encoders]
        for painted, mask in normals.paint(number):
            tiles = list(encoder.tiles(painted))
            masks.append(mask)
            for bank, of_bank in zip(banks, maps, strict=True):
                chosen = ((places, select_blocks(t, blocks, bank.settings.blocks)) for places, t in tiles)
                of_bank.append(evaluated_map(bank, bank.map_of(chosen, painted.size)))
    return [np.stack(of_bank) for of_bank in maps], np.stack(masks)


def _held_out(normals: Normals, encoder: Encoder, rows: list[Tensor]) -> Iterable[tuple[int, PatchBank]]:
    """The number of each picture that is judged, and the bank of all others."""
    for number in tqdm(normals.judged, desc="held-out images", unit="img"):
        yield int(number), PatchBank.of_rows(encoder, rows[:number] + rows[number + 1 :])


def _without_blocks(settings: BankSettings) -> BankSettings:
    """Equal for settings whose tokens come from the same passes through the network."""
    return replace(settings, blocks=(0,), neighbours=1, smoothing=0.0)


def _relit(picture: Image.Image, brightness: float, contrast: float) -> Image.Image:
    return ImageEnhance.Contrast(ImageEnhance.Brightness(picture).enhance(brightness)).enhance(contrast)


def _quarters(picture: Image.Image) -> list[Image.Image]:
    x, y = picture.width // 2, picture.height // 2
    return [picture.crop((left, top, left + x, top + y)) for top in (0, y) for left in (0, x)]

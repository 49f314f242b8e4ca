"""What normal pictures alone can tell: which settings find painted defects best, and where the thresholds lie.

Every normal picture is judged by a bank of the others, as a new picture would be. No test image, no mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from PIL import Image, ImageEnhance
from scipy import stats
from sklearn.metrics import average_precision_score
from torch import Tensor
from tqdm import tqdm

from src.datasets import load_image
from src.model import ViTMultiClassClassifier
from src.patch_bank import BankSettings, PatchBank, default_settings, select_blocks, turns_of
from src.pixel_metrics import best_pixel_threshold, threshold_metrics
from src.synthetic_defects import add_synthetic_defect

EVALUATION_SIZE = 256  # maps and masks are compared at 256 x 256 px, as most of the field does
PAINTED = 40  # pictures with a painted defect, at least
HELD_OUT = 16  # normal pictures, at most, that are judged by the others
LIGHT = (1.0, 0.8, 1.25)  # brightness and contrast of tomorrow's pictures, as factors, that must not raise an alarm
FALSE_ALARMS = 0.05  # share of normal pictures that may alarm
BLOCKS_AT_ONCE = (1, 2)
CHOICE_LIMIT = 4096  # patches of a bank while settings are compared: a minute instead of ten


@dataclass(frozen=True)
class Thresholds:
    """From which value on a pixel and an image count as defective, and where that comes from."""

    pixel: float  # of the maps
    image: float  # of the image score
    pixel_source: str
    image_source: str
    painted_f1: float  # of the pixels of the painted pictures, at the threshold that was chosen on them: too good
    held_out_scores: tuple[tuple[float, ...], ...]  # image scores of normal pictures, a row each, by light


class Normals:
    """Normal pictures, each of them to be judged by a bank of the others.

    Of a single picture the quarters take the place of pictures, at the same scale: three judge the fourth.

    Args:
        pictures: One or more. If there are many, some, evenly spread, are judged, and all are in the banks.
        seed: Of the choice of patches that are kept, if there are too many.
    """

    def __init__(self, pictures: list[Image.Image], *, seed: int = 0) -> None:
        self.seed, self._rows = seed, (None, [])
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

    def bank(self, model: ViTMultiClassClassifier, settings: BankSettings) -> PatchBank:
        """A bank without rows that sees these pictures at the scale of the settings."""
        return PatchBank(model, replace(settings, side=round(settings.side * self.scale)), torch.empty(0))

    def rows(self, bank: PatchBank) -> list[Tensor]:
        """Rows of each picture for banks, bounded by the settings' limit; the last ones are kept for the next call."""
        key, share = (bank.model, bank.settings), 1 / len(self.pictures)
        if self._rows[0] != key:
            bar = tqdm(self.pictures, desc="normal images", unit="img")
            self._rows = key, [bank.tokens(picture, share=share, seed=self.seed) for picture in bar]
        return self._rows[1]

    def whole_bank(self, model: ViTMultiClassClassifier, settings: BankSettings) -> PatchBank:
        """The bank of all pictures, as whole pictures."""
        if self.quartered:
            return PatchBank.build(model, self.wholes, settings, seed=self.seed)
        bank = self.bank(model, settings)
        return bank.with_rows(torch.cat(self.rows(bank)), seed=self.seed)

    def paint(self, number: int) -> list[tuple[Image.Image, np.ndarray]]:
        """Copies of a picture with a defect painted on each, and masks of 256 x 256."""
        generator = np.random.default_rng([0, number])
        pixels, found = np.asarray(self.pictures[number]), []
        for _ in range(math.ceil(PAINTED / len(self.judged))):
            painted, mask = add_synthetic_defect(pixels, generator, scale=1 / self.scale)
            found.append((Image.fromarray(painted), evaluated_mask(mask.astype(bool))))
        return found


def candidate_settings(model: ViTMultiClassClassifier, picture: Image.Image) -> list[BankSettings]:
    """Settings worth a try for any Vision Transformer: one block, or two neighbours, of its upper two thirds.

    The rest is as in `default_settings`. Smoothing is no candidate: painted masks end at the exact pixel, those that
    people draw do not, so painted defects would ask for less of it than people do.
    """
    depth = len(model.backbone.blocks)
    plain, lowest = default_settings(model, picture), depth // 3
    return [
        replace(plain, blocks=tuple(range(start, start + length)))
        for length in BLOCKS_AT_ONCE for start in range(lowest, depth - length + 1)
    ]  # fmt: skip


def choose_settings(
    model: ViTMultiClassClassifier, normals: Normals, candidates: Iterable[BankSettings] | None = None
) -> tuple[BankSettings, list[float]]:
    """The settings whose maps find painted defects best, without any test image.

    Args:
        model: Its backbone gives the patch tokens; on whatever device it is.
        normals: Each picture is painted on and compared with the others.
        candidates: One or more; None takes `candidate_settings`. Those that differ only in blocks and neighbours
            share the passes through the network.

    Returns:
        The best candidate, and each one's pixel average precision, in [0, 1], on 40 or more painted images.
    """
    candidates = list(candidates or candidate_settings(model, normals.wholes[0]))
    scores: dict[BankSettings, float] = {}
    for kind in dict.fromkeys(map(_without_blocks, candidates)):
        group = [settings for settings in candidates if _without_blocks(settings) == kind]
        small = [replace(settings, limit=min(settings.limit, CHOICE_LIMIT)) for settings in group]
        maps, masks = _painted_maps(model, normals, small)
        for settings, found in zip(group, maps, strict=True):
            scores[settings] = float(average_precision_score(masks.ravel(), found.ravel()))
    return max(candidates, key=scores.__getitem__), [scores[settings] for settings in candidates]


def choose_pixel_threshold(
    model: ViTMultiClassClassifier, normals: Normals, settings: BankSettings
) -> tuple[float, float, int]:
    """The value of maps of highest F1 on painted defects, that F1, and the number of painted pictures."""
    (maps,), masks = _painted_maps(model, normals, [settings])
    threshold = best_pixel_threshold(maps, masks)
    return threshold, threshold_metrics(maps, masks, threshold=threshold)["pixel_f1_at_threshold"], len(masks)


def choose_thresholds(model: ViTMultiClassClassifier, normals: Normals, settings: BankSettings) -> Thresholds:
    """Thresholds of maps and of image scores from normal pictures alone.

    Pixels: see `choose_pixel_threshold`. Images: the score that the next normal picture exceeds with a chance of 5 %,
    if log scores are normally distributed: mean + t * deviation * sqrt(1 + 1/k), with Student's t of k - 1 degrees of
    freedom for k pictures judged, so that few pictures give a cautious threshold. Each is judged under each pair of
    factors of `LIGHT` (and turned, if the bank holds turned pictures), by a bank of one picture less than in use, which
    makes scores slightly higher: another caution.

    Source:
        Prediction interval for one further observation of a normal distribution, any textbook of statistics.
    """
    pixel, painted_f1, painted = choose_pixel_threshold(model, normals, settings)
    bank = normals.bank(model, settings)
    scores = []
    for number, others in _held_out(normals, bank, normals.rows(bank)):
        turned = turns_of(normals.pictures[number]) if settings.turns else [normals.pictures[number]]
        variants = [_relit(turned[i % len(turned)], *light) for i, light in enumerate(product(LIGHT, LIGHT))]
        scores.append(tuple(others.image_score(others.patch_map(variant)) for variant in variants))
    pieces = "quarters of the one normal image" if normals.quartered else f"{len(scores)} normal images"
    return Thresholds(
        pixel=pixel,
        image=prediction_bound(np.array(scores)),
        pixel_source=f"highest F1 on {painted} defects painted on {pieces}, each judged by the others",
        image_source=f"{FALSE_ALARMS:.0%} false alarms expected from {pieces}, each judged by the others at "
        f"brightnesses and contrasts of {min(LIGHT)} to {max(LIGHT)}",
        painted_f1=painted_f1,
        held_out_scores=tuple(scores),
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


def evaluated_map(bank: PatchBank, patches: Tensor) -> np.ndarray:
    """A patch map as it is compared with masks: float32 (256, 256)."""
    return bank.full_size(patches, (EVALUATION_SIZE, EVALUATION_SIZE))


def evaluated_mask(mask: np.ndarray) -> np.ndarray:
    """A mask as it is compared with maps: bool (256, 256)."""
    if mask.shape == (EVALUATION_SIZE, EVALUATION_SIZE):
        return mask
    return np.asarray(Image.fromarray(mask).resize((EVALUATION_SIZE, EVALUATION_SIZE), Image.Resampling.NEAREST))


def _painted_maps(
    model: ViTMultiClassClassifier, normals: Normals, group: list[BankSettings]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Maps by settings, and masks, (n, 256, 256), of painted pictures; the settings differ in blocks and the like."""
    blocks = tuple(sorted({block for settings in group for block in settings.blocks}))
    seen = normals.bank(model, replace(group[0], blocks=blocks))
    rows = normals.rows(seen)
    maps, masks = [[] for _ in group], []
    for number, others in _held_out(normals, seen, rows):
        banks = [
            PatchBank(model, replace(seen.settings, blocks=s.blocks, neighbours=s.neighbours, smoothing=s.smoothing),
                      select_blocks(others.rows, blocks, s.blocks))
            for s in group
        ]  # fmt: skip
        for painted, mask in normals.paint(number):
            tiles = list(seen.tiles(painted))
            masks.append(mask)
            for bank, found in zip(banks, maps, strict=True):
                chosen = ((places, select_blocks(t, blocks, bank.settings.blocks)) for places, t in tiles)
                found.append(evaluated_map(bank, bank.map_of(chosen, painted.size)))
    return [np.stack(found) for found in maps], np.stack(masks)


def _held_out(normals: Normals, bank: PatchBank, rows: list[Tensor]) -> Iterable[tuple[int, PatchBank]]:
    """The number of each picture that is judged, and the bank of all others."""
    for number in tqdm(normals.judged, desc="held-out images", unit="img"):
        yield int(number), bank.with_rows(torch.cat(rows[:number] + rows[number + 1 :]))


def _without_blocks(settings: BankSettings) -> BankSettings:
    """Equal for settings whose tokens come from the same passes through the network."""
    return replace(settings, blocks=(0,), neighbours=1, smoothing=0.0)


def _relit(picture: Image.Image, brightness: float, contrast: float) -> Image.Image:
    return ImageEnhance.Contrast(ImageEnhance.Brightness(picture).enhance(brightness)).enhance(contrast)


def _quarters(picture: Image.Image) -> list[Image.Image]:
    x, y = picture.width // 2, picture.height // 2
    return [picture.crop((left, top, left + x, top + y)) for top in (0, y) for left in (0, x)]

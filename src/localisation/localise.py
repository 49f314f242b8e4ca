"""Where the defect is: anomaly maps of MVTec AD test images from the patches of normal images.

Two questions are kept apart. ``six-class-transfer``: does the trained classifier, with the normal images it knows,
carry over to this other leather? ``<k>-shot`` (``mvtec-full`` with all 245): what do k normal images of this very
leather give?
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ..backbone.device import choose_device
from ..backbone.vit import Backbone
from ..data.pictures import load_image, load_mask
from .bank import EVALUATION_SIZE, evaluated_map, evaluated_mask
from .encoder import BankSettings
from .thresholds import Normals, Thresholds, choose_pixel_threshold, choose_settings, choose_thresholds


@dataclass(frozen=True)
class Localisation:
    """Maps of all test images of one protocol, and the thresholds that were chosen without any test image."""

    protocol: str
    test: pd.DataFrame  # rows of index_mvtec, part test
    maps: np.ndarray  # (n, 256, 256) float32, in [0, 2], higher is more anomalous
    masks: np.ndarray  # (n, 256, 256) bool
    image_scores: np.ndarray  # (n,), see `PatchBank.image_score`
    thresholds: Thresholds
    bank_settings: BankSettings
    facts: dict[str, Any]  # what a report says of backbone and bank

    @property
    def is_defect(self) -> np.ndarray:
        return (self.test["defect"] != "good").to_numpy()

    @property
    def called(self) -> np.ndarray:
        """True for images that are called defective, shape (n,): their score reaches the image threshold."""
        return self.image_scores >= self.thresholds.image


def localise(
    backbone: Backbone,
    normal_paths: list[str],
    test: pd.DataFrame,
    *,
    protocol: str,
    settings: BankSettings | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> Localisation:
    """Anomaly maps of test images by distance to the patches of normal images.

    Args:
        backbone: Gives the patch tokens.
        normal_paths: Normal images, one at least.
        test: Rows of `mvtec.index_mvtec`, part ``test``.
        protocol: Name under which the figures are reported.
        settings: Of the bank of patches; None takes those of `choose_settings`, chosen on the normal images.
        seed: Of the choice of patches that are kept, if there are too many.
        device: None chooses.

    Raises:
        ValueError: Without a normal image.
        UnreadableImageError: If an image cannot be decoded.
    """
    normals = Normals.load(normal_paths, protocol, seed=seed)
    backbone = backbone.to(device or choose_device())
    choice = choose_settings(backbone, normals) if settings is None else None
    encoder = normals.encoder(backbone, choice.settings if choice else settings)
    rows = normals.rows(encoder)
    pixel = choice.threshold if choice else choose_pixel_threshold(normals, encoder, rows)
    thresholds = choose_thresholds(normals, encoder, rows, pixel)
    bank = normals.whole_bank(encoder, rows)
    maps, masks, scores, seconds = [], [], [], 0.0
    for row in tqdm(test.itertuples(), total=len(test), desc=f"maps {protocol}", unit="img"):
        started = time.perf_counter()
        picture = load_image(row.path)
        patches = bank.patch_map(picture)
        maps.append(evaluated_map(bank, patches))
        scores.append(bank.image_score(patches))
        seconds += time.perf_counter() - started
        masks.append(evaluated_mask(load_mask(row.mask, size=picture.size)))
    source = "given"
    if choice:
        best, tried = max(choice.scores), len(choice.scores)
        source = f"highest pixel AP, {best:.3f}, of {tried} candidates on defects painted on normal images"
    return Localisation(
        protocol=protocol,
        test=test.reset_index(drop=True),
        maps=np.stack(maps),
        masks=np.stack(masks),
        image_scores=np.array(scores),
        thresholds=thresholds,
        bank_settings=bank.settings,
        facts={
            "backbone": backbone.identity,
            "weights": backbone.weights,
            "normal_images": len(normal_paths),
            "bank_patches": len(bank.rows),
            "seed": seed,
            "evaluation_size": EVALUATION_SIZE,
            "settings_source": source,
            "images_per_second": len(test) / seconds,
        },
    )

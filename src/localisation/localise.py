"""Where the defect is: anomaly maps of MVTec AD test images from the patches of normal images."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..data.pictures import load_image, load_mask
from .bank import EVALUATION_SIZE, evaluated_mask
from .encoder import BankSettings, Encoder
from .thresholds import Detector, Thresholds


@dataclass(frozen=True)
class Localisation:
    """Maps of all test images by one detector, and its thresholds, which were chosen without any test image."""

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
        """True for images whose score reaches the image threshold, shape (n,)."""
        return self.image_scores >= self.thresholds.image

    def image(self, index: int) -> np.ndarray:
        """One of the images at the size of its map, (256, 256, 3) uint8."""
        return np.asarray(load_image(self.test["path"][index]).resize(EVALUATION_SIZE))

    def of_rows(self, rows: np.ndarray) -> Localisation:
        """The same of some images; ``rows`` (n,) is True for them."""
        values = {name: getattr(self, name)[rows] for name in ("maps", "masks", "image_scores")}
        return replace(self, test=self.test[rows].reset_index(drop=True), **values)


def localise(detectors: list[Detector], test: pd.DataFrame) -> list[Localisation]:
    """Maps of test images (rows of `index_mvtec`) by each detector; every image passes the network once for all."""
    encoders = [detector.bank.encoder for detector in detectors]
    scales = {(id(e.backbone), e.settings.side, e.settings.tile, e.settings.overlap) for e in encoders}
    if len(scales) != 1:
        raise ValueError(f"detectors of {len(scales)} backbones or scales cannot share a pass; localise one by one")
    blocks = tuple(sorted({block for e in encoders for block in e.settings.blocks}))
    encoder = Encoder(encoders[0].backbone, replace(encoders[0].settings, blocks=blocks))
    maps, scores, masks = [[] for _ in detectors], [[] for _ in detectors], []
    started = time.perf_counter()
    for row in tqdm(test.itertuples(), total=len(test), desc="maps", unit="img"):
        tokens = encoder.tokens(load_image(row.path))
        for detector, its_maps, its_scores in zip(detectors, maps, scores, strict=True):
            patches = detector.bank.patch_map(tokens)
            its_maps.append(detector.bank.full_size(patches))
            its_scores.append(detector.bank.image_score(patches))
        masks.append(evaluated_mask(load_mask(row.mask, size=tokens.size)))
    rate = len(test) / (time.perf_counter() - started) if len(detectors) == 1 else None  # of a shared pass it misleads
    facts, test, masks = {"images_per_second": rate}, test.reset_index(drop=True), np.stack(masks)
    return [
        Localisation(
            each.protocol, test, its_maps, masks, its_scores, each.thresholds, each.bank.settings, each.facts | facts
        )
        for each, its_maps, its_scores in zip(detectors, map(np.stack, maps), map(np.array, scores), strict=True)
    ]

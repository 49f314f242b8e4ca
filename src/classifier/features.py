"""Runs a backbone once over a table of images: the step that head-only training, scoring and evaluation share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..backbone.device import autocast, choose_device, choose_precision, choose_workers
from ..backbone.vit import weights_digest
from ..data.pictures import load_image
from ..data.tables import picture_identities
from ..files import identity_of, read_kept, write_kept
from .model import ViTMultiClassClassifier

log = logging.getLogger(__name__)

FEATURES_VERSION = 1  # raise it when the same picture and weights no longer give the same features
SAVE_EVERY_SECONDS = 60


class PictureDataset(Dataset):
    """Pictures of a table as tensors: ``dataset[i]`` is (image, target).

    Args:
        table: Rows with ``path``.
        transform: Turns an RGB picture into a tensor, e.g. ``model.transform``.
        targets: Class index of each row, shape (n,); None gives 0.

    Raises:
        ValueError: If the table is empty. UnreadableImageError, when an item is taken, if a file cannot be decoded.
    """

    def __init__(
        self, table: pd.DataFrame, transform: Callable[[Image.Image], Tensor], targets: np.ndarray | None = None
    ) -> None:
        if table.empty:
            raise ValueError("the table of images is empty")
        self.paths, self.transform = list(table["path"]), transform
        self.targets = [0] * len(table) if targets is None else targets.tolist()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(load_image(self.paths[index])), self.targets[index]


def compute_features(
    model: ViTMultiClassClassifier,
    table: pd.DataFrame,
    *,
    device: torch.device | None = None,
    batch_size: int = 64,
    precision: str = "auto",
    workers: int | None = None,
    cache: Path | None = None,
    raw: bool = False,
) -> Tensor:
    """Features of every image, float32, shape (n, d), on the CPU, in the table's order.

    Args:
        model: Moved to the device.
        table: Rows with ``path`` and ``file``.
        device: None chooses.
        batch_size: Images at a time.
        precision: See `choose_precision`.
        workers: See `choose_workers`.
        cache: Folder for finished and half-finished features, kept by the weights and by each picture's content: a
            changed picture or backbone is computed anew; an interrupted pass goes on.
        raw: True leaves out the model's `standardise`, as the cache does.

    Raises:
        UnreadableImageError: If a file cannot be decoded.
    """
    device = device or choose_device()
    data_type = choose_precision(device, precision)
    model = model.to(device)
    keys = picture_identities(table)
    settings = model.settings["backbone"], model.feature_blocks, model.image_size, str(data_type), FEATURES_VERSION
    file = cache and Path(cache) / f"features_{identity_of(weights_digest(model.backbone), *settings)[:24]}.pt"
    known = _kept_features(file)
    missing = np.array([key not in known for key in keys], dtype=bool)
    if missing.any():
        loader = DataLoader(
            PictureDataset(table[missing], model.transform),
            batch_size=batch_size,
            num_workers=choose_workers(workers, int(missing.sum()), device),
            pin_memory=device.type == "cuda",
        )
        new_keys = [key for key, new in zip(keys, missing, strict=True) if new]
        _compute(model, loader, new_keys, known, device, data_type, file)
    features = torch.stack([known[key] for key in keys])
    return features if raw else model.standardise(features.to(device)).cpu()


def _kept_features(file: Path | None) -> dict[str, Tensor]:
    kept = read_kept(file) or {"keys": [], "features": []}
    if len(kept.get("keys", [])) != len(kept.get("features", [None])):
        log.warning("%s holds no features; computing them anew", file)
        return {}
    return dict(zip(kept["keys"], kept["features"], strict=True))


def _compute(
    model: ViTMultiClassClassifier,
    loader: DataLoader,
    keys: list[str],
    known: dict[str, Tensor],
    device: torch.device,
    data_type: torch.dtype,
    file: Path | None,
) -> None:
    """Adds the features of a loader's images to those known, and keeps them on the way."""
    remaining, saved_at = iter(keys), time.monotonic()
    try:
        with tqdm(total=len(keys), desc="features", unit="img") as bar:
            for images, _ in loader:
                with autocast(device, data_type):
                    features = model.extract_features(images.to(device, non_blocking=True), raw=True).cpu()
                known.update((next(remaining), row) for row in features)
                bar.update(len(images))
                if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    _keep(known, file)
                    saved_at = time.monotonic()
    finally:
        _keep(known, file)


def _keep(known: dict[str, Tensor], file: Path | None) -> None:
    if known:
        write_kept({"keys": list(known), "features": torch.stack(list(known.values()))}, file)

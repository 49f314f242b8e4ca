"""Runs a backbone once over a table of images: the step that head-only training, scoring and evaluation share."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..backbone.device import autocast, choose_device, choose_precision, choose_workers
from ..backbone.vit import weights_digest
from ..data.images import LeatherDefectDataset
from ..files import CheckpointError, load_file, save_atomically
from .model import ViTMultiClassClassifier

log = logging.getLogger(__name__)

SAVE_EVERY_SECONDS = 60


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
        table: Rows with ``path`` and ``label``.
        device: None chooses.
        batch_size: Images at a time.
        precision: See `choose_precision`.
        workers: See `choose_workers`.
        cache: Folder for finished and half-finished features. They are found again by the weights, the files and
            their times, so a changed picture or backbone is computed anew; an interrupted pass goes on.
        raw: True leaves out the model's `standardise`, as the cache does.

    Raises:
        UnreadableImageError: If a file cannot be decoded.
    """
    device = device or choose_device()
    data_type = choose_precision(device, precision)
    model = model.to(device)
    keys = [_file_key(path) for path in table["path"]]
    file = cache and Path(cache) / f"features_{_fingerprint(model, data_type)[:24]}.pt"
    known = _read_cache(file)
    rest = table[[key not in known for key in keys]]
    if len(rest):
        _compute(model, rest, known, device, batch_size, data_type, workers, file)
    features = torch.stack([known[key] for key in keys])
    return features if raw else model.standardise(features.to(device)).cpu()


def _compute(
    model: ViTMultiClassClassifier,
    rest: pd.DataFrame,
    known: dict[str, Tensor],
    device: torch.device,
    batch_size: int,
    data_type: torch.dtype,
    workers: int | None,
    file: Path | None,
) -> None:
    loader = DataLoader(
        LeatherDefectDataset(rest, model.transform),
        batch_size=batch_size,
        num_workers=choose_workers(workers, len(rest), device),
        pin_memory=device.type == "cuda",
    )
    log.debug("features on %s, %s, batches of %d, %d workers", device, data_type, batch_size, loader.num_workers)
    names, saved_at = iter(rest["path"]), time.monotonic()
    try:
        with tqdm(total=len(rest), desc="features", unit="img") as bar:
            for images, _ in loader:
                with autocast(device, data_type):
                    features = model.extract_features(images.to(device, non_blocking=True), raw=True).cpu()
                known.update((_file_key(next(names)), row) for row in features)
                bar.update(len(images))
                if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                    _write_cache(known, file)
                    saved_at = time.monotonic()
    finally:
        _write_cache(known, file)


def _read_cache(file: Path | None) -> dict[str, Tensor]:
    if file is None or not file.is_file():
        return {}
    try:
        content = load_file(file)
        return dict(zip(content["keys"], content["features"], strict=True))
    except (CheckpointError, KeyError, ValueError) as error:
        log.warning("%s; computing the features anew", error)
        return {}


def _write_cache(known: dict[str, Tensor], file: Path | None) -> None:
    if file and known:
        try:
            save_atomically({"keys": list(known), "features": torch.stack(list(known.values()))}, file)
        except CheckpointError as error:  # the features themselves are there: a full disk costs time, not the result
            log.warning("features are not kept for the next time: %s", error)


def _file_key(path: str) -> str:
    status = os.stat(path)
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _fingerprint(model: ViTMultiClassClassifier, precision: torch.dtype) -> str:
    weights = weights_digest(model.backbone)
    settings = model.settings["backbone"], model.feature_blocks, model.image_size, precision, weights
    return hashlib.sha256(" ".join(map(str, settings)).encode()).hexdigest()

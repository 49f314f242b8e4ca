"""Runs a backbone once over a table of images: the step that head-only training, scoring and evaluation share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler
from tqdm import tqdm

from ..backbone.device import autocast, choose_device, choose_precision, choose_workers
from ..backbone.vit import weights_digest
from ..config import paths
from ..data.pictures import load_image
from ..data.tables import picture_identities
from ..files import file_digest, identity_of, read_kept, write_kept
from .model import ViTMultiClassClassifier

FEATURES_VERSION = 2  # raise it when the same picture and weights no longer give the same features
IMAGES_AT_ONCE = 64
SAVE_EVERY_SECONDS = 60


class PictureDataset(Dataset):
    """Pictures of a table's column ``path``, many at a time: ``dataset[[3, 5]]`` is (images, ``targets[[3, 5]]``)."""

    def __init__(
        self, table: pd.DataFrame, transform: Callable[[Image.Image], Tensor], targets: np.ndarray | Tensor
    ) -> None:
        self.paths, self.transform, self.targets = list(table["path"]), transform, targets

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, np.ndarray | Tensor]:
        return torch.stack([self.transform(load_image(self.paths[i])) for i in indices]), self.targets[indices]


class ShareSampler(BatchSampler):
    """A process's share of each batch; where that is empty the first index, which then must not count."""

    share = slice(None)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[self.share] or batch[:1] for batch in super().__iter__())


def load_batches(
    dataset: Dataset,
    size: int,
    *,
    device: torch.device,
    workers: int = 0,
    generator: torch.Generator | None = None,
    share: slice = slice(None),
) -> DataLoader:
    """Batches of a data set that takes lists of indices, in the order of a generator or in its own; or a share of each.

    One of several processes passes ``share=slice(its number, None, processes)``; all get as many batches.
    """
    sampler = SequentialSampler(dataset) if generator is None else RandomSampler(dataset, generator=generator)
    batches = ShareSampler(sampler, size, drop_last=False)
    batches.share = share
    return DataLoader(
        dataset,
        batch_size=None,  # one by one, features would take longer than learning from them
        sampler=batches,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=generator,
    )


def compute_features(
    model: ViTMultiClassClassifier,
    table: pd.DataFrame,
    *,
    device: torch.device | None = None,
    precision: str = "auto",
    workers: int | None = None,
    cache: Path | None = None,
    raw: bool = False,
) -> Tensor:
    """Features of every image, float32, shape (n, d), on the CPU, in the table's order; copies are computed once.

    Args:
        model: Moved to the device.
        table: Rows with ``path`` and ``file``, and ``digest`` if it is known.
        device, precision, workers: See `backbone.device`.
        cache: Folder for finished and half-finished features, kept by the weights and by each picture's content: a
            changed picture or backbone is computed anew; an interrupted pass goes on.
        raw: True leaves out the model's `standardise`, as the cache does.
    """
    if table.empty:
        raise ValueError("the table of images is empty")
    device = device or choose_device()
    data_type, digest = choose_precision(device, precision), weights_digest(model.to(device).backbone)
    settings = model.settings["backbone"], model.feature_blocks, model.image_size, str(data_type)
    file = cache and Path(cache) / f"features_{identity_of(FEATURES_VERSION, digest, settings)[:24]}.pt"
    known, rows = read_kept(file, partial(_fitting, model)) or {}, table.assign(identity=picture_identities(table))
    missing = rows[~rows["identity"].isin(list(known))].drop_duplicates("identity")
    if len(missing):
        dataset = PictureDataset(missing, model.transform, missing["identity"].to_numpy())
        workers = choose_workers(workers, len(missing), device)
        _compute(model, load_batches(dataset, IMAGES_AT_ONCE, device=device, workers=workers), data_type, known, file)
    features = torch.stack([known[identity] for identity in rows["identity"]])
    return features if raw else model.standardise(features.to(device)).cpu()


def _fitting(model: ViTMultiClassClassifier, kept: dict[str, list[str] | Tensor]) -> dict[str, Tensor]:
    if kept["features"].shape != (len(kept["identities"]), model.num_features):
        raise ValueError(f"it holds no features of {model.num_features} numbers")
    return dict(zip(kept["identities"], kept["features"], strict=True))


def _keep(known: dict[str, Tensor], file: Path | None) -> None:
    if known:
        write_kept({"identities": list(known), "features": torch.stack(list(known.values()))}, file)


def _compute(
    model: ViTMultiClassClassifier,
    loader: DataLoader,
    data_type: torch.dtype,
    known: dict[str, Tensor],
    file: Path | None,
) -> None:
    """Adds the features of a loader's pictures to those known, by identity, and keeps them on the way."""
    device, saved_at = model.feature_mean.device, time.monotonic()
    try:
        for images, identities in tqdm(loader, desc="features", unit="img", unit_scale=IMAGES_AT_ONCE):
            with autocast(device, data_type):
                features = model.extract_features(images.to(device, non_blocking=True), raw=True).cpu()
            known.update(zip(identities, features, strict=True))
            if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                _keep(known, file)
                saved_at = time.monotonic()
    finally:
        _keep(known, file)


def weights_identity(weights: str) -> str:
    """What kept answers know a `Config`'s weights by: the digest of their file, or their name in the hub."""
    file = paths.shipped_backbone if weights == "shipped" else Path(weights)
    return file_digest(file) if file.is_file() else weights

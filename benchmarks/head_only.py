"""Does head-only training cost more than one pass of the backbone?

``python -m benchmarks.head_only --data FOLDER`` trains the head on every image of a six-class folder, features
computed from the files, and compares its wall time with the bare forward pass of the same backbone over as many
images that lie in memory already, before and after, in the same process. Prints the times and their ratio.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import torch

from src.backbone.device import autocast, choose_device, choose_precision
from src.classifier.features import PictureDataset
from src.classifier.model import ViTMultiClassClassifier, create_model
from src.classifier.training import train_model
from src.config import KAGGLE_FOLDER, SAMPLE, paths
from src.data.splits import split_index
from src.data.tables import classes_of, index_images

BATCH = 64


@torch.inference_mode()
def forward_seconds(model: ViTMultiClassClassifier, images: torch.Tensor, count: int) -> float:
    """Wall time of the bare backbone over ``count`` images, fed from one batch in memory."""
    device = choose_device()
    precision = choose_precision(device)
    model.eval().to(device)
    images = images.to(device)
    started = time.perf_counter()
    with autocast(device, precision):
        for start in range(0, count, len(images)):
            model.backbone(images[: min(len(images), count - start)])
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paths.data / KAGGLE_FOLDER)
    parser.add_argument("--backbone", default=SAMPLE.backbone)
    parser.add_argument("--weights", default=SAMPLE.weights)
    parser.add_argument("--image-size", type=int, default=SAMPLE.image_size)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)

    config = SAMPLE.but(
        run="benchmark",
        backbone=options.backbone,
        weights=options.weights,
        image_size=options.image_size,
        epochs=options.epochs,
    )
    images = index_images(options.data)
    table, classes = split_index(images, "random-80-20", seed=config.seed), classes_of(images)
    table["part"] = table["part"].replace("test", "train")  # all images are learned from: this is about time
    model = create_model(config, classes)
    dataset = PictureDataset(table.iloc[:BATCH], model.transform)
    batch = torch.stack([dataset[i][0] for i in range(BATCH)])
    forward_seconds(model, batch, BATCH)  # warm-up

    before = forward_seconds(model, batch, len(table))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = train_model(model, table, config, models=Path(folder), logs=Path(folder))
        training = time.perf_counter() - started
    after = forward_seconds(model, batch, len(table))
    forward = (before + after) / 2
    print(f"{options.backbone}, {len(table)} images, {options.epochs} epochs of the head, {result.device}")
    print(f"bare forward pass  {before:7.1f} s before, {after:.1f} s after ({len(table) / forward:.1f} img/s)")
    print(f"head-only training {training:7.1f} s, of it {result.seconds:.1f} s for the head itself")
    print(f"ratio              {training / forward:7.3f}")


if __name__ == "__main__":
    main()

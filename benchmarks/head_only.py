"""Does head-only training cost more than one pass of the backbone?

``python -m benchmarks.head_only --data FOLDER`` trains the head of the preset ``sample`` on every image of a folder of
classes, features computed from the files, and compares its wall time with the bare forward pass of the same backbone
over as many images that lie in memory already, before and after, in the same process. Prints times and their ratio.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import torch

from src.backbone.device import autocast, choose_device, choose_precision
from src.backbone.vit import Backbone
from src.classifier.model import create_model
from src.classifier.training import train_model
from src.config import KAGGLE_FOLDER, SAMPLE, paths
from src.data.pictures import load_image
from src.data.splits import split_index
from src.data.tables import classes_of, index_images

BATCH = 64


@torch.inference_mode()
def forward_seconds(backbone: Backbone, images: torch.Tensor, count: int) -> float:
    """Wall time of the bare backbone over ``count`` images, fed from one batch in memory."""
    device = choose_device()
    network, images = backbone.network.eval().to(device), images.to(device)
    started = time.perf_counter()
    with autocast(device, choose_precision(device)):
        for start in range(0, count, len(images)):
            network(images[: min(len(images), count - start)])
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paths.data / KAGGLE_FOLDER)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    config, images = SAMPLE.but(run="benchmark", epochs=15), index_images(options.data)
    table = split_index(images, "random-80-20", seed=config.seed)
    table["part"] = table["part"].replace("test", "train")  # all images are learned from: this is about time
    model = create_model(config, classes_of(images))
    batch = torch.stack([model.transform(load_image(path)) for path in table["path"][:BATCH]])
    forward_seconds(model.vit, batch, BATCH)  # warm-up

    before = forward_seconds(model.vit, batch, len(table))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = train_model(model, table, config, models=Path(folder), logs=Path(folder))
        training = time.perf_counter() - started
    after = forward_seconds(model.vit, batch, len(table))
    forward = (before + after) / 2
    print(f"{config.backbone}, {len(table)} images, {config.epochs} epochs of the head, {result.device}")
    print(f"bare forward pass  {before:7.1f} s before, {after:.1f} s after ({len(table) / forward:.1f} img/s)")
    print(f"head-only training {training:7.1f} s, of it {result.seconds:.1f} s for the head itself")
    print(f"ratio              {training / forward:7.3f}")


if __name__ == "__main__":
    main()

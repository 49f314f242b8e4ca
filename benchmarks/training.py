"""How fast is an epoch of training beside the loop as published, on the same network and pictures?

``python -m benchmarks.training --data-classes FOLDER --backbone NAME --weights FILE``: the preset ``small`` without its
head start. The published loop is float32 with a plain loader: nothing is read while it computes. Each epoch has its
validation. Measured in turns; medians of the rounds, and their range.

``--accuracy EPOCHS`` instead trains so many epochs in float32 and in bfloat16 from the same seed, and writes the
validation accuracy of both with 95 % intervals (Wilson) into ``training_precision.json``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from src.backbone.device import choose_device
from src.classifier.features import PictureDataset, load_batches
from src.classifier.model import ViTMultiClassClassifier, create_model, parameter_groups
from src.classifier.training import train_model
from src.config import SMALL, Config
from src.data.splits import split_index
from src.data.tables import classes_of, index_images
from src.files import write_json

TRAINING = SMALL.but(run="benchmark", head_epochs=0, epochs=1)


def some_images(folder: Path, count: int) -> pd.DataFrame:
    """So many images of each class, split into parts."""
    images = index_images(folder).groupby("label").head(count).reset_index(drop=True)
    return split_index(images, "random-80-20", seed=TRAINING.seed)


def published_epoch(model: ViTMultiClassClassifier, table: pd.DataFrame, config: Config) -> float:
    """Seconds of an epoch as published."""
    optimizer = torch.optim.AdamW(parameter_groups(model, config), weight_decay=config.weight_decay)
    device, order = choose_device(), torch.Generator().manual_seed(config.seed)
    model.to(device)

    def batches(part: str, generator: torch.Generator | None = None):
        rows = table[table["part"] == part]
        dataset = PictureDataset(rows, model.transform, torch.from_numpy(model.classes.indices(rows["label"])))
        for batch in load_batches(dataset, config.batch_size, device=device, generator=generator):
            yield [tensor.to(device) for tensor in batch]

    started = time.perf_counter()
    model.train()
    for images, targets in batches("train", order):
        F.cross_entropy(model(images)[0], targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.inference_mode():
        for images, targets in batches("validation"):
            F.cross_entropy(model(images)[0], targets).item()
    return time.perf_counter() - started


def training_speed(table: pd.DataFrame, config: Config, *, rounds: int) -> dict[str, Any]:
    """Pictures a second (trained and validated) of both, the range of each, and the median ratio."""
    seconds, classes = {"published": [], "ours": []}, classes_of(table)
    for _ in range(rounds + 1):  # the first warms up
        seconds["published"].append(published_epoch(create_model(config, classes), table, config))
        with tempfile.TemporaryDirectory() as folder:
            result = train_model(create_model(config, classes), table, config, models=Path(folder), logs=Path(folder))
        seconds["ours"].append(result.seconds)
    rates = {
        name: [int((table["part"] != "test").sum()) / each for each in times[1:]] for name, times in seconds.items()
    }
    about = {"precision": result.precision, "half_precision_gain": result.gain, "load": os.getloadavg()[0]}
    medians = {
        name: {"median": statistics.median(each), "range": [min(each), max(each)]} for name, each in rates.items()
    }
    ratios = [ours / published for ours, published in zip(rates["ours"], rates["published"], strict=True)]
    return {"images_per_second": medians, "training_to_published": statistics.median(ratios), "ratios": ratios, **about}


def accuracy_by_precision(table: pd.DataFrame, config: Config) -> dict[str, Any]:
    """Accuracy of the best epoch on the validation part, n images, for each precision."""
    count, classes, accuracy = int((table["part"] == "validation").sum()), classes_of(table), {}
    for precision in ("float32", "bfloat16"):
        model, exact = create_model(config, classes), config.but(precision=precision)
        with tempfile.TemporaryDirectory() as folder:
            result = train_model(model, table, exact, models=Path(folder), logs=Path(folder))
        share = float(result.history.iloc[result.best_epoch - 1]["acc_val"])
        interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
        accuracy[precision] = {"accuracy": share, "interval": [interval.low, interval.high]}
    return {"n": count, "backbone": config.backbone, "epochs": config.epochs, "seed": config.seed, **accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-classes", type=Path, required=True, help="folder of classes")
    parser.add_argument("--backbone", default=SMALL.backbone, help="timm's name")
    parser.add_argument("--weights", required=True, help="a weights file, or shipped")
    parser.add_argument("--images", type=int, default=60, help="of each class")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accuracy", type=int, metavar="EPOCHS", help="compare validation accuracy, not speed")
    options = parser.parse_args()
    config = TRAINING.but(backbone=options.backbone, weights=options.weights)
    table = some_images(options.data_classes, options.images)
    if options.accuracy:
        result = accuracy_by_precision(table, config.but(epochs=options.accuracy))
        print(write_json(result, Path(__file__).parent / "results" / "training_precision.json"))
    else:
        print(training_speed(table, config, rounds=options.rounds))


if __name__ == "__main__":
    main()

"""What TensorBoard shows of a training: curves, images as the model sees them, the head's weights, confusion matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from ..config import Config
from .features import PictureDataset
from .figures import CURVES, plot_confusion_matrix
from .model import ViTMultiClassClassifier


def open_log(folder: Path, *, first_epoch: int) -> SummaryWriter:
    """A writer that goes on at ``first_epoch``; from epoch 1 on an earlier training's files are removed first."""
    if first_epoch == 1:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()  # two curves in one plot mislead
    return SummaryWriter(folder, purge_step=first_epoch)


def write_images(writer: SummaryWriter, model: ViTMultiClassClassifier, table: pd.DataFrame) -> None:
    """Two training images of each class, after the model's own transform."""
    rows = table[table["part"] == "train"].groupby("label").head(2)
    images, _ = PictureDataset(rows, model.transform, rows["label"].to_numpy())[range(len(rows))]
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    writer.add_images("Images/train, as the model sees them", (images - low) / (high - low).clamp(min=1e-6), 0)


def write_epoch(writer: SummaryWriter, row: dict[str, float], model: ViTMultiClassClassifier) -> None:
    """The curves of one row of a training's history, and histograms of the head."""
    for column, (name, _) in CURVES.items():
        writer.add_scalar(name, row[column], row["epoch"])
    for name, parameter in model.classifier.named_parameters():
        writer.add_histogram(f"classifier/{name}", parameter.detach().float(), row["epoch"])
    writer.flush()


def write_end(
    writer: SummaryWriter, config: Config, best: dict[str, float], matrix: np.ndarray, class_names: tuple[str, ...]
) -> None:
    """The last epoch's confusion matrix on validation, and the settings beside the best epoch's figures."""
    figure = plot_confusion_matrix(matrix, class_names, title="validation, last epoch")
    writer.add_figure("Confusion matrix/validation", figure, config.epochs)
    plain = (bool, int, float, str)
    settings = {k: v if isinstance(v, plain) else str(v) for k, v in config.to_dict().items()}
    measures = {"Best/accuracy_val": best["acc_val"], "Best/loss_val": best["loss_val"]}
    writer.add_hparams(settings, measures, run_name=".")

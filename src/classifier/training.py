"""The training loop: all weights or only the head, mixed precision, resume after an interruption."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from tqdm import tqdm

from ..backbone.device import choose_device
from ..config import Config, paths
from ..data.tables import picture_identities
from ..files import identity_of, load_tensors, save_tensors
from . import tensorboard
from .epochs import Epochs
from .features import PictureDataset, compute_features
from .model import ViTMultiClassClassifier

log = logging.getLogger(__name__)

TRAINING_VERSION = 2  # raise it when the same settings no longer give the same weights
HEAD_START_RATE = 3e-4  # of AdamW, for head_epochs
SPREAD_IMAGES = 512  # training images that the features are standardised by, where all weights are trained


@dataclass(frozen=True)
class TrainingResult:
    """What `train_model` returns; the model itself holds the best epoch's weights."""

    history: pd.DataFrame  # one row an epoch: epoch, loss_train, loss_val, acc_train, acc_val, lr, seconds
    best_epoch: int  # from 1: highest validation accuracy, then lowest validation loss
    seconds: float  # of training, interruptions left out
    device: str
    precision: str


def train_model(
    model: ViTMultiClassClassifier,
    table: pd.DataFrame,
    config: Config,
    *,
    device: torch.device | None = None,
    models: Path = paths.models,
    logs: Path = paths.logs,
    resume: bool = True,
) -> TrainingResult:
    """Trains on part ``train``, chooses the epoch on part ``validation``, leaves the best weights in the model.

    After every epoch the state is written to ``<models>/<run>.training.pt``. Called again with the same settings and
    images, an interrupted training goes on from there and ends, on a CPU, with the weights that an uninterrupted one
    has; a finished one returns at once. Part ``test`` is never read. With ``head_epochs`` the head is trained alone
    first, as the run ``<run>.head``.

    Args:
        model: Changed in place, moved to the device; its bank of normal features is emptied.
        table: Rows with ``path``, ``file``, ``label`` and ``part``.
        config: The run's settings.
        device: None chooses CUDA, MPS or CPU.
        models: Folder of the state file and of cached features.
        logs: Folder of the TensorBoard files, in ``<logs>/<run>``.
        resume: False starts anew, from the weights that the model has.

    Raises:
        ValueError: If the state file belongs to other settings or images.
        FloatingPointError: If a loss is not finite; the last good state is kept.
        MemoryError: If the device has too little memory; the message says what to change.
        KeyboardInterrupt: Passed on; the last whole epoch is kept, the model has the best weights so far.
    """
    folders = {"device": device or choose_device(), "models": Path(models), "logs": Path(logs)}
    state_file = folders["models"] / f"{config.run}.training.pt"
    if not resume:
        state_file.unlink(missing_ok=True)
    if config.head_epochs and config.train_mode == "all" and not state_file.is_file():
        train_model(model, table, _head_start(config), resume=resume, **folders)
    training = _Training(model.to(folders["device"]), table, config, state_file, **folders)
    training.restore()
    try:
        if not training.finished:
            training.run()
    finally:  # after an interruption too: half an epoch's weights would spoil the next call
        model.load_state_dict(training.best_state)
    history = pd.DataFrame(training.history)
    return TrainingResult(
        history,
        training.best_epoch,
        float(history["seconds"].sum()),
        str(training.device),
        str(training.epochs.precision),
    )


def _head_start(config: Config) -> Config:
    """The head alone on frozen features. Source: Kumar et al., ICLR 2022, linear probing before fine-tuning."""
    return config.but(
        run=f"{config.run}.head",
        train_mode="head",
        epochs=config.head_epochs,
        head_epochs=0,
        head_learning_rate=HEAD_START_RATE,
    )


class _Training:
    """One training: its data, optimiser, history and state file."""

    def __init__(
        self,
        model: ViTMultiClassClassifier,
        table: pd.DataFrame,
        config: Config,
        state_file: Path,
        *,
        device: torch.device,
        models: Path,
        logs: Path,
    ) -> None:
        self.model, self.table, self.config, self.device = model, table, config, device
        model.zero_grad(set_to_none=True)  # an interrupted training leaves gradients behind
        model.normal_features = model.normal_features[:0]  # a bank of other weights would be wrong
        self.cache, self.state_file, self.log_folder = models / "cache", state_file, logs / config.run
        self.epochs = Epochs(model, config, device)
        self.identity = self._identity()
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best_state = 0, _copy(model)
        log.debug("%s, input %d px, %s", model.settings, model.image_size, table["part"].value_counts().to_dict())

    @property
    def finished(self) -> bool:
        return len(self.history) == self.config.epochs

    def _identity(self) -> str:
        """Changes with everything that decides the weights, and with nothing else."""
        settings = {k: v for k, v in self.config.to_dict().items() if k not in ("workers", "weights")}
        table = self.table[self.table["part"] != "test"]
        rows = list(zip(picture_identities(table), table["label"], table["part"], strict=True))
        model = self.model
        return identity_of(
            TRAINING_VERSION, settings, model.weights_description, model.image_size, model.class_names, rows
        )

    def restore(self) -> None:
        if not self.state_file.is_file():
            return
        state = load_tensors(self.state_file)
        if state.get("identity") != self.identity:
            raise ValueError(
                f"{self.state_file} belongs to a training with other settings or images. Pass resume=False to start "
                "anew and overwrite it, or give this run another name."
            )
        self.history, self.best_epoch, self.best_state = state["history"], state["best_epoch"], state["best_state"]
        if not self.finished:
            self.epochs.load_state(state)
        where = paths.relative(self.state_file)
        log.info("resumed after epoch %d of %d from %s", len(self.history), self.config.epochs, where)

    def save(self) -> None:
        state = {
            "identity": self.identity,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_state": self.best_state,
        }
        if not self.finished:
            state |= self.epochs.state()
        save_tensors(state, self.state_file)

    def run(self) -> None:
        started = self.config.head_epochs and not self.epochs.head_only  # the head start has measured it
        if self.model.feature_blocks and not self.history and not started:
            self._measure_spread()
        train, validation = self._dataset("train"), self._dataset("validation")
        first = len(self.history) + 1
        with tensorboard.open_log(self.log_folder, first_epoch=first) as writer:
            if first == 1:
                tensorboard.write_images(writer, self.model, self.table)
            with tqdm(total=self.config.epochs, initial=first - 1, desc="epochs", unit="epoch") as bar:
                for epoch in range(first, self.config.epochs + 1):
                    started = time.monotonic()
                    row, predictions, targets = self.epochs.run(epoch, train, validation)
                    self._finish_epoch(row | {"seconds": time.monotonic() - started})
                    tensorboard.write_epoch(writer, row, self.model)
                    bar.update()
                    bar.set_postfix({k: f"{row[k]:.3f}" for k in ("loss_train", "loss_val", "acc_train", "acc_val")})
            best = self.history[self.best_epoch - 1]
            tensorboard.write_end(writer, self.config, best, predictions, targets, self.model.class_names)

    def _finish_epoch(self, row: dict[str, float]) -> None:
        best = max(self.history, key=_quality, default=None)
        if best is None or _quality(row) > _quality(best):
            self.best_epoch, self.best_state = row["epoch"], _copy(self.model)
        self.history.append(row)
        self.save()

    def _measure_spread(self) -> None:
        """Mean and deviation of the features on the backbone as it is."""
        rows = self.table[self.table["part"] == "train"]
        if not self.epochs.head_only and len(rows) > SPREAD_IMAGES:
            rows = rows.sample(SPREAD_IMAGES, random_state=self.config.seed)
        self.model.set_feature_spread(self._features(rows, raw=True))

    def _features(self, rows: pd.DataFrame, *, raw: bool = False) -> Tensor:
        config = self.config
        return compute_features(
            self.model,
            rows,
            device=self.device,
            precision=config.precision,
            workers=config.workers,
            cache=self.cache,
            raw=raw,
        )

    def _dataset(self, part: str) -> Dataset:
        rows = self.table[self.table["part"] == part]
        if rows.empty:
            raise ValueError(f"the table has no image of part {part}; make it by splits.split_index")
        targets = self.model.classes.indices(rows["label"])
        if self.epochs.head_only:
            return TensorDataset(self._features(rows), torch.from_numpy(targets))
        return PictureDataset(rows, self.model.transform, targets)


def _quality(row: dict[str, float]) -> tuple[float, float]:
    return row["acc_val"], -row["loss_val"]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

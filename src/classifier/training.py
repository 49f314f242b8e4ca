"""The training loop: all weights or only the head, mixed precision, resume after an interruption."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from tqdm import tqdm

from ..backbone.device import autocast, choose_device, choose_precision, choose_workers
from ..config import Config, paths
from ..data.tables import picture_identities
from ..files import alone, fitting, identity_of, load_tensors, save_tensors, writing
from . import tensorboard
from .features import PictureDataset, compute_features, load_batches, weights_identity
from .model import ViTMultiClassClassifier, parameter_groups

log = logging.getLogger(__name__)

TRAINING_VERSION = 1  # raise it when the same settings no longer give the same weights
HEAD_START_RATE = 3e-4  # of AdamW, for head_epochs
SPREAD_IMAGES = 512  # training images that the features are standardised by, where all weights are trained
RESULTS = ("history", "best_epoch", "best_state")  # with these parts the state file holds a training
RESUMED = ("model", "optimizer", "scheduler", "scaler")
NO_MEMORY = ("out of memory", "not enough memory", "allocate memory")  # "illegal memory access" is another thing


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

    Part ``test`` is never read. With ``head_epochs`` the head is trained alone first, as the run ``<run>.head``. The
    state after every epoch is kept in ``<models>/<run>.training.pt``. Called again with the same settings and images,
    an interrupted training goes on and ends, on a CPU, with the weights that an uninterrupted one has; a finished one
    returns at once. ``resume=False`` starts anew from the weights that the model has. Its bank is emptied.

    Raises ValueError if the state file belongs to other settings or images, FloatingPointError if a loss is not finite,
    MemoryError, with advice, if the device has too little. After these and after a KeyboardInterrupt the last whole
    epoch is kept and the model has the best weights so far.
    """
    device, models, logs = device or choose_device(), Path(models), Path(logs)
    state_file = models / f"{config.run}.training.pt"
    if not resume:
        state_file.unlink(missing_ok=True)
    if config.head_epochs and config.train_mode == "all" and not state_file.is_file():
        train_model(model, table, _head_start(config), device=device, models=models, logs=logs, resume=resume)
    training = _Training(model, table, config, device, state_file, models / "cache")
    with alone(models / config.run):  # a second process waits, and finds the finished training
        training.restore()
        try:
            training.run(logs / config.run)
        finally:  # after an interruption too: half an epoch's weights would spoil the next call
            model.load_state_dict(training.best_state)
    history = pd.DataFrame(training.history)
    return TrainingResult(history, training.best_epoch, history["seconds"].sum(), str(device), str(training.precision))


def _head_start(config: Config) -> Config:
    """The head alone on frozen features. Source: Kumar et al., ICLR 2022, linear probing before fine-tuning."""
    head = {"run": f"{config.run}.head", "train_mode": "head", "head_learning_rate": HEAD_START_RATE}
    return config.but(**head, epochs=config.head_epochs, head_epochs=0)


@dataclass(eq=False)
class _Training:
    """One training: its data, its optimiser, and the epochs so far, which its state file keeps."""

    model: ViTMultiClassClassifier
    table: pd.DataFrame
    config: Config
    device: torch.device
    state_file: Path
    cache: Path

    def __post_init__(self) -> None:
        model, config = self.model.to(self.device), self.config
        model.zero_grad(set_to_none=True)  # an interrupted training leaves gradients behind
        model.normal_features = model.normal_features[:0]  # a bank of other weights would be wrong
        model.backbone.set_grad_checkpointing(config.checkpoint_gradients)
        self.head_only = config.train_mode == "head"
        self.precision = choose_precision(self.device, config.precision)
        self.optimizer = torch.optim.AdamW(parameter_groups(model, config), weight_decay=config.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=config.epochs)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.history, self.best_epoch, self.best_state = [], 0, _copy(model)
        # Changes with everything that decides the weights, and with nothing else.
        settings = config.but(workers=None, weights=weights_identity(config.weights)).to_dict()
        rows = self.table[self.table["part"] != "test"]
        pictures = list(zip(picture_identities(rows), rows["label"], rows["part"], strict=True))
        network = model.weights_description, model.class_names
        self.identity = identity_of(TRAINING_VERSION, settings, network, pictures)

    def restore(self) -> None:
        if not self.state_file.is_file():
            return
        state = load_tensors(self.state_file)
        if state.get("identity") != self.identity:
            raise ValueError(
                f"{self.state_file} belongs to a training with other settings or images. Pass resume=False to start "
                "anew and overwrite it, or give this run another name."
            )
        with fitting(self.state_file, remedy="pass resume=False to start anew"):
            self.history, self.best_epoch, self.best_state = (state[name] for name in RESULTS)
            self.model.load_state_dict(self.best_state)
            for name in RESUMED if len(self.history) < self.config.epochs else ():
                getattr(self, name).load_state_dict(state[name])
        log.info("resumed after epoch %d from %s", len(self.history), paths.relative(self.state_file))

    def run(self, log_folder: Path) -> None:
        """The epochs that are left."""
        config, model, first = self.config, self.model, len(self.history) + 1
        if first > config.epochs:
            return
        if first == 1 and model.feature_blocks and (self.head_only or not config.head_epochs):
            self._measure_spread()  # otherwise the head start has done it
        train, validation = self._dataset("train"), self._dataset("validation")
        epochs = tqdm(range(first, config.epochs + 1), "epochs", config.epochs, initial=first - 1, unit="epoch")
        with writing(log_folder), tensorboard.open_log(log_folder, first_epoch=first) as writer, epochs:
            if first == 1:
                tensorboard.write_images(writer, model, self.table)
            for epoch in epochs:
                row, matrix = self._run_epoch(epoch, train, validation)
                tensorboard.write_epoch(writer, row, model)
                epochs.set_postfix({k: f"{row[k]:.3f}" for k in ("loss_train", "loss_val", "acc_train", "acc_val")})
            tensorboard.write_end(writer, config, self.history[self.best_epoch - 1], matrix, model.class_names)

    def _run_epoch(self, epoch: int, train: Dataset, validation: Dataset) -> tuple[dict[str, float], np.ndarray]:
        """The epoch's row of the history, and the confusion matrix on validation; the state is kept."""
        started, rate = time.monotonic(), self.optimizer.param_groups[0]["lr"]
        # Seeding each epoch by its number makes a resumed training see the same order and the same dropout.
        torch.manual_seed(self.config.seed * 100_003 + epoch)
        try:
            loss_train, acc_train = self._train(epoch, train)
            loss_val, predictions, targets = self._validate(validation)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY):
                raise MemoryError(
                    f"{self.device}: out of memory. Halve batch_size and double accumulate_batches (same result), set "
                    "checkpoint_gradients=True, or take a smaller backbone or train_mode='head', which fits everywhere"
                ) from error
            raise
        self.scheduler.step()
        row = {"epoch": epoch, "loss_train": loss_train, "loss_val": loss_val, "acc_train": acc_train}
        row |= {"acc_val": float(np.mean(predictions == targets)), "lr": rate, "seconds": time.monotonic() - started}
        self.history.append(row)
        if max(self.history, key=lambda each: (each["acc_val"], -each["loss_val"])) is row:
            self.best_epoch, self.best_state = epoch, _copy(self.model)
        state = {name: getattr(self, name) for name in ("identity", *RESULTS)}
        if epoch < self.config.epochs:
            state |= {name: getattr(self, name).state_dict() for name in RESUMED}
        save_tensors(state, self.state_file)
        return row, confusion_matrix(targets, predictions, labels=range(len(self.model.class_names)))

    def _train(self, epoch: int, dataset: Dataset) -> tuple[float, float]:
        """Mean loss and accuracy of a pass that changes the weights."""
        self.model.train()
        config, count = self.config, len(dataset)
        order = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        group = config.batch_size * config.accumulate_batches
        loss_sum = correct = done = 0
        for logits, targets in self._answers(dataset, order):
            losses = F.cross_entropy(logits, targets, reduction="sum")
            loss_sum += self._checked(losses, f"of epoch {epoch} after {done} images")
            in_group = min(group, count - done // group * group)  # the last group may be smaller
            self.scaler.scale(losses / in_group).backward()
            correct += int((logits.argmax(1) == targets).sum())
            done += len(targets)
            if done % group == 0 or done == count:
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad(set_to_none=True)
        return loss_sum / count, correct / count

    @torch.inference_mode()
    def _validate(self, dataset: Dataset) -> tuple[float, np.ndarray, np.ndarray]:
        """Mean loss, predicted and true classes (n,) of a pass that changes nothing."""
        self.model.eval()
        logits, targets = map(torch.cat, zip(*self._answers(dataset), strict=True))
        loss = self._checked(F.cross_entropy(logits, targets), "on validation")
        return loss, logits.argmax(1).cpu().numpy(), targets.cpu().numpy()

    def _answers(self, dataset: Dataset, order: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and classes of each batch, in a random order or in the data's own."""
        workers = 0 if self.head_only else choose_workers(self.config.workers, len(dataset), self.device)
        loader = load_batches(dataset, self.config.batch_size, device=self.device, workers=workers, generator=order)
        name = "validation" if order is None else "training"
        for inputs, targets in tqdm(loader, name, leave=False, disable=self.head_only):  # a head takes a blink
            inputs, targets = inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
            with autocast(self.device, self.precision):
                logits = self.model.classifier(inputs) if self.head_only else self.model(inputs)[0]
            yield logits.float(), targets

    def _checked(self, loss: Tensor, where: str) -> float:
        if not loss.isfinite():
            raise FloatingPointError(
                f"the loss {where} is {loss.item()}; the state after epoch {len(self.history)} is kept in "
                f"{self.state_file}. Lower learning_rate, or use precision='float32'."
            )
        return loss.item()

    def _dataset(self, part: str) -> Dataset:
        rows = self.table[self.table["part"] == part]
        if rows.empty:
            raise ValueError(f"the table has no image of part {part}; make it by splits.split_index")
        targets = torch.from_numpy(self.model.classes.indices(rows["label"]))
        if self.head_only:
            return TensorDataset(self._features(rows), targets)
        return PictureDataset(rows, self.model.transform, targets)

    def _measure_spread(self) -> None:
        """Mean and deviation of the features on the backbone as it is."""
        rows = self.table[self.table["part"] == "train"]
        if not self.head_only and len(rows) > SPREAD_IMAGES:
            rows = rows.sample(SPREAD_IMAGES, random_state=self.config.seed)
        self.model.set_feature_spread(self._features(rows, raw=True))

    def _features(self, rows: pd.DataFrame, *, raw: bool = False) -> Tensor:
        options = {"precision": self.config.precision, "workers": self.config.workers, "cache": self.cache}
        return compute_features(self.model, rows, device=self.device, raw=raw, **options)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

"""The training loop: all weights or only the head, mixed precision, TensorBoard, resume after an interruption."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler, TensorDataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ..backbone.device import autocast, choose_device, choose_precision, choose_workers
from ..config import CLASS_NAMES, Config, paths
from ..data.images import LeatherDefectDataset, class_indices
from ..files import load_file, save_atomically
from ..metrics import multiclass_metrics
from .features import compute_features
from .figures import plot_confusion_matrix
from .model import ViTMultiClassClassifier

log = logging.getLogger(__name__)

HEAD_START_RATE = 3e-4  # of AdamW, for head_epochs
SPREAD_IMAGES = 512  # training images that the features are standardised by, where all weights are trained
MEMORY_ADVICE = (
    "out of memory. Halve batch_size and double accumulate_batches (same result), set checkpoint_gradients=True, "
    'take a smaller backbone (vit_small_patch16_224), or train_mode="head", which fits everywhere'
)
# What a CPU and other libraries say; "illegal memory access" is another thing.
NO_MEMORY = ("out of memory", "not enough memory", "allocate memory")


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
    has; a finished one returns at once. Part ``test`` is never read.

    Args:
        model: Changed in place, moved to the device; its bank of normal features is emptied.
        table: Rows with ``path``, ``label`` and ``part``.
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
    device = device or choose_device()
    session = _Session(model.to(device), table, config, device, models, logs)
    session.log_debug()
    if resume:
        session.restore()
    else:
        session.state_file.unlink(missing_ok=True)
    try:
        if not session.finished:
            session.run()
    finally:  # after an interruption too: half an epoch's weights would spoil the next call
        model.load_state_dict(session.best_state)
    history = pd.DataFrame(session.history)
    return TrainingResult(
        history, session.best_epoch, float(history["seconds"].sum()), str(device), str(session.precision)
    )


class _Session:
    """One training: its data, optimiser, history and state file."""

    def __init__(
        self,
        model: ViTMultiClassClassifier,
        table: pd.DataFrame,
        config: Config,
        device: torch.device,
        models: Path,
        logs: Path,
    ) -> None:
        self.model, self.table, self.config, self.device = model, table, config, device
        model.zero_grad(set_to_none=True)  # an interrupted training leaves gradients behind
        model.normal_features = model.normal_features[:0]  # a bank of other weights would be wrong
        self.models, self.log_folder = Path(models), Path(logs) / config.run
        self.state_file = self.models / f"{config.run}.training.pt"
        self.precision = choose_precision(device, config.precision)
        self.head_only = config.train_mode == "head"
        if config.checkpoint_gradients:
            model.backbone.set_grad_checkpointing(True)
        groups = _parameter_groups(model, config)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=config.epochs)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best_state = 0, _copy(model)

    @property
    def finished(self) -> bool:
        return len(self.history) == self.config.epochs

    def log_debug(self) -> None:
        log.debug("python %s, torch %s, timm %s", platform.python_version(), torch.__version__, timm.__version__)
        log.debug("device %s, precision %s, state file %s", self.device, self.precision, self.state_file)
        log.debug(
            "%s, input %d px, %s",
            self.model.settings["backbone"],
            self.model.image_size,
            self.table["part"].value_counts().to_dict(),
        )

    def restore(self) -> None:
        if not self.state_file.is_file():
            return
        state = load_file(self.state_file)
        if state.get("identity") != self._identity():
            raise ValueError(
                f"{self.state_file} belongs to a training with other settings or images. Pass resume=False to start "
                "anew and overwrite it, or give this run another name."
            )
        self.history, self.best_epoch, self.best_state = state["history"], state["best_epoch"], state["best_state"]
        if not self.finished:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.scaler.load_state_dict(state["scaler"])
        where = paths.relative(self.state_file)
        log.info("resumed after epoch %d of %d from %s", len(self.history), self.config.epochs, where)

    def save(self) -> None:
        state = {
            "identity": self._identity(),
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_state": self.best_state,
        }
        if not self.finished:
            state |= {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
            }
        save_atomically(state, self.state_file)

    def _identity(self) -> str:
        """Changes with everything that decides the weights, and with nothing else."""
        settings = {k: v for k, v in self.config.to_dict().items() if k != "workers"}
        images = self.table[["file", "label", "part"]].astype(str).agg("|".join, axis=1).tolist()
        text = json.dumps([settings, self.model.weights_description, self.model.image_size, images])
        return hashlib.sha256(text.encode()).hexdigest()

    def run(self) -> None:
        if not self.history:
            self._prepare()
        train, validation = self._dataset("train"), self._dataset("validation")
        if not self.history:
            for old in self.log_folder.glob("events.out.tfevents.*"):
                old.unlink()  # of an earlier training: two curves in one plot mislead
        first = len(self.history) + 1
        with SummaryWriter(self.log_folder, purge_step=first) as writer:
            if first == 1:
                self._write_images(writer)
            bar = tqdm(total=self.config.epochs, initial=first - 1, desc="epochs", unit="epoch")
            with bar:
                for epoch in range(first, self.config.epochs + 1):
                    row = self._epoch(epoch, train, validation, writer)
                    bar.update()
                    bar.set_postfix({k: f"{row[k]:.3f}" for k in ("loss_train", "loss_val", "acc_train", "acc_val")})
            self._write_hyperparameters(writer)

    def _prepare(self) -> None:
        """Measures the spread of the features and gives the head its start, both on the backbone as it is."""
        model, config = self.model, self.config
        rows = self.table[self.table["part"] == "train"]
        if model.feature_blocks:
            if not self.head_only and not config.head_epochs and len(rows) > SPREAD_IMAGES:
                rows = rows.sample(SPREAD_IMAGES, random_state=config.seed)
            model.set_feature_spread(self._features(rows, raw=True))
        if config.head_epochs and not self.head_only:
            self._start_head(rows)

    def _start_head(self, rows: pd.DataFrame) -> None:
        """Trains the head on frozen features. Source: Kumar et al., ICLR 2022, linear probing before fine-tuning."""
        config, head = self.config, self.model.classifier
        optimizer = torch.optim.AdamW(head.parameters(), HEAD_START_RATE, weight_decay=config.weight_decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.head_epochs)
        torch.manual_seed(config.seed)
        dataset = self._feature_dataset(rows)
        loader = _whole_batches(dataset, RandomSampler(dataset), config.batch_size)
        self.model.train()
        for _ in tqdm(range(config.head_epochs), desc="epochs of the head alone", unit="epoch"):
            for features, truth in loader:
                loss = F.cross_entropy(head(features.to(self.device)), truth.to(self.device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            scheduler.step()

    def _features(self, rows: pd.DataFrame, *, raw: bool = False) -> Tensor:
        return compute_features(
            self.model,
            rows,
            device=self.device,
            precision=self.config.precision,
            workers=self.config.workers,
            cache=self.models / "cache",
            raw=raw,
        )

    def _dataset(self, part: str) -> Dataset:
        rows = self.table[self.table["part"] == part]
        if rows.empty:
            raise ValueError(f"the table has no image of part {part}; make it by splits.split_index")
        if not self.head_only:
            return LeatherDefectDataset(rows, self.model.transform)
        return self._feature_dataset(rows)

    def _feature_dataset(self, rows: pd.DataFrame) -> TensorDataset:
        return TensorDataset(self._features(rows), torch.from_numpy(class_indices(rows)))

    def _epoch(self, epoch: int, train: Dataset, validation: Dataset, writer: SummaryWriter) -> dict[str, float]:
        started = time.monotonic()
        rate = self.optimizer.param_groups[0]["lr"]
        # Seeding each epoch by its number makes a resumed training see the same order and the same dropout.
        torch.manual_seed(self.config.seed * 100_003 + epoch)
        try:
            loss_train, acc_train = self._train_epoch(epoch, train)
            loss_val, predictions, targets = self._validate(validation)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY):
                raise MemoryError(f"{self.device}: {MEMORY_ADVICE}") from error
            raise
        self.scheduler.step()
        row = {
            "epoch": epoch,
            "loss_train": loss_train,
            "loss_val": loss_val,
            "acc_train": acc_train,
            "acc_val": float(np.mean(predictions == targets)),
            "lr": rate,
            "seconds": time.monotonic() - started,
        }
        best = max(self.history, key=_quality, default=None)
        if best is None or _quality(row) > _quality(best):
            self.best_epoch, self.best_state = epoch, _copy(self.model)
        self.history.append(row)
        self.save()
        self._write_epoch(writer, row, predictions, targets)
        return row

    def _train_epoch(self, epoch: int, dataset: Dataset) -> tuple[float, float]:
        self.model.train()
        if self.head_only:
            self.model.backbone.eval()
        config, count = self.config, len(dataset)
        generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        loader = self._loader(dataset, generator)
        group = config.batch_size * config.accumulate_batches
        loss_sum = correct = seen = 0
        for step, (inputs, targets) in enumerate(self._batches(loader, f"epoch {epoch}")):
            with autocast(self.device, self.precision):
                logits = self._logits(inputs)
            losses = F.cross_entropy(logits.float(), targets, reduction="sum")
            if not torch.isfinite(losses):
                raise FloatingPointError(
                    f"the loss is {losses.item()} in epoch {epoch}, batch {step + 1}. The state after epoch "
                    f"{epoch - 1} is kept in {self.state_file}. Lower learning_rate, or use precision='float32'."
                )
            in_group = min(group, count - seen // group * group)  # the last group may be smaller
            self.scaler.scale(losses / in_group).backward()
            loss_sum += losses.item()
            correct += int((logits.argmax(1) == targets).sum())
            seen += len(targets)
            if seen % group == 0 or seen == count:
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad(set_to_none=True)
        return loss_sum / count, correct / count

    @torch.inference_mode()
    def _validate(self, dataset: Dataset) -> tuple[float, np.ndarray, np.ndarray]:
        self.model.eval()
        logits, targets = [], []
        for inputs, truth in self._batches(self._loader(dataset), "validation"):
            with autocast(self.device, self.precision):
                logits.append(self._logits(inputs).float())
            targets.append(truth)
        found, truth = torch.cat(logits), torch.cat(targets)
        loss = F.cross_entropy(found, truth).item()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the validation loss is {loss}; the last good state is in {self.state_file}")
        return loss, found.argmax(1).cpu().numpy(), truth.cpu().numpy()

    def _logits(self, inputs: Tensor) -> Tensor:
        return self.model.classifier(inputs) if self.head_only else self.model(inputs)[0]

    def _loader(self, dataset: Dataset, generator: torch.Generator | None = None) -> DataLoader:
        """Batches in the order of a generator, or in the data's own."""
        size, pinned = self.config.batch_size, self.device.type == "cuda"
        if self.head_only:
            sampler = RandomSampler(dataset, generator=generator) if generator else SequentialSampler(dataset)
            return _whole_batches(dataset, sampler, size, generator=generator, pin_memory=pinned)
        workers = choose_workers(self.config.workers, len(dataset), self.device)
        options = {"shuffle": generator is not None, "generator": generator}
        return DataLoader(dataset, size, num_workers=workers, pin_memory=pinned, **options)

    def _batches(self, loader: DataLoader, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        bar = tqdm(loader, desc=name, leave=False, disable=self.head_only)  # a head's epoch takes a blink
        for inputs, targets in bar:
            yield inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)

    def _write_epoch(
        self, writer: SummaryWriter, row: dict[str, float], predictions: np.ndarray, targets: np.ndarray
    ) -> None:
        epoch = int(row["epoch"])
        writer.add_scalar("Loss/train", row["loss_train"], epoch)
        writer.add_scalar("Loss/val", row["loss_val"], epoch)
        writer.add_scalar("Accuracy/train", row["acc_train"], epoch)
        writer.add_scalar("Accuracy/val", row["acc_val"], epoch)
        writer.add_scalar("Learning Rate", row["lr"], epoch)
        for name, parameter in self.model.classifier.named_parameters():
            writer.add_histogram(f"classifier/{name}", parameter.detach().float(), epoch)
        if epoch == self.config.epochs:  # a figure takes longer than a head's epoch
            metrics = multiclass_metrics(targets, predictions, CLASS_NAMES)
            matrix = np.array(metrics["confusion_matrix"])
            figure = plot_confusion_matrix(matrix, CLASS_NAMES, title="validation, last epoch")
            writer.add_figure("Confusion matrix/validation", figure, epoch)
        writer.flush()

    def _write_images(self, writer: SummaryWriter) -> None:
        rows = self.table[self.table["part"] == "train"].groupby("label").head(2)
        images = torch.stack([image for image, _ in LeatherDefectDataset(rows, self.model.transform)])
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        writer.add_images("Images/train, as the model sees them", (images - low) / (high - low).clamp(min=1e-6), 0)

    def _write_hyperparameters(self, writer: SummaryWriter) -> None:
        plain = (bool, int, float, str)
        settings = {k: v if isinstance(v, plain) else str(v) for k, v in self.config.to_dict().items()}
        best = self.history[self.best_epoch - 1]
        measures = {"Best/accuracy_val": best["acc_val"], "Best/loss_val": best["loss_val"]}
        writer.add_hparams(settings, measures, run_name=".")


def _parameter_groups(model: ViTMultiClassClassifier, config: Config) -> list[dict]:
    """What this run changes, with its rates; all else stops asking for gradients, which saves its backward pass."""
    model.requires_grad_(True)
    if config.train_mode == "head":
        model.backbone.requires_grad_(False)
    elif config.frozen_blocks:
        backbone = model.backbone
        if config.frozen_blocks > len(backbone.blocks):
            raise ValueError(f"frozen_blocks is {config.frozen_blocks}; the backbone has {len(backbone.blocks)} blocks")
        for name in ("cls_token", "pos_embed", "reg_token"):
            if getattr(backbone, name, None) is not None:
                getattr(backbone, name).requires_grad_(False)
        for module in (backbone.patch_embed, *backbone.blocks[: config.frozen_blocks]):
            module.requires_grad_(False)
    backbone = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    head_rate = config.head_learning_rate or config.learning_rate
    groups = [{"params": backbone, "lr": config.learning_rate}] if backbone else []
    return [*groups, {"params": list(model.classifier.parameters()), "lr": head_rate}]


def _whole_batches(dataset: TensorDataset, sampler: Sampler, size: int, **options: object) -> DataLoader:
    """Features a batch at a time: taken one by one they would take longer than learning from them."""
    batches = BatchSampler(sampler, size, drop_last=False)
    return DataLoader(dataset, batch_size=None, sampler=batches, **options)


def _quality(row: dict[str, float]) -> tuple[float, float]:
    return row["acc_val"], -row["loss_val"]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

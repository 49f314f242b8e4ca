"""The epochs of a training, which `accelerate` carries out on one process or several that share each batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
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

from ..backbone.device import choose_precision, choose_workers, training_gain
from ..config import Config, paths
from ..data.tables import picture_identities
from ..files import fitting, identity_of, load_tensors, save_tensors, writing
from . import tensorboard
from .features import PictureDataset, compute_features, load_batches, weights_identity
from .model import ViTMultiClassClassifier, load_trained, parameter_groups, trained_weights

try:
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs, gather_object, parse_flag_from_env
except ImportError as error:
    raise ImportError("training needs accelerate; get it by: pip install 'leather-defects[full]'") from error

log = logging.getLogger(__name__)

TRAINING_VERSION = 2  # raise it when the same settings no longer give the same weights
SPREAD_IMAGES = 512  # training images that the features are standardised by, where all weights are trained
WORTH_IT = 1.1  # half precision that gains less, as measured in a few steps, is not taken
RESULTS = ("history", "best_epoch", "best_state", "precision", "gain")  # what the state file holds of a finished one
RESUMED = ("optimizer", "scheduler", "scaler")
MIXED = {"torch.float32": "no", "torch.bfloat16": "bf16", "torch.float16": "fp16"}  # accelerate's names


class Network(nn.Module):
    """Logits (n, classes) of images or, for a head alone, of features. accelerate changes it, so it is no model."""

    def __init__(self, model: ViTMultiClassClassifier, *, head_only: bool) -> None:
        super().__init__()
        self.model, self.head_only = model, head_only

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model.classifier(inputs) if self.head_only else self.model(inputs)[0]


@dataclass(eq=False)
class Epochs:
    """One training: its data, and the epochs so far, which its state file keeps."""

    model: ViTMultiClassClassifier
    table: pd.DataFrame
    config: Config
    state_file: Path
    cache: Path

    def __post_init__(self) -> None:
        use_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        self.processes = PartialState(cpu=use_cpu)
        self.device, self.writes = self.processes.device, self.processes.is_main_process
        model, config = self.model.to(self.device), self.config
        model.zero_grad(set_to_none=True)  # an interrupted training leaves gradients behind
        model.normal_features = model.normal_features[:0]  # a bank of other weights would be wrong
        model.backbone.set_grad_checkpointing(config.checkpoint_gradients)
        self.head_only = config.train_mode == "head"
        self.precision = str(choose_precision(self.device, config.precision))
        if self.precision == "torch.float16" and self.device.type == "cpu":  # accelerate would leave it out, unsaid
            raise ValueError("precision is float16, which needs a GPU; take bfloat16 or float32")
        self.history, self.best_epoch, self.gain, self.resumed = [], 0, None, {}
        self.best_state = trained_weights(model, config)
        # Changes with everything that decides the weights, and with nothing else.
        settings = config.but(workers=None, weights=weights_identity(config.weights)).to_dict()
        rows, network = self.table[self.table["part"] != "test"], (model.weights_description, model.class_names)
        pictures = list(zip(picture_identities(rows), rows["label"], rows["part"], strict=True))
        self.identity = identity_of(TRAINING_VERSION, settings, network, pictures)

    def restore(self) -> None:
        if not self.state_file.is_file():
            return
        self.resumed = load_tensors(self.state_file)
        if self.resumed.get("identity") != self.identity:
            raise ValueError(
                f"{self.state_file} belongs to a training with other settings or images. Pass resume=False (--anew) to "
                "start anew and overwrite it, or give this run another name."
            )
        with fitting(self.state_file, remedy="pass resume=False to start anew"):
            for name in RESULTS:
                setattr(self, name, self.resumed[name])
            load_trained(self.model, self.best_state, self.config)
            if len(self.history) < self.config.epochs:
                load_trained(self.model, self.resumed["model"], self.config)
        log.info("resumed after epoch %d from %s", len(self.history), paths.relative(self.state_file))

    def run(self, log_folder: Path) -> None:
        """The epochs that are left."""
        config, model, first = self.config, self.model, len(self.history) + 1
        if first > config.epochs:
            return
        if first == 1 and model.feature_blocks and (self.head_only or not config.head_epochs):
            self._measure_spread()  # otherwise the head start has done it
        self.parts = {part: self._part(part) for part in ("train", "validation")}
        self._accelerate()
        left, hidden = range(first, config.epochs + 1), not self.writes
        epochs = tqdm(left, "epochs", config.epochs, initial=first - 1, unit="epoch", disable=hidden)
        events = nullcontext() if hidden else tensorboard.open_log(log_folder, first_epoch=first)
        with writing(log_folder), events as writer, epochs:
            if writer and first == 1:
                tensorboard.write_images(writer, model, self.table)
            for epoch in epochs:
                row, matrix = self._run_epoch(epoch)
                if writer:
                    tensorboard.write_epoch(writer, row, model)
                epochs.set_postfix({k: f"{row[k]:.3f}" for k in ("loss_train", "loss_val", "acc_train", "acc_val")})
            if writer:
                tensorboard.write_end(writer, config, self.history[self.best_epoch - 1], matrix, model.class_names)

    def _accelerate(self) -> None:
        """Makes optimiser and network ready, as they were after the last epoch."""
        model, config, self.network = self.model, self.config, Network(self.model, head_only=self.head_only)
        groups = parameter_groups(model, config)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        if not (self.resumed or self.head_only) and config.precision == "auto" and self.precision != str(torch.float32):
            self._measure_precision()
        AcceleratorState._reset_state()  # an earlier training in this process may have had another precision
        unused = bool(model.feature_blocks) and not self.head_only  # the final norm has no part in features of blocks
        options = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=unused)
        self.accelerator = Accelerator(mixed_precision=MIXED[self.precision], kwargs_handlers=[options])
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=config.epochs)
        self.scaler = self.accelerator.scaler or torch.amp.GradScaler(enabled=False)
        self.shared, self.stepper = self.accelerator.prepare(self.network, self.optimizer)
        with fitting(self.state_file, remedy="pass resume=False to start anew"):
            for name in RESUMED if self.resumed else ():
                getattr(self, name).load_state_dict(self.resumed[name])

    def _measure_precision(self) -> None:
        """Keeps half precision only where a few steps gain by it; all processes go by the main one's clock."""
        share, side = -(-self.config.batch_size // self.processes.num_processes), self.model.image_size
        images, half = torch.zeros(share, 3, side, side, device=self.device), getattr(torch, self.precision[6:])
        (self.gain, *_) = gather_object([training_gain(self.network.train(), images, half)])
        log.info("%s: %.2f times as fast as float32 here, measured", self.precision, self.gain)
        self.precision = self.precision if self.gain >= WORTH_IT else str(torch.float32)

    def _run_epoch(self, epoch: int) -> tuple[dict[str, float], np.ndarray]:
        """The epoch's row of the history, and the confusion matrix on validation; the state is kept."""
        started, rate = time.monotonic(), self.optimizer.param_groups[0]["lr"]
        loss_train, acc_train = self._train(epoch, *self.parts["train"])
        logits, targets = self._validate(*self.parts["validation"])
        loss_val = self._checked(F.cross_entropy(logits, targets), "on validation")
        self.scheduler.step()
        row = {"epoch": epoch, "loss_train": loss_train, "loss_val": loss_val, "acc_train": acc_train}
        row |= {"acc_val": np.mean((logits.argmax(1) == targets).numpy()).item(), "lr": rate}
        row["seconds"] = time.monotonic() - started
        self.history.append(row)
        weights = trained_weights(self.model, self.config)
        if max(self.history, key=lambda each: (each["acc_val"], -each["loss_val"])) is row:
            self.best_epoch, self.best_state = epoch, weights
        state = {name: getattr(self, name) for name in ("identity", *RESULTS)}
        if epoch < self.config.epochs:
            state |= {"model": weights} | {name: getattr(self, name).state_dict() for name in RESUMED}
        if self.writes:
            save_tensors(state, self.state_file)
        return row, confusion_matrix(targets, logits.argmax(1), labels=range(len(self.model.class_names)))

    def _train(self, epoch: int, dataset: Dataset, targets: Tensor) -> tuple[float, float]:
        """Mean loss and accuracy of a pass that changes the weights."""
        config, accelerator, targets = self.config, self.accelerator, targets.to(self.device)
        # Seeding each epoch by its number makes a resumed training see the same order and the same dropout.
        seed, count = config.seed * 100_003 + epoch, len(dataset)
        torch.manual_seed(seed + 10_007 * self.processes.process_index)
        self.shared.train()
        group = config.batch_size * config.accumulate_batches
        loss_sum = correct = done = 0
        for inputs, indices in self._batches(dataset, torch.Generator().manual_seed(seed)):
            start, done = done, min(done + config.batch_size, count)
            has_share = self.processes.process_index < done - start
            is_step = done % group == 0 or done == count
            with nullcontext() if is_step else accelerator.no_sync(self.shared):
                logits = self.shared(inputs)
                losses = has_share * F.cross_entropy(logits, targets[indices], reduction="sum")
                in_group = min(group, count - start // group * group)  # the last group may be smaller
                accelerator.backward(losses * self.processes.num_processes / in_group)  # of processes the mean is taken
            loss_sum += self._checked(losses, f"of epoch {epoch} after {start} images")
            correct += has_share * int((logits.argmax(1) == targets[indices]).sum())
            if is_step:
                self.stepper.step()
                self.stepper.zero_grad()
        loss_sum, correct = map(sum, zip(*gather_object([(loss_sum, correct)]), strict=True))
        return loss_sum / count, correct / count

    @torch.inference_mode()
    def _validate(self, dataset: Dataset, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes), on the CPU, of a pass that changes nothing, and the classes."""
        self.network.eval()
        answers = torch.empty(len(dataset), len(self.model.class_names))
        mine = [(indices.cpu(), self.network(inputs).cpu()) for inputs, indices in self._batches(dataset)]
        for indices, logits in gather_object(mine):
            answers[indices] = logits  # by index: what two processes have taken counts once
        return answers, targets

    def _batches(self, dataset: Dataset, order: torch.Generator | None = None) -> Iterator[list[Tensor]]:
        """Inputs and indices of this process's share of each batch, in a random order or in the data's own."""
        workers = 0 if self.head_only else choose_workers(self.config.workers, len(dataset), self.device)
        share = slice(self.processes.process_index, None, self.processes.num_processes)
        options = {"device": self.device, "workers": workers, "generator": order, "share": share}
        name = "validation" if order is None else "training"
        hidden = self.head_only or not self.writes  # a head takes a blink
        for batch in tqdm(load_batches(dataset, self.config.batch_size, **options), name, leave=False, disable=hidden):
            yield [tensor.to(self.device, non_blocking=True) for tensor in batch]

    def _checked(self, loss: Tensor, where: str) -> float:
        if not loss.isfinite():
            raise FloatingPointError(
                f"the loss {where} is {loss.item()}; the state after epoch {len(self.history)} is kept in "
                f"{self.state_file}. Lower learning_rate, or use precision='float32'."
            )
        return loss.item()

    def _part(self, part: str) -> tuple[Dataset, Tensor]:
        """Inputs, each with its index, and classes (n,)."""
        rows = self.table[self.table["part"] == part]
        if rows.empty:
            raise ValueError(f"the table has no image of part {part}; make it by splits.split_index")
        targets, indices = torch.from_numpy(self.model.classes.indices(rows["label"])), torch.arange(len(rows))
        if self.head_only:
            return TensorDataset(self._features(rows), indices), targets
        return PictureDataset(rows, self.model.transform, indices), targets

    def _measure_spread(self) -> None:
        """Mean and deviation of the features on the backbone as it is."""
        rows = self.table[self.table["part"] == "train"]
        if not self.head_only and len(rows) > SPREAD_IMAGES:
            rows = rows.sample(SPREAD_IMAGES, random_state=self.config.seed)
        self.model.set_feature_spread(self._features(rows, raw=True))

    def _features(self, rows: pd.DataFrame, *, raw: bool = False) -> Tensor:
        options = {"precision": self.config.precision, "workers": self.config.workers, "cache": self.cache}
        with self.processes.main_process_first():  # the others read what it has kept
            return compute_features(self.model, rows, device=self.device, raw=raw, **options)

"""One epoch: a pass over the training images that changes the weights, and one over validation that does not."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler
from tqdm import tqdm

from ..backbone.device import autocast, choose_precision, choose_workers
from ..config import Config
from .model import ViTMultiClassClassifier

MEMORY_ADVICE = (
    "out of memory. Halve batch_size and double accumulate_batches (same result), set checkpoint_gradients=True, "
    'take a smaller backbone (vit_small_patch16_224), or train_mode="head", which fits everywhere'
)
# What a CPU and other libraries say; "illegal memory access" is another thing.
NO_MEMORY = ("out of memory", "not enough memory", "allocate memory")


class Epochs:
    """A model with its optimiser and learning rates.

    With ``train_mode="head"`` the data sets hold features instead of images.
    """

    def __init__(self, model: ViTMultiClassClassifier, config: Config, device: torch.device) -> None:
        self.model, self.config, self.device = model, config, device
        self.precision = choose_precision(device, config.precision)
        self.head_only = config.train_mode == "head"
        if config.checkpoint_gradients:
            model.backbone.set_grad_checkpointing(True)
        self.optimizer = torch.optim.AdamW(parameter_groups(model, config), weight_decay=config.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=config.epochs)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)

    def state(self) -> dict[str, dict]:
        """All that a resumed training needs."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state(self, state: dict[str, dict]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("model", "optimizer", "scheduler", "scaler")}

    def run(self, epoch: int, train: Dataset, validation: Dataset) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        """Losses and accuracies of an epoch, and predicted and true classes (n,) of validation.

        Raises:
            FloatingPointError: If a loss is not finite.
            MemoryError: If the device has too little memory; the message says what to change.
        """
        rate = self.optimizer.param_groups[0]["lr"]
        # Seeding each epoch by its number makes a resumed training see the same order and the same dropout.
        torch.manual_seed(self.config.seed * 100_003 + epoch)
        try:
            loss_train, acc_train = self.train(epoch, train)
            loss_val, predictions, targets = self.validate(epoch, validation)
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
        }
        return row, predictions, targets

    def train(self, epoch: int, dataset: Dataset) -> tuple[float, float]:
        """Mean loss and accuracy of a pass that changes the weights."""
        self.model.train()
        if self.head_only:
            self.model.backbone.eval()
        config, count = self.config, len(dataset)
        generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        group = config.batch_size * config.accumulate_batches
        loss_sum = correct = passed = 0
        for step, (inputs, targets) in enumerate(self.batches(dataset, f"epoch {epoch}", generator)):
            with autocast(self.device, self.precision):
                logits = self.logits(inputs)
            losses = F.cross_entropy(logits.float(), targets, reduction="sum")
            if not torch.isfinite(losses):
                raise FloatingPointError(
                    f"the loss is {losses.item()} in epoch {epoch}, batch {step + 1}. The state after epoch "
                    f"{epoch - 1} is kept. Lower learning_rate, or use precision='float32'."
                )
            in_group = min(group, count - passed // group * group)  # the last group may be smaller
            self.scaler.scale(losses / in_group).backward()
            loss_sum += losses.item()
            correct += int((logits.argmax(1) == targets).sum())
            passed += len(targets)
            if passed % group == 0 or passed == count:
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad(set_to_none=True)
        return loss_sum / count, correct / count

    @torch.inference_mode()
    def validate(self, epoch: int, dataset: Dataset) -> tuple[float, np.ndarray, np.ndarray]:
        """Mean loss, and predicted and true classes (n,), of a pass that changes nothing."""
        self.model.eval()
        logits, targets = [], []
        for inputs, truth in self.batches(dataset, "validation"):
            with autocast(self.device, self.precision):
                logits.append(self.logits(inputs).float())
            targets.append(truth)
        joined, truth = torch.cat(logits), torch.cat(targets)
        loss = F.cross_entropy(joined, truth).item()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the validation loss is {loss} in epoch {epoch}; the state before it is kept")
        return loss, joined.argmax(1).cpu().numpy(), truth.cpu().numpy()

    def logits(self, inputs: Tensor) -> Tensor:
        """Of images, or of features where only the head is trained."""
        return self.model.classifier(inputs) if self.head_only else self.model(inputs)[0]

    def batches(
        self, dataset: Dataset, name: str, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches on the device, in the order of a generator or in the data's own."""
        size, options = self.config.batch_size, {"pin_memory": self.device.type == "cuda", "generator": generator}
        if self.head_only:  # features a batch at a time: one by one they would take longer than learning from them
            sampler = RandomSampler(dataset, generator=generator) if generator else SequentialSampler(dataset)
            batches = BatchSampler(sampler, size, drop_last=False)
            loader = DataLoader(dataset, batch_size=None, sampler=batches, **options)
        else:
            workers = choose_workers(self.config.workers, len(dataset), self.device)
            loader = DataLoader(dataset, size, shuffle=generator is not None, num_workers=workers, **options)
        for inputs, targets in tqdm(loader, desc=name, leave=False, disable=self.head_only):  # a head takes a blink
            yield inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)


def parameter_groups(model: ViTMultiClassClassifier, config: Config) -> list[dict]:
    """What this run changes, with its learning rates. Everything else is frozen, which saves its backward pass."""
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

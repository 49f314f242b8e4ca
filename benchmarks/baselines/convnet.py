"""A convolutional network that learns from nothing but the training images: what a ViT has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from joblib import Parallel, delayed
from torch import Tensor, nn
from tqdm import trange

from src.backbone.device import choose_device
from src.classifier.evaluation import Answers
from src.data.tables import Classes

from .recipes import answers_of
from .texture import SIDE, grain_of

AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class ConvolutionRecipe:
    """A network of timm, trained from random weights on grey pictures that are freed of slow changes of light.

    Crops at the pictures' own scale, flipped, turned, of changed contrast and with noise; classes weigh alike.
    """

    architecture: str = "resnet18"
    crop: int = 96  # pixels of a side in training; whole pictures are judged
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3  # highest, reached after a third of the steps
    seed: int = 42
    classes: Classes

    def answer(self, splits: Sequence[pd.DataFrame]) -> Answers:
        """Validation and test answers of a network that learned the training part of the first split."""
        device, train = choose_device(), splits[0][splits[0]["part"] == "train"]
        network = self._train(_read_all(train), torch.from_numpy(self.classes.indices(train["label"])), device)

        @torch.inference_mode()
        def judge(rows: pd.DataFrame) -> tuple[np.ndarray, Tensor]:
            batches = (network.forward_features(part.to(device)) for part in _read_all(rows).split(AT_ONCE))
            features = torch.cat([network.forward_head(batch, pre_logits=True).cpu() for batch in batches])
            return network.get_classifier().cpu()(features).softmax(1).numpy(), features

        return answers_of(splits[0], self.classes, judge)

    def _train(self, pictures: Tensor, targets: Tensor, device: torch.device) -> nn.Module:
        torch.manual_seed(self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        classes = len(self.classes.names)
        network = timm.create_model(self.architecture, pretrained=False, num_classes=classes, in_chans=1)
        network = network.to(device, memory_format=torch.channels_last).train()
        counts = torch.bincount(targets, minlength=classes)
        weights = (len(targets) / counts.clamp_min(1) / (counts > 0).sum()).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=0.05)
        steps = max(1, len(targets) // self.batch_size)  # the rest of an epoch, too small a batch, is left out
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.epochs * steps, pct_start=0.3
        )
        for _ in (bar := trange(self.epochs, desc=self.architecture, unit="epoch", leave=False)):
            losses = []
            for chosen in torch.randperm(len(targets), generator=generator).split(self.batch_size)[:steps]:
                images = _augment(pictures[chosen], self.crop, generator).to(device)
                loss = F.cross_entropy(network(images), targets[chosen].to(device), weight=weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            bar.set_postfix(loss=f"{np.mean(losses):.3f}")
        return network.eval()


def _read_all(rows: pd.DataFrame) -> Tensor:
    """The grain of every image, shape (n, 1, 227, 227), about -1 to 1."""
    pictures = Parallel(-1)(delayed(grain_of)(path) for path in rows["path"])
    return torch.from_numpy(np.stack(pictures))[:, None]


def _augment(images: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """A random crop of each image, turned, mirrored, of another contrast, with noise; (n, 1, crop, crop)."""
    pieces = []
    for image in images:
        top, left = (int(torch.randint(SIDE - crop + 1, (), generator=generator)) for _ in range(2))
        turns, mirrored = torch.randint(4, (2,), generator=generator).tolist()
        piece = torch.rot90(image[:, top : top + crop, left : left + crop], turns, (1, 2))
        pieces.append(piece.flip(2) if mirrored % 2 else piece)
    contrast, noise = torch.rand(2, len(images), 1, 1, 1, generator=generator)
    batch = torch.stack(pieces) * torch.exp(0.8 * (contrast - 0.5))
    batch = batch + 0.05 * noise * torch.randn(batch.shape, generator=generator)
    return batch.contiguous(memory_format=torch.channels_last)

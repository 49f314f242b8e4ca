"""Training: all weights or only the head, resume after an interruption, on one processor or several."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from ..config import Config, paths
from ..files import alone
from .model import ViTMultiClassClassifier, load_trained

HEAD_START_RATE = 3e-4  # of AdamW, for head_epochs
NO_MEMORY = ("out of memory", "not enough memory", "allocate memory")  # "illegal memory access" is another thing


@dataclass(frozen=True)
class TrainingResult:
    """What `train_model` returns; the model itself holds the best epoch's weights."""

    history: pd.DataFrame  # one row an epoch: epoch, loss_train, loss_val, acc_train, acc_val, lr, seconds
    best_epoch: int  # from 1: highest validation accuracy, then lowest validation loss
    seconds: float  # of training, interruptions left out
    device: str
    precision: str
    gain: float | None = None  # times as fast as float32 half precision was at the start; None: not measured
    is_main_process: bool = True  # of several that train together one writes files


def train_model(
    model: ViTMultiClassClassifier,
    table: pd.DataFrame,
    config: Config,
    *,
    models: Path = paths.models,
    logs: Path = paths.logs,
    resume: bool = True,
) -> TrainingResult:
    """Trains on part ``train``, chooses the epoch on part ``validation``, leaves the best weights in the model.

    Part ``test`` is never read. With ``head_epochs`` the head is trained alone first, as the run ``<run>.head``. The
    state after every epoch is kept in ``<models>/<run>.training.pt``. Called again with the same settings and images,
    an interrupted training goes on and ends, on a CPU, with the weights that an uninterrupted one has; a finished one
    returns at once. ``resume=False`` starts anew from the weights that the model has. Its bank is emptied.

    Device and processes are accelerate's. Several processes, which must see the same folders, share each batch.

    Raises ValueError if the state file belongs to other settings or images, FloatingPointError if a loss is not finite,
    MemoryError, with advice, if the device has too little, ImportError without accelerate. After these and after a
    KeyboardInterrupt the last whole epoch is kept and the model has the best weights so far.
    """
    from .epochs import Epochs  # here: nothing else needs accelerate

    state_file = Path(models) / f"{config.run}.training.pt"
    if not resume:  # every process may: none has a new one before all have ended an epoch
        state_file.unlink(missing_ok=True)
    if config.head_epochs and config.train_mode == "all" and not state_file.is_file():
        train_model(model, table, _head_start(config), models=models, logs=logs, resume=resume)
    epochs = Epochs(model, table, config, state_file, Path(models) / "cache")
    with alone(Path(models) / config.run) if epochs.writes else nullcontext():  # a second training waits
        epochs.processes.wait_for_everyone()
        epochs.restore()
        try:
            epochs.run(Path(logs) / config.run)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY):
                raise MemoryError(
                    f"{epochs.device}: out of memory. Halve batch_size and double accumulate_batches (same result), "
                    "set checkpoint_gradients=True, or take a smaller backbone or train_mode='head'"
                ) from error
            raise
        finally:  # after an interruption too: half an epoch's weights would spoil the next call
            load_trained(model, epochs.best_state, config)
    history, about = pd.DataFrame(epochs.history), (str(epochs.device), epochs.precision, epochs.gain, epochs.writes)
    return TrainingResult(history, epochs.best_epoch, history["seconds"].sum(), *about)


def _head_start(config: Config) -> Config:
    """The head alone on frozen features. Source: Kumar et al., ICLR 2022, linear probing before fine-tuning."""
    head = {"run": f"{config.run}.head", "train_mode": "head", "head_learning_rate": HEAD_START_RATE}
    return config.but(**head, epochs=config.head_epochs, head_epochs=0)

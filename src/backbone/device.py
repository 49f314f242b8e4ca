"""Where networks run, and in which precision."""

from __future__ import annotations

import contextlib
import os
import shutil
import time

import torch
from torch import Tensor, nn

FEW_IMAGES = 256  # below this, starting worker processes takes longer than it saves
SHARED = "/dev/shm"  # where Linux keeps what processes hand over; Docker gives it 64 MB
SHARED_BYTES = 1_000_000_000  # free there, or no workers: a batch of 64 pictures of 518 px has 0.2 GB


def choose_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(device: torch.device, wanted: str = "auto") -> torch.dtype:
    """The type that matrix products run in. ``auto`` takes half precision only where hardware makes it faster.

    bfloat16 on a CPU pays with matrix tiles (AMX); with vector instructions alone it was slower than float32.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    tiles = getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False)
    return torch.bfloat16 if device.type == "cpu" and tiles else torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager:
    """Mixed precision on this device; nothing for float32."""
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision)


def training_gain(network: nn.Module, inputs: Tensor, precision: torch.dtype) -> float:
    """How many times as fast as in float32 the network learns from inputs: best of 3 steps each, taken in turns."""
    seconds = {torch.float32: [], precision: []}
    for _ in range(4):  # the first warms up
        for data_type, taken in seconds.items():
            started = time.perf_counter()
            with autocast(inputs.device, data_type):
                answers = network(inputs)
            answers.float().square().mean().backward()
            getattr(torch, inputs.device.type).synchronize()
            taken.append(time.perf_counter() - started)
    network.zero_grad(set_to_none=True)
    return min(seconds[torch.float32][1:]) / min(seconds[precision][1:])


def choose_workers(wanted: int | None, images: int, device: torch.device) -> int:
    """Image-loading processes: few beside a CPU that computes, more beside a GPU, none where they do not pay or fit."""
    if wanted is not None:
        return wanted
    cores = os.cpu_count() or 1
    cramped = os.path.isdir(SHARED) and shutil.disk_usage(SHARED).free < SHARED_BYTES
    if images < FEW_IMAGES or cores == 1 or cramped:
        return 0
    return min(8, cores) if device.type == "cuda" else min(2, cores - 1)

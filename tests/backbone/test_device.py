"""What is chosen by the machine: device, precision, processes."""

import os
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from src.backbone import device
from src.backbone.device import autocast, choose_device, choose_precision, choose_workers, training_gain

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("wanted", "images", "device", "cores", "workers"),
    [
        (3, 10, CPU, 1, 3),  # what is asked for
        (0, 10_000, CUDA, 64, 0),
        (None, 255, CPU, 8, 0),  # too few images to pay
        (None, 256, CPU, 8, 2),
        (None, 256, CPU, 2, 1),  # one core computes
        (None, 10_000, CPU, 1, 0),
        (None, 10_000, CPU, None, 0),
        (None, 10_000, CUDA, 4, 4),
        (None, 10_000, CUDA, 64, 8),
    ],
)
def test_choose_workers(monkeypatch, wanted, images, device, cores, workers):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**10))
    assert choose_workers(wanted, images, device) == workers


@pytest.mark.parametrize(("free", "workers"), [(64 * 2**20, 0), (10**10, 4)])
def test_little_shared_memory_leaves_no_room_for_processes(monkeypatch, tmp_path, free, workers):
    """Docker gives 64 MB, and a batch that does not fit ends the process with a bus error."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(device, "SHARED", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert choose_workers(None, 10_000, CUDA) == workers and choose_workers(3, 10_000, CUDA) == 3
    monkeypatch.setattr(device, "SHARED", str(tmp_path / "not of this system"))
    assert choose_workers(None, 10_000, CUDA) == 4


@pytest.mark.parametrize(
    ("device", "bfloat16", "tiles", "precision"),
    [
        (CUDA, True, False, torch.bfloat16),
        (CUDA, False, False, torch.float16),
        (CPU, False, True, torch.bfloat16),
        (CPU, True, False, torch.float32),
        (torch.device("mps"), True, True, torch.float32),
    ],
)
def test_choose_precision(monkeypatch, device, bfloat16, tiles, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": tiles}, raising=False)
    assert choose_precision(device) == precision
    assert choose_precision(device, "float16") == torch.float16
    assert choose_precision(device, "float32") == torch.float32


@pytest.mark.parametrize(("cuda", "mps", "device"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_choose_device(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device().type == device


def test_autocast_changes_the_type_of_products():
    product = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (product @ product).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (product @ product).dtype == torch.float32


class Slow(nn.Linear):
    """Takes 20 ms where it is not in half precision."""

    def forward(self, inputs):
        time.sleep(0 if torch.is_autocast_enabled("cpu") else 0.02)
        return super().forward(inputs)


def test_the_gain_of_a_precision_is_measured_and_leaves_no_gradient():
    network = Slow(4, 4)
    assert training_gain(network, torch.ones(2, 4), torch.bfloat16) > 2
    assert network.weight.grad is None

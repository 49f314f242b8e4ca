"""What the notebooks' first cell installs, and what it leaves alone."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from src.config import paths
from tools import notebook

VERSIONS = {"torch": "2.9.0+cu126", "torchvision": "0.24.0", "numpy": "2.0.2", "pandas": "2.2.2"}
LINES = [
    "# a list",
    "torch>=2.6   # training",
    "torchvision>=0.21",
    "timm>=1.0  # networks",
    "numpy>=2.0",
    "ipykernel>=99",
]


@pytest.fixture
def machine(monkeypatch):
    """The installed versions, and the pip commands that were run, with their constraints."""
    versions, commands = dict(VERSIONS), []

    def run(command, *, check):
        assert check and command[:4] == [sys.executable, "-m", "pip", "install"]
        commands.append((command[7:], Path(command[6]).read_text(encoding="utf-8").split()))

    monkeypatch.setattr(notebook, "installed_version", versions.get)
    monkeypatch.setattr(subprocess, "run", run)
    return versions, commands


def test_only_what_is_missing_or_too_old_is_installed(machine):
    versions, _ = machine
    assert notebook.requirements_to_install(LINES) == (["timm>=1.0"], [])
    versions["numpy"] = "1.26.4"
    assert notebook.requirements_to_install(LINES) == (["timm>=1.0"], ["numpy>=2.0"])


def test_an_installed_torch_is_never_replaced(machine, capsys):
    versions, commands = machine
    versions["torch"] = "2.5.0+cu121"
    assert notebook.requirements_to_install(LINES) == (["timm>=1.0"], [])
    assert "torch 2.5.0+cu121 stays as it is" in capsys.readouterr().out
    notebook.install(["timm>=1.0"])
    assert commands == [(["timm>=1.0"], ["torch==2.5.0+cu121", "torchvision==0.24.0"])]


def test_torch_is_installed_where_there_is_none(machine):
    versions, commands = machine
    del versions["torch"], versions["torchvision"]
    notebook.install(notebook.requirements_to_install(LINES)[0])
    assert commands == [(["torch>=2.6", "torchvision>=0.21", "timm>=1.0"], [])]


def test_where_all_is_installed_pip_is_not_called(monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    lines = (paths.root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert notebook.requirements_to_install(lines) == ([], [])
    notebook.prepare()


def test_a_package_that_was_replaced_while_loaded_asks_for_a_restart():
    with pytest.raises(RuntimeError, match="pytest was loaded before it was replaced. Restart the kernel"):
        notebook.require_restart(["pytest>=99"])
    notebook.require_restart(["hatch-not-installed>=1"])


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """Stands in for Colab: mounting makes the folder of Drive."""
    mounted = types.ModuleType("google.colab.drive")
    mounted.mount = lambda place: (notebook.DRIVE / "MyDrive").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "google.colab.drive", mounted)
    monkeypatch.setattr(notebook, "DRIVE", tmp_path / "drive")
    for name in ("LEATHER_OUTPUT", "LEATHER_DATA"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    return tmp_path / "drive" / "MyDrive" / "leather"


def test_in_colab_what_is_written_goes_to_drive(colab):
    notebook.use_drive("leather")
    assert os.environ["LEATHER_OUTPUT"] == str(colab) and colab.is_dir() and "LEATHER_DATA" not in os.environ


def test_in_colab_data_are_read_from_drive_where_they_are(colab):
    (colab / "data" / "leather_defect_classification").mkdir(parents=True)
    (notebook.DRIVE / "MyDrive").joinpath("other").mkdir()
    sys.modules["google.colab.drive"].mount = lambda place: None
    notebook.use_drive("leather")
    assert os.environ["LEATHER_DATA"] == str(colab / "data")


def test_drive_is_refused_outside_colab():
    with pytest.raises(RuntimeError, match="LEATHER_OUTPUT and LEATHER_DATA"):
        notebook.use_drive("leather")

"""The command: help without torch, the files of a run, what is missing is named."""

import subprocess
import sys

import pytest
import timm
import torch

from src.classifier import report
from src.classifier import train as command
from src.classifier.checkpoints import load_checkpoint
from src.config import PRESETS, paths
from src.data import download
from tests.classifier.conftest import fresh, train


def test_help_loads_no_network():
    code = "import sys, src.classifier.train; assert not {'torch', 'accelerate', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=paths.root, check=True)


def test_without_accelerate_the_extra_is_named(table, config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delitem(sys.modules, "src.classifier.epochs", raising=False)
    with pytest.raises(ImportError, match=r"leather-defects\[full\]"):
        train(fresh(config), table, config, tmp_path)


@pytest.mark.usefixtures("quick_figure")
def test_the_command_writes_all_files_of_a_run_and_goes_on(pictures, config, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True, img_size=48)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    small = config.but(train_mode="head", epochs=2, weights=str(tmp_path / "weights.pth"))
    monkeypatch.setitem(PRESETS, "small", small)
    monkeypatch.setattr(download, "find_data", lambda _: ("tiny", pictures))
    for name in ("models", "logs", "reports"):
        monkeypatch.setattr(paths, name, tmp_path / name)
    assert command.main(["--preset", "small"]) == 0
    printed = capsys.readouterr().out
    assert "kept epoch" in printed and "tiny.pth" in printed and "resultados_multiclase" in printed
    assert (tmp_path / "models" / "tiny.pth").is_file() and list((tmp_path / "logs" / "tiny").iterdir())
    assert (tmp_path / "reports" / "tiny" / "resultados_multiclase" / "results_summary.json").is_file()
    monkeypatch.setitem(PRESETS, "small", small.but(seed=1))
    assert command.main(["--preset", "small"]) == 1 and "resume=False" in capsys.readouterr().err
    monkeypatch.setattr(report, "write_reports", lambda *_: [])  # they are drawn already
    assert command.main(["--preset", "small", "--anew"]) == 0
    assert load_checkpoint(tmp_path / "models" / "tiny.pth")[1]["config"]["seed"] == 1

"""The command as it is typed: help, wrong arguments, and a thousand pictures of which some are broken."""

import struct
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from src.config import paths
from src.inspection.__main__ import main


def test_help_and_wrong_arguments_need_no_network():
    code = "import sys; from src.inspection.__main__ import _parser; _parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=paths.root, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "PIL"} & set(loaded.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no file or folder nowhere"),
        ([".", "--normals", "nowhere"], "--normals nowhere is no folder"),
        ([".", "--mask", "nowhere"], "--mask nowhere is no folder"),
        ([".", "--classifier", "none.pth"], "--classifier none.pth is no file"),
        ([".", "--weights", "best"], "--weights best is neither shipped nor timm nor a file"),
        ([".", "--threshold", "1.5"], "--threshold is 1.5; expected more than 0 and less than 1"),
        ([".", "--mm-per-pixel", "nan"], "--mm-per-pixel is nan"),
        ([".", "--mm-per-pixel", "0,5"], "'0,5' is no number; write it like 0.5"),
        ([], "PICTURES"),
    ],
)
def test_wrong_arguments_end_with_a_message_that_names_them(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


# -- slow: the command, with a small random network -----------------------------------------------


@pytest.fixture
def network(tmp_path):
    """Arguments that take a network of random weights, which has no head."""
    file = tmp_path / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0, pretrained=False).state_dict(), file)
    return ["--backbone", "test_vit", "--weights", str(file)]


def write_leather(folder, count, side):
    generator = np.random.default_rng(1)
    folder.mkdir()
    for number in range(count):
        pixels = generator.normal(110, 12, (side, side, 3))
        if number % 4 == 0:
            pixels[side // 3 : side // 2, side // 3 : side // 2] += 90
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04d}.png")
    return folder


def broken_pictures(good):
    """Thirty files that cannot be read, in six ways."""
    png, header = good.read_bytes(), struct.pack(">II", 60000, 60000)
    large = png[:16] + header + png[24:]
    ways = [b"", b"text, no picture", png[: len(png) // 2], png[:30], large, b"\xff\xd8\xff\xe0" + bytes(100)]
    return [ways[number % 6] for number in range(30)]


@pytest.mark.slow
def test_of_a_thousand_pictures_thirty_are_broken_and_named(tmp_path, network, small_and_quick):
    leather = write_leather(tmp_path / "leather", 970, 32)
    broken = broken_pictures(leather / "0000.png")
    for number, content in enumerate(broken):
        (leather / f"{31 * number:04d}-broken.png").write_bytes(content)
    assert main([str(leather), *network, "--output", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "leather" / "inspection.csv")
    failed = table[table["verdict"] == "error"]
    assert len(table) == 1000 and len(failed) == 30 and failed["file"].str.endswith("-broken.png").all()
    assert all(file in error for file, error in zip(failed["file"], failed["error"], strict=True))
    assert (tmp_path / "out" / "leather" / "index.html").stat().st_size < 30e6

"""Engines: the same tokens as torch's, the right one for each machine, no silent fallback, nothing is sent anywhere."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src.backbone import engines
from src.backbone.engines import OpenVinoEngine, TorchEngine, choose_engine, machine_features
from src.backbone.vit import load_backbone
from src.config import paths
from src.synthetic.leather import render_leather

BLOCKS = (1, 3)
CPU = {"avx2", "openvino"}
needs_openvino = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="needs openvino")
needs_nncf = pytest.mark.skipif(not importlib.util.find_spec("nncf"), reason="needs nncf")


@pytest.fixture
def images():
    """Seven pictures of three shapes, alike ones not always beside each other."""
    shapes = [(48, 48), (48, 48), (64, 32), (48, 48), (32, 64), (32, 64), (64, 32)]
    return [render_leather(np.random.default_rng(n), 64)[:h, :w] for n, (h, w) in enumerate(shapes)]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Folder of converted networks: `backbone` has the same weights in every test."""
    return tmp_path_factory.mktemp("models") / "cache"


def make(kind, backbone, folder, **options):
    if kind == "torch":
        return TorchEngine(backbone, BLOCKS, **options)
    return OpenVinoEngine(backbone, BLOCKS, precision=kind, cache=folder, **options)


def literal(backbone, image):
    """Unit tokens (blocks, rows, columns, d) of one picture, step by step."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    pixels = (torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 - mean) / std
    tokens = backbone.tokens(pixels[None], blocks=BLOCKS)
    return torch.stack([F.normalize(block[0].permute(1, 2, 0), dim=-1) for block in tokens])


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        ("torch", 1e-5),
        pytest.param("float32", 1e-4, marks=needs_openvino),
        pytest.param("bfloat16", 0.05, marks=needs_openvino),
    ],
)
def test_tokens_of_pictures_of_any_shape_in_their_order(backbone, images, converted, kind, tolerance):
    answers = list(make(kind, backbone, converted).tokens(iter(images)))
    assert len(answers) == 7
    for answer, image in zip(answers, images, strict=True):
        assert answer.shape == (2, image.shape[0] // 16, image.shape[1] // 16, 64) and answer.dtype == torch.float32
        torch.testing.assert_close(answer, literal(backbone, image), atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", ["torch", pytest.param("float32", marks=needs_openvino)])
def test_pictures_are_taken_as_they_are_needed(backbone, images, converted, kind):
    taken = []
    answers = make(kind, backbone, converted).tokens(taken.append(n) or images[0] for n in range(1000))
    assert next(answers).shape[0] == 2 and len(taken) < 100
    assert list(make(kind, backbone, converted).tokens([])) == []


@pytest.mark.parametrize(
    ("features", "engine", "precision"),
    [
        ({"cuda"}, "torch", "half"),
        ({"mps"}, "torch", "float16"),
        ({"apple"}, "torch", "float32"),
        (CPU | {"avx512_bf16", "amx_bf16"}, "openvino", "bfloat16"),
        (CPU | {"avx512_bf16"}, "openvino", "bfloat16"),
        (CPU, "openvino", "float32"),
        ({"avx2", "amx_bf16"}, "torch", "bfloat16"),
        ({"avx2"}, "torch", "float32"),
        (set(), "torch", "float32"),
    ],
)
def test_every_machine_has_its_row(monkeypatch, backbone, capsys, features, engine, precision):
    monkeypatch.setattr(engines, "machine_features", lambda device: features)
    for name in ("TorchEngine", "OpenVinoEngine"):
        monkeypatch.setattr(engines, name, FakeEngine)
    facts = choose_engine("auto", backbone, BLOCKS).facts
    assert facts["precision"] == precision and facts["reason"] in capsys.readouterr().out
    assert (engine, precision, facts["reason"]) in {row[1:] for row in engines.TABLE}


class FakeEngine:
    def __init__(self, backbone, blocks, *, precision, reason, calibration=()):
        self.facts = {"engine": "fake", "precision": precision, "reason": reason, "version": "0"}


def test_this_machine_has_an_engine_that_runs(backbone, images, converted, monkeypatch):
    monkeypatch.setattr(engines.paths, "models", converted.parent)
    engine = choose_engine("auto", backbone, BLOCKS)
    assert next(engine.tokens(images[:1])).shape == (2, 3, 3, 64)
    assert set(engine.facts) == {"engine", "precision", "reason", "version"}


def test_without_openvino_the_reason_names_the_extra(monkeypatch, backbone, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "platform", "linux")
    assert "openvino" not in machine_features(torch.device("cpu"))
    assert choose_engine("auto", backbone, BLOCKS).facts["engine"] == "torch"
    assert ".[runtime]" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"pip install '.\[runtime\]'"):
        choose_engine("openvino", backbone, BLOCKS)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (CPU, "no VNNI, without which int8 saturates"),
        (CPU | {"avx512_vnni"}, "needs pictures to calibrate on"),
        ({"apple"}, "not Apple's"),
        ({"cuda"}, "runs on a processor"),
    ],
)
def test_int8_is_refused_with_the_reason(monkeypatch, backbone, features, message):
    monkeypatch.setattr(engines, "machine_features", lambda device: features)
    with pytest.raises(ValueError, match=message):
        choose_engine("openvino-int8", backbone, BLOCKS)


@needs_openvino
@pytest.mark.parametrize("factor", [1.5, float("nan")])
def test_torch_takes_over_with_a_message_where_tokens_differ(backbone, images, converted, caplog, factor):
    engine = make("float32", backbone, converted)
    facts = engine.facts
    with torch.no_grad():
        backbone.network.blocks[0].mlp.fc1.weight.mul_(factor).add_(0.1)
    wanted = list(TorchEngine(backbone, BLOCKS).tokens(images))
    answers = list(engine.tokens(images))
    assert "torch takes over" in caplog.text and facts["engine"] == "torch" and "differ from torch's" in facts["reason"]
    torch.testing.assert_close(answers, wanted, atol=1e-5, rtol=0, equal_nan=True)


@needs_openvino
def test_the_converted_network_is_kept_by_its_weights(backbone, images, tmp_path, monkeypatch):
    first = list(make("float32", backbone, tmp_path).tokens(images))
    assert len(list(tmp_path.glob("openvino_*.pt"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(engines, "converted", None)
        again = list(make("float32", backbone, tmp_path).tokens(images))
        torch.testing.assert_close(again, first, atol=1e-6, rtol=0)
        with torch.no_grad():
            backbone.network.blocks[0].mlp.fc1.weight.mul_(2)
        with pytest.raises(TypeError):
            make("float32", backbone, tmp_path)
    changed = list(make("float32", backbone, tmp_path).tokens(images))
    torch.testing.assert_close(changed[0], literal(backbone, images[0]), atol=1e-4, rtol=0)


@needs_openvino
def test_a_damaged_file_is_converted_anew(backbone, images, tmp_path):
    make("float32", backbone, tmp_path)
    next(tmp_path.iterdir()).write_bytes(b"damaged")
    answer = next(make("float32", backbone, tmp_path).tokens(images))
    torch.testing.assert_close(answer, literal(backbone, images[0]), atol=1e-4, rtol=0)


@needs_nncf
@pytest.mark.slow
def test_int8_says_what_it_costs(backbone, images, tmp_path, capsys):
    engine = make("int8", backbone, tmp_path, calibration=images[:4])
    said = capsys.readouterr().out
    loss = float(said.split("int8 costs ")[1].split(",")[0])
    pairs = zip(engine._run(images[:4]), [literal(backbone, image) for image in images[:4]], strict=True)
    wanted = torch.stack([1 - (mine * other).sum(-1).mean((1, 2)) for mine, other in pairs]).mean(0).max()
    assert 0 < loss < 0.05 and loss == pytest.approx(float(wanted), abs=2e-4)
    make("int8", backbone, tmp_path, calibration=images[2:])
    assert len(list(tmp_path.iterdir())) == 2  # other pictures, another network


SILENT = """
import os, socket, subprocess, sys, multiprocessing
tried = []
def refuse(name):
    def call(*arguments, **options):
        tried.append(f"{name} {arguments[1:2]}")
        raise OSError(f"{name} is not allowed here")
    return call
import torch, timm, numpy as np
socket.socket.connect = refuse("connect")
socket.getaddrinfo = refuse("getaddrinfo")
subprocess.Popen.__init__ = refuse("Popen")
multiprocessing.Process.start = refuse("Process")
multiprocessing.process.BaseProcess.start = refuse("Process")
os.fork = os.posix_spawn = os.system = refuse("fork")
from pathlib import Path
from src.backbone.engines import OpenVinoEngine
from src.backbone.vit import load_backbone
backbone = load_backbone("test_vit", "timm", pretrained=False, image_size=48)
images = [np.full((48, 48, 3), 40 * n, np.uint8) for n in range(3)]
engine = OpenVinoEngine(backbone, (1,), precision=sys.argv[2], calibration=images, cache=Path(sys.argv[1]))
assert len(list(engine.tokens(images))) == 3
assert not tried, tried
assert sys.modules["openvino_telemetry"] is None
print("silent")
"""


@needs_openvino
@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=[needs_nncf, pytest.mark.slow])])
def test_no_usage_statistics_are_sent(tmp_path, precision):
    answer = subprocess.run(
        [sys.executable, "-c", SILENT, str(tmp_path), precision], cwd=paths.root, capture_output=True, text=True
    )
    assert answer.returncode == 0 and answer.stdout.splitlines()[-1] == "silent", answer.stderr


@needs_openvino
@pytest.mark.slow
def test_the_shipped_backbone_at_half_precision(tmp_path):
    backbone = load_backbone("vit_tiny_patch16_224", "shipped")
    engine = OpenVinoEngine(backbone, (5, 11), precision="bfloat16", cache=tmp_path)
    image = render_leather(np.random.default_rng(0), 448)
    assert engine._loss([image]) < engines.TOLERANCE["bfloat16"]


SIGNALS = """
import gc, signal, subprocess, sys
from pathlib import Path
import numpy as np
from src.backbone.engines import OpenVinoEngine
from src.backbone.vit import load_backbone
backbone = load_backbone("test_vit", "timm", image_size=48, pretrained=False)
engines = [OpenVinoEngine(backbone, (1,), precision="float32", cache=Path(sys.argv[1])) for _ in range(2)]
for engine in engines:
    next(engine.tokens([np.zeros((48, 48, 3), np.uint8)]))
signal.signal(signal.SIGCHLD, lambda *_: None)
for _ in range(2):
    engine = engines.pop(0)
    del engine
    gc.collect()
    subprocess.run(["true"])
print("alive")
"""


@needs_openvino
def test_engines_that_are_gone_leave_signals_their_stack(tmp_path):
    """OpenVINO gives the thread a stack for signals. Were it gone, the next child that ends would crash the process."""
    done = subprocess.run([sys.executable, "-c", SIGNALS, tmp_path], capture_output=True, text=True, cwd=paths.root)
    assert done.returncode == 0 and done.stdout.endswith("alive\n"), done.stderr

"""Training of a head at tiny settings from end to end, and its thresholds and figures by hand."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from src.backbone.vit import load_backbone
from src.localisation.head import find_head
from src.localisation.thresholds import make_encoder, zero_shot_detector
from tests.tools.test_head_data import textures_in
from tools import head_data, train_head
from tools.train_head import boxes_hit, calibrate, verdict_thresholds


def test_a_head_is_made_and_found(tmp_path, monkeypatch, capsys):
    """From pictures on the disk to a file that fits its backbone, and no other one."""
    network = load_backbone("test_vit", "shipped", pretrained=False, image_size=448)
    save_file(network.network.state_dict(), tmp_path / "weights.safetensors")
    root, boxes = textures_in(tmp_path / "textures")
    for name, value in {"BOXED": 1, "GREY_SHARE": 0.2}.items():
        monkeypatch.setattr(head_data, name, value)
    monkeypatch.setattr(train_head, "BATCH", 2)
    monkeypatch.setattr(train_head, "paths", SimpleNamespace(heads=tmp_path / "heads"))
    (tmp_path / "heads").mkdir()
    options = {"textures": root, "boxes": boxes, "work": tmp_path / "work", "name": "tiny", "backbone": "test_vit"}
    options |= {"weights": tmp_path / "weights.safetensors", "validation-list": tmp_path / "list.csv"}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = ["train_head", *arguments, "--blocks", "3", "1", "--seeds", "4", "5"]
    monkeypatch.setattr(sys, "argv", command)
    train_head.main()

    backbone = load_backbone("test_vit", str(tmp_path / "weights.safetensors"), image_size=448)
    head = find_head(backbone, tmp_path / "heads")
    assert head.facts.blocks == (1, 3) and head.facts.made["seed"] == 4 and 0 < head.facts.outline < 1
    assert set(head.facts.verdict) == {"own", "normals", "folder"}
    assert find_head(load_backbone("test_vit", "", pretrained=False), tmp_path / "heads") is None
    assert sorted(file.name for file in (tmp_path / "work").glob("*.safetensors")) == [
        "head_4.safetensors",
        "head_5.safetensors",
    ]
    detector = zero_shot_detector(make_encoder(backbone, zoom=1.75, head=head), head, [])
    values = detector.judge(Image.open(root / "colour" / "2.png").resize((256, 256))).map
    assert values.shape == (256, 256) and 0 <= values.min() < values.max() <= 1
    assert '"painted_pixel_ap"' in capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", [*command[:-5], "1", "2", "--seeds", "4"])  # other blocks, the same folder
    with pytest.raises(ValueError, match="another --work"):
        train_head.main()


def test_verdicts_by_hand():
    """Flat maps score their value; what lies in a box does not count."""
    maps = np.broadcast_to((np.arange(101) / 100)[:, None, None], (101, 8, 8)).copy()
    labels = np.zeros(maps.shape, np.uint8)
    maps[::2, 2:4, 2:4], labels[::2, 2:4, 2:4] = 1.0, 1
    points = verdict_thresholds(maps, labels, np.repeat(np.arange(51), 2)[:101], outline=0.5)
    assert points["n"] == 101 and points["originals"] == 51
    for rate, threshold in (("0.05", 0.95), ("0.01", 0.99)):
        low, high = points[rate]["interval"]
        assert points[rate]["threshold"] == pytest.approx(threshold)
        assert low <= points[rate]["threshold"] <= high and low < high <= 1


def test_boxes_by_hand():
    maps, labels = np.zeros((2, 10, 10)), np.zeros((2, 10, 10), np.uint8)
    labels[0, 0:2, 0:2] = labels[1, 0:3, 0:3] = labels[1, 5:8, 5:8] = 1
    maps[0, 1, 1] = 0.9  # in the box
    maps[1, 9, 0] = 0.8  # the highest, outside
    maps[1, 9, 1:9] = 0.5  # with it more than 1 % of what is outside
    maps[1, 6, 6] = 0.7
    figures = boxes_hit(maps, labels)
    assert figures == {"n": 2, "peak_in_box": 0.5, "boxes": 3, "boxes_hit": pytest.approx(2 / 3)}


def test_calibrated_logits_are_probabilities():
    generator = np.random.default_rng(0)
    logits = generator.normal(-1, 2, (4, 90, 90))
    labels = np.uint8(generator.uniform(size=logits.shape) < 1 / (1 + np.exp(-(0.5 * logits - 1))))
    slope, offset = calibrate([logits], labels)
    assert slope == pytest.approx(0.5, abs=0.1) and offset == pytest.approx(-1, abs=0.1)


def test_training_lowers_the_loss_where_distances_tell(monkeypatch):
    """Where the distance is high there is a defect: a few steps are enough to rank it first."""
    generator = torch.Generator().manual_seed(0)
    distances, labels = torch.zeros(4, 3, 5, 32, 32), torch.zeros(4, 256, 256, dtype=torch.uint8)
    distances[:, :, :4] = torch.randn(4, 1, 4, 32, 32, generator=generator)
    distances[:, 1:, 4] = 1
    for number in range(4):
        row, column = 4 + 5 * number, 20 - 4 * number
        distances[number, :, :4, row : row + 4, column : column + 4] += 6
        labels[number, 8 * row : 8 * row + 32, 8 * column : 8 * column + 32] = 1
    pictures = torch.full((4, 3, 256, 256), 128, dtype=torch.uint8)
    data = head_data.Examples(list("abcd"), distances.half(), pictures, labels)
    monkeypatch.setattr(train_head, "BATCH", 4)
    network = train_head.train(data, torch.zeros(4, 8, 256, 256), seed=0, epochs=60)
    with torch.inference_mode():
        logits = network(distances[:, 1], torch.zeros(4, 8, 256, 256))
    inside = labels == 1
    assert logits[inside].mean() > logits[~inside].mean() + 2

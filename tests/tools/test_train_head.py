"""Training of a head at tiny settings from end to end, and its thresholds and figures by hand."""

import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from src.backbone.vit import load_backbone
from src.localisation.head import find_head
from src.localisation.thresholds import make_encoder, zero_shot_detector
from tests.tools.test_head_data import textures_in
from tools import head_data, train_head
from tools.boxes import USES
from tools.train_head import REFERENCES


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


@pytest.mark.parametrize(("boxes", "references"), list(zip(USES, [*REFERENCES, "mixed"], strict=True)))
def test_training_lowers_the_loss_where_distances_tell(monkeypatch, boxes, references):
    """Where the distance is high there is a defect: a few steps are enough to rank it first."""
    generator = torch.Generator().manual_seed(0)
    distances, labels = torch.zeros(4, 5, 5, 32, 32), torch.zeros(4, 256, 256, dtype=torch.uint8)
    distances[:, :, :4] = torch.randn(4, 1, 4, 32, 32, generator=generator)
    distances[:, 1:, 4] = 1
    for number in range(4):
        row, column = 4 + 5 * number, 20 - 4 * number
        distances[number, :, :4, row : row + 4, column : column + 4] += 6
        labels[number, 8 * row : 8 * row + 32, 8 * column : 8 * column + 32] = 1
    labels[0, :40, 200:] = 3
    data = head_data.Examples(list("abcd"), distances.half(), torch.zeros(4, 8, 256, 256, dtype=torch.int8), labels)
    monkeypatch.setattr(train_head, "BATCH", 4)
    network = train_head.train(data, seed=0, epochs=60, boxes=boxes, references=references)
    with torch.inference_mode():
        logits = network(distances[:, 1], torch.zeros(4, 8, 256, 256))
    inside = labels == 1
    assert logits[inside].mean() > logits[~inside].mean() + 2

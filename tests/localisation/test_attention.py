"""Attention as a map of defects: the backbone's own maps at the size of evaluation, and beside the anomaly map."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.backbone.vit import image_transform, load_backbone
from src.data.pictures import load_image
from src.localisation.attention import attention_figure, attention_maps
from src.localisation.localise import Localisation
from src.localisation.regions import judge_map


def test_maps_are_the_models_enlarged_and_not_rescaled(backbone, test_rows):
    transform = image_transform(48, mean=backbone.mean, std=backbone.std)
    maps = attention_maps(backbone, test_rows)
    assert list(maps) == ["cls", "rollout"]
    for number, path in enumerate(test_rows["path"]):
        raw = backbone.attention_maps(transform(load_image(path))[None])
        for name, values in maps.items():
            assert values.shape == (len(test_rows), 256, 256) and values.dtype == np.float32
            assert raw[name].min() <= values[number].min() < values[number].max() <= raw[name].max()
            assert values[number][128, 128] == pytest.approx(raw[name][0, 1, 1].item(), rel=0.01)  # middle of 3 x 3


def test_maps_are_those_of_all_blocks(test_rows):
    """They were once those of the blocks that the features read, under the name of all."""
    torch.manual_seed(0)
    backbone = load_backbone("test_vit", "timm", image_size=48, pretrained=False)
    images = torch.randn(1, 3, 48, 48)
    assert backbone.attention_maps(images)["heads"].shape[1] == backbone.depth == 6
    before = attention_maps(backbone, test_rows[:1])
    with torch.no_grad():
        backbone.network.blocks[-1].attn.qkv.weight.mul_(30)
    after = attention_maps(backbone, test_rows[:1])
    assert all(not np.allclose(before[name], after[name], atol=1e-4) for name in before)


def test_a_backbone_without_a_class_token_has_none_and_the_rest_is_shown(test_rows, shown):
    backbone = load_backbone("test_vit2", "timm", image_size=48, pretrained=False)
    assert attention_maps(backbone, test_rows) == {}
    assert len(attention_figure(shown, {}).axes) == 3  # the image, the anomaly map and its scale


@pytest.fixture
def shown(tmp_path, crafted):
    """Two images with maps of 8 x 8; the second has the higher score."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20), (10, 200, 30)).save(tmp_path / name)
    test = pd.DataFrame({"path": [str(tmp_path / name) for name in ("a.png", "b.png")], "file": ["cut/a", "cut/b"]})
    maps = np.stack([np.zeros((8, 8)), np.linspace(0, 1, 64).reshape(8, 8)])
    judgements = [judge_map(values, crafted.thresholds) for values in maps]
    return Localisation("4-shot", test, judgements, maps, maps > 2, crafted.thresholds, True, {})


def test_the_figure_shows_the_anomaly_map_beside_attention(shown):
    attention = {"cls": np.linspace(0, 0.4, 128).reshape(2, 8, 8), "rollout": np.linspace(0, 0.9, 128).reshape(2, 8, 8)}
    figure = attention_figure(shown, attention)
    picture, heat, cls, rollout = [axes.images[0] for axes in figure.axes[:4]]
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["image", "anomaly map"]
    assert [axes.get_title(loc="left") for axes in figure.axes[2:4]] == [
        "class token, last block",
        "rollout, all blocks",
    ]
    assert picture.get_array().shape == (256, 256, 3) and np.allclose(heat.get_array(), shown.maps[1])
    for panel, maps in ((cls, attention["cls"]), (rollout, attention["rollout"])):
        assert np.array_equal(panel.get_array(), maps[1]) and panel.get_clim() == (0, maps[1].max())
    assert figure.get_suptitle() == "cut/b" and not plt.fignum_exists(figure.number)

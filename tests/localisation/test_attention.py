"""Attention as a map of defects: the backbone's own maps, measured and shown."""

import numpy as np
import pytest
import torch

from src.backbone.vit import image_transform
from src.data.pictures import load_image, load_mask
from src.localisation.attention import attention_figure, attention_maps, attention_metrics
from src.localisation.pixel_metrics import pixel_metrics


@pytest.fixture
def image(test_rows):
    return load_image(test_rows["path"][0])


def test_maps_are_the_models_enlarged_and_not_rescaled(backbone, image):
    transform = image_transform(48, mean=backbone.mean, std=backbone.std)
    raw = backbone.attention_maps(transform(image)[None])
    found = attention_maps(backbone, image)
    assert set(found) == {"cls", "rollout"}
    for kind, values in found.items():
        assert values.shape == (256, 256) and values.dtype == np.float32
        assert raw[kind].min() <= values.min() < values.max() <= raw[kind].max()


def test_metrics_are_those_of_the_maps(backbone, test_rows):
    found = attention_metrics(backbone, test_rows)
    rows = [(load_image(row.path), row.mask) for row in test_rows.itertuples()]
    masks = [torch.from_numpy(load_mask(mask, size=image.size)).float()[None, None] for image, mask in rows]
    masks = torch.cat([torch.nn.functional.interpolate(mask, (256, 256)) for mask in masks])[:, 0].numpy() > 0
    for kind in ("cls", "rollout"):
        maps = np.stack([attention_maps(backbone, image)[kind] for image, _ in rows])
        wanted = pixel_metrics(maps, masks)
        assert set(found[kind]) == set(wanted)
        assert found[kind]["pixel_auroc"] == pytest.approx(wanted["pixel_auroc"], abs=0.02)


def test_figure_shows_the_anomaly_map_in_units_of_its_threshold_beside_attention(backbone, test_rows, image):
    heat = np.linspace(0, 1, 64).reshape(8, 8)
    figure = attention_figure(backbone, test_rows["path"][0], heat, threshold=0.5, title="cut/000.png")
    picture, *panels = [axes.images[0].get_array() for axes in figure.axes[:4]]
    assert picture.shape == (256, 256, 3) and np.allclose(panels[0], 2 * heat)
    for shown, values in zip(panels[1:], attention_maps(backbone, image).values(), strict=True):
        assert np.array_equal(shown, values)

"""What the model's own attention is worth as a map of defects: measured as any other map, and shown beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from ..backbone.vit import Backbone, image_transform
from ..data.pictures import load_image, load_mask
from .bank import EVALUATION_SIZE, evaluated_mask, upsample_maps
from .figures import plot_attention
from .pixel_metrics import pixel_metrics

KINDS = {"cls": "class token, last block", "rollout": "rollout, all blocks"}


def attention_metrics(backbone: Backbone, test: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Pixel figures of attention maps at the model's input size, higher attention taken as more anomalous.

    Args:
        backbone: With a class token; on whatever device it is.
        test: Rows of `index_mvtec`, part ``test``.

    Returns:
        By kind, ``cls`` (class token of the last block) and ``rollout``: the figures of `pixel_metrics`.

    Raises:
        ValueError: If the backbone has no class token.
    """
    maps, masks = {kind: [] for kind in KINDS}, []
    for row in tqdm(test.itertuples(), total=len(test), desc="attention", unit="img"):
        image = load_image(row.path)
        for kind, values in attention_maps(backbone, image).items():
            maps[kind].append(values)
        masks.append(evaluated_mask(load_mask(row.mask, size=image.size)))
    return {kind: pixel_metrics(np.stack(values), np.stack(masks)) for kind, values in maps.items()}


def attention_maps(backbone: Backbone, image: Image.Image) -> dict[str, np.ndarray]:
    """Attention of the class token to one image by kind, each float32 (256, 256), share of attention per patch."""
    transform = image_transform(backbone.image_size, mean=backbone.mean, std=backbone.std)
    attention = backbone.attention_maps(transform(image)[None].to(backbone.device))
    return {kind: upsample_maps(attention[kind].cpu(), (EVALUATION_SIZE,) * 2)[0].numpy() for kind in KINDS}


def attention_figure(backbone: Backbone, path: str, anomaly_map: np.ndarray, *, threshold: float, title: str) -> Figure:
    """One image beside its anomaly map, in units of the threshold, and the model's attention to it.

    Args:
        backbone: With a class token.
        path: The image.
        anomaly_map: Of the image, shape (h, w).
        threshold: Of the map.
        title: Of the whole figure.
    """
    image = load_image(path)
    attention = {KINDS[kind]: values for kind, values in attention_maps(backbone, image).items()}
    shown = np.asarray(image.resize((EVALUATION_SIZE,) * 2))
    return plot_attention(shown, attention, anomaly_map=anomaly_map / threshold, title=title)

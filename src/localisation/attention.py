"""What the model's own attention is worth as a map of defects: measured as any other map, and shown beside it."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch.nn.functional as F
from matplotlib.figure import Figure
from tqdm import tqdm

from ..backbone.vit import Backbone, image_transform
from ..data.pictures import load_image
from ..style import HEAT, STYLE, WIDTH, bare, set_title
from .localise import EVALUATION_SIZE, Localisation

NAMES = {"cls": "class token, last block", "rollout": "rollout, all blocks"}


def attention_maps(backbone: Backbone, test: pd.DataFrame) -> dict[str, np.ndarray]:
    """Attention of the class token to each image of `index_mvtec`, by the keys of `NAMES`, float32 (n, 256, 256).

    Whole images at the model's input size; share of attention per patch. Without a class token there are none.
    """
    if backbone.network.cls_token is None:
        return {}
    transform = image_transform(backbone.image_size, mean=backbone.mean, std=backbone.std)
    maps: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for path in tqdm(test["path"], desc="attention", unit="img"):
        attention = backbone.attention_maps(transform(load_image(path))[None].to(backbone.device))
        for name, its_maps in maps.items():
            enlarged = F.interpolate(attention[name][None].cpu(), EVALUATION_SIZE, mode="bilinear", align_corners=False)
            its_maps.append(enlarged[0, 0].numpy())
    return {name: np.stack(its_maps) for name, its_maps in maps.items()}


@mpl.rc_context(STYLE)
def attention_figure(shown: Localisation, attention: dict[str, np.ndarray]) -> Figure:
    """The image of the highest score, its anomaly map and the `attention_maps` of it, each on a scale from 0."""
    index = int(shown.scores.argmax())
    panels = [("anomaly map", shown.maps[index], shown.unit)]
    panels += [(NAMES[name], maps[index], "share of attention, per patch") for name, maps in attention.items()]
    rows = -(-(1 + len(panels)) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(WIDTH, 4 * rows + 0.4), squeeze=False)
    set_title(figure, shown.test["file"][index])
    axes[0, 0].imshow(shown.image(index))
    axes[0, 0].set_title("image", fontsize=10)
    for axis, (name, values, label) in zip(axes.flat[1:], panels, strict=False):
        axis.set_title(name, fontsize=10)
        figure.colorbar(axis.imshow(values, cmap=HEAT, vmin=0), ax=axis, shrink=0.8, label=label)
    bare(axes)
    plt.close(figure)  # the caller shows it once
    return figure

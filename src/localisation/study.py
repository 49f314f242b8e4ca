"""Localisation on MVTec AD as notebook 4.0 shows it: two questions, and the controls beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backbone.vit import Backbone
from ..data.pictures import load_image
from ..data.splits import mvtec_split, protocol_name
from ..data.tables import index_mvtec
from .attention import attention_maps
from .encoder import default_settings
from .evaluation import brightness_control, localisation_metrics
from .localise import Localisation, localise
from .pixel_metrics import pixel_metrics
from .thresholds import Detector, fit_detector


@dataclass(frozen=True)
class Study:
    """What `study_mvtec` returns."""

    own: Localisation  # of the k-shot protocol
    attention: dict[str, np.ndarray]  # to the same images, see `attention_maps`
    metrics: dict[str, Any]  # the content of mvtec_metrics.json


def study_mvtec(
    root: Path, *, untrained: Backbone, trained: Backbone, trained_on: list[str], seed: int
) -> Study | None:
    """Both protocols on the leather below ``root``; None, with a line that says how to get it, if it is not there.

    ``<k>-shot`` (``mvtec-full`` with all 245): what do k normal images of this very leather give, with the backbone as
    it came? ``six-class-transfer``: does the trained one, with normal images ``trained_on``, carry over to it?
    """
    try:
        table = index_mvtec(root)
    except FileNotFoundError as error:
        print(f"Localisation is left out: {error}")
        return None
    protocol = protocol_name(int((table["part"] == "train").sum()))
    normals, test = mvtec_split(table, protocol)
    detector = fit_detector(untrained, [load_image(path) for path in normals["path"]], protocol=protocol)
    (own,) = localise([detector], test)
    (transfer,) = localise([_transfer(trained, trained_on, detector)], test)
    attention = attention_maps(untrained, test)
    metrics = {
        "protocols": {each.protocol: localisation_metrics(each, seed=seed) for each in (transfer, own)},
        "attention": {name: pixel_metrics(maps, own.masks) for name, maps in attention.items()},
        "brightness_control_image_auroc": brightness_control(test),
    }
    return Study(own, attention, metrics)


def _transfer(trained: Backbone, trained_on: list[str], own: Detector) -> Detector:
    """Reads the blocks of ``own``, or the last one where training has kept only lower ones."""
    pictures, blocks = [load_image(path) for path in trained_on], own.bank.settings.blocks
    source = f"blocks chosen by {own.protocol}"
    if max(blocks) >= trained.depth:
        source, blocks = f"last block; {source}, {blocks}, are not in the trained model", (trained.depth - 1,)
    settings = replace(default_settings(trained, pictures[0]), blocks=blocks)
    return fit_detector(trained, pictures, protocol="six-class-transfer", candidates=[settings], source=source)

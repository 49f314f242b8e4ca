"""Localisation on MVTec AD as notebook 4.0 shows it: with and without normal images, and the controls beside it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..backbone.vit import Backbone
from ..data.checks import check_masks
from ..data.pictures import load_image, picture_size
from ..data.splits import mvtec_split, protocol_name
from ..data.tables import digests, index_mvtec
from .attention import attention_maps
from .encoder import Encoder, camera_zoom
from .evaluation import brightness_control, localisation_metrics
from .head import find_head
from .localise import Localisation, localise, read_tokens
from .pixel_metrics import pixel_metrics
from .thresholds import folder_detector, make_encoder, normals_detector, zero_shot_detector

log = logging.getLogger(__name__)

FURTHER_SHOTS = (1, 2)


@dataclass(frozen=True)
class Study:
    """What `study_mvtec` returns."""

    zero_shot: Localisation
    k_shot: Localisation
    attention: dict[str, np.ndarray]  # to the same images, see `attention_maps`
    metrics: dict[str, Any]  # the content of mvtec_metrics.json


def study_mvtec(
    root: Path, *, untrained: Backbone, trained: Backbone, trained_on: list[str], seed: int, further: bool = False
) -> Study | None:
    """All protocols on the leather below ``root``; None, with a line that says how to get it, if it is not there.

    ``zero-shot``: each image alone. ``<k>-shot`` (``mvtec-full`` with all 245): with k normal images of this very
    leather. Both with the backbone as it came, and with its head if it has one. ``six-class-transfer``: with the
    trained backbone and normal images ``trained_on``. ``further`` adds ``unlabelled-folder``, ``1-shot``, ``2-shot``.
    """
    try:
        table = index_mvtec(root)
    except FileNotFoundError as error:
        print(f"Localisation is left out: {error}")
        return None
    check_masks(table)
    protocol = protocol_name(int((table["part"] == "train").sum()))
    normals, test = mvtec_split(table, protocol)
    copies = pd.Series(digests(normals["path"])).duplicated()
    if copies.any():  # each would be judged by its copy, and set too low a threshold
        log.warning(
            "%d normal images are copies and left out, the first is %s", copies.sum(), normals["file"][copies].iloc[0]
        )
        normals = normals[~copies]
    pictures, head = [load_image(path) for path in normals["path"]], find_head(untrained)
    zoom = camera_zoom(map(picture_size, table["path"]))
    encoder = make_encoder(untrained, zoom=zoom, head=head)
    print(
        f"{untrained.name}: {'a head for any leather' if head else 'no head, plain distances'}, blocks {encoder.blocks}"
    )
    tokens = read_tokens(encoder, test)
    zero_shot = localise(zero_shot_detector(encoder, head, pictures), test, tokens)
    k_shot = localise(normals_detector(encoder, head, pictures, protocol=protocol), test, tokens)
    transfer = _transfer(trained, trained_on, untrained, test, zoom, tokens)
    others = []
    if further:
        all_pictures = [load_image(path) for path in test["path"]]
        others = [localise(folder_detector(encoder, head, all_pictures, tokens), test, tokens, among=True)]
        for shots in (shots for shots in FURTHER_SHOTS if shots < len(pictures)):
            chosen = [load_image(path) for path in mvtec_split(table, f"{shots}-shot")[0]["path"]]
            detector = normals_detector(encoder, head, chosen, protocol=f"{shots}-shot")
            others.append(localise(detector, test, tokens))
    attention = attention_maps(untrained, test)
    metrics = {
        "protocols": {
            each.protocol: localisation_metrics(each, seed=seed) for each in (transfer, zero_shot, *others, k_shot)
        },
        "attention": {name: pixel_metrics(maps, k_shot.masks) for name, maps in attention.items()},
        "brightness_control_image_auroc": brightness_control(test),
    }
    return Study(zero_shot, k_shot, attention, metrics)


def _transfer(
    trained: Backbone, trained_on: list[str], untrained: Backbone, test: pd.DataFrame, zoom: float, tokens: list
) -> Localisation:
    """With normal images of the training set, each set at its own camera's scale."""
    last = min(trained.depth, untrained.depth) - 1
    same = trained.depth == untrained.depth and trained.digest_up_to(last) == untrained.digest_up_to(last)
    backbone = untrained if same else trained  # training only a head leaves the backbone as it was
    head = find_head(backbone)
    encoder = make_encoder(backbone, zoom=zoom, head=head, depth=untrained.depth)
    known = Encoder(backbone, encoder.blocks, zoom=camera_zoom(map(picture_size, trained_on)), engine=encoder.engine)
    pictures = [load_image(path) for path in trained_on]
    detector = normals_detector(known, head, pictures, protocol="six-class-transfer")
    detector = replace(detector, encoder=encoder, facts=detector.facts | {"zoom": zoom})
    return localise(detector, test, tokens if same else read_tokens(encoder, test))

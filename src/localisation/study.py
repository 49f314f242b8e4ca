"""Localisation on MVTec AD as notebook 4.0 shows it: two questions, and the controls beside them.

``six-class-transfer``: does the trained classifier's backbone, with the normal images it knows, carry over to this
other leather? ``<k>-shot`` (``mvtec-full`` with all 245): what do k normal images of this very leather give, with the
backbone as it came?
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..backbone.vit import Backbone
from ..data.mvtec import index_mvtec, mvtec_split, protocol_name
from ..data.pictures import load_image
from .attention import attention_metrics
from .encoder import default_settings
from .evaluation import brightness_control, localisation_metrics
from .localise import Localisation, localise


@dataclass(frozen=True)
class Study:
    """What `study_mvtec` returns."""

    test: pd.DataFrame  # rows of `index_mvtec`, part test
    own: Localisation  # of the k-shot protocol
    metrics: dict[str, Any]  # the content of mvtec_metrics.json


def study_mvtec(
    root: Path, *, untrained: Backbone, trained: Backbone, trained_on: list[str], seed: int
) -> Study | None:
    """Both protocols on the leather below ``root``; None, with a line that says how to get it, if it is not there.

    Args:
        root: Folder that holds ``leather/`` in MVTec AD's layout.
        untrained: The backbone as it came; settings are chosen for it.
        trained: That of the trained classifier; it is read with the same settings.
        trained_on: Paths of normal images that it knows.
        seed: Of intervals and draws.
    """
    try:
        table = index_mvtec(root)
    except FileNotFoundError as error:
        print(f"Localisation is left out: {error}")
        return None
    protocol = protocol_name(int((table["part"] == "train").sum()))
    normals, test = mvtec_split(table, protocol)
    own = localise(untrained, list(normals["path"]), test, protocol=protocol)
    blocks = own.bank_settings.blocks
    settings = None  # chosen anew where the trained backbone has fewer blocks than were chosen
    if max(blocks) < trained.depth:
        settings = replace(default_settings(trained, load_image(trained_on[0])), blocks=blocks)
    transfer = localise(trained, trained_on, test, protocol="six-class-transfer", settings=settings)
    metrics = {
        "protocols": {each.protocol: localisation_metrics(each, seed=seed) for each in (transfer, own)},
        "attention": attention_metrics(untrained, test),
        "brightness_control_image_auroc": brightness_control(test),
    }
    return Study(test, own, metrics)

"""Checkpoints of the classifier: everything that inference needs, in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import CheckpointError, fitting, load_tensors, save_tensors
from .model import ViTMultiClassClassifier

CHECKPOINT_FORMAT = 2  # 1 had the block of localisation among the settings


def save_checkpoint(
    model: ViTMultiClassClassifier,
    path: Path,
    *,
    config: dict[str, Any] | None = None,
    thresholds: dict[str, float] | None = None,
    run: dict[str, Any] | None = None,
) -> None:
    """Writes weights, classes, settings and the normal bank, usually to ``models/<run>.pth``, and what is given."""
    extra = {"config": config, "thresholds": thresholds, "run": run}
    content = {
        "format": CHECKPOINT_FORMAT,
        "settings": model.settings,
        "class_names": list(model.class_names),
        "weights_description": model.weights_description,
        "state": model.state_dict(),
        **json.loads(json.dumps(extra)),  # plain types only: loading refuses all others
    }
    save_tensors(content, path)


def load_checkpoint(
    path: Path, *, class_names: tuple[str, ...] | None = None
) -> tuple[ViTMultiClassClassifier, dict[str, Any]]:
    """The model of a checkpoint, ready for inference, and all that was saved beside it.

    Raises CheckpointError if the file is missing or damaged, of another format, or made for other classes than those
    named; None accepts any.
    """
    content = load_tensors(path)
    said = content.get("format")
    if not isinstance(said, int) or said != CHECKPOINT_FORMAT:  # a tensor has no truth
        raise CheckpointError(f"{path} is no checkpoint of format {CHECKPOINT_FORMAT}: it says {said}")
    with fitting(path):
        names, state = tuple(content["class_names"]), content["state"]
        side, places = content["settings"].get("image_size"), state.get("backbone.pos_embed")
        if side and places is not None and side**2 > 4096 * places.shape[1]:  # patches of over 64 px: no such network
            raise ValueError(f"image_size is {side}, which its {places.shape[1]} positions do not cover")
        model = ViTMultiClassClassifier(len(names), False, class_names=names, **content["settings"])
        model.normal_features = state["normal_features"].clone()  # the bank's length is the checkpoint's
        model.load_state_dict(state)
        model.weights_description = content["weights_description"]
    if class_names is not None and names != tuple(class_names):
        raise CheckpointError(
            f"{path} was trained for the classes {', '.join(names)}; expected {', '.join(class_names)}, in this order"
        )
    return model.eval(), content

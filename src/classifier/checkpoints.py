"""Checkpoints of the classifier: everything that inference needs, in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import CheckpointError, load_tensors, save_tensors
from .model import ViTMultiClassClassifier

CHECKPOINT_FORMAT = 2  # 1 had the block of localisation among the settings


def save_checkpoint(model: ViTMultiClassClassifier, path: Path, **extra: Any) -> None:
    """Writes weights, classes, settings and the normal bank, usually to ``models/<run>.pth``.

    ``extra`` values are kept beside them, as JSON keeps them: ``config``, ``thresholds``, ``run`` ...
    """
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

    Args:
        path: File of `save_checkpoint`.
        class_names: The classes that the caller works with; None accepts any.

    Raises:
        CheckpointError: If the file is missing or damaged, of another format, or made for other classes.
    """
    content = load_tensors(path)
    lacking = {"settings", "state", "class_names", "weights_description"} - set(content)
    if content.get("format") != CHECKPOINT_FORMAT or lacking:
        raise CheckpointError(f"{path} is no checkpoint of format {CHECKPOINT_FORMAT}: it says {content.get('format')}")
    names, state = tuple(content["class_names"]), content["state"]
    if class_names is not None and names != tuple(class_names):
        raise CheckpointError(
            f"{path} was trained for the classes {', '.join(names)}; expected {', '.join(class_names)}, in this order"
        )
    try:
        model = ViTMultiClassClassifier(len(names), False, class_names=names, **content["settings"])
        model.normal_features = state["normal_features"].clone()  # the bank's length is the checkpoint's
        model.load_state_dict(state)
    except (RuntimeError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} does not fit its own settings {content['settings']}: {error}") from error
    model.weights_description = content["weights_description"]
    return model.eval(), content

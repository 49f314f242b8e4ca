"""Files of tensors: written whole or not at all, read without running any code that they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..config import CLASS_NAMES
from ..files import CheckpointError, load_file, save_atomically
from .model import ViTMultiClassClassifier

CHECKPOINT_FORMAT = 1


def save_checkpoint(model: ViTMultiClassClassifier, path: Path, **extra: Any) -> None:
    """Writes everything that inference needs: weights, classes, settings, normal bank.

    Args:
        model: The model to keep.
        path: Usually ``models/<run>.pth``.
        extra: Values kept beside it, as JSON keeps them: ``config``, ``thresholds``, ``run`` ...
    """
    content = {
        "format": CHECKPOINT_FORMAT,
        "settings": model.settings,
        "weights_description": model.weights_description,
        "state": model.state_dict(),
        **json.loads(json.dumps(extra)),  # plain types only: loading refuses all others
    }
    save_atomically(content, path)


def load_checkpoint(
    path: Path, *, class_names: tuple[str, ...] | None = CLASS_NAMES
) -> tuple[ViTMultiClassClassifier, dict[str, Any]]:
    """The model of a checkpoint, ready for inference, and all that was saved beside it.

    Args:
        path: File of `save_checkpoint`.
        class_names: The classes that the caller works with; None accepts any.

    Raises:
        CheckpointError: If the file is missing or damaged, of another format, or made for other classes.
    """
    content = load_file(path)
    if content.get("format") != CHECKPOINT_FORMAT or "settings" not in content or "state" not in content:
        raise CheckpointError(f"{path} is no checkpoint of format {CHECKPOINT_FORMAT}: it says {content.get('format')}")
    settings = content["settings"]
    if class_names is not None and tuple(settings["class_names"]) != tuple(class_names):
        raise CheckpointError(
            f"{path} was trained for the classes {', '.join(settings['class_names'])}; "
            f"expected {', '.join(class_names)}, in this order"
        )
    settings = {**settings, "class_names": tuple(settings["class_names"])}
    state = content["state"]
    try:
        model = ViTMultiClassClassifier(len(settings["class_names"]), False, **settings)
        model.normal_features = state["normal_features"].clone()  # the bank's length is the checkpoint's
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the backbone {settings['backbone']}: {error}") from error
    model.weights_description = content["weights_description"]
    return model.eval(), content

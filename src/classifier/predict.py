"""Names the class of tiles: of files, and of places in large photographs at the scale of the training pictures."""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..backbone.device import choose_device
from ..config import paths
from ..data.pictures import UnreadableImageError, load_image
from .checkpoints import load_checkpoint
from .features import IMAGES_AT_ONCE
from .model import ViTMultiClassClassifier
from .report import HONEST_PROTOCOL, with_interval

PUBLISHED_SIDE = 227  # px of the six-class set's pictures; older checkpoints do not say theirs
MOST_TILES = 16  # of one place


def class_probabilities(model: ViTMultiClassClassifier, tiles: list[Image.Image]) -> np.ndarray:
    """Probabilities (n, classes) of RGB tiles, each as a whole; the model is moved to the best device."""
    device, answers = choose_device(), []
    model.to(device)
    for start in range(0, len(tiles), IMAGES_AT_ONCE):
        images = torch.stack([model.transform(tile) for tile in tiles[start : start + IMAGES_AT_ONCE]])
        answers.append(model.classify_multiclass(images.to(device))["class_probabilities"].cpu().numpy())
    return np.concatenate(answers)


def tiles_at(picture: Image.Image, box: tuple[float, float, float, float], side: int) -> list[Image.Image]:
    """Square tiles of a photograph that cover a box (left, top, right, bottom), evenly spread, at most 16.

    A tile is centred on a small box, shifted into the picture, and mirrored where the picture is smaller.
    """
    starts, most = [], int(MOST_TILES**0.5)
    for low, high, length in ((box[0], box[2], picture.width), (box[1], box[3], picture.height)):
        count = int(np.clip(np.ceil((high - low) / side), 1, most))
        middles = low + (np.arange(count) + 0.5) * (high - low) / count
        starts.append(np.clip(np.rint(middles - side / 2), 0, max(0, length - side)).astype(int).tolist())
    tiles = []
    for x, y in product(*starts):
        crop = picture.crop((x, y, min(x + side, picture.width), min(y + side, picture.height)))
        missing = [(0, side - crop.height), (0, side - crop.width), (0, 0)]
        tiles.append(Image.fromarray(np.pad(np.asarray(crop), missing, "symmetric")))
    return tiles


def trained_side(content: dict[str, Any]) -> int:
    """Side in pixels of the pictures that the model of a checkpoint was trained on."""
    return (content.get("run") or {}).get("picture_side", PUBLISHED_SIDE)


def honest_figure(content: dict[str, Any]) -> str:
    """What the classifier of a checkpoint is worth on hides that it has not seen, by the report of its run."""
    run = (content.get("run") or {}).get("name", "")
    file = paths.reports / run / "resultados_multiclase" / "results_summary.json"
    if not file.is_file():
        return f"how good it is on unseen hides is not known: there is no {paths.relative(file)}"
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        own = {"n": summary["total_samples"], "protocol": summary["run"]["protocol"], "recipe": "this run"}
        figures = summary["protocols"].get(HONEST_PROTOCOL, summary | own)
        which = f"{figures['recipe']}, {figures.get('protocol', HONEST_PROTOCOL)}, n = {figures['n']}"
        return f"macro-F1 {with_interval(figures, 'macro_f1')} ({which})"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"how good it is on unseen hides is not known: {paths.relative(file)} is damaged or of another version"


def main(arguments: list[str] | None = None) -> None:
    """Prints CSV: a row a file with its class, the probability of it and of each class, or the error."""
    parser = argparse.ArgumentParser(prog="python -m src.classifier.predict", description=main.__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILES", help="tiles, as large as those of the training")
    parser.add_argument("--model", required=True, type=Path, help="checkpoint models/<run>.pth")
    given, rows = parser.parse_args(arguments), []
    model, content = load_checkpoint(given.model)
    for file in given.files:
        try:
            shares = class_probabilities(model, [load_image(file)])[0].round(6).tolist()
        except UnreadableImageError as error:
            rows.append({"file": file, "error": error})
            continue
        best = int(np.argmax(shares))
        rows.append({"file": file, "class": model.class_names[best], "probability": shares[best]})
        rows[-1] |= dict(zip(model.class_names, shares, strict=True))
    print(honest_figure(content), file=sys.stderr)
    pd.DataFrame(rows).to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main()

"""Runs anomalib's models for `benchmarks.speed`, in an environment of their own: a line in, a line of JSON out.

Started with the backbone, its weights file, the side of the input, and files of normal pictures. A line of its standard
input holds a model (``anomalydino`` or ``patchcore``), a folder and picture files, between tabs: it writes the map of
each picture into the folder (``.npy``, if it has a name) and answers with the seconds that took. Models are called
without Lightning around them. PatchCore's default backbone has no weights without a network: it gets the same
transformer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

LAYER = 6  # block of PatchCore's features, from 0: the middle, as ours
CORESET = 0.1  # share of the normal patches that it keeps, its default


def make_model(name: str, backbone: str, weights: str, side: int) -> tuple[Any, Any]:
    """anomalib's torch module with the weights, and the transform of its pictures."""
    from anomalib.models import AnomalyDINO, Patchcore

    create, overlay = timm.create_model, {"file": weights, "num_classes": 0}

    def with_weights(architecture: str, **options: Any) -> torch.nn.Module:
        return create(architecture, **options | {"pretrained_cfg_overlay": overlay, "pretrained": True})

    timm.create_model = with_weights
    try:
        if name == "anomalydino":
            model = AnomalyDINO(encoder_name=backbone)
            prepare = AnomalyDINO.configure_pre_processor((side, side)).transform
        else:
            model = Patchcore(backbone=backbone, layers=[f"blocks.{LAYER}"], coreset_sampling_ratio=CORESET)
            prepare = Patchcore.configure_pre_processor((side, side)).transform
    finally:
        timm.create_model = create
    return model.model, prepare


def read(path: str, prepare: Any) -> torch.Tensor:
    return prepare(pil_to_tensor(Image.open(path).convert("RGB"))[None].float() / 255)


@torch.inference_mode()
def fit(name: str, model: Any, prepare: Any, normals: list[str]) -> None:
    model.train()
    for path in normals:
        model(read(path, prepare))
    model.fit() if name == "anomalydino" else model.subsample_embedding(CORESET)
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbone")
    parser.add_argument("weights")
    parser.add_argument("side", type=int)
    parser.add_argument("normals", nargs="+")
    options = parser.parse_args()
    models = {}
    for line in sys.stdin:
        name, folder, *paths = line.rstrip("\n").split("\t")
        try:
            if name not in models:
                models[name] = make_model(name, options.backbone, options.weights, options.side)
                fit(name, *models[name], options.normals)
            model, prepare = models[name]
            started = time.perf_counter()
            with torch.inference_mode():
                for number, path in enumerate(paths):
                    values = model(read(path, prepare)).anomaly_map[0, 0].numpy()
                    np.save(Path(folder) / f"{number}.npy", values)
            answer = {"seconds": time.perf_counter() - started}
        except Exception as error:  # the benchmark says which peer did not run, and goes on
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

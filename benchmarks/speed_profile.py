"""Where a picture's time goes, by engine: processor time of each step in one thread, drawn into ``docs/speed.png``.

``python -m benchmarks.speed_profile --weights FILE`` on MVTec AD leather. Processor time depends little on what else
runs. By torch in float32 it is what was before the engines.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks.tables import write_results
from src.backbone.vit import load_backbone
from src.config import MVTEC_FOLDER, paths
from src.data.pictures import load_image
from src.data.splits import mvtec_split
from src.data.tables import index_mvtec
from src.localisation.channels import cells_of, distance_channels, fine_picture, on_cells, pixel_channels
from src.localisation.encoder import TILE, Encoder, camera_zoom
from src.localisation.head import find_head
from src.localisation.references import own_distances
from src.localisation.regions import judge_map
from src.localisation.thresholds import make_encoder, references_of, zero_shot_detector
from src.style import save_figure

REPEATS = 3


def steps_of(backbone: Any, files: list[str], normals: list[Any], engine: str) -> dict[str, Callable[[], Any]]:
    """The steps of one picture with the head, and the distances to a bank of normal pictures."""
    head, zoom = find_head(backbone), camera_zoom(picture.size for picture in normals)
    encoder = make_encoder(backbone, zoom=zoom, head=head, engine=engine)
    if engine == "torch":  # in float32, whatever torch could do here
        encoder = Encoder(backbone, encoder.blocks, zoom=zoom)
    detector, picture = zero_shot_detector(encoder, head, []), load_image(files[0])
    inputs, tokens, cells = (
        list(encoder.inputs(picture)),
        encoder.tokens(picture),
        cells_of(*encoder.input_size(picture)),
    )
    bank = references_of([encoder.tokens(each) for each in normals], are_normal=True)
    channels = on_cells(distance_channels(own_distances(tokens), None), cells)
    pixels = pixel_channels(fine_picture(picture, cells)[None])
    values = head.probabilities(channels, pixels)
    return {
        "reading": lambda: load_image(files[0]),
        "resizing": lambda: list(encoder.inputs(picture)),
        "network": lambda: list(encoder.engine.tokens(inputs)),
        "distances to itself": lambda: own_distances(tokens),
        "distances to four normal pictures": lambda: bank.distances(tokens),
        "relative pixels": lambda: pixel_channels(fine_picture(picture, cells)[None]),
        "head": lambda: head.probabilities(channels, pixels),
        "regions": lambda: judge_map(values, detector.thresholds),
    }


def processor_ms(step: Callable[[], Any]) -> float:
    step()
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        step()
        times.append(time.process_time() - started)
    return 1000 * statistics.median(times)


def draw(times: dict[str, dict[str, float]], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 2.2), layout="constrained")
    for row, steps in enumerate(times.values()):
        left, colours = 0.0, plt.colormaps["viridis"](np.linspace(0.05, 0.95, len(steps)))
        for (name, value), colour in zip(steps.items(), colours, strict=True):
            axes.barh(row, value, left=left, color=colour, edgecolor="white", label=name if row == 0 else None)
            left += value
    axes.set_yticks([0, 1], ["before: torch, float32", "after: OpenVINO"])
    axes.invert_yaxis()
    axes.set_xlabel("processor time of a picture, ms, one thread")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paths.data / MVTEC_FOLDER, help="folder that holds leather/")
    parser.add_argument("--weights", required=True, help="a weights file")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2", help="timm's name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    normals, test = mvtec_split(index_mvtec(options.data), "4-shot")
    backbone = load_backbone(options.backbone, options.weights, image_size=TILE)
    pictures = [load_image(path) for path in normals["path"]]
    engines = "torch", "openvino"
    steps = {engine: steps_of(backbone, list(test["path"]), pictures, engine) for engine in engines}
    times = {engine: {name: processor_ms(step) for name, step in steps[engine].items()} for engine in engines}
    rows = "\n".join(f"{e}: {', '.join(f'{n} {ms:.0f}' for n, ms in times[e].items())} ms" for e in engines)
    write_results(times, rows + "\n", Path(__file__).parent / "results" / "profile")
    draw(times, paths.root / "docs" / "speed.png")
    print(rows)


if __name__ == "__main__":
    main()

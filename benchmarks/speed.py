"""How fast is localisation beside its backbone's bare forward pass, and what does a large picture take?

``python -m benchmarks.speed --weights FILE --backbone NAME`` on MVTec AD leather, float32, one picture at a time,
measured in turns in one process; medians of the rounds, in seconds a picture.

- *bare*: the backbone on tensors that are in memory already (the faster of one and four pictures at a time), whole, and
  only up to the last block that is read.
- *map*: distances, relative pixels and head, from tokens to the map.
- *end to end*: reading and decoding the file, tokens, map, regions, verdict.
- *anomalib*: its AnomalyDINO with the same weights file and input size, else its defaults (maps of the last block),
  called without Lightning around it. Without the package (``pip install anomalib``) this is left out, and said to be.
- *large*: a 4608x3288 picture, mirrored from a normal one, judged alone in a process of its own; its highest memory.
- *head-only training*, with ``--data-classes FOLDER``: the classifier of the preset ``sample`` on every picture of a
  folder of classes, from the files on, against the bare pass of its backbone over as many, before and after.

Writes ``speed.json`` and ``speed.md`` into ``--output``.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor
from tqdm import trange

from benchmarks.tables import markdown_rows, write_results
from src.backbone.device import autocast, choose_device, choose_precision
from src.backbone.vit import load_backbone
from src.backbone.weights import read_state
from src.classifier.model import create_model
from src.classifier.training import train_model
from src.config import MVTEC_FOLDER, SAMPLE, paths
from src.data.pictures import load_image, load_mask, picture_size
from src.data.splits import mvtec_split, split_index
from src.data.tables import classes_of, index_images, index_mvtec
from src.localisation.encoder import TILE, Encoder, camera_zoom
from src.localisation.head import find_head
from src.localisation.localise import Detector, evaluated_map, evaluated_mask
from src.localisation.pixel_metrics import pixel_metrics
from src.localisation.thresholds import folder_detector, make_encoder, normals_detector, zero_shot_detector

PROTOCOL = "4-shot"
EACH_ROUND = 12  # pictures
LARGE = 4608, 3288
BATCH = 64  # of the bare pass beside head-only training
Method = tuple[Callable[[], Any], Callable[[str], np.ndarray]]  # learns the normal pictures; maps a picture


def anomalib_dino(backbone: str, weights: str, normals: list[str], side: int) -> Method | None:
    """Both steps by anomalib; None if it is not installed. It changes timm's position embeddings, so it comes last."""
    try:
        from anomalib.models import AnomalyDINO
    except ImportError:
        return None
    create = timm.create_model
    overlay = {"state_dict": read_state(backbone, Path(weights)), "num_classes": 0}
    timm.create_model = lambda name, **options: create(name, **options | {"pretrained_cfg_overlay": overlay})
    try:
        model = AnomalyDINO(encoder_name=backbone).model
    finally:
        timm.create_model = create
    prepare = AnomalyDINO.configure_pre_processor((side, side)).transform

    def tensor(path: str) -> torch.Tensor:
        return prepare(pil_to_tensor(load_image(path))[None].float() / 255)

    def build() -> None:
        model.train()
        model.memory_bank = torch.empty(0)
        with torch.inference_mode():
            for path in normals:
                model(tensor(path))
            model.fit()
        model.eval()

    @torch.inference_mode()
    def score(path: str) -> np.ndarray:
        return model(tensor(path)).anomaly_map[0, 0].numpy()

    return build, score


def aupro(score: Callable[[str], np.ndarray], test: pd.DataFrame) -> float:
    maps = [evaluated_map(np.array(score(path))) for path in test["path"]]
    masks = [evaluated_mask(load_mask(row.mask, size=picture_size(row.path))) for row in test.itertuples()]
    return pixel_metrics(np.stack(maps), np.stack(masks))["aupro_30"]


def steps_of(encoder: Encoder, detectors: list[Detector], chosen: list[str]) -> dict[str, Callable[[], Any]]:
    """What is timed, each on all chosen pictures; the names that start with bare say how many pass at a time."""
    backbone, pictures = encoder.backbone, [load_image(path) for path in chosen]
    tokens, (width, height) = [encoder.tokens(picture) for picture in pictures], encoder.input_size(pictures[0])

    @torch.inference_mode()
    def bare(count: int, whole: bool) -> None:
        images = torch.zeros(count, 3, height, width, device=backbone.device)
        for start in range(0, len(pictures), count):
            some = images[: len(pictures) - start]
            (backbone.network(some) if whole else backbone.tokens(some, blocks=encoder.blocks)[-1]).cpu()

    backbone.network.eval()
    steps = {}
    for count in (1, 4):
        steps[f"bare, blocks that are read / {count}"] = lambda n=count: bare(n, False)
        steps[f"bare, whole / {count}"] = lambda n=count: bare(n, True)
    pairs = list(zip(pictures, tokens, strict=True))
    for detector in detectors:
        steps[f"map, {detector.protocol}"] = lambda d=detector: [d.anomaly_map(*each) for each in pairs]
        steps[f"end to end, {detector.protocol}"] = lambda d=detector: [d.judge(load_image(path)) for path in chosen]
    return steps


def median_seconds(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Of each step, measured in turns; the first round warms up."""
    times = {name: [] for name in steps}
    for _ in trange(rounds + 1, desc="rounds"):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def summary(medians: dict[str, float]) -> dict[str, dict[str, float]]:
    """Seconds a picture of each step, and how much that is of each bare pass, of which the faster batch counts."""
    seconds: dict[str, float] = {}
    for step, value in medians.items():
        name = step.split(" / ")[0]
        seconds[name] = min(seconds.get(name, np.inf), value)
    read, whole = seconds["bare, blocks that are read"], seconds["bare, whole"]
    return {
        name: {"seconds": value, "images_per_second": 1 / value, "of_read": value / read, "of_whole": value / whole}
        for name, value in seconds.items()
    }


def judge_large(name: str, weights: str, picture: Image.Image) -> dict[str, float]:
    """Judges a mirrored picture of the size `LARGE`. To be called in a process of its own, whose memory this is."""
    missing = [(0, wanted - had) for wanted, had in zip(LARGE[::-1], picture.size[::-1], strict=True)]
    large = Image.fromarray(np.pad(np.asarray(picture), (*missing, (0, 0)), mode="symmetric"))
    backbone = load_backbone(name, weights, image_size=TILE)
    encoder = make_encoder(backbone, zoom=camera_zoom([LARGE]), head=(head := find_head(backbone)))
    detector = zero_shot_detector(encoder, head, []) if head else Detector("zero-shot", encoder, None, None)
    started = time.perf_counter()
    detector.judge(large)
    seconds, unit = time.perf_counter() - started, 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}


def head_only_training(root: Path) -> dict[str, Any]:
    """Seconds of the bare forward pass, mean of before and after, and of training a head from the files on."""
    config, images, device = SAMPLE.but(run="benchmark", epochs=15), index_images(root), choose_device()
    table = split_index(images, "random-80-20", seed=config.seed)
    table["part"] = table["part"].replace("test", "train")  # all images are learned from: this is about time
    model = create_model(config, classes_of(images))
    batch = torch.stack([model.transform(load_image(path)) for path in table["path"][:BATCH]])

    @torch.inference_mode()
    def forward_seconds(count: int) -> float:
        started, network = time.perf_counter(), model.vit.network.eval().to(device)
        with autocast(device, choose_precision(device)):
            for start in range(0, count, BATCH):
                network(batch[: count - start].to(device)).cpu()
        return time.perf_counter() - started

    forward_seconds(BATCH)  # warm-up
    before, started = forward_seconds(len(table)), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train_model(model, table, config, models=Path(folder), logs=Path(folder))
    training = time.perf_counter() - started
    bare = (before + forward_seconds(len(table))) / 2
    return {"images": len(table), "epochs": config.epochs, "seconds": training, "bare_seconds": bare}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paths.data / MVTEC_FOLDER, help="folder that holds leather/")
    parser.add_argument("--data-classes", type=Path, help="folder of classes: times head-only training too")
    parser.add_argument("--weights", required=True, help="a weights file, or shipped")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2", help="timm's name")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    normals, test = mvtec_split(index_mvtec(options.data), PROTOCOL)
    pictures = [load_image(path) for path in normals["path"]]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # first: a child's peak starts at what its parent holds
        large = pool.submit(judge_large, options.backbone, options.weights, pictures[0]).result()
    backbone = load_backbone(options.backbone, options.weights, image_size=TILE)
    head = find_head(backbone)
    encoder = make_encoder(backbone, zoom=camera_zoom(picture.size for picture in pictures), head=head)
    chosen = list(test["path"][:: max(1, len(test) // EACH_ROUND)][:EACH_ROUND])
    folder = [load_image(path) for path in chosen]
    mine = zero_shot_detector(encoder, head, pictures), normals_detector(encoder, head, pictures, protocol=PROTOCOL)
    detectors = [*mine, folder_detector(encoder, head, folder, [encoder.tokens(picture) for picture in folder])]
    steps = steps_of(encoder, detectors, chosen)
    builds = {"ours": lambda: normals_detector(encoder, head, pictures, protocol=PROTOCOL)}
    quality = {"ours": aupro(lambda path: mine[1].judge(load_image(path)).map, test)}
    if (method := anomalib_dino(options.backbone, options.weights, list(normals["path"]), TILE)) is not None:
        builds["anomalib"], score = method
        builds["anomalib"]()
        quality["anomalib"] = aupro(score, test)
        steps["end to end, anomalib"] = lambda: [score(path) for path in chosen]
    medians = median_seconds(steps | {f"build, {name}": build for name, build in builds.items()}, options.rounds)
    about = {"backbone": options.backbone, "weights": backbone.weights, "head": head is not None}
    about |= {"blocks": encoder.blocks, "zoom": encoder.zoom, "rounds": options.rounds, "pictures_a_round": len(chosen)}
    about["machine"] = f"{backbone.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    result = {
        "protocol": about,
        "rows": summary({name: medians[name] / len(chosen) for name in steps}),
        PROTOCOL: {name: {"seconds": medians[f"build, {name}"], "aupro_30": value} for name, value in quality.items()},
        "large": large,
        "head_only_training": head_only_training(options.data_classes) if options.data_classes else None,
    }
    text = markdown(result)
    write_results(result, text, options.output / "speed")
    print(text)


def markdown(result: dict[str, Any]) -> str:
    header = ["step", "ms a picture", "images/s", "of the bare pass, blocks read", "of the whole bare pass"]
    shares, rows = ("images_per_second", "of_read", "of_whole"), []
    for name, row in result["rows"].items():
        rows.append([name, f"{1000 * row['seconds']:.0f}", *(f"{row[key]:.2f}" for key in shares)])
    about, large, training = result["protocol"], result["large"], result["head_only_training"]
    lines = [
        *markdown_rows(header, rows),
        "",
        f"{about['backbone']} ({about['weights']}), {'with its' if about['head'] else 'without a'} head, blocks "
        f"{', '.join(map(str, about['blocks']))} (from 0), zoom {about['zoom']:.2f}, {about['machine']}, medians of "
        f"{about['rounds']} rounds of {about['pictures_a_round']} pictures.",
    ]
    for name, row in result[PROTOCOL].items():
        lines.append(f"Normal pictures, {name}: {row['seconds']:.2f} s; AUPRO of {PROTOCOL} {row['aupro_30']:.3f}.")
    if "anomalib" not in result[PROTOCOL]:
        lines.append("anomalib was not installed.")
    lines.append(
        f"A {LARGE[0]}x{LARGE[1]} picture, alone: {large['seconds']:.0f} s, {large['peak_memory_gb']:.2f} GB at most."
    )
    if training:
        ratio = training["seconds"] / training["bare_seconds"]
        lines.append("Head-only training on {images} images, {epochs} epochs: {seconds:.1f} s, ".format(**training))
        lines[-1] += f"{ratio:.2f} times the bare pass of {training['bare_seconds']:.1f} s."
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""How fast is localisation: beside its backbone's bare forward pass, and beside anomalib's AnomalyDINO.

``python -m benchmarks.localisation_speed --weights FILE`` on the ``4-shot`` protocol of MVTec AD leather, all at one
input size, float32, one picture at a time, measured in turns in one process; medians of the rounds.

- *bare*: the whole backbone on tensors that are in memory already (the faster of one and four pictures at a time).
- *end to end*: reading and decoding the file, patch tokens, bank, anomaly map at the picture's own size, image score.
- *anomalib*: its AnomalyDINO with the same weights file, its own transform to the same input size, else its defaults;
  the network is called without Lightning around it. AUPRO is that of its own maps, from the last block, as it has
  no other choice of block. Without the package (``pip install anomalib``) this part is left out, and said to be.

Settings are chosen on painted defects beforehand. Writes ``localisation_speed.json`` and ``.md`` into ``--output``.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from benchmarks.tables import markdown_rows, write_results
from src.backbone.vit import Backbone, load_backbone
from src.config import MVTEC_FOLDER, paths
from src.data.pictures import load_image, load_mask
from src.data.splits import mvtec_split
from src.data.tables import index_mvtec
from src.localisation.bank import PatchBank
from src.localisation.encoder import BankSettings, Encoder
from src.localisation.pixel_metrics import pixel_metrics
from src.localisation.thresholds import fit_detector

PROTOCOL, IMAGES = "4-shot", 124
EACH_ROUND = 12  # pictures
Method = tuple[Callable[[], Any], Callable[[str], np.ndarray]]  # builds a bank; scores a picture


def ours(backbone: Backbone, normals: list[str], settings: BankSettings) -> Method:
    encoder, banks = Encoder(backbone, settings), []

    def build() -> None:
        rows = [encoder.tokens(load_image(path)).rows(settings.blocks) for path in normals]
        banks[:] = [PatchBank(encoder, torch.cat(rows))]

    return build, lambda path: banks[0].score(load_image(path))[0]


def anomalib_dino(backbone: str, weights: str, normals: list[str], side: int) -> Method | None:
    """The same two steps by anomalib; None if it is not installed."""
    try:
        from anomalib.models import AnomalyDINO
    except ImportError:
        return None
    create = timm.create_model
    overlay = {"file": weights, "num_classes": 0}
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
    maps = [torch.from_numpy(np.array(score(path)))[None, None] for path in test["path"]]
    small = torch.cat([F.interpolate(values, (256, 256), mode="bilinear", antialias=True) for values in maps])
    masks = [load_mask(row.mask, size=load_image(row.path).size) for row in test.itertuples()]
    return pixel_metrics(small[:, 0].numpy(), np.stack(masks))["aupro_30"]


@torch.inference_mode()
def bare(backbone: Backbone, side: int, batch: int) -> None:
    images = torch.zeros(batch, 3, side, side)
    for _ in range(EACH_ROUND // batch):
        backbone.network(images)


def median_seconds(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Of each step, measured in turns; the first round warms up."""
    times = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paths.data / MVTEC_FOLDER, help="folder that holds leather/")
    parser.add_argument("--weights", required=True, help="a weights file, or shipped")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2", help="timm's name")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()

    normals, test = mvtec_split(index_mvtec(options.data), PROTOCOL)
    normals, backbone = list(normals["path"]), load_backbone(options.backbone, options.weights, image_size=448)
    backbone.network.eval()
    settings = fit_detector(backbone, [load_image(path) for path in normals], protocol=PROTOCOL).bank.settings
    chosen, quality = test["path"][:: len(test) // EACH_ROUND][:EACH_ROUND], {}
    steps = {f"bare, {n} at a time": lambda n=n: bare(backbone, settings.side, n) for n in (1, 4)}
    for name in ("ours", "anomalib"):  # in this order: anomalib changes timm's position embeddings
        if name == "ours":
            method = ours(backbone, normals, settings)
        else:
            method = anomalib_dino(options.backbone, options.weights, normals, settings.side)
        if method is not None:
            build, score = method
            build()
            quality[name] = aupro(score, test)
            steps[f"{name}, build"] = build
            steps[f"{name}, score"] = lambda score=score: [score(path) for path in chosen]
    result = summary(median_seconds(steps, options.rounds), quality)
    result["protocol"] = {
        "name": PROTOCOL,
        "test_images": len(test),
        "side": settings.side,
        "blocks": settings.blocks,
        "backbone": options.backbone,
        "weights": backbone.weights,
        "rounds": options.rounds,
        "pictures_a_round": EACH_ROUND,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    text = markdown(result)
    write_results(result, text, options.output / "localisation_speed")
    print(text)


def summary(median: dict[str, float], quality: dict[str, float]) -> dict[str, Any]:
    """Images a second, and the two ratios that matter."""
    forward = EACH_ROUND / min(value for name, value in median.items() if name.startswith("bare"))
    rows = {"bare backbone": {"images_per_second": forward}}
    for name, value in quality.items():
        build, score = median[f"{name}, build"], median[f"{name}, score"]
        rows[name] = {
            "images_per_second": EACH_ROUND / score,
            "share_of_bare": EACH_ROUND / score / forward,
            "build_seconds": build,
            "build_and_score_124_seconds": build + IMAGES * score / EACH_ROUND,
            "aupro_30": value,
        }
    whole = {name: row["build_and_score_124_seconds"] for name, row in rows.items() if name in quality}
    faster = whole["anomalib"] / whole["ours"] if "anomalib" in whole else None
    return {"rows": rows, "times_faster_than_anomalib": faster}


def markdown(result: dict[str, Any]) -> str:
    about = result["protocol"]
    header = ["method", "images/s", "share of the bare pass", "bank of 4, s", "bank and 124 images, s", "AUPRO"]
    rows = []
    columns = {
        "images_per_second": 2,
        "share_of_bare": 2,
        "build_seconds": 2,
        "build_and_score_124_seconds": 1,
        "aupro_30": 3,
    }
    for name, row in result["rows"].items():
        cells = (f"{row[key]:.{digits}f}" if key in row else "" for key, digits in columns.items())
        rows.append([name, *cells])
    faster, blocks = result["times_faster_than_anomalib"], ", ".join(map(str, about["blocks"]))
    lines = [
        *markdown_rows(header, rows),
        "",
        f"{about['name']}, {about['backbone']} ({about['weights']}), {about['side']} px, blocks {blocks} (from 0), "
        f"{about['threads']} threads, medians of {about['rounds']} rounds of {about['pictures_a_round']} pictures.",
        "anomalib was not installed." if faster is None else f"Bank and scoring: {faster:.2f} times as fast.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""How many normal images does it take? Localisation on MVTec AD with k = 1, 2, 4, ... of them, over several draws.

``python -m benchmarks.shots --weights shipped`` runs every protocol that the data allows and says why it leaves others
out. Each finished run is a file in the output folder, so an interrupted study goes on where it stopped; at the end
``shot_study.json`` and ``shot_study.md`` sum up. Nothing is chosen on test images.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.backbone.vit import SHIPPED_ARCHITECTURE, Backbone, load_backbone
from src.config import MVTEC_FOLDER, paths
from src.data.mvtec import index_mvtec, mvtec_split
from src.data.pictures import load_image
from src.files import identity_of, markdown_rows, write_json, write_results
from src.localisation.attention import attention_metrics
from src.localisation.bank import BANK_FORMAT
from src.localisation.evaluation import brightness_control, localisation_metrics
from src.localisation.localise import localise
from src.localisation.thresholds import candidate_settings

log = logging.getLogger(__name__)

SHOTS = (1, 2, 4, 8, 16)
SUMMED_UP = {
    "image_auroc": "image AUROC",
    "image_accuracy_at_threshold": "image accuracy",
    "image_f1": "image F1",
    "image_false_alarm_rate": "false alarms",
    "pixel_auroc": "pixel AUROC",
    "aupro_30": "AUPRO",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "F1-max (oracle)",
    "pixel_f1_at_threshold": "F1 at threshold",
    "iou_at_threshold": "IoU at threshold",
}


def run_study(
    backbone: Backbone, table: pd.DataFrame, output: Path, *, shots: tuple[int, ...] = SHOTS, seeds: int = 3
) -> dict[str, Any]:
    """Every protocol that the data allows, each draw once; writes a file a run, and returns the summary.

    Args:
        backbone: Gives the patch tokens.
        table: Of `index_mvtec`.
        output: Folder of the results.
        shots: Numbers of normal images; ``normals-16`` and ``mvtec-full`` are tried besides.
        seeds: Draws of each number; draws that pick the same images count once.

    Returns:
        ``protocols``: by name, runs, mean and standard deviation (of a sample, None of one run) of each figure;
        ``left_out``: protocols with the reason; ``backbone``, ``brightness_control_image_auroc``, ``attention``.
    """
    protocols, left_out = {}, {}
    for protocol in (*(f"{k}-shot" for k in shots), "normals-16", "mvtec-full"):
        runs = {}
        for seed in range(seeds):
            try:
                normals, test = mvtec_split(table, protocol, seed=seed)
            except ValueError as error:
                left_out[protocol] = str(error)
                log.warning("%s is left out: %s", protocol, error)
                break
            drawn = tuple(normals["file"])
            if drawn not in runs:
                runs[drawn] = _run(backbone, normals, test, protocol, seed, output)
        if runs:
            protocols[protocol] = _summary(list(runs.values()))
    test = table[table["part"] == "test"].reset_index(drop=True)
    return {
        "backbone": backbone.identity,
        "weights": backbone.weights,
        "protocols": protocols,
        "left_out": left_out,
        "attention": attention_metrics(backbone, test),
        "brightness_control_image_auroc": brightness_control(test),
    }


def _run(backbone, normals, test, protocol, seed, output) -> dict[str, Any]:
    """Figures of one draw, from its file if it is there and made of the same images by the same backbone."""
    candidates = [str(settings) for settings in candidate_settings(backbone, load_image(normals["path"][0]))]
    made_of = {
        "backbone": backbone.identity,
        "normals": list(normals["file"]),
        "test": list(test["file"]),
        "candidates": candidates,
        "bank": BANK_FORMAT,
    }
    file = output / "runs" / f"{protocol}_{identity_of(made_of)[:12]}.json"
    if file.is_file():
        log.info("%s, seed %d: %s is there", protocol, seed, file.name)
        return json.loads(file.read_text(encoding="utf-8"))
    log.info("%s, seed %d: %s", protocol, seed, ", ".join(normals["file"]))
    localised = localise(backbone, list(normals["path"]), test, protocol=protocol, seed=seed)
    write_json({**localisation_metrics(localised, seed=seed), "normals": made_of["normals"]}, file)
    return json.loads(file.read_text(encoding="utf-8"))


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    values = {name: np.array([run[name] for run in runs]) for name in SUMMED_UP}
    return {
        "runs": len(runs),
        "n": runs[0]["n"],
        "mean": {name: float(v.mean()) for name, v in values.items()},
        "deviation": {name: float(v.std(ddof=1)) if len(runs) > 1 else None for name, v in values.items()},
        "each": [
            {key: run[key] for key in ("seed", "normals", "blocks", "side", "bank_patches", *SUMMED_UP)} for run in runs
        ],
    }


def markdown(summary: dict[str, Any]) -> str:
    """The summary as a table: mean, and deviation over the draws after the sign."""
    rows = []
    for protocol, entry in summary["protocols"].items():
        cells = []
        for name in SUMMED_UP:
            spread = entry["deviation"][name]
            cells.append(f"{entry['mean'][name]:.3f}" + ("" if spread is None else f" ± {spread:.3f}"))
        rows.append([protocol, str(entry["runs"]), *cells])
    for kind, figures in summary["attention"].items():
        cells = (f"{figures[name]:.3f}" if name in figures else "" for name in SUMMED_UP)
        rows.append([f"attention, {kind}", "", *cells])
    lines = markdown_rows(["protocol", "runs", *SUMMED_UP.values()], rows)
    lines += ["", *(f"Left out: {protocol}: {reason}." for protocol, reason in summary["left_out"].items())]
    control = summary["brightness_control_image_auroc"]
    lines.append(f"Mean grey level alone: image AUROC {control:.3f}. Weights: {summary['weights']}.")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paths.data / MVTEC_FOLDER, help="folder that holds leather/")
    parser.add_argument("--weights", default="shipped", help='"shipped", "timm" or a weights file')
    parser.add_argument("--backbone", default=SHIPPED_ARCHITECTURE, help="timm's name of the Vision Transformer")
    parser.add_argument("--image-size", type=int, default=448, help="side of the model's input, px")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS, help="numbers of normal images")
    parser.add_argument("--seeds", type=int, default=3, help="draws of each number")
    parser.add_argument("--output", type=Path, default=paths.reports / "shot_study", help="folder of the results")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        table = index_mvtec(options.data)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    backbone = load_backbone(options.backbone, options.weights, image_size=options.image_size)
    summary = run_study(backbone, table, options.output, shots=tuple(options.shots), seeds=options.seeds)
    text = markdown(summary)
    write_results(summary, text, options.output / "shot_study")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

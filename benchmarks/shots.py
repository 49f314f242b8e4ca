"""How many normal images does it take? Localisation on MVTec AD with k = 1, 2, 4, ... of them, over several draws.

``python -m benchmarks.shots --weights shipped`` runs every protocol that the data allows and says why it leaves others
out. Detectors and finished runs are files in the output folder, so an interrupted study goes on where it stopped; at
the end ``shot_study.json`` and ``shot_study.md`` sum up. Nothing is chosen on test images, and each of them passes the
network once for all runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.tables import markdown_rows, write_results
from src.backbone.vit import SHIPPED_ARCHITECTURE, Backbone, load_backbone
from src.config import MVTEC_FOLDER, paths
from src.data.pictures import load_image, load_mask
from src.data.splits import mvtec_split
from src.data.tables import index_mvtec
from src.files import file_identity, identity_of, read_kept, write_json, write_kept
from src.localisation.attention import attention_maps
from src.localisation.bank import PatchBank, evaluated_mask
from src.localisation.encoder import BankSettings, Encoder
from src.localisation.evaluation import brightness_control, localisation_metrics
from src.localisation.localise import localise
from src.localisation.pixel_metrics import pixel_metrics
from src.localisation.thresholds import Detector, Thresholds, candidate_settings, fit_detector

log = logging.getLogger(__name__)

VERSION = 1  # raise it whenever the same images and weights give other figures
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


@dataclass(frozen=True)
class Run:
    """One draw of normal images, and the file of its figures; its detector is kept beside it."""

    protocol: str
    seed: int
    normals: pd.DataFrame
    test: pd.DataFrame
    file: Path


def run_study(
    backbone: Backbone, table: pd.DataFrame, output: Path, *, shots: tuple[int, ...] = SHOTS, seeds: int = 3
) -> dict[str, Any]:
    """Every protocol that the data allows, each draw once; writes a file a run, and returns the summary.

    ``table`` is that of `index_mvtec`; ``shots`` are numbers of normal images, of which there are ``seeds`` draws;
    ``normals-16`` and ``mvtec-full`` are tried besides. Draws that pick the same images count once.
    """
    runs, left_out = draw_runs(backbone, table, output / "runs", shots, seeds)
    test = table[table["part"] == "test"].reset_index(drop=True)
    open_runs = [run for run in runs if not run.file.is_file()]
    log.info("%d of %d runs are there", len(runs) - len(open_runs), len(runs))
    detectors = [_detector(backbone, run) for run in open_runs]
    for run, shown in zip(open_runs, localise(detectors, test) if detectors else [], strict=True):
        of_run = shown.of_rows(test["file"].isin(run.test["file"]).to_numpy())
        write_json({**localisation_metrics(of_run, seed=run.seed), "normals": list(run.normals["file"])}, run.file)
    protocols: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        protocols.setdefault(run.protocol, []).append(json.loads(run.file.read_text(encoding="utf-8")))
    masks = [evaluated_mask(load_mask(row.mask, size=load_image(row.path).size)) for row in test.itertuples()]
    attention = attention_maps(backbone, test)
    return {
        "backbone": backbone.identity,
        "weights": backbone.weights,
        "protocols": {protocol: _summary(figures) for protocol, figures in protocols.items()},
        "left_out": left_out,
        "attention": {name: pixel_metrics(maps, np.stack(masks)) for name, maps in attention.items()},
        "brightness_control_image_auroc": brightness_control(test),
    }


def draw_runs(
    backbone: Backbone, table: pd.DataFrame, folder: Path, shots: tuple[int, ...], seeds: int
) -> tuple[list[Run], dict[str, str]]:
    """All runs, and the protocols that are left out with the reason."""
    runs, left_out = {}, {}
    weights = backbone.identity
    for protocol in (*(f"{k}-shot" for k in shots), "normals-16", "mvtec-full"):
        for seed in range(seeds):
            try:
                normals, test = mvtec_split(table, protocol, seed=seed)
            except ValueError as error:
                left_out[protocol] = str(error)
                log.warning("%s is left out: %s", protocol, error)
                break
            rows = [row for part in (normals, test) for row in part.itertuples()]
            images = [(row.file, *map(file_identity, filter(None, (row.path, row.mask)))) for row in rows]
            candidates = candidate_settings(backbone, load_image(normals["path"][0]))
            identity = identity_of(VERSION, weights, protocol, images, [asdict(each) for each in candidates])
            file = folder / f"{protocol}_{identity[:12]}.json"
            runs.setdefault(file, Run(protocol, seed, normals, test, file))
    return list(runs.values()), left_out


def _detector(backbone: Backbone, run: Run) -> Detector:
    """That of a run's normal images, from the file beside its figures if it is there."""
    file = run.file.with_suffix(".pt")
    if (kept := read_kept(file)) is not None:
        bank = PatchBank(Encoder(backbone, BankSettings(**kept["settings"])), kept["rows"])
        return Detector(run.protocol, bank, Thresholds(**kept["thresholds"]), kept["facts"])
    log.info("%s, seed %d: %s", run.protocol, run.seed, ", ".join(run.normals["file"]))
    pictures = [load_image(path) for path in run.normals["path"]]
    detector = fit_detector(backbone, pictures, protocol=run.protocol, seed=run.seed)
    content = {"settings": asdict(detector.bank.settings), "rows": detector.bank.rows, "facts": detector.facts}
    write_kept({**content, "thresholds": asdict(detector.thresholds)}, file)
    return detector


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
    for reading, figures in summary["attention"].items():
        cells = (f"{figures[name]:.3f}" if name in figures else "" for name in SUMMED_UP)
        rows.append([f"attention, {reading}", "", *cells])
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

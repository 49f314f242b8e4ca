"""Trains a defect head for a backbone, on painted defects, and sets its thresholds on real leather.

``python -m tools.train_head --textures FOLDER --boxes CSV --backbone NAME --weights FILE --blocks 3 5 6 7 --name NAME``
writes ``models/heads/NAME.safetensors``. The boxes (columns file, left, top, right, bottom as shares) mark real defects
of the pictures in the folder that the file's name names. Groups of pictures are kept in ``--work``, so an interrupted
preparation goes on. No picture of MVTec AD or of the six-class set may be among the textures.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tqdm import tqdm, trange

from src.backbone.vit import SHIPPED_ARCHITECTURE, load_backbone
from src.config import paths
from src.files import identity_of
from src.localisation.encoder import TILE, Encoder
from src.localisation.head import FINE, DefectHead, Head, HeadFacts, defect_logits, pixel_channels, save_head
from src.localisation.pixel_metrics import best_pixel_threshold, pixel_average_precision, threshold_metrics
from src.localisation.regions import Thresholds, judge_map
from tools.head_data import (
    MODES,
    SIDE,
    Examples,
    boxed_examples,
    draw_validation,
    like_groups,
    painted_examples,
    read_textures,
)

EPOCHS, BATCH, RATE, DECAY = 20, 16, 3e-3, 1e-2
MODE_CHANCES = (0.4, 0.3, 0.3)  # of MODES
CROP = 16  # cells
ON_DEFECT = 0.75  # share of the crops that show one
ALARMS = (0.05, 0.01)  # operating points: share of pieces of real leather that alarm
DRAWS = 1000  # of originals, for the interval of a threshold


def train(data: Examples, pixels: Tensor, *, seed: int, epochs: int = EPOCHS) -> DefectHead:
    """A head trained on crops of painted pictures; ``pixels`` (n, 8, 256, 256) are their `pixel_channels`."""
    torch.manual_seed(seed)
    generator, head = np.random.default_rng(seed), DefectHead(data.distances.shape[2] // 4)
    with_references = data.distances[:, 1:, :-1].float()
    head.mean.copy_(with_references.mean((0, 1, 3, 4)))
    head.deviation.copy_(with_references.std((0, 1, 3, 4)))
    count = len(data.files) // BATCH
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * count)
    for epoch in (bar := trange(epochs, desc=f"head, seed {seed}")):
        losses, order = [], generator.permutation(len(data.files))
        for batch in order[: count * BATCH].reshape(count, BATCH):
            crops = [_crop(data, pixels, index, generator) for index in batch]
            distances, fine, truth = (torch.stack(parts) for parts in zip(*crops, strict=True))
            loss = F.binary_cross_entropy_with_logits(head(distances.float(), fine.float()), truth.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        bar.set_postfix(epoch=epoch + 1, loss=f"{np.mean(losses):.4f}")
    return head.eval()


def _crop(data: Examples, pixels: Tensor, index: int, generator: np.random.Generator) -> tuple[Tensor, ...]:
    """Distances, pixels and truth of a crop of a picture, turned and flipped, three of four on a defect."""
    truth, last = data.labels[index] == 1, data.distances.shape[-1] - CROP
    corner = generator.integers(0, last + 1, 2)
    if generator.uniform() < ON_DEFECT and truth.any():
        place = truth.nonzero()[generator.integers(int(truth.sum()))].numpy() // FINE
        corner = np.clip(place - generator.integers(0, CROP, 2), 0, last)
    cells = tuple(slice(start, start + CROP) for start in corner)
    fine = tuple(slice(FINE * start, FINE * (start + CROP)) for start in corner)
    mode, turns, flip = generator.choice(len(MODES), p=MODE_CHANCES), generator.integers(4), generator.integers(2)
    parts = data.distances[index, mode][(slice(None), *cells)], pixels[index][(slice(None), *fine)], truth[fine]
    turned = [torch.rot90(part, turns, (-2, -1)) for part in parts]
    return tuple(part.flip(-1) if flip else part for part in turned)


@torch.inference_mode()
def logits_of(head: DefectHead, data: Examples, mode: int) -> np.ndarray:
    """Uncalibrated maps (n, 256, 256) in one of `MODES`."""
    batches = zip(data.distances[:, mode].split(BATCH), data.pictures.split(BATCH), strict=True)
    maps = [defect_logits(head, distances.float(), pixel_channels(pictures)) for distances, pictures in batches]
    return torch.cat(maps).numpy()


def calibrate(logits: list[np.ndarray], labels: np.ndarray) -> tuple[float, float]:
    """Slope and offset that make probabilities of the logits: logistic regression on a ninth of the pixels."""
    values = np.concatenate([each[:, ::3, ::3].ravel() for each in logits])
    truth = np.tile((labels == 1)[:, ::3, ::3].ravel(), len(logits))
    fitted = LogisticRegression(C=np.inf).fit(values[:, None], truth)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def boxes_hit(maps: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How often a map's highest pixel lies in a box, and how many boxes reach what 1 % of other pixels exceed."""
    inside, hits = labels == 1, []
    peaks = [bool(place.flat[values.argmax()]) for values, place in zip(maps, inside, strict=True)]
    limit = np.quantile(maps[~inside], 0.99)
    for values, place in zip(maps, inside, strict=True):
        numbered, count = ndimage.label(place)
        hits += list(ndimage.maximum(values, numbered, range(1, count + 1)) >= limit)
    return {"n": len(maps), "peak_in_box": float(np.mean(peaks)), "boxes": len(hits), "boxes_hit": float(np.mean(hits))}


def verdict_thresholds(maps: np.ndarray, labels: np.ndarray, originals: np.ndarray, outline: float) -> dict[str, Any]:
    """By `ALARMS`: the score that this share of real leather outside boxes reaches, with an interval over originals."""
    outside, anything = np.where(labels == 1, 0, maps), Thresholds(outline, 0, "")
    scores, generator = np.array([judge_map(values, anything).score for values in outside]), np.random.default_rng(0)
    names, members = np.unique(originals, return_inverse=True)
    rows = [np.flatnonzero(members == number) for number in range(len(names))]
    draws = [
        scores[np.concatenate([rows[i] for i in generator.integers(0, len(rows), len(rows))])] for _ in range(DRAWS)
    ]
    points = {}
    for rate in ALARMS:
        low, high = np.percentile([np.quantile(draw, 1 - rate) for draw in draws], [2.5, 97.5])
        threshold = float(np.quantile(scores, 1 - rate, method="higher"))
        points[str(rate)] = {"threshold": threshold, "interval": [float(low), float(high)]}
    return {"n": len(scores), "originals": len(names), **points}


def fit_head(prepared: Prepared, *, seed: int, epochs: int = EPOCHS) -> tuple[DefectHead, dict[str, Any]]:
    """A head, and its calibration, thresholds and validation figures, which know nothing of any test picture."""
    network = train(prepared.train, prepared.pixels, seed=seed, epochs=epochs)
    painted = [logits_of(network, prepared.painted, mode) for mode in range(len(MODES))]
    truth = prepared.painted.labels.numpy()
    slope, offset = calibrate(painted, truth)
    probable = [expit(slope * logits + offset) for logits in painted]
    outline = best_pixel_threshold(np.concatenate(probable), np.tile(truth == 1, (len(MODES), 1, 1)))
    figures, verdict, boxes = {}, {}, prepared.boxed.labels.numpy()
    for number, (mode, maps) in enumerate(zip(MODES, probable, strict=True)):
        real = expit(slope * logits_of(network, prepared.boxed, number) + offset)
        figures[mode] = {
            "painted_pixel_ap": pixel_average_precision(maps, truth == 1),
            **threshold_metrics(maps, truth == 1, threshold=outline),
            **boxes_hit(real, boxes),
        }
        verdict[mode] = verdict_thresholds(real, boxes, prepared.originals, outline)
    return network, {"slope": slope, "offset": offset, "outline": outline, "verdict": verdict, "validation": figures}


@dataclass(frozen=True)
class Prepared:
    """All that heads of one backbone learn from and are validated on."""

    train: Examples
    pixels: Tensor  # of the training pictures
    painted: Examples
    boxed: Examples
    originals: np.ndarray  # the original that each boxed picture is a copy of


def prepare(options: argparse.Namespace, encoder: Encoder, *, kinds: tuple[str, ...] | None = None) -> Prepared:
    """Reads, paints and encodes the textures; what is in ``--work`` already is taken.

    Raises ValueError if that is of other textures, blocks or weights.
    """
    table = read_textures(options.textures, options.boxes)
    digest, rows = encoder.backbone.digest_up_to(max(encoder.blocks)), table.drop(columns="path").to_csv()
    made_of, stamp = identity_of(digest, encoder.blocks, rows, options.split_seed, kinds), options.work / "made_of.txt"
    if stamp.is_file() and stamp.read_text() != made_of:
        raise ValueError(f"{options.work} is of other textures, blocks or weights; give another --work")
    options.work.mkdir(parents=True, exist_ok=True)
    stamp.write_text(made_of)
    if not options.validation_list.is_file():
        drawn = draw_validation(table, seed=options.split_seed)
        drawn[["file", "copy_of", "boxed"]].to_csv(options.validation_list, index=False, lineterminator="\n")
    listed = table["file"].isin(pd.read_csv(options.validation_list)["file"])
    validation, rest = table[listed], table[~listed]
    boxed, work = validation[validation["boxed"]], options.work
    parts = {
        "train": painted_examples(like_groups(rest), encoder, work / "train", seed=1, kinds=kinds),
        "painted": painted_examples(like_groups(validation), encoder, work / "painted", seed=2),
        "boxed": boxed_examples(like_groups(boxed), encoder, work / "boxed", options.boxes),
    }
    batches = tqdm(parts["train"].pictures.split(64), desc="pixel channels")
    pixels = torch.cat([pixel_channels(pictures).half() for pictures in batches])
    originals = boxed.set_index("file")["copy_of"].loc[parts["boxed"].files].to_numpy()
    return Prepared(pixels=pixels, originals=originals, **parts)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--textures", type=Path, required=True, help="folder of folders of leather pictures")
    parser.add_argument("--boxes", type=Path, required=True, help="CSV of real defects on some of them")
    parser.add_argument("--backbone", default=SHIPPED_ARCHITECTURE, help="timm's name")
    parser.add_argument("--weights", default="shipped", help="a weights file, or shipped")
    parser.add_argument("--blocks", type=int, nargs="+", default=(5, 7, 9, 11), help="whose tokens the head reads")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one head each; the first is kept")
    parser.add_argument("--name", help="of the file in models/heads; without it nothing is written there")
    parser.add_argument("--work", type=Path, default=Path("work/head"), help="folder of prepared pictures and heads")
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--validation-list", type=Path, default=Path(__file__).with_name("head_validation.csv"))
    return parser.parse_args()


def main() -> None:
    options = parse()
    backbone = load_backbone(options.backbone, options.weights, image_size=TILE)
    encoder = Encoder(backbone, tuple(sorted(options.blocks)), zoom=TILE / SIDE)
    prepared = prepare(options, encoder)
    made = {
        "recipe": "tools/train_head.py: painted defects of 13 kinds, binary cross-entropy on crops",
        "textures": f"{len(prepared.train.files)} of {options.textures.name}, whose terms are those of their sources; "
        "none of them is in this file",
        "backbone": backbone.weights,
        "date": datetime.date.today().isoformat(),
    }
    for seed in options.seeds:
        network, fitted = fit_head(prepared, seed=seed)
        validation = fitted.pop("validation")
        print(json.dumps({"seed": seed} | fitted | validation, indent=1))
        facts = HeadFacts(
            tokens=backbone.digest_up_to(max(encoder.blocks)),
            blocks=encoder.blocks,
            made=made | {"seed": seed, "validation": validation},
            **fitted,
        )
        save_head(Head(network, facts), options.work / f"head_{seed}.safetensors")
    if options.name:
        shutil.copy(options.work / f"head_{options.seeds[0]}.safetensors", paths.heads / f"{options.name}.safetensors")


if __name__ == "__main__":
    main()

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
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor
from tqdm import trange

from src.backbone.vit import SHIPPED_ARCHITECTURE, load_backbone
from src.config import paths
from src.files import identity_of, whole_file
from src.localisation.channels import FINE
from src.localisation.encoder import TILE, Encoder
from src.localisation.head import DefectHead, Head, HeadFacts, head_digest, load_head
from tools.boxes import BOX, USES, shown_boxes, targets
from tools.head_data import (
    SIDE,
    Examples,
    boxed_examples,
    draw_validation,
    like_groups,
    painted_examples,
    read_textures,
)
from tools.validate_head import Prepared, validate

EPOCHS, BATCH, RATE, DECAY = 10, 16, 3e-3, 1e-2
REFERENCES = {  # chances of MODES and LIKE
    "like": (0.4, 0.0, 0.0, 0.3, 0.3),
    "same": (0.4, 0.3, 0.3, 0.0, 0.0),
    "mixed": (0.4, 0.2, 0.2, 0.1, 0.1),
}
BOXES, SAME = "weak", "mixed"  # of `USES` and of REFERENCES
CROP = 16  # cells
ON_DEFECT = 0.75  # share of the crops that show one


def train(
    data: Examples,
    *,
    seed: int,
    epochs: int = EPOCHS,
    boxes: str = BOXES,
    references: str = SAME,
    start: DefectHead | None = None,
    rate: float = RATE,
) -> DefectHead:
    """A head trained on crops of painted pictures, anew or from another one.

    For ``boxes`` see `USES`, for ``references`` `REFERENCES`.
    """
    torch.manual_seed(seed)
    generator, head = np.random.default_rng(seed), DefectHead(data.distances.shape[2] // 4)
    with_references = data.distances[:, np.flatnonzero(REFERENCES[references][1:]) + 1, :-1].float()
    head.mean.copy_(with_references.mean((0, 1, 3, 4)))
    head.deviation.copy_(with_references.std((0, 1, 3, 4)))
    if start is not None:
        head.load_state_dict(start.state_dict())
    count, head = len(data.files) // BATCH, head.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(head.parameters(), rate, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * count)
    for epoch in (bar := trange(epochs, desc=f"head, seed {seed}")):
        losses, order = [], generator.permutation(len(data.files))
        # A new head finds nothing in boxes.
        use = "ignored" if boxes == "weak" and start is None and epoch == 0 else boxes
        for batch in order[: count * BATCH].reshape(count, BATCH):
            crops = [_crop(data, index, generator, references) for index in batch]
            distances, pixels, truth, real = (torch.stack(parts) for parts in zip(*crops, strict=True))
            with torch.autocast("cpu", torch.bfloat16):  # twice as fast
                logits = head(distances.float(), pixels.float() / 16)
            target, weight = targets(logits.float(), truth, real, use=use)
            loss = F.binary_cross_entropy_with_logits(logits.float(), target, weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        bar.set_postfix(epoch=epoch + 1, loss=f"{np.mean(losses):.4f}")
    return head.to(memory_format=torch.contiguous_format).eval()


def _crop(data: Examples, index: int, generator: np.random.Generator, references: str) -> list[Tensor]:
    """Distances, pixels, truth and boxes of a crop of a picture, turned and flipped, three of four on a defect."""
    label, last = data.labels[index], data.distances.shape[-1] - CROP
    corner, truth = generator.integers(0, last + 1, 2), label == 1
    if generator.uniform() < ON_DEFECT and (wanted := truth if truth.any() else label == BOX).any():
        place = wanted.nonzero()[generator.integers(int(wanted.sum()))].numpy() // FINE
        corner = np.clip(place - generator.integers(0, CROP, 2), 0, last)
    cells = tuple(slice(start, start + CROP) for start in corner)
    fine = tuple(slice(FINE * start, FINE * (start + CROP)) for start in corner)
    chances = REFERENCES[references][: data.distances.shape[1]]
    mode, turns, flip = generator.choice(len(chances), p=chances), generator.integers(4), generator.integers(2)
    parts = data.distances[index, mode][(slice(None), *cells)], data.pixels[index][(slice(None), *fine)], truth[fine]
    turned = [torch.rot90(part, turns, (-2, -1)) for part in (*parts, shown_boxes(label, fine))]
    return [part.flip(-1) if flip else part for part in turned]


def fit_head(prepared: Prepared, *, seed: int, **settings: Any) -> tuple[DefectHead, dict[str, Any]]:
    """A head, and its calibration, thresholds and validation figures, which know nothing of any test picture.

    ``settings`` are those of `train`.
    """
    network = train(prepared.train, seed=seed, **settings)
    return network, validate(network, prepared)


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
    painted = partial(painted_examples, encoder=encoder, boxes=options.boxes)
    parts = {
        "train": painted(like_groups(rest)[: options.groups], folder=work / "train", seed=1, kinds=kinds),
        "painted": painted(like_groups(validation)[: options.groups], folder=work / "painted", seed=2),
        "boxed": boxed_examples(like_groups(boxed), encoder, work / "boxed", options.boxes),
    }
    originals = boxed.set_index("file")["copy_of"].loc[parts["boxed"].files].to_numpy()
    return Prepared(originals=originals, **parts)


def save_head(head: Head, file: Path) -> Path:
    """Writes weights in float16, and as metadata facts and a digest of both, safetensors."""
    weights = {name: tensor.half().contiguous() for name, tensor in head.network.state_dict().items()}
    facts = json.dumps(asdict(head.facts))
    with whole_file(file) as stream:
        stream.write(save(weights, {"head": facts, "sha256": head_digest(head.network, facts)}))
    return Path(file)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--textures", type=Path, required=True, help="folder of folders of leather pictures")
    parser.add_argument("--boxes", type=Path, required=True, help="CSV of real defects on some of them")
    parser.add_argument("--backbone", default=SHIPPED_ARCHITECTURE, help="timm's name")
    parser.add_argument("--weights", default="shipped", help="a weights file, or shipped")
    parser.add_argument("--blocks", type=int, nargs="+", default=(5, 7, 9, 11), help="whose tokens the head reads")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one head each; the first is kept")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--start", type=Path, help="file of a head that training goes on from")
    parser.add_argument("--rate", type=float, default=RATE, help="highest learning rate")
    parser.add_argument("--groups", type=int, help="of like textures that are painted on (default: all)")
    parser.add_argument("--box-use", choices=USES, default=BOXES, help="what real defects in boxes count as")
    parser.add_argument("--references", choices=REFERENCES, default=SAME, help="leathers that references are of")
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
        "textures": f"{len(prepared.train.files)} paintings of {options.textures.name}, whose terms are those of their "
        "sources; none of them is in this file",
        "backbone": backbone.weights,
        "date": datetime.date.today().isoformat(),
    }
    settings = {"epochs": options.epochs, "boxes": options.box_use, "references": options.references}
    settings["rate"], start = options.rate, options.start and load_head(options.start, backbone)
    if options.start and start is None:
        raise ValueError(f"{options.start} is no head for {backbone.weights}; give one of the same weights and blocks")
    if start:
        made["start"] = f"the head of {start.facts.made['date']}, seed {start.facts.made['seed']}"
    for seed in options.seeds:
        network, fitted = fit_head(prepared, seed=seed, start=start and start.network, **settings)
        validation = fitted.pop("validation")
        print(json.dumps({"seed": seed} | fitted | validation, indent=1))
        facts = HeadFacts(
            tokens=backbone.digest_up_to(max(encoder.blocks)),
            blocks=encoder.blocks,
            made=made | settings | {"seed": seed, "validation": validation},
            **fitted,
        )
        save_head(Head(network, facts), options.work / f"head_{seed}.safetensors")
    if options.name:
        shutil.copy(options.work / f"head_{options.seeds[0]}.safetensors", paths.heads / f"{options.name}.safetensors")


if __name__ == "__main__":
    main()

"""Gets a judge ready: the network, what pictures are compared with, and how long it will take."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..backbone.vit import SHIPPED_ARCHITECTURE, load_backbone
from ..classifier.checkpoints import load_checkpoint
from ..classifier.predict import trained_side
from ..data.pictures import UnreadableImageError, load_image, load_mask, picture_size
from ..files import fitting, load_tensors, save_tensors
from ..localisation.encoder import TILE, Encoder, camera_zoom
from ..localisation.head import find_head
from ..localisation.localise import Detector, leather_patches, without_table
from ..localisation.references import ROWS, References, choose_pictures, gather, sample_rows
from ..localisation.regions import Thresholds
from ..localisation.thresholds import CALIBRATED, make_encoder, with_thresholds
from .grade import read_rules
from .hide import leather_mask
from .inputs import Inputs, Options, PictureSelection
from .judge import PROBLEMS, Judge, Read

LARGER = "vit_small_patch14_dinov2"  # the backbone that is meant by weights other than the shipped ones
TRIAL = 2 * TILE  # px of the network's input: longest side of the noise on which time is measured
MODES = {"zero-shot": "each by itself", "unlabelled-folder": "each by the others", "normals": "by the normal pictures"}
FEWEST_NORMALS = 4  # pictures by which thresholds can be set
PIECES = 4  # of a large picture, as large as the network's input, that give its references
SIZED = 500  # pictures, at most, whose size is read: scale and references follow from them, however many there are
SEED = 0


def make_judge(inputs: Inputs, options: Options, *, kept: Path, todo: int) -> Judge:
    """Opens the network and reads the references, or those that an earlier start of the same run kept in a file.

    Says that ``todo`` pictures are to be judged, how, and how long it takes. Raises ValueError if nothing can be read,
    or a threshold is given where there is no head, and what `load_backbone` raises.
    """
    compared, sizes = inputs.normals or inputs.pictures, _sizes(inputs.pictures)
    compared_sizes = _sizes(inputs.normals) if inputs.normals else sizes
    mode = "normals" if inputs.normals else "unlabelled-folder" if len(sizes) > 1 else "zero-shot"
    calibrating = list(compared_sizes)[:CALIBRATED] if options.engine == "openvino-int8" else []
    zoom = camera_zoom([*sizes.values(), *compared_sizes.values()])
    read = partial(read_picture, mask=options.mask, masks=inputs.masks)
    judge = _open(options, read, zoom, [load_image(compared.pictures[name]) for name in calibrating])
    names = [list(compared_sizes)[number] for number in choose_pictures(len(compared_sizes), seed=SEED)]
    chosen = {} if kept.is_file() else {name: compared.pictures[name] for name in names}
    minutes = _minutes(judge.detector, list(sizes.values()), todo + (len(chosen) if mode != "zero-shot" else 0))
    duration = f"about {math.ceil(minutes)} min" if minutes > 1 else "less than a minute"
    backbone = judge.detector.encoder.backbone
    print(f"{todo:,} to judge, {MODES[mode]}; {backbone.name} ({backbone.weights}); {duration}", flush=True)
    if chosen:
        save_tensors(_references(replace(judge.detector, protocol=mode), chosen, read), kept)
    remedy = "remove it and inspect again"
    with fitting(kept, remedy=remedy):
        content = load_tensors(kept, remedy=remedy)
        if mode == "normals" and len(content["names"]) < FEWEST_NORMALS:
            print(f"{len(content['names'])} normal pictures are few: give {FEWEST_NORMALS} or more, or none")
        return _comparing(judge, content, options.threshold)


def reopen_judge(kept: dict[str, Any], read: Read, options: Options) -> Judge:
    """The judge of `make_judge` in another process, from the content of its file ``kept``; reads no picture."""
    return _comparing(_open(options, read, kept["facts"]["zoom"]), kept, options.threshold)


def _open(options: Options, read: Read, zoom: float, calibration: Sequence[Image.Image] = ()) -> Judge:
    """With the network and all other files that options name, and nothing to compare with."""
    scale = options.mm_per_pixel and (options.mm_per_pixel, read_rules(options.rules))
    classifier = None
    if options.classifier:
        model, content = load_checkpoint(options.classifier)
        classifier = model, trained_side(content)
    name = options.backbone or (SHIPPED_ARCHITECTURE if options.weights == "shipped" else LARGER)
    backbone = load_backbone(name, options.weights)
    head = find_head(backbone)
    if options.threshold is not None and head is None:
        raise ValueError(f"--threshold is a probability; there is no head for {backbone.name} that gives one")
    encoder = make_encoder(backbone, zoom=zoom, head=head, engine=options.engine, calibration=calibration)
    return Judge(Detector("zero-shot", encoder, None, head), {}, read, classifier, scale)


def _comparing(judge: Judge, kept: dict[str, Any], threshold: float | None) -> Judge:
    """With the references and thresholds of a run, which `_references` gave."""
    mode, thresholds = kept["protocol"], Thresholds(**kept["thresholds"])
    if threshold is not None:
        source = f"verdict as --threshold says; without it {thresholds.verdict:.3f}, {thresholds.source}"
        thresholds = Thresholds(min(thresholds.outline, threshold), threshold, source)
    detector = replace(
        judge.detector,
        protocol=mode,
        references=None if kept["rows"] is None else References(kept["rows"], mode == "normals"),
        thresholds=thresholds,
        facts=kept["facts"] | {"engine": judge.detector.encoder.engine.facts},
    )
    numbers = {} if mode == "normals" else {name: number for number, name in enumerate(kept["names"])}
    return replace(judge, detector=detector, numbers=numbers)


def _sizes(selection: PictureSelection) -> dict[str, tuple[int, int]]:
    """Width and height of pictures whose header can be read, drawn by the seed; ValueError if there is none."""
    names, sizes = list(selection.pictures), {}
    tried = np.random.default_rng(SEED).choice(len(names), min(len(names), SIZED), replace=False)
    for name in (names[number] for number in sorted(tried)):
        with contextlib.suppress(UnreadableImageError):
            sizes[name] = picture_size(selection.pictures[name])
    if not sizes:
        raise ValueError(f"none of the {len(selection.pictures)} pictures in {selection.root} can be read")
    return sizes


def read_picture(
    path: Path, *, mask: Path | str | None, masks: dict[Path, Path | None]
) -> tuple[Image.Image, np.ndarray | None]:
    """A picture, and where it shows leather, bool (height, width), or None for everywhere.

    Raises UnreadableImageError, or ValueError for a picture without a mask and a mask of another size.
    """
    picture = load_image(path)
    if mask == "auto":
        return picture, leather_mask(picture)
    if isinstance(mask, Path) and path not in masks:
        raise ValueError(f"{path} has no mask in {mask}; expected a picture of the same name, with any suffix")
    file = masks.get(path)
    return picture, file and load_mask(str(file), size=picture.size, most=1)  # of leather, which may fill it


def _minutes(detector: Detector, sizes: list[tuple[int, int]], count: int) -> float:
    """How long so many pictures of such sizes take, by the time of a piece of noise."""
    if not count:
        return 0
    side = round(TRIAL / detector.encoder.zoom)
    piece = Image.effect_noise([min(side, length) for length in sizes[0]], 64).convert("RGB")
    for _ in range(2):  # the first pays for starting
        started = time.perf_counter()
        detector.judge(piece)
        seconds = time.perf_counter() - started
    share = np.prod(sizes, axis=1).mean() / math.prod(piece.size)
    return seconds * count * share / 60


class _Each(Sequence):
    """What a function makes of each of some things, when it is asked for: they need not fit into memory together."""

    def __init__(self, things: Sequence[Any], make: Callable[[Any], Any]) -> None:
        self.things, self.make = things, make

    def __len__(self) -> int:
        return len(self.things)

    def __getitem__(self, number: int) -> Any:
        return self.make(self.things[number])


def _references(detector: Detector, pictures: dict[str, Path], read: Read) -> dict[str, Any]:
    """References, names of those that could be read, and thresholds: a resumed run and actors judge by the same."""
    mode, encoder, rows, each = detector.protocol, detector.encoder, {}, math.ceil(ROWS / len(pictures))
    compared, unread = pictures if mode != "zero-shot" else {}, {}
    for name, path in tqdm(compared.items(), desc="references", unit="img", disable=not compared):
        try:
            rows[name] = _rows(encoder, *read(path), count=each, seed=SEED + len(rows))
        except PROBLEMS as error:  # a picture that is judged has a row in the report, which says why
            unread[name] = error
    if mode == "normals" and unread:
        first, error = next(iter(unread.items()))
        text = f"{len(unread)} of {len(pictures)} normal pictures cannot be used, first {first}: {error}"
        if not rows:
            raise ValueError(text)
        print(text)
    if mode == "unlabelled-folder" and len(rows) < 2:
        mode, rows = "zero-shot", {}
    references = gather(list(rows.values()), are_normal=mode == "normals") if rows else None
    facts = {"normal_images": len(rows), "seed": SEED} if mode == "normals" else {}
    paths = [pictures[name] for name in rows or pictures]
    cleaned = _Each(paths, lambda path: without_table(*read(path)))
    tokens = _Each(paths, lambda path: encoder.tokens(without_table(*read(path))))
    leathers = _Each(paths, lambda path: read(path)[1])
    detector = replace(detector, protocol=mode, references=references, facts=facts)
    detector = with_thresholds(detector, cleaned, tokens, leathers)
    return {
        "rows": references and references.rows,
        "names": list(rows),
        "protocol": mode,
        "thresholds": vars(detector.thresholds),
        "facts": detector.facts | {"blocks": list(detector.facts["blocks"])},
    }


def _rows(encoder: Encoder, picture: Image.Image, leather: np.ndarray | None, *, count: int, seed: int) -> Tensor:
    """Some patches (blocks, m, d) of a picture; of a large one only from some pieces, drawn where most is leather."""
    generator, side, picture = np.random.default_rng(seed), round(TILE / encoder.zoom), without_table(picture, leather)
    boxes = [(0, 0, *picture.size)]
    if min(picture.size) >= side and math.prod(picture.size) > PIECES * side**2:
        corners = generator.integers(0, np.array(picture.size) - side + 1, size=(8 * PIECES, 2)).tolist()
        boxes = [(x, y, x + side, y + side) for x, y in corners]
        if leather is not None:
            boxes.sort(key=lambda box: -leather[box[1] : box[3], box[0] : box[2]].mean())
    rows, boxes = [], boxes[:PIECES]
    for box in boxes:
        piece = None if leather is None else leather[box[1] : box[3], box[0] : box[2]]
        tokens = encoder.tokens(picture.crop(box))
        valid = leather_patches(piece, tokens)
        rows.append(sample_rows(tokens, math.ceil(count / len(boxes)), seed=seed, valid=valid)[0])
    return torch.cat(rows, dim=1)

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
from ..classifier.model import ViTMultiClassClassifier
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
from .judge import PROBLEMS, Judge, Read
from .options import Options
from .pictures import PictureSelection, find_masks

LARGER = "vit_small_patch14_dinov2"  # the backbone that is meant by weights other than the shipped ones
TRIAL = 2 * TILE  # px of the network's input: longest side of the picture on which time is measured
MODES = {"zero-shot": "each by itself", "unlabelled-folder": "each by the others", "normals": "by normal pictures"}
PIECES = 4  # of a large picture, as large as the network's input, that give its references
SIZED = 500  # pictures, at most, whose size is read: scale and references follow from them, however many there are
SEED = 0


def make_judge(
    found: PictureSelection, normals: PictureSelection | None, options: Options, *, kept: Path, todo: Sequence[str]
) -> Judge:
    """Opens the network and reads the references, or those that an earlier start of the same run kept in a file.

    Says what will be done with the pictures ``todo`` and how long it takes. Raises ValueError if nothing can be read,
    or a threshold is given where there is no head, and what `load_backbone` raises.
    """
    parts, sizes = _parts(options), _sizes(found)
    compared, compared_sizes = (normals.pictures, _sizes(normals)) if normals else (found.pictures, sizes)
    mode = "normals" if normals else "unlabelled-folder" if len(sizes) > 1 else "zero-shot"
    first = list(compared_sizes)[:CALIBRATED] if options.engine == "openvino-int8" else []
    zoom, calibration = camera_zoom([*sizes.values(), *compared_sizes.values()]), [load_image(compared[one]) for one in first]
    detector = replace(_open(options, zoom, calibration), protocol=mode)
    read = _reader(found, normals, options.mask)
    chosen = [list(compared_sizes)[number] for number in choose_pictures(len(compared_sizes), seed=SEED)]
    waiting = [] if kept.is_file() or mode == "zero-shot" else [compared_sizes[one] for one in chosen]
    share = max(1, len(found.pictures) / SIZED)
    _announce(detector, {found.pictures[one]: sizes[one] for one in todo if one in sizes}, share, waiting, read)
    if kept.is_file():
        remedy = "remove it and inspect again"
        with fitting(kept, remedy=remedy):
            detector, names = _restored(detector, load_tensors(kept, remedy=remedy))
    else:
        detector, names = _compare(detector, {one: compared[one] for one in chosen}, read)
        _keep(detector, names, kept)
    return _judge(detector, names, read, options, parts)


def reopen_judge(kept: dict[str, Any], read: Read, options: Options) -> Judge:
    """The judge of `make_judge` in another process, from the content of its file ``kept``; reads no picture."""
    return _judge(*_restored(_open(options, kept["facts"]["zoom"]), kept), read, options, _parts(options))


def _open(options: Options, zoom: float, calibration: Sequence[Image.Image] = ()) -> Detector:
    """The network and its head, with nothing to compare with."""
    name = options.backbone or (SHIPPED_ARCHITECTURE if options.weights == "shipped" else LARGER)
    backbone = load_backbone(name, options.weights)
    head = find_head(backbone)
    if options.threshold is not None and head is None:
        raise ValueError(f"--threshold is a probability; there is no head for {backbone.name} that gives one")
    encoder = make_encoder(backbone, zoom=zoom, head=head, engine=options.engine, calibration=calibration)
    return Detector("zero-shot", encoder, None, head)


def _parts(options: Options) -> dict[str, Any]:
    """The parts of a judge that come from files."""
    classifier, scale = options.classifier and _classifier(options.classifier), options.mm_per_pixel
    return {"classifier": classifier, "scale": scale and (scale, read_rules(options.rules))}


def _judge(detector: Detector, names: list[str], read: Read, options: Options, parts: dict[str, Any]) -> Judge:
    if options.threshold is not None:
        was, wanted = detector.thresholds, options.threshold
        source = f"verdict as --threshold says; without it {was.verdict:.3f}, {was.source}"
        detector = replace(detector, thresholds=Thresholds(min(was.outline, wanted), wanted, source))
    numbers = {} if detector.protocol == "normals" else {one: number for number, one in enumerate(names)}
    return Judge(detector, numbers, read, **parts)


def _classifier(file: Path) -> tuple[ViTMultiClassClassifier, int]:
    model, content = load_checkpoint(file)
    return model, trained_side(content)


def _sizes(found: PictureSelection) -> dict[str, tuple[int, int]]:
    """Width and height of pictures whose header can be read, drawn by the seed; ValueError if there is none."""
    names, sizes = list(found.pictures), {}
    tried = np.random.default_rng(SEED).choice(len(names), min(len(names), SIZED), replace=False)
    for name in (names[number] for number in sorted(tried)):
        with contextlib.suppress(UnreadableImageError):
            sizes[name] = picture_size(found.pictures[name])
    if not sizes:
        raise ValueError(f"none of the {len(found.pictures)} pictures in {found.root} can be read")
    return sizes


def _reader(found: PictureSelection, normals: PictureSelection | None, mask: Path | str | None) -> Read:
    """What opens a picture with its mask. Normal pictures may have none: they may show leather alone."""
    known, masks = normals.pictures if normals else {}, {}
    if isinstance(mask, Path):
        masks = dict.fromkeys(known.values()) | find_masks(found.pictures, mask) | find_masks(known, mask)
    return partial(read_picture, mask=mask, masks=masks)


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


def _announce(
    detector: Detector, todo: dict[Path, tuple[int, int]], share: float, references: list[tuple[int, int]], read: Read
) -> None:
    """Says what will be done, ``share`` times ``todo``, and how long by the time of the middle of the first picture."""
    side, backbone, minutes = round(TRIAL / detector.encoder.zoom), detector.encoder.backbone, 0
    for path in todo:
        with contextlib.suppress(*PROBLEMS):
            picture = read(path)[0]
            left, top = (max(0, (length - side) // 2) for length in picture.size)
            picture = picture.crop((left, top, min(left + side, picture.width), min(top + side, picture.height)))
            for _ in range(2):  # the first pays for starting
                started = time.perf_counter()
                detector.judge(picture)
                seconds = time.perf_counter() - started
            pixels = sum(w * h for w, h in references) + share * sum(w * h for w, h in todo.values())
            minutes = math.ceil(seconds * pixels / (picture.width * picture.height) / 60)
            break
    print(f"{round(share * len(todo)):,} pictures to judge, {MODES[detector.protocol]}", end="; ")
    print(f"{backbone.name} ({backbone.weights}) by {engine_of(detector)}; about {minutes} min", flush=True)


def engine_of(detector: Detector) -> str:
    """What the network runs on, in words."""
    return "{engine} {version}, {precision}: {reason}".format(**detector.encoder.engine.facts)


class _Each(Sequence):
    """What a function makes of each of some things, when it is asked for: they need not fit into memory together."""

    def __init__(self, things: Sequence[Any], make: Callable[[Any], Any]) -> None:
        self.things, self.make = things, make

    def __len__(self) -> int:
        return len(self.things)

    def __getitem__(self, number: int) -> Any:
        return self.make(self.things[number])


def _compare(detector: Detector, pictures: dict[str, Path], read: Read) -> tuple[Detector, list[str]]:
    """The detector with references and thresholds, and the names of its references: those that could be read."""
    mode, encoder, rows, each = detector.protocol, detector.encoder, {}, math.ceil(ROWS / len(pictures))
    compared = pictures if mode != "zero-shot" else {}
    for name, path in tqdm(compared.items(), desc="references", unit="img", disable=not compared):
        with contextlib.suppress(*PROBLEMS):  # in the report it has a row that says why
            rows[name] = _rows(encoder, *read(path), count=each, seed=SEED + len(rows))
    if mode == "normals" and not rows:
        raise ValueError(f"none of the {len(pictures)} normal pictures can be read, first {next(iter(pictures))}")
    if mode == "unlabelled-folder" and len(rows) < 2:
        mode, rows = "zero-shot", {}
    if rows:
        facts = {"normal_images": len(rows), "seed": SEED} if mode == "normals" else {}
        detector = replace(detector, references=gather(list(rows.values()), are_normal=mode == "normals"), facts=facts)
    paths = [pictures[name] for name in rows or pictures]
    cleaned = _Each(paths, lambda path: without_table(*read(path)))
    tokens = _Each(paths, lambda path: encoder.tokens(without_table(*read(path))))
    leathers = _Each(paths, lambda path: read(path)[1])
    return with_thresholds(replace(detector, protocol=mode), cleaned, tokens, leathers), list(rows)


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


def _keep(detector: Detector, names: list[str], file: Path) -> None:
    """Keeps references and thresholds: a resumed run judges by the same."""
    references = detector.references
    save_tensors(
        {
            "rows": None if references is None else references.rows,
            "names": names,
            "protocol": detector.protocol,
            "thresholds": vars(detector.thresholds),
            "facts": detector.facts | {"blocks": list(detector.facts["blocks"])},
        },
        file,
    )


def _restored(detector: Detector, content: dict[str, Any]) -> tuple[Detector, list[str]]:
    mode, rows = content["protocol"], content["rows"]
    references = None if rows is None else References(rows, mode == "normals")
    thresholds = Thresholds(**content["thresholds"])
    whole = replace(detector, protocol=mode, references=references, thresholds=thresholds, facts=content["facts"])
    return whole, content["names"]

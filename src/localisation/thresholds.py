"""Makes detectors, and sets their thresholds without any test image: from a head's file, or from painted defects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..backbone.device import choose_device
from ..backbone.engines import choose_engine
from ..backbone.vit import Backbone
from ..config import ENGINES, setting
from ..synthetic.painter import add_defect
from .encoder import Encoder
from .head import Head
from .localise import Detector, evaluated_map, evaluated_mask
from .pixel_metrics import best_pixel_threshold
from .references import ROWS, References, choose_pictures, gather, sample_rows
from .regions import Thresholds, judge_map

ALARMS = 0.05  # share of good leather that may alarm, of the operating points that a head's file has
PAINTED = 24  # painted pictures that set the threshold of plain distances, at least
HELD_OUT = 16  # normal pictures, at most, that are judged by the others
CALIBRATED = 16  # pictures, and inputs of the network, at most, that set the ranges of int8
PLAIN_BLOCK = 0.6  # of the depth: the block whose plain distances are taken


def make_encoder(
    backbone: Backbone,
    *,
    zoom: float,
    head: Head | None,
    depth: int | None = None,
    engine: str | None = None,
    calibration: Sequence[Image.Image] = (),
) -> Encoder:
    """Reads the blocks of the head, or that of plain distances; the backbone is moved to the best device.

    ``depth`` is that of the whole network, where training has kept only its lower blocks. ``engine`` is one of
    `config.ENGINES`; None asks ``LEATHER_ENGINE``. Some of the pictures ``calibration`` set the ranges of int8.
    """
    backbone.network.to(choose_device())
    plain = max(0, round(PLAIN_BLOCK * (depth or backbone.depth)) - 1)
    encoder = Encoder(backbone, head.facts.blocks if head else (min(plain, backbone.depth - 1),), zoom=zoom)
    name = engine or setting("LEATHER_ENGINE", "auto", allowed=ENGINES)
    inputs = [image for picture in calibration[:CALIBRATED] for image in encoder.inputs(picture)]
    chosen = choose_engine(name, backbone, encoder.blocks, calibration=inputs[:: -(-len(inputs) // CALIBRATED) or 1])
    return Encoder(backbone, encoder.blocks, zoom=zoom, engine=chosen)


def references_of(tokens: list[Tensor], *, are_normal: bool, seed: int = 0) -> References:
    """References of pictures' tokens: of each as many patches, drawn by the seed, as keep their number in bounds."""
    each = math.ceil(ROWS / len(tokens))
    return gather([sample_rows(one, each, seed=seed + n)[0] for n, one in enumerate(tokens)], are_normal=are_normal)


def zero_shot_detector(encoder: Encoder, head: Head | None, pictures: list[Image.Image]) -> Detector:
    """Compares each picture with itself alone. ``pictures`` set the thresholds where there is no head."""
    return with_thresholds(Detector("zero-shot", encoder, None, head), pictures, [])


def folder_detector(encoder: Encoder, head: Head | None, pictures: list[Image.Image], tokens: list[Tensor]) -> Detector:
    """Compares each picture of an unlabelled folder with the others, of which ``tokens`` are."""
    chosen = choose_pictures(len(tokens))
    pictures, tokens = [pictures[number] for number in chosen], [tokens[number] for number in chosen]
    references = references_of(tokens, are_normal=False)
    return with_thresholds(Detector("unlabelled-folder", encoder, references, head), pictures, tokens)


def normals_detector(
    encoder: Encoder, head: Head | None, pictures: list[Image.Image], *, protocol: str, seed: int = 0
) -> Detector:
    """Compares pictures with normal ones, one at least; no other picture is used.

    The verdict threshold of the head is raised to the highest score of these normal pictures, each judged by the
    others, where that is higher.
    """
    if not pictures:
        raise ValueError(f"{protocol} has no normal image; one at least is needed")
    chosen = [pictures[number] for number in choose_pictures(len(pictures), seed=seed)]
    tokens = [encoder.tokens(picture) for picture in tqdm(chosen, desc="normal", unit="img")]
    detector = Detector(protocol, encoder, references_of(tokens, are_normal=True, seed=seed), head)
    return with_thresholds(replace(detector, facts={"normal_images": len(pictures), "seed": seed}), chosen, tokens)


def with_thresholds(
    detector: Detector,
    pictures: Sequence[Image.Image],
    tokens: Sequence[Tensor],
    leathers: Sequence[np.ndarray | None] | None = None,
) -> Detector:
    """A detector that is ready: its thresholds follow from what it compares with.

    ``pictures``, their tokens and where they show leather are those of the references; they are read one by one.
    """
    head, references = detector.head, detector.references
    are_normal = references is not None and references.are_normal
    if head is None:
        return _ready(detector, painted_thresholds(detector, pictures, normals=tokens if are_normal else None))
    if not are_normal:
        return _ready(detector, _operating_point(head, "own" if references is None else "folder"))
    shipped = _operating_point(head, "normals")
    highest = max(held_out_scores(detector, pictures, tokens, shipped.outline, leathers), default=0.0)
    if highest > shipped.verdict:
        count = len(pictures)
        judged = f"{count} normal images, each judged by the others" if count > 1 else "the one normal image"
        source = f"{shipped.source}; raised to the highest score of {judged}"
        shipped = Thresholds(shipped.outline, float(np.nextafter(np.float32(highest), np.float32(2))), source)
    return _ready(detector, shipped)


def held_out_scores(
    detector: Detector,
    pictures: Sequence[Image.Image],
    tokens: Sequence[Tensor],
    outline: float,
    leathers: Sequence[np.ndarray | None] | None = None,
) -> list[float]:
    """Scores of some reference pictures, evenly spread, each judged by the others; a single one is judged alone."""
    detector, numbers = _held_out(detector, len(pictures))
    leathers = leathers or [None] * len(pictures)
    maps = (detector.anomaly_map(pictures[n], tokens[n], leather=leathers[n], without=n) for n in numbers)
    return [judge_map(values, Thresholds(outline, np.inf, "")).score for values in maps]


def _held_out(detector: Detector, count: int) -> tuple[Detector, list[int]]:
    """Which of so many reference pictures are judged by the others, and by what: a single one is judged alone."""
    numbers = np.unique(np.linspace(0, count - 1, HELD_OUT).round().astype(int)).tolist()
    return replace(detector, references=None) if count == 1 else detector, numbers


def painted_thresholds(
    detector: Detector, pictures: Sequence[Image.Image], *, normals: Sequence[Tensor] | None = None
) -> Thresholds:
    """For plain distances: the outline of highest F1 on defects painted on these pictures, each judged by the others.

    The verdict is at the outline, or at the highest score of the pictures if it is higher and they are normal;
    ``normals`` are their tokens then.
    """
    judge, numbers = _held_out(detector, len(pictures))
    maps, masks, generator = [], [], np.random.default_rng(0)
    for number in tqdm(numbers, desc="painted defects", unit="img"):
        for _ in range(math.ceil(PAINTED / len(numbers))):
            pixels, mask = add_defect(np.asarray(pictures[number]), generator)
            painted = Image.fromarray(pixels)
            values = judge.anomaly_map(painted, detector.encoder.tokens(painted), without=number)
            maps.append(evaluated_map(values))
            masks.append(evaluated_mask(mask.astype(bool)))
    outline = best_pixel_threshold(np.stack(maps), np.stack(masks))
    source, verdict = f"highest pixel F1 on {len(maps)} defects painted on {len(numbers)} pictures", outline
    if normals is not None:
        verdict = max(verdict, *held_out_scores(detector, pictures, normals, outline))
        verdict = float(np.nextafter(np.float32(verdict), np.float32(np.inf)))
        source += "; verdict: above the highest of the normal ones, each judged by the others"
    return Thresholds(outline, verdict, source)


def _operating_point(head: Head, references: str) -> Thresholds:
    points = head.facts.verdict[references]
    source = (
        f"outline: highest pixel F1 on painted defects; verdict: {ALARMS:.0%} of {points['n']} pictures of real "
        f"leather outside marked defects ({points['originals']} originals) reach it"
    )
    return Thresholds(head.facts.outline, points[str(ALARMS)]["threshold"], source)


def _ready(detector: Detector, thresholds: Thresholds) -> Detector:
    backbone, head = detector.encoder.backbone, detector.head
    plain = f"plain distances after block {detector.encoder.blocks[0]}: no head was trained for this backbone"
    facts = {
        "backbone": backbone.identity,
        "weights": backbone.weights,
        "normal_images": 0,
        "bank_patches": 0 if detector.references is None else math.prod(detector.references.rows.shape[1:3]),
        "settings_source": f"the head of {head.facts.made['date']} for this backbone" if head else plain,
        "blocks": detector.encoder.blocks,
        "zoom": detector.encoder.zoom,
        "engine": detector.encoder.engine.facts,  # the same object: torch may take over at the first picture
    }
    return replace(detector, thresholds=thresholds, facts=facts | detector.facts)

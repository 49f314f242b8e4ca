"""How good are heads on leather that they have never seen, with what references, and beside the maps without a head?

``python -m benchmarks.any_leather --data MVTEC_FOLDER --backbone NAME --weights FILE --heads FILE [FILE ...]`` judges
the test images of MVTec AD leather with each head (of several seeds, say): alone (``zero-shot``), among each other
(``unlabelled-folder``) and with 1, 2 and 4 normal images, as far as the data allow. Nothing is chosen on test images,
and each of them passes the network once. *own distances* are plain distances after the same blocks; how much better a
head is has a 95 % interval from the same draws of images for both.

- ``--views``: zero-shot maps averaged over four quarter turns, and with one that is shifted by half a patch.
- ``--classes FOLDER``: tiles of the six-class set, zero-shot: AUROC of normal against defective ones, in all and by
  class, of the verdict's score and of the map's mean. ``--tiles N`` draws so many of each class.

Finished parts are files in ``--output``, so an interrupted study goes on. Writes ``any_leather_<name>.json`` and
``.md`` there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor
from tqdm import tqdm

from benchmarks.tables import markdown_rows, write_results
from src.backbone.vit import SHIPPED_ARCHITECTURE, Backbone, load_backbone
from src.config import MVTEC_FOLDER, paths
from src.data.pictures import load_image, picture_size
from src.data.splits import mvtec_split
from src.data.tables import class_root, classes_of, index_images, index_mvtec
from src.files import file_digest, identity_of, write_json
from src.localisation.channels import CELL, FINE
from src.localisation.encoder import TILE, Encoder, camera_zoom
from src.localisation.evaluation import localisation_metrics
from src.localisation.head import Head, load_head
from src.localisation.localise import Detector, Localisation, evaluated_map, localise, read_tokens
from src.localisation.pixel_metrics import histogram_figures, pixel_metrics, score_histograms
from src.localisation.regions import Thresholds, judge_map
from src.localisation.thresholds import folder_detector, make_encoder, normals_detector, zero_shot_detector

VERSION = 1  # raise it whenever the same images, weights and head give other figures
ALONE, AMONG, SHOTS = "zero-shot", "unlabelled-folder", (1, 2, 4)
OWN, NONE = "own distances", Thresholds(np.inf, np.inf, "none")
PAIRED = {"pixel_ap": "pixel AP", "aupro_30": "AUPRO"}
FIGURES = PAIRED | {f"gain_{name}": f"gain in {title}" for name, title in PAIRED.items()}
FIGURES |= {
    "pixel_f1_at_threshold": "F1 at threshold",
    "image_auroc": "image AUROC",
    "image_accuracy_at_threshold": "image accuracy",
    "image_false_alarm_rate": "false alarms",
}
DRAWS = 500  # of images, for the interval of a gain
SCORES = {"score": "verdict's score", "mean": "mean of the map"}


def read_head(file: Path, backbone: Backbone) -> Head:
    """The head of a file; ValueError if it was made for other tokens."""
    if (head := load_head(file, backbone)) is None:
        raise ValueError(f"{file} is no head for {backbone.weights}; give the weights that it was trained with")
    return head


def study_mvtec(
    backbone: Backbone, heads: dict[str, Head], table: pd.DataFrame, folder: Path, *, views: bool = False
) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures by protocol, as far as the data allow, and by head, and of own distances.

    ``heads`` are by the digest of their files; ``table`` is that of `index_mvtec`. What is in ``folder`` is taken.
    """
    encoder, first = encoder_of(backbone, heads, table), next(iter(heads.values()))
    test, results = table[table["part"] == "test"].reset_index(drop=True), {}
    tokens, train = cache(lambda: read_tokens(encoder, test)), (table["part"] == "train").sum()
    shots = {f"{count}-shot": count for count in SHOTS if count <= train}
    for protocol in (ALONE, AMONG, *shots, *(VIEWS if views else ())):
        references = mvtec_split(table, protocol)[0] if protocol in shots else test if protocol == AMONG else test[:0]
        paths = [*references["path"], *test["path"], *filter(None, test["mask"])]
        files = part_files(folder / protocol, backbone, encoder, heads, paths)
        missing, own = {name: file for name, file in files.items() if not file.is_file()}, None
        for name, file in missing.items():
            detector = detector_of(protocol, encoder, heads.get(name, first), references["path"], tokens())
            own = own or show(protocol, replace(detector, head=None, thresholds=NONE), test, tokens())
            if name == OWN:
                write_json(pixel_metrics(own.maps, own.masks), file)
            else:
                shown = show(protocol, detector, test, tokens())
                write_json(localisation_metrics(shown) | gains(shown.maps, own.maps, own.masks), file)
        results[protocol] = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
    return results


def encoder_of(backbone: Backbone, heads: dict[str, Head], table: pd.DataFrame) -> Encoder:
    """At the scale of a table's camera, for all heads; ValueError if they read different blocks."""
    first, *others = heads.values()
    if any(head.facts.blocks != first.facts.blocks for head in others):
        raise ValueError("the heads read different blocks of the backbone; study those of the same blocks together")
    return make_encoder(backbone, zoom=camera_zoom(map(picture_size, table["path"])), head=first)


def part_files(
    start: Path, backbone: Backbone, encoder: Encoder, heads: dict[str, Head], paths: list[str]
) -> dict[str, Path]:
    """The file of each head, and of own distances, for a part of the study that is of these images."""
    about = VERSION, backbone.identity, encoder.blocks, encoder.zoom, list(map(file_digest, paths))
    return {name: start.with_name(f"{start.name}_{identity_of(name, *about)[:16]}.json") for name in (OWN, *heads)}


def detector_of(protocol: str, encoder: Encoder, head: Head, references: list, tokens: list[Tensor]) -> Detector:
    pictures = [load_image(path) for path in references]
    if protocol == AMONG:
        return folder_detector(encoder, head, pictures, tokens)
    return (
        normals_detector(encoder, head, pictures, protocol=protocol)
        if pictures
        else zero_shot_detector(encoder, head, [])
    )


def show(protocol: str, detector: Detector, test: pd.DataFrame, tokens: list[Tensor]) -> Localisation:
    shown = localise(detector, test, tokens, among=protocol == AMONG)
    if protocol not in VIEWS:
        return shown
    judgements = []
    for path, judged in zip(tqdm(test["path"], desc=protocol, unit="img"), shown.judgements, strict=True):
        maps = [judged.map, *VIEWS[protocol](load_image(path), detector, judged.map)]
        judgements.append(judge_map(np.mean(maps, axis=0), detector.thresholds))
    return replace(shown, judgements=judgements, maps=np.stack([evaluated_map(each.map) for each in judgements]))


def turned(picture: Image.Image, detector: Detector, _: np.ndarray) -> list[np.ndarray]:
    """Maps of three quarter turns, turned back."""
    views = [Image.fromarray(np.rot90(np.asarray(picture), turns)) for turns in (1, 2, 3)]
    return [np.rot90(detector.judge(view).map, -turns) for turns, view in enumerate(views, start=1)]


def shifted(picture: Image.Image, detector: Detector, unmoved: np.ndarray) -> list[np.ndarray]:
    """The map of the picture moved by half a patch, moved back; what left the picture is as in the other map."""
    zoom, (height, width) = detector.encoder.zoom, picture.size[::-1]
    pixels = max(1, round(detector.encoder.backbone.patch / 2 / zoom))
    cut = max(1, round(pixels * zoom * FINE / CELL))  # pixels of the map
    moved = np.pad(np.asarray(picture), ((pixels, 0), (pixels, 0), (0, 0)), mode="reflect")[:height, :width]
    back = unmoved.copy()
    back[:-cut, :-cut] = detector.judge(Image.fromarray(moved)).map[cut:, cut:]
    return [back]


VIEWS = {f"{ALONE}-turned": turned, f"{ALONE}-shifted": shifted}


def gains(maps: np.ndarray, others: np.ndarray, masks: np.ndarray) -> dict[str, float | list[float]]:
    """How much better maps (n, h, w) are than others of the same images, with 95 % intervals by drawing images."""
    counts = [score_histograms(maps, masks), score_histograms(others, masks)]

    def gain(times: np.ndarray) -> list[float]:
        ours, theirs = (histogram_figures(np.tensordot(times, each, 1)) for each in counts)
        return [ours[name] - theirs[name] for name in PAIRED]

    generator, draws = np.random.default_rng(0), []
    for _ in range(DRAWS):
        times = np.bincount(generator.integers(0, len(maps), len(maps)), minlength=len(maps))
        with suppress(ValueError):  # there may be no defect in the draw
            draws.append(gain(times))
    intervals = np.percentile(draws, [2.5, 97.5], axis=0).T.tolist()
    point = {f"gain_{name}": value for name, value in zip(PAIRED, gain(np.ones(len(maps))), strict=True)}
    return point | {f"gain_{name}_interval": interval for name, interval in zip(PAIRED, intervals, strict=True)}


def study_classes(
    backbone: Backbone, heads: dict[str, Head], root: Path, folder: Path, *, tiles: int | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Zero-shot AUROC of normal against defective tiles, ``all`` and by class, by score and head (or `OWN`)."""
    table = index_images(class_root(root))
    normal, encoder, parts = classes_of(table).normal, encoder_of(backbone, heads, table), {}
    detectors = {OWN: Detector(ALONE, encoder, None, None)}
    detectors |= {name: zero_shot_detector(encoder, head, []) for name, head in heads.items()}
    for label, rows in table.groupby("label"):
        paths = rows["path"].sample(min(tiles or len(rows), len(rows)), random_state=0)
        files = part_files(folder / label, backbone, encoder, heads, list(paths))
        missing = {name: {score: [] for score in SCORES} for name, file in files.items() if not file.is_file()}
        for path in tqdm(paths if missing else [], desc=label, unit="tile"):
            tile = load_image(path)
            tokens = encoder.tokens(tile)
            for name, scores in missing.items():
                values = detectors[name].anomaly_map(tile, tokens)
                scores["score"].append(judge_map(values, detectors[name].thresholds).score)
                scores["mean"].append(float(values.mean()))
        for name, scores in missing.items():
            write_json(scores, files[name])
        parts[label] = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
    return {
        score: {name: areas({label: part[name][score] for label, part in parts.items()}, normal) for name in detectors}
        for score in SCORES
    }


def areas(scores: dict[str, list[float]], normal: str) -> dict[str, float]:
    """AUROC of the normal class against ``all`` others together, and against each, of scores by class."""
    good, bad = scores[normal], {label: values for label, values in scores.items() if label != normal}
    bad = {"all": sum(bad.values(), []), **bad}
    return {label: float(roc_auc_score([0] * len(good) + [1] * len(one), good + one)) for label, one in bad.items()}


def spread(entries: dict[str, dict[str, Any]], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Of figures by head (`OWN` is left out): mean, least and most, and of intervals the widest bounds."""
    figures, heads = {}, [entry for name, entry in entries.items() if name != OWN]
    for name in names:
        values = [entry[name] for entry in heads]
        figures[name] = {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}
        if f"{name}_interval" in heads[0]:
            low, high = zip(*(entry[f"{name}_interval"] for entry in heads), strict=True)
            figures[name]["interval"] = [min(low), max(high)]
    return figures


def summarise(results: dict[str, Any], classes: dict[str, Any]) -> dict[str, Any]:
    """Of what `study_mvtec` and `study_classes` return."""

    def part(entries: dict[str, Any], figures: Iterable[str], own: Iterable[str]) -> dict[str, Any]:
        each = {head: {name: entry[name] for name in figures} for head, entry in entries.items() if head != OWN}
        return {"heads": spread(entries, figures), "own": {name: entries[OWN][name] for name in own}, "each": each}

    protocols = {protocol: part(entries, FIGURES, PAIRED) for protocol, entries in results.items()}
    scores = {score: part(entries, entries[OWN], entries[OWN]) for score, entries in classes.items()}
    return {"protocols": protocols, "classes": scores}


def markdown(result: dict[str, Any]) -> str:
    """Mean over the heads, least and most in brackets; the interval of a gain is the widest of the heads."""

    def cell(values: dict[str, Any]) -> str:
        bounds = f" ({values['min']:.3f} to {values['max']:.3f})" if values["max"] > values["min"] else ""
        interval = "[{:.3f}, {:.3f}]".format(*values["interval"]) if "interval" in values else ""
        return f"{values['mean']:.3f}{bounds} {interval}".strip()

    def plain(entry: dict[str, Any]) -> list[str]:
        return [f"{value:.3f}" for value in entry["own"].values()]

    header, parts = (
        ["protocol", *FIGURES.values(), *(f"{OWN}, {name}" for name in PAIRED.values())],
        result["protocols"],
    )
    rows = ([name, *map(cell, entry["heads"].values()), *plain(entry)] for name, entry in parts.items())
    lines = [*markdown_rows(header, rows), ""]
    if result["classes"]:
        rows = []
        for score, entry in result["classes"].items():
            rows.append([SCORES[score], *map(cell, entry["heads"].values())])
            rows.append([f"{SCORES[score]}, {OWN}", *plain(entry)])
        lines += [*markdown_rows(["AUROC, zero-shot", *result["classes"]["score"]["own"]], rows), ""]
    count = len(result["heads"])
    heads = f"{count} {'head' if count == 1 else 'heads'} for {result['backbone']} ({result['weights']})"
    lines.append(f"{heads}: mean (least to most). Gains are on {OWN}, with the widest 95 % interval of the heads.")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paths.data / MVTEC_FOLDER, help="folder that holds leather/")
    parser.add_argument("--classes", type=Path, help="six-class folder")
    parser.add_argument("--tiles", type=int, help="of each class (default: all)")
    parser.add_argument("--views", action="store_true", help="zero-shot maps averaged over views too")
    parser.add_argument("--backbone", default=SHIPPED_ARCHITECTURE, help="timm's name")
    parser.add_argument("--weights", default="shipped", help="a weights file, or shipped")
    parser.add_argument("--heads", type=Path, nargs="+", required=True, help="files of tools.train_head")
    parser.add_argument("--name", help="of the result (default: the backbone's)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    backbone = load_backbone(options.backbone, options.weights, image_size=TILE)
    heads = {file_digest(file)[:16]: read_head(file, backbone) for file in options.heads}
    name = f"any_leather_{options.name or options.backbone}"
    parts, classes = options.output / name, {}
    results = study_mvtec(backbone, heads, index_mvtec(options.data), parts, views=options.views)
    if options.classes:
        classes = study_classes(backbone, heads, options.classes, parts, tiles=options.tiles)
    about = {"backbone": options.backbone, "weights": backbone.weights}
    about["heads"] = {digest: {"blocks": head.facts.blocks, **head.facts.made} for digest, head in heads.items()}
    result = about | summarise(results, classes)
    text = markdown(result)
    write_results(result, text, options.output / name)
    print(text)


if __name__ == "__main__":
    main()

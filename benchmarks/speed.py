"""How fast is the way from picture files to written maps, beside the bare network and beside anomalib?

``python -m benchmarks.speed --weights FILE`` (``make benchmark``) on MVTec AD leather, whose folder ``--data`` or
``LEATHER_DATA`` names. Each step takes the same pictures, in turns; medians of the rounds, with the lowest and highest.

- *bare*: the backbone in float32 by torch on tensors in memory, whole and up to the last block that is read; the better
  of one and four pictures at a time.
- *ours*, by engine: from files to written maps, with a bank of four normal pictures and no head, and zero-shot with the
  head.
- *anomalib*: its AnomalyDINO and PatchCore with the same weights and input size, called without Lightning around them,
  from files to written maps, by `benchmarks.peers` in the environment ``--peers``; else they are left out.
- *hide*: a 4608x3288 picture by the shipped backbone, in a process of its own; its highest memory. *curves*: seconds
  by the size of a picture and by the number of pictures in a folder. *start*: a process until its first map.
- *head-only training*, with ``--data-classes FOLDER``, against the bare pass of its backbone over as many pictures;
  and an epoch of *training* with the weights, beside the loop as published (`benchmarks.training`).

A finished part is kept in ``--parts``, so an interrupted run goes on; ``--again`` measures anew. ``--quick`` takes
fewer pictures and rounds, and smaller curves. Writes ``speed.json`` and ``speed.md`` into ``--output``. What was not
measured is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import trange

from benchmarks.tables import markdown_rows, write_results
from benchmarks.training import TRAINING, some_images, training_speed
from src.backbone.device import autocast, choose_device, choose_precision
from src.backbone.engines import machine_features
from src.backbone.vit import SHIPPED_ARCHITECTURE, Backbone, load_backbone
from src.classifier.model import create_model
from src.classifier.training import train_model
from src.config import MVTEC_FOLDER, SAMPLE, paths
from src.data.pictures import load_image, load_mask, picture_size
from src.data.splits import mvtec_split, split_index
from src.data.tables import classes_of, index_images, index_mvtec
from src.files import write_json
from src.localisation.encoder import TILE, Encoder, camera_zoom
from src.localisation.head import find_head
from src.localisation.localise import Detector, evaluated_map, evaluated_mask
from src.localisation.pixel_metrics import pixel_metrics
from src.localisation.stream import each_picture
from src.localisation.thresholds import make_encoder, references_of, zero_shot_detector

PROTOCOL, EACH_ROUND = "4-shot", 12
HIDE = 4608, 3288
MEGAPIXELS, QUICK_MEGAPIXELS = (0.2, 1, 4, 15, 40, 100), (0.2, 1, 4)
FOLDERS, QUICK_FOLDERS = (10, 100, 1000, 10_000), (10, 100)
ENGINES = "torch", "openvino", "openvino-int8"
PEERS = "anomalydino", "patchcore"
BATCH = 64  # of the bare pass beside head-only training
FEATURES = "avx2", "avx512_f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"
Step = Callable[[Path, list[str]], float]  # writes the maps of pictures into a folder; seconds


def bare_steps(backbone: Backbone, last: int) -> dict[str, Step]:
    """Names end with how many pictures pass at a time."""
    images = torch.zeros(4, 3, TILE, TILE)
    backbone.network.eval()

    @torch.inference_mode()
    def bare(count: int, whole: bool, number: int) -> float:
        started = time.perf_counter()
        for start in range(0, number, count):
            some = images[: min(count, number - start)]
            backbone.network(some) if whole else backbone.tokens(some, blocks=(last,))
        return time.perf_counter() - started

    steps: dict[str, Step] = {}
    for count in (1, 4):
        steps[f"bare, whole / {count}"] = lambda folder, files, n=count: bare(n, True, len(files))
        steps[f"bare, blocks that are read / {count}"] = lambda folder, files, n=count: bare(n, False, len(files))
    return steps


def write_maps(detector: Detector, folder: Path, files: list[str]) -> float:
    """Seconds from the files of pictures to the files of their maps."""

    def write(path: str, picture: Image.Image, tokens: torch.Tensor) -> Path:
        file = folder / f"{numbers[path]}.npy"
        np.save(file, detector.anomaly_map(picture, tokens))
        return file

    started, numbers = time.perf_counter(), {path: number for number, path in enumerate(files)}
    for path, file in each_picture(detector.encoder, files, write):
        if isinstance(file, Exception):
            raise RuntimeError(f"no map of {path}") from file
    return time.perf_counter() - started


def distances_and_head(detector: Detector) -> Step:
    """All of a picture's way behind the network, with the head, one picture at a time and on all cores."""

    def run(folder: Path, files: list[str]) -> float:
        seconds = 0.0
        for path in files:
            picture = load_image(path)
            tokens, started = detector.encoder.tokens(picture), time.perf_counter()
            detector.anomaly_map(picture, tokens)
            seconds += time.perf_counter() - started
        return seconds

    return run


def our_detectors(backbone: Backbone, pictures: list[Image.Image]) -> dict[str, Detector]:
    """By engine, with a bank and no head, and zero-shot with the head; engines that do not run here say why."""
    zoom, head, detectors = camera_zoom(picture.size for picture in pictures), find_head(backbone), {}
    for engine in ENGINES:
        try:
            options = {"zoom": zoom, "engine": engine, "calibration": pictures}
            plain, whole = (make_encoder(backbone, head=each, **options) for each in (None, head))
            if engine == "torch":  # the reference, whatever torch could do here
                plain, whole = (Encoder(backbone, each.blocks, zoom=zoom) for each in (plain, whole))
            bank = references_of([plain.tokens(picture) for picture in pictures], are_normal=True)
            detectors[engine] = Detector(PROTOCOL, plain, bank, None)
            if head:
                detectors[f"{engine}, head"] = Detector("zero-shot", whole, None, head)
        except ValueError as error:
            print(f"{engine} is left out: {error}")
    return detectors


class Peers:
    """The process of `benchmarks.peers`; ``step`` of a peer that fails is None."""

    def __init__(self, python: Path, backbone: str, weights: str, normals: list[str]) -> None:
        command = [str(python), str(Path(__file__).with_name("peers.py")), backbone, weights, str(TILE), *normals]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self, name: str) -> Step:
        def run(folder: Path, files: list[str]) -> float:
            self._process.stdin.write("\t".join([name, str(folder), *files]) + "\n")
            self._process.stdin.flush()
            lines = iter(self._process.stdout.readline, "")
            answer = next((json.loads(line) for line in lines if line.startswith('{"')), {"error": "it ended"})
            if "error" in answer:
                raise RuntimeError(f"{name}: {answer['error']}")
            return answer["seconds"]

        return run

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def in_turns(steps: dict[str, Step], files: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds a picture of each step and round; a first round warms up, and drops what does not run."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    with tempfile.TemporaryDirectory() as folder:
        for number in trange(rounds + 1, desc="rounds"):
            for name in list(times):
                try:
                    seconds = steps[name](Path(folder), files) / len(files)
                except RuntimeError as error:
                    print(f"{name} is left out: {error}")
                    del times[name]
                    continue
                if number:
                    times[name].append(seconds)
    return times


def pixel_quality(step: Step, files: list[str], masks: np.ndarray) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        step(Path(folder), files)
        maps = [evaluated_map(np.load(Path(folder) / f"{number}.npy")) for number in range(len(files))]
    figures = pixel_metrics(np.stack(maps), masks)
    return {name: figures[name] for name in ("aupro_30", "pixel_ap")}


def measure_turns(options: argparse.Namespace) -> dict[str, Any]:
    normals, test = mvtec_split(index_mvtec(options.data), PROTOCOL)
    pictures = [load_image(path) for path in normals["path"]]
    backbone = load_backbone(options.backbone, options.weights, image_size=TILE)
    detectors = our_detectors(backbone, pictures)
    steps = bare_steps(backbone, max(detector.encoder.blocks[-1] for detector in detectors.values()))
    if "torch, head" in detectors:
        steps["distances and head"] = distances_and_head(detectors["torch, head"])
    ours = {name: lambda folder, files, d=each: write_maps(d, folder, files) for name, each in detectors.items()}
    peers = (
        Peers(options.peers, options.backbone, options.weights, list(normals["path"]))
        if options.peers.is_file()
        else None
    )
    others = {f"anomalib {name}": peers.step(name) for name in PEERS} if peers else {}
    count = 3 if options.quick else EACH_ROUND
    chosen = list(test["path"][:: max(1, len(test) // count)][:count])
    times = in_turns(steps | ours | others, chosen, options.rounds)
    if options.quick:
        test = test[test["path"].isin(chosen)]
    masks = [evaluated_mask(load_mask(row.mask, size=picture_size(row.path))) for row in test.itertuples()]
    named = {name: step for name, step in (ours | others).items() if name in times}
    figures = {name: pixel_quality(step, list(test["path"]), np.stack(masks)) for name, step in named.items()}
    if peers:
        peers.close()
    facts = {name: dict(each.encoder.engine.facts) for name, each in detectors.items()}
    return {"seconds": times, "quality": figures, "engines": facts, "pictures": len(chosen), "test": len(test)}


def judge_large(size: tuple[int, int], picture: str) -> dict[str, float]:
    """Judges a picture mirrored to a size, by the shipped backbone. For a process of its own, whose memory this is."""
    pixels = np.asarray(load_image(picture))
    missing = [(0, wanted - had) for wanted, had in zip(size[::-1], pixels.shape, strict=False)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.png"
        Image.fromarray(np.pad(pixels, (*missing, (0, 0)), mode="symmetric")).save(file, compress_level=1)
        del pixels
        backbone = load_backbone(SHIPPED_ARCHITECTURE, "shipped")
        head = find_head(backbone)
        detector = zero_shot_detector(make_encoder(backbone, zoom=1.0, head=head), head, [])
        detector.judge(Image.new("RGB", (TILE, TILE), (90, 60, 40)))  # compiles
        started = time.perf_counter()
        detector.judge(load_image(file))
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_gb": peak_gb(), "pixels": size[0] * size[1]}


def peak_gb() -> float:
    """The highest memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure_sizes(options: argparse.Namespace) -> list[dict[str, float]]:
    picture = _a_picture(options)
    sides = [round((1e6 * size * 4 / 3) ** 0.5) for size in (QUICK_MEGAPIXELS if options.quick else MEGAPIXELS)]
    return [alone(judge_large, (max(side, 256), max(round(side * 0.75), 256)), picture) for side in sides]


def judge_folder(files: list[str]) -> dict[str, float]:
    started, backbone = time.perf_counter(), load_backbone(SHIPPED_ARCHITECTURE, "shipped")
    head = find_head(backbone)
    encoder = make_encoder(backbone, zoom=camera_zoom(map(picture_size, files)), head=head)
    detector = zero_shot_detector(encoder, head, [])
    first = None
    for _ in each_picture(encoder, files, lambda path, picture, tokens: detector.anomaly_map(picture, tokens).max()):
        first = first or time.perf_counter() - started
    seconds = time.perf_counter() - started
    return {"pictures": len(files), "seconds": seconds, "first_map_seconds": first, "peak_gb": peak_gb()}


def measure_folders(options: argparse.Namespace) -> list[dict[str, float]]:
    files = list(mvtec_split(index_mvtec(options.data), PROTOCOL)[1]["path"])
    counts = QUICK_FOLDERS if options.quick else FOLDERS
    return [alone(judge_folder, (files * (count // len(files) + 1))[:count]) for count in counts]


def measure_hide(options: argparse.Namespace) -> dict[str, float]:
    first = alone(judge_large, (TILE, TILE), _a_picture(options))  # converts the network, once for this machine
    return alone(judge_large, HIDE, _a_picture(options)) | {"first_start_peak_gb": first["peak_gb"]}


def _a_picture(options: argparse.Namespace) -> str:
    return mvtec_split(index_mvtec(options.data), PROTOCOL)[0]["path"].iloc[0]


def measure_head_only(options: argparse.Namespace) -> dict[str, Any] | None:
    """Seconds of the bare forward pass, mean of before and after, and of training a head from the files on."""
    if options.data_classes is None:
        return None
    config, images, device = SAMPLE.but(run="benchmark", epochs=15), index_images(options.data_classes), choose_device()
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


def measure_training(options: argparse.Namespace) -> dict[str, Any] | None:
    if options.data_classes is None:
        return None
    table, config = some_images(options.data_classes, 10 if options.quick else 60), TRAINING
    config = config.but(backbone=options.backbone, weights=options.weights)
    return training_speed(table, config, rounds=1 if options.quick else 3)


def ratios(parts: dict[str, Any]) -> dict[str, float]:
    """How many times as fast, of medians; head-only training and head: seconds over those of the bare pass."""
    seconds: dict[str, float] = {}
    for name, values in parts["turns"]["seconds"].items():
        short = name.split(" / ")[0]
        seconds[short] = min(seconds.get(short, np.inf), statistics.median(values))
    bank, head, int8 = (seconds.get(name) for name in ("openvino", "openvino, head", "openvino-int8"))
    bare, anomalib = seconds.get("bare, whole"), seconds.get("anomalib anomalydino")
    pairs = {
        "end_to_end_to_bare_torch": (bare, bank),
        "end_to_end_to_anomalib": (anomalib, bank),
        "with_head_to_bare_torch": (bare, head),
        "with_head_to_anomalib": (anomalib, head),
        "int8_to_anomalib": (anomalib, int8),
    }
    result = {name: slow / fast for name, (slow, fast) in pairs.items() if slow and fast}
    if after := seconds.get("distances and head"):
        result["distances_and_head_to_bare"] = after / bare
    if training := parts.get("head_only"):
        result["head_only_to_forward"] = training["seconds"] / training["bare_seconds"]
    if training := parts.get("training"):
        result["training_to_published"] = training["training_to_published"]
    return result


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=paths.data / MVTEC_FOLDER, help="folder that holds leather/")
    parser.add_argument("--data-classes", type=Path, help="folder of classes: times head-only training too")
    parser.add_argument("--weights", required=True, help="a weights file")
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2", help="timm's name")
    parser.add_argument("--peers", type=Path, default=paths.root / "work" / "peers" / "bin" / "python")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--again", action="store_true", help="measures finished parts anew")
    parser.add_argument("--only", help="parts, with commas between them")
    parser.add_argument("--parts", type=Path, default=paths.root / "work" / "speed_parts.json")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    options.rounds = 2 if options.quick else options.rounds
    measures = {"hide": measure_hide, "turns": measure_turns, "sizes": measure_sizes}
    measures |= {"folders": measure_folders, "head_only": measure_head_only, "training": measure_training}
    parts = json.loads(options.parts.read_text()) if options.parts.is_file() and not options.again else {}
    for name in options.only.split(",") if options.only else measures:
        if name not in parts:
            load = os.getloadavg()[0]
            parts[name] = measures[name](options)
            parts["load"] = parts.get("load", {}) | {name: load}
            write_json(parts, options.parts)
    if "turns" in parts:
        result = summary(parts)
        write_results(result, markdown(result, parts), options.output / "speed")
        print(markdown(result, parts))


def summary(parts: dict[str, Any]) -> dict[str, Any]:
    features = machine_features(torch.device("cpu"))
    seconds = {name: [statistics.median(v), min(v), max(v)] for name, v in parts["turns"]["seconds"].items()}
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "instructions": [name for name in FEATURES if name in features],
        "ratios": ratios(parts),
        "hide": parts.get("hide"),
        "quality": parts["turns"]["quality"],
        "seconds_a_picture": seconds,  # median, lowest, highest of the rounds
        "engines": parts["turns"]["engines"],
        "sizes": parts.get("sizes"),
        "folders": parts.get("folders"),
        "head_only_training": parts.get("head_only"),
        "training": parts.get("training"),
        "load_before": parts["load"],
    }


def markdown(result: dict[str, Any], parts: dict[str, Any]) -> str:
    rows = []
    for name, (middle, low, high) in result["seconds_a_picture"].items():
        figures = result["quality"].get(name, {})
        cells = [f"{figures[key]:.4f}" if key in figures else "" for key in ("aupro_30", "pixel_ap")]
        rows.append([name, f"{1000 * middle:.0f}", f"{1000 * low:.0f} to {1000 * high:.0f}", *cells])
    turns = parts["turns"]
    lines = markdown_rows(["step", "ms a picture", "range", "AUPRO", "pixel AP"], rows)
    lines += [
        "",
        f"{result['processor']}; {', '.join(result['instructions'])}. Medians of rounds of {turns['pictures']} "
        f"pictures, in turns, MVTec AD leather; AUPRO and AP at 256 px on its {turns['test']} test pictures. "
        "AnomalyDINO reads the last block: its AP is low where the last blocks of a weights file do not localise. "
        f"Load before: {max(result['load_before'].values()):.1f}.",
    ]
    lines += ["", *markdown_rows(["ratio", "value"], [[k, f"{v:.2f}"] for k, v in result["ratios"].items()])]
    sizes = [result["hide"], *(result["sizes"] or [])] if result["hide"] else result["sizes"] or []
    cells = [[f"{s['pixels'] / 1e6:.1f}", f"{s['seconds']:.1f}", f"{s['peak_gb']:.2f}"] for s in sizes]
    lines += ["", *markdown_rows(["megapixels", "seconds", "GB at most"], cells)] if cells else []
    keys = ("seconds", "first_map_seconds", "peak_gb")
    cells = [[str(f["pictures"]), *(f"{f[key]:.2f}" for key in keys)] for f in result["folders"] or []]
    lines += ["", *markdown_rows(["pictures", "seconds", "until the first map", "GB at most"], cells)] if cells else []
    if training := result["head_only_training"]:
        lines += [
            "",
            "Head-only training on {images} images, {epochs} epochs: {seconds:.1f} s; bare pass {bare_seconds:.1f} s.",
        ]
        lines[-1] = lines[-1].format(**training)
    if training := result["training"]:
        rates = {name: rate["median"] for name, rate in training["images_per_second"].items()}
        lines += ["", f"Training: {rates['ours']:.2f} images a second in {training['precision']}, "]
        lines[-1] += f"{rates['published']:.2f} by the loop as published."
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

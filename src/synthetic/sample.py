"""The built-in sample, drawn without a network: six classes on shared hides, and a set in MVTec layout."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..config import CLASS_NAMES
from .defects import DEFECT_KINDS, add_synthetic_defect
from .leather import HIDE_COLOURS, Hide, draw_hide, render_leather

MVTEC_COUNTS = MappingProxyType({"train/good": 40, "test/good": 12} | {f"test/{kind}": 8 for kind in DEFECT_KINDS})

# For tests of what works on the sample: a third of the images, a few of MVTec's kind, smaller.
TINY = MappingProxyType(
    {
        "images_per_class": 15,
        "size": 96,
        "mvtec_size": 96,
        "mvtec_counts": MappingProxyType(
            {"train/good": 4, "test/good": 3} | {f"test/{kind}": 2 for kind in DEFECT_KINDS}
        ),
    }
)

_MVTEC_HIDE = Hide(
    colour=(122, 78, 62),
    grain_size=11,
    grain_depth=0.6,
    stretch=1.4,
    orientation=1.2,
    pore_density=0.0005,
    gloss=0.3,
    mottle=0.02,
    light=1.2,
)
_SIX_CLASSES = "leather_defect_classification"
_VERSION = 1  # raise it whenever the same seed no longer gives the same pixels


def write_sample(
    root: Path,
    *,
    seed: int = 42,
    images_per_class: int = 60,
    size: int = 224,
    mvtec_size: int = 256,
    mvtec_counts: Mapping[str, int] = MVTEC_COUNTS,
    progress: bool = True,
) -> Path:
    """Writes both sample sets into `root`, or keeps the complete sample that is there, and returns `root`.

    Everything is written into a temporary folder beside `root` and renamed at the end, so an interrupted call
    leaves nothing that looks complete. Every class has the same number of images on each of 15 hides, so that
    colour tells nothing about the class. An image's pixels depend on the seed, its size, class and number; of
    the six-class images the hide also depends on `images_per_class`.

    Args:
        root: Receives `leather_defect_classification/` with `hides.csv`, `mvtec/leather/`, `sample.json`.
        seed: Seed of all images, >= 0.
        images_per_class: A multiple of 15, the number of hides.
        size: Side of the six-class images in pixels, at least 32.
        mvtec_size: Side of the MVTec-like images in pixels, at least 32.
        mvtec_counts: Images in each folder, such as `{"train/good": 40, "test/cut": 8}`.
        progress: Show a progress bar.

    Raises:
        ValueError: If a number or a folder of `mvtec_counts` is not as above.
        FileExistsError: If `root` holds something else: another sample, a damaged one, or other files.
    """
    if images_per_class < 1 or images_per_class % len(HIDE_COLOURS):
        raise ValueError(f"images_per_class {images_per_class} is not a multiple of {len(HIDE_COLOURS)}")
    if unknown := set(mvtec_counts) - set(MVTEC_COUNTS):
        raise ValueError(f"unknown in mvtec_counts: {sorted(unknown)}; expected some of {list(MVTEC_COUNTS)}")
    if min(mvtec_counts.values(), default=0) < 0:
        raise ValueError(f"mvtec_counts must be at least 0, got {dict(mvtec_counts)}")
    if min(size, mvtec_size) < 32:
        raise ValueError(f"size and mvtec_size must be at least 32, got {size} and {mvtec_size}")
    settings = {"version": _VERSION, "seed": seed, "images_per_class": images_per_class, "size": size}
    settings |= {"mvtec_size": mvtec_size, "mvtec_counts": dict(mvtec_counts)}
    root = Path(root)
    if root.exists() and any(root.iterdir()):
        _check_kept(root, settings)
        return root
    pictures = chain(_six_classes(seed, images_per_class, size), _mvtec(seed, mvtec_counts, mvtec_size))
    masks = sum(count for folder, count in mvtec_counts.items() if not folder.endswith("good"))
    total = images_per_class * len(CLASS_NAMES) + sum(mvtec_counts.values()) + masks
    unfinished = root.with_name(f".{root.name}.{os.getpid()}.unfinished")
    try:
        for name, pixels in tqdm(pictures, total=total, desc="sample", unit="file", disable=not progress):
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, compress_level=4)  # half the time of 6, same size
        _write_hides(unfinished / _SIX_CLASSES / "hides.csv", images_per_class)
        settings["sha256"] = {
            path.relative_to(unfinished).as_posix(): sha256(path.read_bytes()).hexdigest()
            for path in sorted(unfinished.rglob("*.*"))
        }
        (unfinished / "sample.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
        if root.exists():
            root.rmdir()  # it is empty; Windows does not rename onto a folder
        unfinished.rename(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def _check_kept(root, settings):
    """Raises FileExistsError unless `root` holds every file of a sample made with these settings."""
    advice = "delete or rename it, or choose another folder"
    if not (root / "sample.json").is_file():
        raise FileExistsError(f"{root} is not empty and holds no sample.json: {advice}")
    kept = json.loads((root / "sample.json").read_text(encoding="utf-8"))
    missing = [name for name in kept.pop("sha256") if not (root / name).is_file()]
    if missing:
        raise FileExistsError(f"{root} lacks {len(missing)} of its files, first {missing[0]}: {advice}")
    if kept != settings:
        raise FileExistsError(f"{root} holds the sample {kept}, expected {settings}: {advice}")


def _six_classes(seed, count, size):
    """Yields path and pixels of every image of the six-class set."""
    hides = [draw_hide(_generator(seed, 0, i), colour=colour) for i, colour in enumerate(HIDE_COLOURS)]
    for c, name in enumerate(CLASS_NAMES):
        for i in range(count):
            hide = hides[_hide_number(i, count)]
            picture = render_leather(_generator(seed, 1, c, i), size, hide=hide, surface=name)
            yield f"{_SIX_CLASSES}/{name}/{name}_{i + 1:03d}.png", picture


def _hide_number(i, count):
    """Neighbouring numbers come from the same hide, as in the Kaggle set."""
    return i * len(HIDE_COLOURS) // count


def _write_hides(path, count):
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "label", "hide"))
        for name in CLASS_NAMES:
            for i in range(count):
                hide = f"hide_{_hide_number(i, count) + 1:02d}"
                table.writerow((f"{name}/{name}_{i + 1:03d}.png", name, hide))


def _mvtec(seed, counts, size):
    """Yields path and pixels of every image and mask of the MVTec-like set: one leather in varied light."""
    for folder, count in counts.items():
        kind, key = folder.split("/")[1], list(MVTEC_COUNTS).index(folder)
        for i in range(count):
            generator = _generator(seed, 2, key, i)
            picture = render_leather(generator, size, hide=_MVTEC_HIDE, drift=0.4)
            if kind != "good":
                picture, mask = add_synthetic_defect(picture, generator, kind=kind, scale=1.25)
                yield f"mvtec/leather/ground_truth/{kind}/{i:03d}_mask.png", 255 * mask
            yield f"mvtec/leather/{folder}/{i:03d}.png", picture


def _generator(seed, *key):
    """A generator for one picture, which does not depend on how many come before it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))

"""The built-in sample, drawn without a network: six classes on shared hides, and a set in MVTec layout."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..config import CLASS_NAMES, KAGGLE_FOLDER, MVTEC_FOLDER
from ..files import alone, file_digest, write_json, writing
from .leather import HIDE_COLOURS, Hide, draw_hide, render_leather
from .painter import MVTEC_KINDS, add_defect

MVTEC_COUNTS = {"train/good": 40, "test/good": 12} | {f"test/{defect}": 8 for defect in MVTEC_KINDS}
TINY = {  # for tests of what works on the sample
    "images_per_class": 15,
    "size": 96,
    "mvtec_size": 96,
    "mvtec_counts": {"train/good": 4, "test/good": 3} | {f"test/{defect}": 2 for defect in MVTEC_KINDS},
}
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
_VERSION = 2  # raise it whenever the same seed no longer gives the same pixels


def write_sample(
    root: Path,
    *,
    seed: int = 42,
    images_per_class: int = 60,
    size: int = 224,
    mvtec_size: int = 256,
    mvtec_counts: Mapping[str, int] = MVTEC_COUNTS,
) -> Path:
    """Writes both sample sets into ``root``, whole or not at all, or keeps the sample that is there; returns ``root``.

    Every class has the same number of images on each of 15 hides, so that colour tells nothing about the class. An
    image's pixels depend on the seed, its size, class and number; of the six-class images the hide also depends on
    ``images_per_class``, a multiple of 15. Sides are in pixels, at least 32.

    Raises:
        ValueError: If a number or a folder of ``mvtec_counts`` is not as above.
        FileExistsError: If ``root`` holds something else: another sample, a damaged one, or other files.
    """
    settings = {"version": _VERSION, "seed": seed, "images_per_class": images_per_class, "size": size}
    settings |= {"mvtec_size": mvtec_size, "mvtec_counts": dict(mvtec_counts)}
    _check_settings(**settings)
    root = Path(root)
    pictures = chain(_six_classes(seed, images_per_class, size), _mvtec(seed, mvtec_counts, mvtec_size))
    masks = sum(count for folder, count in mvtec_counts.items() if not folder.endswith("good"))
    total = images_per_class * len(CLASS_NAMES) + sum(mvtec_counts.values()) + masks
    with alone(root), writing(root):  # a second process waits, and finds the sample
        if root.exists() and any(root.iterdir()):
            _check_kept(root, settings)
            return root
        for left in root.parent.glob(f".{root.name}.*.unfinished"):  # of processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        unfinished = root.with_name(f".{root.name}.{os.getpid()}.unfinished")
        try:
            for name, pixels in tqdm(pictures, total=total, desc="sample", unit="file"):
                path = unfinished / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, compress_level=4)  # half the time of 6, same size
            _finish(unfinished, settings)
            if root.exists():
                root.rmdir()  # it is empty; Windows does not rename onto a folder
            unfinished.rename(root)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return root


def _check_settings(*, images_per_class, size, mvtec_size, mvtec_counts, **_):
    if images_per_class < 1 or images_per_class % len(HIDE_COLOURS):
        raise ValueError(f"images_per_class is {images_per_class}; expected a multiple of {len(HIDE_COLOURS)}")
    if unknown := set(mvtec_counts) - set(MVTEC_COUNTS):
        raise ValueError(f"mvtec_counts has {sorted(unknown)}; expected some of {', '.join(MVTEC_COUNTS)}")
    if min(mvtec_counts.values(), default=0) < 0:
        raise ValueError(f"mvtec_counts is {dict(mvtec_counts)}; expected 0 or more")
    if min(size, mvtec_size) < 32:
        raise ValueError(f"size and mvtec_size are {size} and {mvtec_size}; expected 32 or more")


def _finish(root, settings):
    """Writes hides.csv and sample.json, which lists every file with its SHA-256."""
    hides = ["path,label,hide\n"]
    for name in CLASS_NAMES:
        for i in range(settings["images_per_class"]):
            hide = _hide_number(i, settings["images_per_class"]) + 1
            hides.append(f"{name}/{name}_{i + 1:03d}.png,{name},hide_{hide:02d}\n")
    (root / KAGGLE_FOLDER / "hides.csv").write_text("".join(hides), encoding="utf-8", newline="\n")
    digests = {path.relative_to(root).as_posix(): file_digest(path) for path in sorted(root.rglob("*.*"))}
    write_json(settings | {"sha256": digests}, root / "sample.json")


def _check_kept(root, settings):
    """Raises FileExistsError unless ``root`` holds every file of a sample made with these settings."""
    advice = "delete or rename it, or choose another folder"
    if not (root / "sample.json").is_file():
        raise FileExistsError(f"{root} is not empty and holds no sample.json: {advice}")
    try:
        kept = json.loads((root / "sample.json").read_text(encoding="utf-8"))
        missing = [name for name in kept.pop("sha256") if not (root / name).is_file()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileExistsError(
            f"{root / 'sample.json'} is damaged ({error!r}), so {root} is no sample: {advice}"
        ) from error
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
            yield f"{KAGGLE_FOLDER}/{name}/{name}_{i + 1:03d}.png", picture


def _hide_number(i, count):
    """Neighbouring numbers come from the same hide, as in the Kaggle set."""
    return i * len(HIDE_COLOURS) // count


def _mvtec(seed, counts, size):
    """Yields path and pixels of every image and mask of the MVTec-like set: one leather in varied light."""
    home = f"{MVTEC_FOLDER}/leather"
    for folder, count in counts.items():
        defect, key = folder.split("/")[1], list(MVTEC_COUNTS).index(folder)
        for i in range(count):
            generator = _generator(seed, 2, key, i)
            picture = render_leather(generator, size, hide=_MVTEC_HIDE, drift=0.4)
            if defect != "good":
                picture, mask = add_defect(picture, generator, kind=defect, scale=1.25)
                yield f"{home}/ground_truth/{defect}/{i:03d}_mask.png", 255 * mask
            yield f"{home}/{folder}/{i:03d}.png", picture


def _generator(seed, *key):
    """A generator for one picture, which does not depend on how many come before it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))

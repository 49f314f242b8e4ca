"""What is in a data set: its files, whether they are whole, and ``data/manifest.json``, which remembers them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from ..config import CLASS_NAMES, KAGGLE_FOLDER, MVTEC_FOLDER, paths
from .images import IMAGE_SUFFIXES, canonical_class_name, load_image

CLASSES, MVTEC = PARTS = (KAGGLE_FOLDER, MVTEC_FOLDER)
SPLITS = ("train", "test", "ground_truth")


class DataError(ValueError):
    """Data that are not what they should be; the message says which folder or file, and what to do next."""


def place_file(file: str) -> tuple[str, str, str] | None:
    """Tell from the folders of a file (its path, with slashes) to which set it belongs.

    Returns:
        The set (``leather_defect_classification`` or ``mvtec/<category>``), the folder that holds it, and the file's
        path in it; None for what belongs to no set, such as hidden files and those that macOS adds to archives.
    """
    *folders, name = PurePosixPath(file).parts
    if any(part.startswith((".", "__MACOSX")) for part in (*folders, name)):
        return None
    if name == "hides.csv":
        return CLASSES, "/".join(folders), name
    if not folders or PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    if canonical_class_name(folders[-1]):
        return CLASSES, "/".join(folders[:-1]), f"{folders[-1]}/{name}"
    *home, split, kind = ["", *folders]
    if split not in SPLITS:
        return None
    category = "leather" if not home[-1] or home[-1].startswith(MVTEC) else home[-1]  # some archives do not name it
    return f"{MVTEC}/{category}", "/".join(home[1:]), f"{split}/{kind}/{name}"


def files_below(folder: Path) -> dict[str, Path]:
    """All files below a folder by their path from it, with slashes, sorted; links to folders are followed."""
    files = (Path(above, name) for above, _, names in os.walk(folder, followlinks=True) for name in names)
    return {path.relative_to(folder).as_posix(): path for path in sorted(files)}


def count_images(files: Iterable[str], parts: Iterable[str], *, where: Path) -> dict:
    """Numbers of images, ``[CLASSES][class]`` and ``[MVTEC][category][split][type]``, of the sets named in ``parts``.

    Raises:
        DataError: If a class has no image, or a category none in train/good or test; it calls their place ``where``.
    """
    counts = {CLASSES: dict.fromkeys(CLASS_NAMES, 0), MVTEC: {}}
    folders = Counter(tuple(file.split("/")[:-1]) for file in files)
    for (part, *names), images in sorted(folders.items()):
        if part == MVTEC:
            category, split, kind = names
            counts[MVTEC].setdefault(category, {name: {} for name in SPLITS})[split][kind] = images
        elif names:  # none: hides.csv
            counts[CLASSES][canonical_class_name(names[0])] += images
    lacking = [name for name in CLASS_NAMES if CLASSES in parts and not counts[CLASSES][name]]
    for category, splits in counts[MVTEC].items():
        if "good" not in splits["train"] or not splits["test"]:
            lacking.append(f"{category}/train/good or {category}/test")
    if lacking:
        raise DataError(
            f"{where} has no image of {', '.join(lacking)}. Expected a folder of images for each of "
            f"{', '.join(CLASS_NAMES)}, and MVTec AD in its own layout. Add what is missing, or get the set again."
        )
    return {part: counts[part] for part in PARTS if part in parts}


def record(root: Path, place: str, *, origins: dict[str, str], thorough: bool) -> dict:
    """Check the sets in a folder, bring its entry ``sources[place]`` in the manifest up to date, and return it.

    What the manifest knows is compared with it: names and sizes, if ``thorough`` also contents. If something is new,
    all is decoded and hashed. ``origins`` says which parts were put there just now, and where they came from.

    Raises:
        DataError: If a set is incomplete, or not what the manifest says.
        UnreadableImageError: If an image cannot be decoded.
    """
    files = {f"{part}/{file}": path for part in PARTS for file, path in files_below(root / part).items()}
    files = {file: path for file, path in files.items() if (at := place_file(file)) and f"{at[0]}/{at[2]}" == file}
    parts = {CLASSES} | {file.split("/")[0] for file in files}
    counts = count_images(files, parts, where=root)
    sizes = {file: path.stat().st_size for file, path in files.items()}
    sources = json.loads(paths.manifest.read_text(encoding="utf-8"))["sources"] if paths.manifest.is_file() else {}
    entry = sources.get(place, {})
    if not origins and entry.get("root") == paths.relative(root) and set(entry["counts"]) == parts:
        before, now = (entry["checksums"], _check_files(files)) if thorough else (entry["sizes"], sizes)
        if changed := sorted(file for file in before | now if before.get(file) != now.get(file)):
            raise DataError(
                f"{len(changed)} files in {root} are missing, new or changed since {entry['date']}, e.g. {changed[0]}. "
                f"Put them right or get the set again; if they are as they should be, delete {paths.manifest}."
            )
    else:
        known = dict.fromkeys(parts, "found there") | entry.get("source", {}) | origins
        entry = {
            "source": {part: known[part] for part in counts},
            "root": paths.relative(root),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "counts": counts,
            "missing_masks": _missing_masks(files),
            "sizes": sizes,
            "checksums": _check_files(files),
        }
    unfinished = paths.manifest.with_suffix(".part")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    manifest = {"current": place, "sources": sources | {place: entry}}
    unfinished.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(paths.manifest)  # in one step: nobody ever reads half of it
    return entry


def _missing_masks(files: dict[str, Path]) -> list[str]:
    defects = [file for file in files if "/test/" in file and "/test/good/" not in file]
    masks = [f"{file.replace('/test/', '/ground_truth/').rpartition('.')[0]}_mask.png" for file in defects]
    return [mask for mask in masks if mask not in files]


def _check_files(files: dict[str, Path]) -> dict[str, str]:
    """Decode every image and return every file's SHA-256."""
    with ThreadPoolExecutor() as pool:
        results = tqdm(pool.map(_check_file, files.values()), total=len(files), unit="file", desc="check")
        return dict(zip(files, results, strict=True))


def _check_file(path: Path) -> str:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        load_image(path)  # its error names the file and says what to do
    return hashlib.sha256(path.read_bytes()).hexdigest()

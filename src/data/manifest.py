"""What is in a data set: its files, whether they are whole, and ``data/manifest.json``, which remembers them."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from ..config import CLASS_NAMES, KAGGLE_FOLDER, MVTEC_FOLDER, paths
from ..files import write_json
from .pictures import is_picture, load_image
from .tables import class_name, class_root, digest, index_images, published

CLASSES, MVTEC = PARTS = (KAGGLE_FOLDER, MVTEC_FOLDER)
SPLITS = ("train", "test", "ground_truth")


class DataError(ValueError):
    """Data that are not what they should be; the message says which folder or file, and what to do next."""


def place_file(file: str) -> tuple[str, str, str] | None:
    """Tell from the folders of a file (its path, with slashes) to which published set it belongs.

    Returns:
        The set (``leather_defect_classification`` or ``mvtec/<category>``), the folder that holds it, and the file's
        path in it; None for what belongs to no set, such as hidden files and those that macOS adds to archives.
    """
    *folders, name = PurePosixPath(file).parts
    if any(part.startswith((".", "__MACOSX")) for part in (*folders, name)):
        return None
    if name == "hides.csv":
        return CLASSES, "/".join(folders), name
    if not folders or not is_picture(name):
        return None
    if class_name(folders[-1]) in CLASS_NAMES:
        return CLASSES, "/".join(folders[:-1]), f"{folders[-1]}/{name}"
    *home, split, defect = ["", *folders]
    if split not in SPLITS:
        return None
    category = "leather" if not home[-1] or home[-1].startswith(MVTEC) else home[-1]  # some archives do not name it
    return f"{MVTEC}/{category}", "/".join(home[1:]), f"{split}/{defect}/{name}"


def files_below(folder: Path) -> dict[str, Path]:
    """All files below a folder by their path from it, with slashes, sorted; links to folders are followed."""
    files = (Path(above, name) for above, _, names in os.walk(folder, followlinks=True) for name in names)
    return {path.relative_to(folder).as_posix(): path for path in sorted(files)}


def require_published(files: Iterable[str], parts: Iterable[str], *, where: Path) -> None:
    """Raise DataError unless the published sets named in ``parts`` are whole: six classes, train/good and test."""
    folders = Counter(tuple(file.split("/")[:-1]) for file in files)
    classes = {class_name(names[1]) for names in folders if names[0] == CLASSES and len(names) > 1}
    lacking = [name for name in CLASS_NAMES if CLASSES in parts and name not in classes]
    lacking += _lacking_splits(count_mvtec(files))
    if lacking:
        raise DataError(
            f"{where} has no image of {', '.join(lacking)}. Expected a folder of images for each of "
            f"{', '.join(CLASS_NAMES)}, and MVTec AD in its own layout. Add what is missing, or get the set again."
        )


def count_mvtec(files: Iterable[str]) -> dict[str, dict[str, dict[str, int]]]:
    """Numbers of images, ``[category][split][type]``, of files named ``mvtec/<category>/<split>/<type>/<name>``."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for file in files:
        part, *names = file.split("/")
        if part == MVTEC:
            category, split, defect, _ = names
            types = counts.setdefault(category, {name: {} for name in SPLITS})[split]
            types[defect] = types.get(defect, 0) + 1
    return counts


def _lacking_splits(counts: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    return [
        f"{category}/train/good or {category}/test"
        for category, splits in counts.items()
        if "good" not in splits["train"] or not splits["test"]
    ]


def record(root: Path, place: str, *, origins: dict[str, str], thorough: bool) -> dict:
    """Check the sets in a folder, bring its entry ``sources[place]`` in the manifest up to date, and return it.

    What the manifest knows is compared with it: names and sizes, if ``thorough`` also contents. If something is new,
    all is decoded and hashed. ``origins`` says which parts were put there just now, and where they came from.

    Raises:
        DataError: If a set is incomplete, or not what the manifest says.
        FileNotFoundError: If there are fewer than two classes.
        UnreadableImageError: If an image cannot be decoded.
    """
    table = index_images(class_root(root))
    if published(class_root(root)) and (lacking := set(CLASS_NAMES) - set(table["label"])):
        raise DataError(
            f"{root} has no image of {', '.join(sorted(lacking))}. Add what is missing, or get the set again."
        )
    mvtec = {f"{MVTEC}/{file}": path for file, path in files_below(root / MVTEC).items()}
    mvtec = {file: path for file, path in mvtec.items() if (at := place_file(file)) and f"{at[0]}/{at[2]}" == file}
    own = [*map(Path, table["path"]), *class_root(root).glob("hides.csv")]
    files = {path.relative_to(root).as_posix(): path for path in own} | mvtec
    counts = {CLASSES: {str(label): int(n) for label, n in table["label"].value_counts(sort=False).items()}}
    if mvtec:
        counts[MVTEC] = count_mvtec(mvtec)
        if lacking := _lacking_splits(counts[MVTEC]):
            raise DataError(f"{root / MVTEC} has no image of {', '.join(lacking)}. Get the set again.")
    sizes = {file: path.stat().st_size for file, path in files.items()}
    sources = json.loads(paths.manifest.read_text(encoding="utf-8"))["sources"] if paths.manifest.is_file() else {}
    entry = sources.get(place, {})
    if not origins and entry.get("root") == paths.relative(root) and set(entry["counts"]) == set(counts):
        before, now = (entry["checksums"], _check_files(files)) if thorough else (entry["sizes"], sizes)
        if changed := sorted(file for file in before | now if before.get(file) != now.get(file)):
            raise DataError(
                f"{len(changed)} files in {root} are missing, new or changed since {entry['date']}, e.g. {changed[0]}. "
                f"Put them right or get the set again; if they are as they should be, delete {paths.manifest}."
            )
    else:
        known = dict.fromkeys(counts, "found there") | entry.get("source", {}) | origins
        entry = {
            "source": {part: known[part] for part in counts},
            "root": paths.relative(root),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "counts": counts,
            "missing_masks": _missing_masks(files),
            "sizes": sizes,
            "checksums": _check_files(files),
        }
    write_json({"current": place, "sources": sources | {place: entry}}, paths.manifest)
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
    if is_picture(path):
        load_image(path)  # its error names the file and says what to do
    return digest(path)

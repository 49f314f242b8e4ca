"""What is in a data folder: its files, whether they are whole, and ``data/manifest.json``, which remembers them."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from ..config import KAGGLE_FOLDER, MVTEC_FOLDER, paths
from ..files import file_digest, write_json
from .checks import SPLITS, left_out
from .pictures import is_picture, load_image
from .tables import HIDES, class_root, classes_of, index_images

CLASSES, MVTEC = PARTS = (KAGGLE_FOLDER, MVTEC_FOLDER)
# What this project keeps in data/ besides.
OWN = ("manifest.json", "sample.json", "sample", "hides", "hides_truth", "README.md")


class DataError(ValueError):
    """Data that are not what they should be; the message says which folder or file, and what to do next."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the manifest says about a data folder; files and folders by their path from it."""

    source: dict[str, str]  # where each set came from
    root: str
    date: str
    counts: dict[str, int]  # images: <set>/<class> and mvtec/<category>/<split>/<type>
    sizes: dict[str, int]
    checksums: dict[str, str]  # SHA-256
    left: dict[str, str] = field(default_factory=dict)  # what is not taken: how many files for each reason

    @property
    def table(self) -> pd.DataFrame:
        """The counts, one row a folder: ``set``, ``split`` ("all" for the classes), ``type``, ``images``."""
        rows = []
        for folder, images in self.counts.items():
            *home, name = folder.split("/")
            rows.append(("/".join(home[:2]), home[2] if len(home) == 3 else "all", name, images))
        return pd.DataFrame(rows, columns=["set", "split", "type", "images"])


def record(
    root: Path, place: str, *, origins: dict[str, str], thorough: bool, left: dict[str, str] | None = None
) -> Entry:
    """Checks the sets in a folder, brings its entry ``entries[place]`` in the manifest up to date, and returns it.

    What the manifest knows is compared with it: names and sizes, if ``thorough`` also contents. If something is new,
    all is decoded and hashed. ``origins`` says which sets were put there just now, and where they came from; ``left``
    what was not taken from there.

    Raises:
        FileNotFoundError: If there are fewer than two classes.
        ValueError: If an image cannot be decoded, the normal class or a picture's hide is not known, or (`DataError`)
            a set is not what the manifest says, or the manifest is damaged.
    """
    home = class_root(root)
    index = index_images(home)
    classes, images = classes_of(index), index["label"].value_counts()
    mvtec = [path for path in sorted((root / MVTEC).glob("*/*/*/*")) if is_picture(path) and path.parts[-3] in SPLITS]
    folders = Counter(path.parent.relative_to(root).as_posix() for path in mvtec)
    sets = {home.name, MVTEC} if mvtec else {home.name}
    listed = [*map(Path, index["path"]), *home.glob(HIDES), *mvtec]
    files = {path.relative_to(root).as_posix(): path for path in listed}
    sizes = {file: path.stat().st_size for file, path in files.items()}
    entries, known = _read_manifest(place)
    left = (known.left if known and left is None else left) or {}
    left = {reason: files for reason, files in left.items() if reason.startswith("from ")}
    left |= left_out(_others(root, files))
    if known and not origins and known.root == paths.relative(root) and set(known.source) == sets:
        before, now = (known.checksums, _check_files(files)) if thorough else (known.sizes, sizes)
        if changed := sorted(file for file in before | now if before.get(file) != now.get(file)):
            raise DataError(
                f"{len(changed)} files in {root} are missing, new or changed since {known.date}, e.g. {changed[0]}. "
                f"Put them right or get the set again; if they are as they should be, delete {paths.manifest}."
            )
        return replace(known, left=left)
    origins = dict.fromkeys(sets, "found there") | (known.source if known else {}) | origins
    entry = Entry(
        source={name: origins[name] for name in sorted(sets)},
        root=paths.relative(root),
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        counts={f"{home.name}/{name}": int(images[name]) for name in classes.names} | folders,
        sizes=sizes,
        checksums=_check_files(files),
        left=left,
    )
    write_json({"entries": entries | {place: asdict(entry)}}, paths.manifest)
    return entry


def _read_manifest(place: str) -> tuple[dict[str, dict], Entry | None]:
    """All entries, and the one of a place if there is one."""
    if not paths.manifest.is_file():
        return {}, None
    try:
        entries = json.loads(paths.manifest.read_text(encoding="utf-8")).get("entries", {})
        if not isinstance(entries, dict):
            raise TypeError("its entries are no table")
        known = Entry(**entries[place]) if place in entries else None
        tables = (known.source, known.sizes, known.checksums, known.left) if known else ()
        if not all(isinstance(table, dict) for table in tables):
            raise TypeError("a table of files is missing")
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{paths.manifest} is damaged ({error}): delete it, and it is made anew.") from error
    return entries, known


def _others(root: Path, taken: dict[str, Path]) -> list[str]:
    """Files of a data folder that are neither taken nor written by this project."""
    files = (path.relative_to(root) for path in sorted(root.rglob("*")) if not path.is_dir())
    files = (file for file in files if file.parts[0] not in OWN and not file.parts[0].startswith("."))
    return [file.as_posix() for file in files if file.as_posix() not in taken]


def _check_files(files: dict[str, Path]) -> dict[str, str]:
    """Every file's SHA-256; raises UnreadableImageError for an image that cannot be decoded."""
    with ThreadPoolExecutor() as pool:
        results = tqdm(pool.map(_check_file, files.values()), total=len(files), unit="file", desc="check")
        return dict(zip(files, results, strict=True))


def _check_file(path: Path) -> str:
    if is_picture(path):
        load_image(path)
    return file_digest(path)

"""A run: every picture judged once, results kept picture by picture, reports at the end."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from ..classifier.features import weights_identity
from ..classifier.predict import honest_figure
from ..config import paths
from ..files import file_digest, identity_of, load_tensors, write_json
from .export import safe_name, write_coco, write_hides
from .grade import read_rules
from .judge import Judge
from .options import Options
from .pictures import STAMP, PictureSelection, find_masks, find_pictures
from .prepare import MODES, engine_of, make_judge
from .report import summarise, write_page
from .tables import read_record, write_record, write_tables

INSPECTION_VERSION = 2  # raise it when the same pictures and settings no longer give the same report
LIBRARIES = ("torch", "timm", "numpy", "scikit-image", "pillow")


class HeldError(RuntimeError):
    """Another process is at work in the folder of a run; the message says which."""


def inspect(given: list[str], options: Options, *, output: Path | None = None) -> tuple[Path, int]:
    """Judges pictures and writes their report; returns its folder and how many could be judged.

    The folder is ``<output>/<name of the pictures' folder>``. The same pictures with the same settings go on where an
    earlier start stopped; others get a number behind the name.
    Raises ValueError for what cannot be inspected, HeldError, and what `make_judge` raises.
    """
    output, started = output_folder(output), time.perf_counter()
    found, normals = find_inputs(given, options, output)
    with run_folder(output, found.name, stamp_of(found, normals, options)) as folder:
        files = {name: folder / "pictures" / f"{safe_name(name)}.json" for name in found.pictures}
        todo = [name for name, file in files.items() if not file.is_file()]
        judge = make_judge(found, normals, options, kept=folder / "references.pt", todo=todo)
        with tqdm(total=len(files), initial=len(files) - len(todo), desc=found.name, unit="img") as progress:
            for name in todo:
                write_record(judge.judge(name, found.pictures[name], folder / "overlays"), files[name])
                progress.update()
        records = [read_record(file) for file in files.values()]
        about = about_run(judge, found, summarise(records)["counts"], options) | {
            "seconds": round(time.perf_counter() - started, 1)
        }
        write_tables(records, folder, threshold=judge.detector.thresholds.verdict)
        write_coco(records, folder / "annotations.json")
        write_hides(records, folder / "hides", rules=read_rules(options.rules))
        write_page(records, folder, about | {"photographs": found.root})
        write_json(about, folder / "inspection.json")
    return folder, sum(not record.error for record in records)


def output_folder(output: Path | None) -> Path:
    """Where folders of runs are made."""
    return Path(output or paths.reports / "inspection").resolve()


def find_inputs(
    given: list[str], options: Options, output: Path, *, find: Callable[[list[str]], PictureSelection] | None = None
) -> tuple[PictureSelection, PictureSelection | None]:
    """The pictures to judge, which ``find`` finds where they are in no folder, and the normal ones; says how many."""
    apart = [folder for folder in (output, options.mask, options.normals) if isinstance(folder, Path)]
    found = find(given) if find else find_pictures(given, without=apart)
    normals = find_pictures([str(options.normals)], without=[output]) if options.normals else None
    print(found.about)
    return found, normals


def _digest(path: Path | None) -> str | None:
    """Of a file's content; what cannot be read has none."""
    try:
        return path and file_digest(path)
    except OSError as error:
        return type(error).__name__


def stamp_of(
    found: PictureSelection,
    normals: PictureSelection | None,
    options: Options,
    *,
    digest: Callable[[Path | None], str | None] = _digest,
) -> dict[str, Any]:
    """All that decides the result: weights by their content, pictures and masks by their ``digest``, settings."""
    groups = found.pictures, normals.pictures if normals else {}
    masks = {}
    if isinstance(options.mask, Path):
        masks = find_masks(groups[0], options.mask) | find_masks(groups[1], options.mask)
    pictures, known = ([[name, digest(path), digest(masks.get(path))] for name, path in one.items()] for one in groups)
    files = [options.classifier, options.rules, *sorted(paths.heads.glob("*.safetensors"))]
    plain = {name: value for name, value in asdict(options).items() if not isinstance(value, Path)}
    return {
        "version": INSPECTION_VERSION,
        "settings": plain | {"weights": weights_identity(options.weights)},
        "files": [_digest(file) for file in files],
        "pictures": pictures,
        "normals": known,
    }


@contextmanager
def run_folder(output: Path, name: str, stamp: dict[str, Any]) -> Iterator[Path]:
    """The folder of the run with this stamp, new or begun earlier, held until the end of the block."""
    stamp, number = stamp | {"identity": identity_of(stamp)}, 1
    while True:
        folder = output / (name if number == 1 else f"{name}-{number}")
        number += 1
        if _is_another(folder, stamp):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        holder = folder.with_name(f".{folder.name}.holder")
        try:
            with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
                if _is_another(folder, stamp):  # it was made a moment ago
                    continue
                who = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
                holder.write_text(who, encoding="utf-8")
                write_json(stamp, folder / STAMP)
                for part in folder.rglob("*.part"):  # of a process that was killed
                    part.unlink()
                try:
                    yield folder
                finally:
                    holder.unlink(missing_ok=True)
                return
        except Timeout as error:
            if _is_another(folder, stamp):
                continue
            who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
            raise HeldError(f"{folder} is held by {who}; wait for it, or choose another --output") from error


def _is_another(folder: Path, stamp: dict[str, Any]) -> bool:
    """Whether a folder holds another run, or something else."""
    if not folder.exists() or all(file.suffix == ".part" for file in folder.iterdir()):
        return False
    file = folder / STAMP
    return not file.is_file() or json.loads(file.read_text(encoding="utf-8"))["identity"] != stamp["identity"]


def about_run(judge: Judge, found: PictureSelection, counts: dict[str, int], options: Options) -> dict[str, Any]:
    """What ``inspection.json`` says, and the page beside the pictures."""
    thresholds = judge.detector.thresholds
    return {
        "title": found.name,
        "mode": MODES[judge.detector.protocol],
        "pictures": sum(counts.values()),
        "verdicts": counts,
        "engine": engine_of(judge.detector),
        "threshold": thresholds.verdict,
        "outline": thresholds.outline,
        "source": thresholds.source,
        "unit": "probability of a defect" if judge.detector.head else "log of the distance over the picture's median",
        "scale": [0, judge.highest],
        "mm_per_pixel": options.mm_per_pixel,
        "classifier": options.classifier
        and {"model": options.classifier.name, "worth": honest_figure(load_tensors(options.classifier))},
        "options": {
            name: value and paths.relative(value) if isinstance(value, Path) else value
            for name, value in asdict(options).items()
        },
        "facts": judge.detector.facts,
        "left": found.left,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }

"""A run: every picture judged once, results kept part by part, reports at the end."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from ..classifier.features import weights_identity
from ..classifier.predict import honest_figure
from ..config import ENGINES, paths, setting
from ..files import file_digest, identity_of, load_tensors, printable, write_json
from .export import write_coco
from .inputs import STAMP, Inputs, Options, PictureSelection, find_inputs, find_pictures
from .judge import Judge
from .kept import Kept, judge_parts, parts_of
from .prepare import MODES, make_judge
from .records import VERDICTS, write_tables
from .report import write_page

INSPECTION_VERSION = 4  # raise it when the same pictures and settings no longer give the same report
LIBRARIES = ("torch", "timm", "numpy", "scikit-image", "pillow")


class HeldError(RuntimeError):
    """Another process is at work in the folder of a run; the message says which."""


def inspect(
    given: list[str], options: Options, *, output: Path | None = None, cluster: str | None = None
) -> tuple[Path, int]:
    """Judges pictures and writes their report; returns its folder and how many could be judged.

    The folder is ``<output>/<name of the pictures' folder>``. The same pictures with the same settings go on where an
    earlier start stopped; others get a number behind the name. ``cluster``, the address of a Ray cluster ("local": this
    machine), judges there: pictures may be addresses of a store, tables are Parquet, and all machines must see the
    folder of the output and the files that options name.
    Raises ValueError for what cannot be inspected, HeldError, and what `make_judge` raises.
    """
    output, started = Path(output or paths.reports / "inspection").resolve(), time.perf_counter()
    scale, stored = _scale() if cluster else (None, None)
    options = replace(options, engine=options.engine or setting("LEATHER_ENGINE", "auto", allowed=ENGINES))
    if scale:
        options = scale.for_all_machines(options)
    are_stored = bool(scale) and any("://" in one for one in given)
    apart = [folder for folder in (output, options.mask, options.normals) if isinstance(folder, Path)]
    pictures = stored.find_stored(given) if are_stored else find_pictures(given, without=apart)
    print(pictures.about)
    inputs = find_inputs(pictures, options, without=output)
    identity = identity_of_run(inputs, options, content=stored.version_of if stored else file_digest)
    with run_folder(output, pictures.name, identity) as folder:
        kept, references = Kept(folder, in_parquet=bool(scale)), folder / "references.pt"
        todo = [part for part in parts_of(pictures) if not kept.has(part)]
        total, missing = len(pictures.pictures), sum(len(part.pictures) for part in todo)
        judge = make_judge(inputs, options, kept=references, todo=missing)
        if scale:
            counts = scale.judge_on_cluster(todo, (load_tensors(references), judge.read, options), folder, cluster)
        else:
            counts = judge_parts(judge, todo, kept)
        with tqdm(total=total, initial=total - missing, desc=pictures.name, unit="img") as progress:
            for judged in counts:
                progress.update(judged)
        table, records = kept.read()
        about, file = about_run(judge, pictures, table, options), folder / "inspection.json"
        seconds = round(time.perf_counter() - started, 1)
        is_repeated = not missing and file.is_file()
        about["seconds"] = json.loads(file.read_text(encoding="utf-8"))["seconds"] if is_repeated else seconds
        if not scale:
            write_tables(records, folder)
            write_coco(records, folder / "annotations.json")
        beside = {"photographs": None if are_stored else pictures.root, "tables": "parquet" if scale else "csv"}
        write_page(records, table, folder, about | beside)
        write_json(about, file)
    if failed := about["verdicts"]["error"]:
        print(f"{failed:,} of {total:,} pictures could not be judged; the page says why")
    return folder, total - failed


def _scale() -> tuple[ModuleType, ModuleType]:
    """The modules `scale` and `stored`, which alone need Ray and pyarrow."""
    try:
        from . import scale, stored
    except ModuleNotFoundError as error:
        raise ValueError(f"--ray needs {error.name}, which is not installed: pip install '.[scale]'") from error
    return scale, stored


def identity_of_run(inputs: Inputs, options: Options, *, content: Callable[[Path], str]) -> str:
    """Changes with all that decides the result: weights by their content, pictures and masks by their ``content``."""
    masks, selections = inputs.masks, [inputs.pictures, inputs.normals] if inputs.normals else [inputs.pictures]
    files = [options.classifier, options.rules, *sorted(paths.heads.glob("*.safetensors"))]
    return identity_of(
        INSPECTION_VERSION,
        {name: value for name, value in asdict(options).items() if not isinstance(value, Path)},
        weights_identity(options.weights),
        [_digest(file, file_digest) for file in files],
        [
            [[name, _digest(path, content), _digest(masks.get(path), content)] for name, path in each.pictures.items()]
            for each in selections
        ],
    )


def _digest(path: Path | None, content: Callable[[Path], str]) -> str | None:
    """Of a file that is there and can be read; else None, or the error's name."""
    try:
        return path and content(path)
    except OSError as error:
        return type(error).__name__


@contextmanager
def run_folder(output: Path, name: str, identity: str) -> Iterator[Path]:
    """The folder of the run of this identity, new or begun earlier, held until the end of the block."""
    for number in count(1):
        folder = output / (name if number == 1 else f"{name}-{number}")
        if _is_another(folder, identity):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        holder = folder.with_name(f".{folder.name}.holder")
        try:
            with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
                if _is_another(folder, identity):  # it was made a moment ago
                    continue
                who = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
                holder.write_text(who, encoding="utf-8")
                write_json({"identity": identity}, folder / STAMP)
                for part in folder.rglob("*.part"):  # of a process that was killed
                    part.unlink()
                try:
                    yield folder
                finally:
                    holder.unlink(missing_ok=True)
                    if [file.name for file in folder.iterdir()] == [STAMP]:  # nothing was done
                        (folder / STAMP).unlink()
                        folder.rmdir()
                return
        except Timeout as error:
            if _is_another(folder, identity):
                continue
            who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
            raise HeldError(f"{folder} is held by {who}; wait for it, or choose another --output") from error


def _is_another(folder: Path, identity: str) -> bool:
    """Whether a folder holds another run, or something else."""
    if not folder.is_dir():
        return folder.exists()
    if all(file.suffix in (".part", ".lock") for file in folder.iterdir()):
        return False
    try:
        return json.loads((folder / STAMP).read_text(encoding="utf-8"))["identity"] != identity
    except (OSError, ValueError, LookupError, TypeError):  # somebody else's
        return True


def about_run(judge: Judge, pictures: PictureSelection, table: pd.DataFrame, options: Options) -> dict[str, Any]:
    """What ``inspection.json`` says, and the page beside the pictures; ``table`` has a row a picture."""
    thresholds, counts = judge.detector.thresholds, table["verdict"].value_counts()
    return {
        "title": pictures.name,
        "mode": MODES[judge.detector.protocol],
        "pictures": len(table),
        "verdicts": {verdict: int(counts.get(verdict, 0)) for verdict in VERDICTS},
        "engine": "; ".join(sorted(set(table["engine"]))),
        "threshold": thresholds.verdict,
        "outline": thresholds.outline,
        "source": thresholds.source,
        "unit": "probability of a defect" if judge.detector.head else "log of the distance over the picture's median",
        "scale": [0, judge.highest],
        "mm_per_pixel": options.mm_per_pixel,
        "classifier": options.classifier
        and {"model": options.classifier.name, "worth": honest_figure(load_tensors(options.classifier))},
        "options": {
            name: printable(paths.relative(value)) if isinstance(value, Path) else value
            for name, value in asdict(options).items()
        },
        "facts": judge.detector.facts,
        "left": pictures.left,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }

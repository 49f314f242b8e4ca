"""A run of more pictures than one machine should judge: actors of Ray Data judge its parts."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.data
from tqdm import tqdm

from ..config import ENGINES, setting
from ..files import identity_of, load_tensors, write_json
from .export import write_hides
from .options import Options
from .parts import Part, parts_of, read_results
from .pictures import STAMP
from .prepare import engine_of, make_judge, reopen_judge
from .report import write_page
from .run import about_run, find_inputs, output_folder, run_folder, stamp_of
from .stored import Stored, find_stored, version_of

CORES = 0.75  # that an actor reserves: with whole ones nothing is left for other tasks, and all wait for ever
ON_A_GPU = 4  # actors that share one: while some decode, another computes
SETTINGS = {  # of Ray, where nothing else is said
    "RAY_USAGE_STATS_ENABLED": "0",  # else it tells its makers
    "RAY_agent_register_timeout_ms": "120000",  # a busy machine takes longer than the usual 15 s
}
STORE_BYTES = 500_000_000  # of Ray's memory on one machine: references and lists of pictures pass through it


class Judging:
    """An actor: opens the network once and judges parts. ``handed`` are the arguments of `reopen_judge`."""

    def __init__(self, handed: ray.ObjectRef, folder: Path) -> None:
        if not (folder / STAMP).is_file():
            raise FileNotFoundError(f"{platform.node()} sees no {folder}; all machines must see the folder of --output")
        self.judge, self.folder = reopen_judge(*ray.get(handed)), folder

    def __call__(self, row: dict[str, Any]) -> dict[str, int]:
        """Judges a part unless it is finished: after a failure Ray may ask again."""
        part: Part = row["part"]
        if not part.is_finished(self.folder):
            self._judge(part)
        return {"judged": len(part.pictures)}

    def _judge(self, part: Part) -> None:
        records = []
        for number, (name, path) in enumerate(part.pictures):
            for _, near in part.pictures[number : number + 2]:  # the next one comes while this one is judged
                if isinstance(near, Stored):
                    near.fetch()
            records.append(self.judge.judge(name, path, self.folder / "overlays"))
        if self.judge.scale:
            write_hides(records, self.folder / "hides", rules=self.judge.scale[1])
        detector = self.judge.detector
        part.write(records, self.folder, threshold=detector.thresholds.verdict, engine=engine_of(detector))


def inspect_by_ray(
    given: list[str], options: Options, *, output: Path | None = None, address: str = "local"
) -> tuple[Path, int]:
    """As `run.inspect`, on the machines of a Ray cluster ("local": this one); PICTURES may be addresses of a store.

    The tables are Parquet. All machines must see the folder of the output and the files that options name.
    """
    output, started, options = output_folder(output), time.perf_counter(), _absolute(options)
    if options.engine == "openvino-int8":
        raise ValueError("openvino-int8 is set on the pictures of one machine; choose another --engine with --ray")
    are_stored = any("://" in one for one in given)
    found, normals = find_inputs(given, options, output, find=find_stored if are_stored else None)
    stamp = stamp_of(found, normals, options, digest=version_of)
    stamp |= {name: identity_of(stamp[name]) for name in ("pictures", "normals")}  # the lists are long
    with run_folder(output, found.name, stamp) as folder:
        parts = [part for part in parts_of(found) if not part.is_finished(folder)]
        todo, kept = [name for part in parts for name, _ in part.pictures], folder / "references.pt"
        judge = make_judge(found, normals, options, kept=kept, todo=todo)
        handed = load_tensors(kept), judge.read, options
        done = len(found.pictures) - len(todo)
        with tqdm(total=len(found.pictures), initial=done, desc=found.name, unit="img") as progress:
            for count in _judged(parts, handed, folder, address):
                progress.update(count)
        records, summary, engines = read_results(folder)
        seconds = round(time.perf_counter() - started, 1)
        about = about_run(judge, found, summary["counts"], options) | {"engine": "; ".join(engines), "seconds": seconds}
        write_page(records, folder, about | {"photographs": None if are_stored else found.root}, summary=summary)
        write_json(about, folder / "inspection.json")
    return folder, done + len(todo) - summary["counts"]["error"]


def _absolute(options: Options) -> Options:
    """What means the same in other processes: they have other folders and variables."""
    changes = {name: value.resolve() for name, value in vars(options).items() if isinstance(value, Path)}
    if options.weights not in ("shipped", "timm"):
        changes["weights"] = str(Path(options.weights).resolve())
    return replace(options, engine=options.engine or setting("LEATHER_ENGINE", "auto", allowed=ENGINES), **changes)


def _judged(parts: list[Part], handed: tuple[Any, ...], folder: Path, address: str) -> Iterator[int]:
    """How many pictures each part has that is judged, in any order."""
    if not parts:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with _cluster(address):
        machines = ray.cluster_resources()
        gpus = machines.get("GPU", 0)
        actors = max(1, min(len(parts), int(ON_A_GPU * gpus or machines["CPU"])))
        rows = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        judged = rows.map(
            Judging,
            fn_constructor_kwargs={"handed": ray.put(handed), "folder": folder},
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
            num_cpus=CORES,
            num_gpus=1 / ON_A_GPU if gpus else 0,
            scheduling_strategy="SPREAD",
        )
        for row in judged.iter_rows():
            yield row["judged"]


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Connected to it in the block, or to the one that this process is connected to already."""
    if ray.is_initialized():
        yield
        return
    os.environ.update(SETTINGS | os.environ)
    local = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if address == "local" else {}
    ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **local)
    try:
        yield
    finally:
        ray.shutdown()

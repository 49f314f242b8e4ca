"""A run of more pictures than one machine should judge: actors of Ray Data judge its parts."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import torch

from .inputs import STAMP, Options
from .kept import Kept, Part, judge_parts
from .prepare import reopen_judge

CORES = 2  # of an actor: it judges as many pictures side by side
LEFT = 0.25  # of these that it does not reserve: else nothing is left for other tasks, and all wait for ever
TASKS, PARTS = 4, 8  # of an actor at least, and of a task at most: between tasks cores are idle
ON_A_GPU = 4  # actors that share one: while some decode, another computes
SETTINGS = {  # of Ray, where nothing else is said
    "RAY_USAGE_STATS_ENABLED": "0",  # else it tells its makers
    "RAY_agent_register_timeout_ms": "120000",  # a busy machine takes longer than the usual 15 s
}
STORE_BYTES = 500_000_000  # of Ray's memory on one machine: references and lists of pictures pass through it


class Judging:
    """An actor: opens the network once and judges parts. ``handed`` are the arguments of `reopen_judge`."""

    def __init__(self, handed: ray.ObjectRef, folder: Path, cores: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(cores)  # Ray rounds down what is reserved
        torch.set_num_threads(cores)
        if not (folder / STAMP).is_file():
            raise FileNotFoundError(f"{platform.node()} sees no {folder}; all machines must see the folder of --output")
        self.judge, self.kept = reopen_judge(*ray.get(handed)), Kept(folder, in_parquet=True)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[int]]:
        """Judges the parts that are not kept: after a failure Ray may ask again."""
        left = [part for part in rows["part"] if not self.kept.has(part)]
        for _ in judge_parts(self.judge, left, self.kept):
            pass
        return {"judged": [sum(len(part.pictures) for part in rows["part"])]}


def for_all_machines(options: Options) -> Options:
    """What means the same in other processes: they have other folders. Raises ValueError for int8."""
    if options.engine == "openvino-int8":
        raise ValueError("openvino-int8 is set on the pictures of one machine; choose another --engine with --ray")
    changes = {name: value.resolve() for name, value in vars(options).items() if isinstance(value, Path)}
    if options.weights not in ("shipped", "timm"):
        changes["weights"] = str(Path(options.weights).resolve())
    return replace(options, **changes)


def judge_on_cluster(parts: list[Part], handed: tuple[Any, ...], folder: Path, address: str) -> Iterator[int]:
    """As `judge_parts`, in any order, by actors that get the arguments of `reopen_judge`."""
    if not parts:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    os.environ.update(SETTINGS | os.environ)
    local = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if address == "local" else {}
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "ignore_reinit_error": True}
    with ray.init(address, **quiet, **local):
        gpus = ray.cluster_resources().get("GPU", 0)
        machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        cores = 1 if gpus else int(max(1, min(CORES, *filter(None, machines))))
        actors = int(ON_A_GPU * gpus or sum(count // cores for count in machines))
        tasks = min(len(parts), max(TASKS * actors, len(parts) // PARTS))
        actors = max(1, min(tasks, actors))
        rows = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=tasks)
        judged = rows.map_batches(
            Judging,
            batch_size=None,  # a task's
            batch_format="numpy",
            fn_constructor_kwargs={"handed": ray.put(handed), "folder": folder, "cores": cores},
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
            num_cpus=cores - LEFT,
            num_gpus=1 / ON_A_GPU if gpus else 0,
            scheduling_strategy="SPREAD",
        )
        for row in judged.iter_rows():
            yield row["judged"]

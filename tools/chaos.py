"""Kills what writes files at random moments, runs it again, and compares the end with that of an undisturbed run.

``python -m tools.chaos`` works on a tiny drawn sample in ``work/chaos``, which holds every finished kill as a line of
``kills.jsonl``: called again it goes on. Each kill is SIGKILL to the command and all its children. A kill counts as
lost if the second run fails, ends with other content, or leaves a file that the undisturbed run has not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

READY = "ready"  # what a command prints when its imports are done: from then on a kill may come
KILLS = {"sample": 20, "download": 20, "training": 25, "baselines": 15, "inspection": 20}
INSPECTED = 8  # pictures
LIMIT = 900  # seconds, of a run that should end by itself


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder by its path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# -- what is killed: each is run in a process of its own, in a folder of its own, and returns what it made ----------


def make_sample(folder: Path, _: Path) -> object:
    from src.synthetic.sample import TINY, write_sample

    print(READY, flush=True)
    write_sample(folder / "data" / "sample", **TINY)
    return tree(folder)


def download(folder: Path, given: Path) -> object:
    from src.config import paths
    from src.data.download import acquire

    paths.root, paths.data = folder, folder / "data"
    paths.sample, paths.manifest = folder / "data" / "sample", folder / "data" / "manifest.json"
    print(READY, flush=True)
    counts = acquire("local", local=given / "sample.zip").counts
    return counts, {name: digest for name, digest in tree(folder).items() if not name.endswith("manifest.json")}


def training(folder: Path, given: Path) -> object:
    import torch

    from src.backbone.vit import weights_digest
    from src.classifier.model import create_model
    from src.classifier.training import train_model
    from src.config import Config
    from src.data.splits import split_index
    from src.data.tables import class_root, classes_of, index_images

    torch.set_num_threads(1)
    images = index_images(class_root(given / "sample"))
    table = split_index(images.assign(copy_of=images["file"]), "random-60-20-20")
    options = {"backbone": "test_vit", "image_size": 48, "precision": "float32", "workers": 0, "batch_size": 8}
    config = Config(run="chaos", epochs=6, head_epochs=3, learning_rate=1e-3, feature_blocks=(1, 3), **options)
    print(READY, flush=True)
    model = create_model(config, classes_of(images), pretrained=False)
    result = train_model(model, table, config, models=folder / "models", logs=folder / "logs")
    files = sorted(path.name for path in (folder / "models").iterdir())
    return weights_digest(model), result.best_epoch, list(result.history["loss_train"]), files


def baselines(folder: Path, given: Path) -> object:
    from benchmarks.baselines.rows import table_rows
    from benchmarks.baselines.table import fill_table
    from src.config import HONEST
    from src.data.tables import class_root, digests, index_images

    images = index_images(class_root(given / "sample"))
    table = images.assign(copy_of=images["file"], digest=digests(images["path"]))
    print(READY, flush=True)
    rows = [row for row in table_rows(table, HONEST, models=folder / "models") if row.name in ("colour", "texture")]
    report = fill_table(table, rows, ("hide-5fold",), seed=42, splits=folder / "splits", models=folder / "models")
    return [row["protocols"] for row in report["rows"].values()], sorted(tree(folder))


def inspection(folder: Path, given: Path) -> object:
    from src.inspection.run import Options, inspect

    pictures = [str(path) for path in sorted((given / "sample").rglob("*.png"))[:INSPECTED]]
    print(READY, flush=True)
    report, judged = inspect(pictures, Options(engine="torch"), output=folder)
    about = json.loads((report / "inspection.json").read_text(encoding="utf-8"))
    apart = "inspection.json", "index.html"  # these say how long it took
    return judged, about | {"seconds": 0}, {name: digest for name, digest in tree(report).items() if name not in apart}


SCENES: dict[str, Callable[[Path, Path], object]] = {
    "sample": make_sample,
    "download": download,
    "training": training,
    "baselines": baselines,
    "inspection": inspection,
}


# -- the harness ----------------------------------------------------------------------------------------------------


def start(scene: str, folder: Path, given: Path) -> subprocess.Popen:
    """The scene in a process group of its own, past its imports."""
    command = [sys.executable, "-m", "tools.chaos", "--scene", scene, "--folder", str(folder), "--work", str(given)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    before = []
    for line in process.stdout:
        if line.strip() == READY:
            return process
        before.append(line)
    raise RuntimeError(f"{scene} ended before it was ready: {''.join(before)[-2000:]}")


def finish(process: subprocess.Popen) -> str:
    """The last line that the scene prints: what it made. Raises RuntimeError, with its output, if it fails."""
    output, _ = process.communicate(timeout=LIMIT)
    if process.returncode != 0:
        raise RuntimeError(output[-2000:])
    return output.strip().splitlines()[-1]


def kill_after(process: subprocess.Popen, seconds: float) -> bool:
    """Whether the process was still at work after so many seconds; then it and its children are dead."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and (left := deadline - time.monotonic()) > 0:
        if select.select([process.stdout], [], [], min(left, 0.05))[0] and not os.read(process.stdout.fileno(), 65536):
            time.sleep(0.01)  # its output is closed
    at_work = process.poll() is None
    with suppress(ProcessLookupError):  # it ended by itself
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return at_work


def undisturbed(scene: str, work: Path) -> dict[str, object]:
    """Seconds and result of a run that nobody kills; kept."""
    file, folder = work / f"{scene}.json", work / f"{scene}.undisturbed"
    if not file.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        process, started = start(scene, folder, work), time.monotonic()
        result = finish(process)
        file.write_text(json.dumps({"seconds": time.monotonic() - started, "result": result}))
    return json.loads(file.read_text())


def kill_once(scene: str, number: int, work: Path) -> dict[str, object]:
    """One kill at a random moment of the scene, drawn by its number, and the run after it."""
    wanted, folder = undisturbed(scene, work), work / f"{scene}.{number}"
    shutil.rmtree(folder, ignore_errors=True)
    moment = float(np.random.default_rng([number, *scene.encode()]).uniform(0, wanted["seconds"]))
    at_work = kill_after(start(scene, folder, work), moment)
    left = sorted(tree(folder)) if folder.exists() else []
    try:
        result = finish(start(scene, folder, work))
        why = "" if result == wanted["result"] else f"other content: {result[:500]}"
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        why = str(error)
    shutil.rmtree(folder, ignore_errors=True)
    return {"scene": scene, "number": number, "seconds": moment, "at_work": at_work, "files": len(left), "lost": why}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/chaos"))
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--scene", choices=SCENES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = options.work.resolve()
    if options.scene:
        options.folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(SCENES[options.scene](options.folder.resolve(), work)))
        return
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "sample.zip").is_file():
        from src.synthetic.sample import TINY, write_sample

        shutil.make_archive(str(work / "sample"), "zip", write_sample(work / "sample", **TINY))
    log = work / "kills.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    known = {(kill["scene"], kill["number"]) for kill in done}
    for scene in options.scenes:
        for number in range(KILLS[scene]):
            if (scene, number) not in known:
                done.append(kill_once(scene, number, work))
                with log.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    for scene in options.scenes:
        kills = [kill for kill in done if kill["scene"] == scene]
        lost, at_work = [kill for kill in kills if kill["lost"]], sum(kill["at_work"] for kill in kills)
        print(f"{scene}: {len(kills)} kills, {at_work} of them while it was at work, {len(lost)} lost")
        for kill in lost:
            print(f"  {kill['number']}: {kill['lost'][-300:]}")
    sys.exit(any(kill["lost"] for kill in done))


if __name__ == "__main__":
    main()

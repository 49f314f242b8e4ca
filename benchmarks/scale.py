"""What a run by Ray costs beside the plain one, and what drawing references costs as a folder grows.

``python -m benchmarks.scale`` draws a hide of leather, repeats it under new names (links to a few files), and measures

- *plain* and *ray*: seconds of `run.inspect` without and with Ray ("local") on the same pictures with the shipped
  network, in turns, each in a process of its own and a folder of its own; the median of ``--rounds``. Pictures a second
  are those of the whole run, with opening the network, drawing references and, for *ray*, starting it.
- *steps*: seconds of reading and decoding, and of all that is done, with such a picture and with one of a whole hide
  (drawn leather, mirrored to its size), medians, in one process that has all cores.
- *references*: seconds of listing, of what stands for the content of the files, and of drawing the references of
  folders of up to ``--most`` small pictures.

Writes ``scale.json`` and ``scale.md`` into ``--output``. The table of hides a day follows from the steps with a hide:
cores = hides x seconds x cores here / 86,400. The price of a core (``--price``) is an assumption. ``--quick`` has small
numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tables import markdown_rows, write_results
from src.data.pictures import load_image
from src.inspection.inputs import Inputs, Options, find_pictures
from src.inspection.judge import engine_of
from src.inspection.prepare import make_judge
from src.inspection.stored import version_of
from src.synthetic.leather import draw_hide, render_leather

FILES = 16  # that are repeated
PICTURE, SMALL = (448, 448), (64, 64)  # px: pictures that are judged, and those of which there are many
HIDE, QUICK_HIDE = (4000, 3000), (1000, 750)  # px of a whole hide
DAY, HIDES = 24 * 3600, [10**power for power in range(3, 8)]
RUN = (
    "import sys, pathlib; from src.inspection.run import Options, inspect; "
    "inspect([sys.argv[1]], Options(), output=pathlib.Path(sys.argv[2]), cluster={cluster!r})"
)
WAYS = {"plain": None, "ray": "local"}


def write_pictures(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Drawn leather of one hide as JPEG; all but `FILES` pictures are links to these, under new names."""
    folder.mkdir(parents=True)
    hide, (width, height) = draw_hide(np.random.default_rng(0)), size
    for number in range(count):
        file = folder / f"{number:06d}.jpg"
        if number < FILES:
            pixels = render_leather(np.random.default_rng(number), min(width, PICTURE[0]), hide=hide)
            missing = [(0, height - len(pixels)), (0, width - len(pixels)), (0, 0)]
            Image.fromarray(np.pad(pixels, missing, mode="symmetric")).save(file, quality=90)
        else:
            os.link(folder / f"{number % FILES:06d}.jpg", file)
    return folder


def run_seconds(folder: Path, rounds: int, work: Path) -> dict[str, list[float]]:
    """Seconds of each way in turns, a process each."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way, cluster in WAYS.items():
            command = [sys.executable, "-c", RUN.format(cluster=cluster), str(folder)]
            started = time.perf_counter()
            subprocess.run([*command, str(work / f"{way}-{number}")], check=True, stdout=subprocess.DEVNULL)
            seconds[way].append(time.perf_counter() - started)
    return seconds


def step_seconds(folder: Path) -> dict[str, Any]:
    """Seconds of decoding a picture and of all that is done with one, medians, and on which engine."""
    found, work = find_pictures([str(folder)]), folder.parent / f"{folder.name}-steps"
    some = dict(list(found.pictures.items())[:FILES])
    judge = make_judge(Inputs(found), Options(), kept=work / "references.pt", todo=0)
    steps = {
        "decoding": lambda name: load_image(some[name]),
        "judging": lambda name: list(judge.judge([(name, some[name])], work)),
    }
    seconds = {}
    for step, act in steps.items():
        times = []
        for name in [next(iter(some)), *some]:  # the first one warms up
            started = time.perf_counter()
            act(name)
            times.append(time.perf_counter() - started)
        seconds[step] = statistics.median(times[1:])
    size = statistics.median(path.stat().st_size for path in some.values())
    return {"seconds": seconds, "bytes": size, "engine": engine_of(judge.detector)}


def reference_seconds(folder: Path, count: int, work: Path) -> dict[str, float]:
    """Of a folder of so many small pictures."""
    write_pictures(folder, count, SMALL)
    started = time.perf_counter()
    found = find_pictures([str(folder)])
    listed = time.perf_counter()
    _ = [version_of(path) for path in found.pictures.values()]
    known = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        make_judge(Inputs(found), Options(), kept=work / f"references-{count}.pt", todo=0)
    drawn = time.perf_counter()
    return {"pictures": count, "listing": listed - started, "versions": known - listed, "references": drawn - known}


def hides_a_day(steps: dict[str, Any], price: float) -> list[dict[str, float]]:
    """Cores that judge so many pictures in a day, each as fast as one core here, their cost, and what they read."""
    judging = steps["seconds"]["judging"] * (os.cpu_count() or 1)  # the engine had all cores of this machine
    rows = []
    for hides in HIDES:
        cores = hides * judging / DAY
        megabytes = hides * steps["bytes"] / DAY / 1e6
        rows.append({"hides": hides, "cores": cores, "dollars": hides * judging / 3600 * price, "mb_s": megabytes})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=100_000, help="pictures of the largest folder of small ones")
    parser.add_argument("--price", type=float, default=0.04, help="dollars an hour of a core")
    parser.add_argument("--quick", action="store_true", help="few pictures: shows that it works")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    count, rounds, most = (32, 1, 10_000) if options.quick else (options.pictures, options.rounds, options.most)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        folder = write_pictures(work / "leather", count, PICTURE)
        size = QUICK_HIDE if options.quick else HIDE
        steps = {"picture": step_seconds(folder), "hide": step_seconds(write_pictures(work / "hides", 3, size))}
        counts = sorted({most // 10**power for power in range(4) if most // 10**power >= 2 * FILES})
        references = [reference_seconds(work / f"small-{n}", n, work) for n in counts]
        result = {
            "protocol": {
                "pictures": count,
                "picture": PICTURE,
                "hide": size,
                "rounds": rounds,
                "quick": options.quick,
                "machine": f"{os.cpu_count()} cores, {platform.machine()}",
                "price": options.price,
            },
            "runs": run_seconds(folder, rounds, work),
            "steps": steps,
            "references": references,
            "a_day": hides_a_day(steps["hide"], options.price),
        }
    for path in write_results(result, table_of(result), options.output / "scale"):
        print(path)


def table_of(result: dict[str, Any]) -> str:
    about, steps = result["protocol"], result["steps"]
    seconds = {way: statistics.median(times) for way, times in result["runs"].items()}
    lines = markdown_rows(
        ["way", "s", "pictures/s"],
        [[way, f"{value:.1f}", f"{about['pictures'] / value:.2f}"] for way, value in seconds.items()],
    )
    lines += [
        "",
        f"{about['pictures']} pictures, medians of {about['rounds']} rounds, {about['machine']}, "
        f"{steps['hide']['engine']}. Ray takes {seconds['ray'] / seconds['plain']:.2f} times the plain run.",
        "",
    ]
    header = ["one", "pixels", "kB", "read and decoded, ms", "in all, ms"]
    lines += markdown_rows(header, [_step_row(name, about[name], step) for name, step in steps.items()]) + [""]
    if about["quick"]:
        lines.append("**A quick run: it shows that the measurement works, not how fast anything is.**")
    lines += ["", *markdown_rows(["hides a day", "cores", "dollars a day", "MB/s read"], _day_rows(result["a_day"]))]
    lines += ["", f"Price of a core: {about['price']:g} dollars an hour, an assumption.", ""]
    header = ["small pictures", "listing, s", "versions, s", "references, s"]
    lines += markdown_rows(header, _reference_rows(result["references"]))
    return "\n".join(lines) + "\n"


def _step_row(name: str, size: tuple[int, int], step: dict[str, Any]) -> list[str]:
    milliseconds = (f"{1000 * step['seconds'][key]:.1f}" for key in ("decoding", "judging"))
    return [name, f"{size[0]} x {size[1]}", f"{step['bytes'] / 1e3:.0f}", *milliseconds]


def _day_rows(rows: list[dict[str, float]]) -> list[list[str]]:
    return [[f"{r['hides']:,}", f"{r['cores']:.2f}", f"{r['dollars']:.2f}", f"{r['mb_s']:.2f}"] for r in rows]


def _reference_rows(rows: list[dict[str, float]]) -> list[list[str]]:
    steps = ("listing", "versions", "references")
    return [[f"{row['pictures']:,}", *(f"{row[step]:.2f}" for step in steps)] for row in rows]


if __name__ == "__main__":
    main()

"""``python -m src.inspection PICTURES``: from photographs of leather to a report."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ..config import ENGINES


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0 if pictures were judged, 1 if none was, 2 for wrong arguments, 130 if interrupted."""
    parser = _parser()
    given = parser.parse_args(arguments)
    _check(given, parser)
    from ..backbone.vit import WeightsError  # here: --help and wrong arguments need no network
    from ..files import CheckpointError
    from .inputs import Options
    from .run import HeldError, inspect

    options = vars(given)
    pictures, output, cluster = (options.pop(name) for name in ("pictures", "output", "ray"))
    try:
        folder, judged = inspect(pictures, Options(**options), output=output, cluster=cluster)
    except (ValueError, WeightsError, CheckpointError) as error:
        parser.error(str(error))
    except (HeldError, OSError) as error:  # a full disk, a folder that cannot be written
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\ninterrupted; the same command goes on where it stopped\n")
    print(f"{judged:,} pictures judged; report: {folder / 'index.html'}")
    return 0 if judged else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leather-inspect",
        description="Finds defects on photographs of any leather, without labels, and writes a report.",
    )
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PICTURES", help="picture, folder, glob, or text file with a path a line")
    add("--normals", type=Path, metavar="FOLDER", help="pictures of the same leather without any defect")
    add("--classifier", type=Path, metavar="FILE", help="checkpoint models/<run>.pth that names the class of a defect")
    add("--output", type=Path, metavar="DIR", help="where the report's folder is made (reports/inspection)")
    add("--mm-per-pixel", type=_number, metavar="X", help="scale: measures and grade of each hide")
    add("--threshold", type=_number, metavar="P", help="probability from which on a region is a defect")
    add(
        "--mask",
        type=lambda text: text if text == "auto" else Path(text),
        metavar="FOLDER|auto",
        help="masks in which leather is white, or auto: the table is found",
    )
    add("--weights", default="shipped", metavar="shipped|timm|FILE", help="weights of the network (shipped)")
    add("--backbone", metavar="NAME", help="timm's name of the network, for other weights than the shipped ones")
    add("--rules", type=Path, metavar="YAML", help="rule file of severities and grades")
    add("--engine", choices=ENGINES, help="what the network runs on (auto: the fastest exact one)")
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help="in parallel, here or on a cluster (docs/scale.md)")
    return parser


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; write it like 0.5") from None


def _check(given: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends with a clear error for a number out of range, or a file or folder that is not there."""
    for name, most in (("mm_per_pixel", 1000), ("threshold", 1)):
        value = getattr(given, name)
        if value is not None and not 0 < value < most:
            parser.error(f"--{name.replace('_', '-')} is {value}; expected more than 0 and less than {most}")
    for name in ("normals", "mask"):
        folder = getattr(given, name)
        if folder not in (None, "auto") and not Path(folder).is_dir():
            parser.error(f"--{name} {folder} is no folder")
    for name in ("classifier", "rules"):
        if (file := getattr(given, name)) and not file.is_file():
            parser.error(f"--{name} {file} is no file")
    if given.rules and not given.mm_per_pixel:
        parser.error("--rules needs --mm-per-pixel: severities and grades are made of lengths")
    if given.ray and not re.fullmatch(r"local|auto|[\w.-]+:\d+", given.ray):
        parser.error(f"--ray {given.ray} is no address; expected local, auto or host:port, and PICTURES before --ray")
    if given.weights not in ("shipped", "timm") and not Path(given.weights).is_file():
        parser.error(f"--weights {given.weights} is neither shipped nor timm nor a file")


if __name__ == "__main__":
    sys.exit(main())

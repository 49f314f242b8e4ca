"""Are all defects found on hides that were drawn after the last change, and what is drawn that is none?

``python -m benchmarks.hides`` draws, for each seed, a hide on each kind of table (leather lighter and darker than it),
and inspects the three as `make inspect` does with the sample: table masked by itself, each by the others. A defect of
more than 4 patches is found if a region touches it; a region that touches no defect, nor its surroundings of a patch,
is false. Writes ``hides.json`` and ``hides.md`` into ``--output``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation
from tqdm import tqdm

from benchmarks.tables import markdown_rows, write_results
from src.inspection.inputs import Options
from src.inspection.run import inspect
from src.synthetic.hides import TABLES, DrawnHide, draw_table_hide

PATCH = 16  # px of the shipped backbone
SMALLEST = 4 * PATCH**2  # px of a defect that has to be found
KEYS = "defects", "hit", "regions", "false_regions"
BRIGHTNESS = {"black": ("lighter", "lighter"), "white": ("darker", "darker"), "wood": ("darker", "lighter")}


def draw(seed: int, size: int) -> dict[str, DrawnHide]:
    """A hide on each table; on wood the leather is darker for even seeds, lighter for odd ones."""
    hides = {}
    for number, table in enumerate(TABLES):
        generator = np.random.default_rng([seed, number])
        hides[table] = draw_table_hide(generator, size, table=table, brightness=BRIGHTNESS[table][seed % 2])
    return hides


def compare(hide: DrawnHide, regions: list[list[list[float]]]) -> dict[str, int]:
    """Counts of a hide; ``regions`` are polygons x, y, x, y, ... of one region each."""
    masks = [region_mask(region, hide.leather.shape) for region in regions]
    numbers, areas = np.unique(hide.defects[hide.defects > 0], return_counts=True)
    large = numbers[areas > SMALLEST]
    hit = [number for number in large if any(mask[hide.defects == number].any() for mask in masks)]
    near = binary_dilation(hide.defects > 0, iterations=PATCH)
    false = sum(not mask[near].any() for mask in masks)
    return {"defects": len(large), "hit": len(hit), "regions": len(masks), "false_regions": false}


def region_mask(polygons: list[list[float]], shape: tuple[int, int]) -> np.ndarray:
    canvas = Image.new("1", shape[::-1])
    for polygon in polygons:
        ImageDraw.Draw(canvas).polygon(polygon, fill=1)
    return np.array(canvas)


def measure(seed: int, size: int, folder: Path) -> list[dict[str, Any]]:
    hides, pictures = draw(seed, size), folder / f"seed-{seed}"
    pictures.mkdir()
    for table, hide in hides.items():
        Image.fromarray(hide.picture).save(pictures / f"{table}.png", compress_level=1)
    report, _ = inspect([str(pictures)], Options(mask="auto", mm_per_pixel=2000 / size), output=folder / "reports")
    coco = json.loads((report / "annotations.json").read_text(encoding="utf-8"))
    files = {image["id"]: Path(image["file_name"]).stem for image in coco["images"]}
    regions: dict[str, list] = {table: [] for table in hides}
    for annotation in coco["annotations"]:
        regions[files[annotation["image_id"]]].append(annotation["segmentation"])
    return [{"seed": seed, "table": table} | compare(hide, regions[table]) for table, hide in hides.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(301, 311)))  # 201 to 210 chose the rim
    parser.add_argument("--size", type=int, default=2000, help="px of a picture's width")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for seed in tqdm(options.seeds) for row in measure(seed, options.size, Path(folder))]
    of_table = {table: [row for row in rows if row["table"] == table] for table in TABLES} | {"all": rows}
    cells = [[table, *(str(sum(row[key] for row in some)) for key in KEYS)] for table, some in of_table.items()]
    most = [str(max(row["false_regions"] for row in some)) for some in of_table.values()]
    header = ["table", "defects over 4 patches", "found", "regions", "false regions", "most false on a hide"]
    text = "\n".join(markdown_rows(header, [[*row, worst] for row, worst in zip(cells, most, strict=True)]))
    text += f"\n\n{len(rows)} drawn hides of {options.size} px, seeds {', '.join(map(str, options.seeds))}.\n"
    write_results({"size": options.size, "hides": rows}, text, options.output / "hides")
    print(text)


if __name__ == "__main__":
    main()

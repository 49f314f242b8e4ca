"""Do large pictures keep their small defects? The same pictures at 1024 px and at 256 px; and a 4608x3288 picture.

``python -m benchmarks.resolution --data FOLDER --weights FILE`` needs MVTec AD's layout with 1024 px pictures; a part
of the set will do. The 256 px pictures are made from them. Blocks are chosen at 256 px, the pixel threshold at both
sizes, on defects painted on the normal training pictures. A defect is a connected
region of the mask; it is found if its highest pixel reaches the threshold. As thresholds differ, the rate at equal
false positives is given too: the threshold there is what 0.1 % of the pixels of test/good exceed (an oracle, the same
for both).

- *real*: the test pictures; regions under 0.3 % of the picture are small.
- *painted*: defects of 0.01 to 0.3 % painted on test/good at 1024 px, which the choice of settings has not seen.
- *memory*: a 4608x3288 picture, tiled from a normal one, scored in a process of its own; its highest memory.

Writes ``resolution.json`` and ``resolution.md`` into ``--output``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from skimage.measure import label
from tqdm import tqdm

from benchmarks.tables import markdown_rows, write_results
from src.backbone.vit import SHIPPED_ARCHITECTURE, Backbone, load_backbone
from src.data.pictures import load_image, load_mask
from src.data.tables import index_mvtec
from src.files import load_tensors, save_tensors
from src.localisation.bank import PatchBank
from src.localisation.encoder import BankSettings, Encoder, default_settings
from src.localisation.thresholds import Detector, fit_detector
from src.synthetic.defects import add_synthetic_defect

SMALL = 0.003  # share of the picture
PAINTED_SCALE, PAINTED_EACH = 0.25, 6
FALSE_POSITIVES = 0.001
LARGE = (4608, 3288)


@dataclass(frozen=True)
class AtSize:
    """A detector that was made of pictures shrunk to a size, and shrinks those that it judges."""

    size: int
    detector: Detector

    def map(self, picture: Image.Image) -> np.ndarray:
        """Anomaly map at the picture's own size."""
        bank = self.detector.bank
        return bank.full_size(bank.patch_map(bank.encoder.tokens(shrunk(picture, self.size))), picture.size)


def shrunk(picture: Image.Image, size: int) -> Image.Image:
    return picture.resize((size, size), Image.Resampling.BOX)


def detector_at(
    backbone: Backbone, normals: list[Image.Image], size: int, blocks: tuple[int, ...] | None = None
) -> AtSize:
    """The detector of normal pictures at a size; without ``blocks`` they are chosen."""
    pictures = [shrunk(picture, size) for picture in normals]
    candidates = [replace(default_settings(backbone, pictures[0]), blocks=blocks)] if blocks else None
    return AtSize(size, fit_detector(backbone, pictures, protocol="the benchmark", candidates=candidates))


def peaks(values: np.ndarray, mask: np.ndarray) -> list[tuple[float, float]]:
    """Share of the picture, and highest value, of every region of a mask."""
    labels = label(mask, connectivity=2)
    return [(float((labels == i).mean()), float(values[labels == i].max())) for i in range(1, labels.max() + 1)]


def compare(sizes: list[AtSize], test: pd.DataFrame) -> dict[str, Any]:
    """By size: the share of small defects whose peak reaches the threshold, and at equal false positives."""
    good = [load_image(path) for path in test.loc[test["defect"] == "good", "path"]]
    defects = [(load_image(row.path), row.mask) for row in test[test["defect"] != "good"].itertuples()]
    pictures = {"real": [(picture, load_mask(mask, size=picture.size)) for picture, mask in defects], "painted": []}
    generator = np.random.default_rng(0)
    for picture in good:
        for _ in range(PAINTED_EACH):
            pixels, mask = add_synthetic_defect(np.asarray(picture), generator, scale=PAINTED_SCALE)
            pictures["painted"].append((Image.fromarray(pixels), mask.astype(bool)))
    results = {}
    for at_size in sizes:
        settings, threshold = at_size.detector.bank.settings, at_size.detector.thresholds.pixel
        clean = np.stack([at_size.map(picture) for picture in good])
        equal = float(np.quantile(clean, 1 - FALSE_POSITIVES))
        entry = {
            "blocks": settings.blocks,
            "side": settings.side,
            "threshold": threshold,
            "false_positive_pixels": float((clean >= threshold).mean()),
        }
        for name, masked in pictures.items():
            bar = tqdm(masked, desc=f"{name} at {at_size.size} px")
            regions = np.array([peak for picture, mask in bar for peak in peaks(at_size.map(picture), mask)])
            regions = regions[regions[:, 0] < SMALL]
            entry[name] = {
                "small_regions": len(regions),
                "found_at_threshold": float((regions[:, 1] >= threshold).mean()),
                "found_at_equal_false_positives": float((regions[:, 1] >= equal).mean()),
            }
        results[f"{at_size.size} px"] = entry
    return results


def memory(options: argparse.Namespace, bank: PatchBank, picture: Image.Image, folder: Path) -> dict[str, float]:
    """Scores a large picture in a process of its own."""
    mirrored = np.concatenate([np.asarray(picture), np.asarray(picture)[::-1]])
    mirrored = np.concatenate([mirrored, mirrored[:, ::-1]], axis=1)
    times = [-(-wanted // had) for wanted, had in zip(LARGE[::-1], mirrored.shape, strict=False)]
    Image.fromarray(np.tile(mirrored, (*times, 1))[: LARGE[1], : LARGE[0]]).save(folder / "large.png")
    save_tensors({"rows": bank.rows, "settings": asdict(replace(bank.settings, side=min(LARGE)))}, folder / "bank.pt")
    command = [sys.executable, "-m", "benchmarks.resolution", "--score", str(folder)]
    command += ["--weights", options.weights, "--backbone", options.backbone]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def score_large(backbone: Backbone, folder: Path) -> dict[str, float]:
    content = load_tensors(folder / "bank.pt")
    bank = PatchBank(Encoder(backbone, BankSettings(**content["settings"])), content["rows"])
    started = time.perf_counter()
    values, _ = bank.score(load_image(folder / "large.png"))
    assert values.shape == LARGE[::-1]
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - started,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds leather/ with 1024 px pictures")
    parser.add_argument("--weights", default="shipped", help="a weights file, or shipped")
    parser.add_argument("--backbone", default=SHIPPED_ARCHITECTURE, help="timm's name")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    backbone = load_backbone(options.backbone, options.weights, image_size=448)
    if options.score:
        print(json.dumps(score_large(backbone, options.score)))
        return
    table = index_mvtec(options.data)
    normals = [load_image(path) for path in table.loc[table["part"] == "train", "path"]]
    test = table[table["part"] == "test"]
    small = detector_at(backbone, normals, 256)
    large = detector_at(backbone, normals, 1024, small.detector.bank.settings.blocks)
    with tempfile.TemporaryDirectory() as name:
        result = {
            "protocol": {
                "normals": len(normals),
                "test": test["defect"].value_counts().to_dict(),
                "small_below": SMALL,
                "equal_false_positives": FALSE_POSITIVES,
                "backbone": options.backbone,
                "weights": backbone.weights,
                "threads": torch.get_num_threads(),
            },
            "sizes": compare([small, large], test),
            "large": memory(options, large.detector.bank, normals[0], Path(name)),
        }
    text = markdown(result)
    write_results(result, text, options.output / "resolution")
    print(text)


def markdown(result: dict[str, Any]) -> str:
    columns = ["pictures", "read at, px", "blocks", "false positive pixels"]
    columns += [f"{name}, {at}" for name in ("real", "painted") for at in ("at threshold", "equal false positives")]
    rows = []
    for name, entry in result["sizes"].items():
        rates = [
            entry[each][f"found_at_{at}"]
            for each in ("real", "painted")
            for at in ("threshold", "equal_false_positives")
        ]
        blocks = ", ".join(map(str, entry["blocks"]))
        share = f"{entry['false_positive_pixels']:.2%}"
        rows.append([name, str(entry["side"]), blocks, share, *(f"{rate:.2f}" for rate in rates)])
    entry, about, large = next(iter(result["sizes"].values())), result["protocol"], result["large"]
    lines = [
        *markdown_rows(columns, rows),
        "",
        f"Share of small defects (under {about['small_below']:.1%} of the picture) found: "
        f"{entry['real']['small_regions']} real ones, {entry['painted']['small_regions']} painted ones; "
        f"{about['normals']} normal pictures, {about['backbone']} ({about['weights']}).",
        f"A {LARGE[0]}x{LARGE[1]} picture: {large['seconds']:.0f} s on {about['threads']} threads, "
        f"{large['peak_memory_gb']:.2f} GB at most.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Do large pictures keep their small defects? The same pictures at 1024 px and at 256 px.

``python -m benchmarks.resolution --data FOLDER --weights FILE`` needs MVTec AD's layout with 1024 px pictures; a part
of the set will do. The 256 px pictures are made from them. Each size is judged alone (zero-shot) and with the normal
training pictures. A defect is a connected region of the mask; it is found if its highest pixel reaches the outline
threshold, which is the head's, or that of painted defects where the backbone has none. As sizes differ in their false
positives, the rate at equal ones is given too: the threshold there is what 0.1 % of the pixels of test/good exceed (an
oracle, the same for all).

- *real*: the test pictures; regions under 0.3 % of the picture are small.
- *painted*: defects of a quarter of the usual size painted on test/good at 1024 px; those under 0.3 % count.

Writes ``resolution.json`` and ``resolution.md`` into ``--output``. Time and memory: ``benchmarks.speed``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from skimage.measure import label
from tqdm import tqdm

from benchmarks.tables import markdown_rows, write_results
from src.backbone.vit import SHIPPED_ARCHITECTURE, Backbone, load_backbone
from src.data.pictures import load_image, load_mask
from src.data.splits import protocol_name
from src.data.tables import index_mvtec
from src.localisation.encoder import TILE, camera_zoom
from src.localisation.head import find_head
from src.localisation.localise import Detector
from src.localisation.thresholds import make_encoder, normals_detector, zero_shot_detector
from src.synthetic.painter import add_defect

SIZES = 256, 1024
SMALL = 0.003  # share of the picture
PAINTED_SCALE, PAINTED_EACH = 0.25, 6
FALSE_POSITIVES = 0.001
RATES = [(pictures, at) for pictures in ("real", "painted") for at in ("threshold", "equal_false_positives")]
Masked = tuple[Image.Image, np.ndarray]


def shrunk(picture: Image.Image, size: int) -> Image.Image:
    return picture.resize((size, size), Image.Resampling.BOX)


def detectors_at(backbone: Backbone, normals: list[Image.Image], size: int) -> list[Detector]:
    """Without and with normal pictures, made of pictures of a size."""
    pictures, head = [shrunk(picture, size) for picture in normals], find_head(backbone)
    encoder = make_encoder(backbone, zoom=camera_zoom([(size, size)]), head=head)
    name = protocol_name(len(normals))
    return [zero_shot_detector(encoder, head, pictures), normals_detector(encoder, head, pictures, protocol=name)]


def maps_at(detectors: list[Detector], picture: Image.Image, size: int) -> np.ndarray:
    """Maps (detectors, height, width) of a picture that is shrunk to a size, at its own size."""
    small = shrunk(picture, size)
    tokens = detectors[0].encoder.tokens(small)  # the same for all
    maps = [Image.fromarray(detector.anomaly_map(small, tokens)) for detector in detectors]
    return np.stack([np.asarray(each.resize(picture.size, Image.Resampling.BILINEAR)) for each in maps])


def small_peaks(maps: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """The highest values, shape (detectors,), of every small region of a mask (h, w) in maps (detectors, h, w)."""
    labels = label(mask, connectivity=2)
    regions = (labels == number for number in range(1, labels.max() + 1))
    return [maps[:, region].max(1) for region in regions if region.mean() < SMALL]


def small_defects(test: pd.DataFrame) -> dict[str, list[Masked]]:
    """Pictures with their masks: the real ones, and the good ones painted."""
    generator, is_good = np.random.default_rng(0), test["defect"] == "good"
    good = [np.asarray(load_image(path)) for path in test.loc[is_good, "path"] for _ in range(PAINTED_EACH)]
    painted = [add_defect(picture, generator, scale=PAINTED_SCALE) for picture in good]
    real = ((load_image(row.path), row.mask) for row in test[~is_good].itertuples())
    return {
        "real": [(picture, load_mask(mask, size=picture.size)) for picture, mask in real],
        "painted": [(Image.fromarray(picture), mask.astype(bool)) for picture, mask in painted],
    }


def found_at(size: int, detectors: list[Detector], good: list, defects: dict[str, list[Masked]]) -> dict[str, dict]:
    """By detector: the share of small defects whose peak reaches the threshold, and at equal false positives."""
    clean = np.stack([maps_at(detectors, picture, size) for picture in tqdm(good, desc=f"good at {size} px")], axis=1)
    outlines = np.array([detector.thresholds.outline for detector in detectors])
    limits = {"threshold": outlines, "equal_false_positives": np.quantile(clean, 1 - FALSE_POSITIVES, axis=(1, 2, 3))}
    names = [f"{size} px, {detector.protocol}" for detector in detectors]
    false = [float((maps >= outline).mean()) for maps, outline in zip(clean, outlines, strict=True)]
    results = {name: {"false_positive_pixels": share} for name, share in zip(names, false, strict=True)}
    for name, masked in defects.items():
        bar = tqdm(masked, desc=f"{name} at {size} px")
        peaks = [peak for picture, mask in bar for peak in small_peaks(maps_at(detectors, picture, size), mask)]
        for number, entry in enumerate(results.values()):
            entry[name] = {"small_regions": len(peaks)}
            if peaks:
                rates = {at: (np.array(peaks) >= limit).mean(0)[number] for at, limit in limits.items()}
                entry[name] |= {f"found_at_{at}": float(rate) for at, rate in rates.items()}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds leather/ with 1024 px pictures")
    parser.add_argument("--weights", default="shipped", help="a weights file, or shipped")
    parser.add_argument("--backbone", default=SHIPPED_ARCHITECTURE, help="timm's name")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    backbone, table = load_backbone(options.backbone, options.weights, image_size=TILE), index_mvtec(options.data)
    normals = [load_image(path) for path in table.loc[table["part"] == "train", "path"]]
    test, sizes = table[table["part"] == "test"], {}
    good, defects = [load_image(path) for path in test.loc[test["defect"] == "good", "path"]], small_defects(test)
    for size in SIZES:
        sizes |= found_at(size, detectors_at(backbone, normals, size), good, defects)
    about = {"normals": len(normals), "test": test["defect"].value_counts().to_dict(), "small_below": SMALL}
    about |= {"equal_false_positives": FALSE_POSITIVES, "backbone": options.backbone, "weights": backbone.weights}
    text = markdown(result := {"protocol": about, "sizes": sizes})
    write_results(result, text, options.output / "resolution")
    print(text)


def markdown(result: dict[str, Any]) -> str:
    columns = ["pictures", "false positive pixels", *(f"{a}, {b}".replace("_", " ") for a, b in RATES)]
    rows = []
    for name, entry in result["sizes"].items():
        rates = (entry[pictures].get(f"found_at_{at}") for pictures, at in RATES)
        cells = ("" if rate is None else f"{rate:.2f}" for rate in rates)
        rows.append([name, f"{entry['false_positive_pixels']:.2%}", *cells])
    entry, about = next(iter(result["sizes"].values())), result["protocol"]
    lines = [
        *markdown_rows(columns, rows),
        "",
        f"Share of small defects (under {about['small_below']:.1%} of the picture) found: "
        f"{entry['real']['small_regions']} real ones, {entry['painted']['small_regions']} painted ones; "
        f"{about['normals']} normal pictures, {about['backbone']} ({about['weights']}).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

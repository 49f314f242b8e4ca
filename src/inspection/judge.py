"""Judges one photograph: its map, its defects in pixels of the photograph, its hide, and an overlay that shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import approximate_polygon

from ..classifier.model import ViTMultiClassClassifier
from ..classifier.predict import class_probabilities, tiles_at
from ..files import whole_file
from ..localisation.localise import Detector
from ..localisation.regions import Region
from .export import safe_name
from .grade import Rules
from .hide import measure_hide
from .overlay import QUALITY, draw_overlay
from .records import PictureRecord, RegionRecord

Read = Callable[[Path], tuple[Image.Image, np.ndarray | None]]  # opens a picture, with its leather or None for all
PROBLEMS = (ValueError, OSError, MemoryError)  # of one picture: it gets a row that says why, and nothing ends


@dataclass(frozen=True)
class Judge:
    """Judges pictures; `prepare.make_judge` makes one."""

    detector: Detector
    numbers: dict[str, int]  # which reference a picture of the folder is: it is not compared with itself
    read: Read
    classifier: tuple[ViTMultiClassClassifier, int] | None  # and the side in pixels of its tiles
    scale: tuple[float, Rules] | None  # mm a pixel, and the rules for hides

    def judge(self, name: str, path: Path, overlays: Path) -> PictureRecord:
        """The row of a picture; writes its overlay. A picture that cannot be judged gets a row that says why."""
        try:
            return self._judge(name, path, overlays / f"{safe_name(name)}.jpg")
        except PROBLEMS as error:
            return PictureRecord(name, "error", error=str(error).replace(str(path), name) or type(error).__name__)

    def _judge(self, name: str, path: Path, overlay: Path) -> PictureRecord:
        picture, leather = self.read(path)
        judgement = self.detector.judge(picture, leather=leather, without=self.numbers.get(name))
        scale = np.array(picture.size) / judgement.map.shape[::-1]
        regions = tuple(region_record(n, region, scale) for n, region in enumerate(judgement.regions, 1))
        if self.classifier:
            regions = tuple(self._named(region, picture) for region in regions)
        hide = None
        if self.scale:
            everywhere = np.ones(picture.size[::-1], bool) if leather is None else leather
            hide = measure_hide(everywhere, regions, mm_per_pixel=self.scale[0], rules=self.scale[1])
        drawn = draw_overlay(picture, judgement.map, regions, top=self.highest, leather=leather)
        with whole_file(overlay) as stream:
            drawn.save(stream, "JPEG", quality=QUALITY)
        verdict, shown = "defective" if regions else "good", f"{overlay.parent.name}/{overlay.name}"
        return PictureRecord(name, verdict, *picture.size, judgement.score, regions, shown, hide)

    def _named(self, region: RegionRecord, picture: Image.Image) -> RegionRecord:
        """With the class of the tiles that cover it, on average."""
        model, side = self.classifier
        shares = class_probabilities(model, tiles_at(picture, region.box, side)).mean(0)
        best = int(shares.argmax())
        return replace(region, label=model.class_names[best], label_probability=round(float(shares[best]), 4))

    @property
    def highest(self) -> float:
        """The value of the map that is drawn as the highest."""
        return 1.0 if self.detector.head else max(0.5, 3 * self.detector.thresholds.outline)


def region_record(number: int, region: Region, scale: np.ndarray) -> RegionRecord:
    """A region of a map as one of the photograph; ``scale`` is pixels of it for one of the map, across and down."""
    simple = approximate_polygon(region.contour, 0.3)
    contour = (simple if len(simple) > 3 else region.contour) + 0.5  # the middle of the first pixel is at 0.5
    return RegionRecord(
        number=number,
        box=tuple((np.array(region.box) * np.tile(scale, 2)).round(2).tolist()),
        area=round(float(region.area * scale.prod()), 2),
        peak=region.peak,
        score=region.score,
        outline=tuple(map(tuple, (contour * scale).round(2).tolist())),
    )

"""Judges one photograph: its map, its defects in pixels of the photograph, and the overlay that shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import approximate_polygon

from ..data.pictures import UnreadableImageError
from ..files import whole_file
from ..localisation.localise import Detector
from ..localisation.regions import Region
from .overlay import QUALITY, draw_overlay
from .records import PictureRecord, RegionRecord

Read = Callable[[Path], tuple[Image.Image, np.ndarray | None]]  # opens a picture with its leather
PROBLEMS = (UnreadableImageError, ValueError, OSError, MemoryError)  # of one picture, which end nothing


@dataclass(frozen=True)
class Judge:
    """Judges pictures; `prepare.make_judge` makes one."""

    detector: Detector
    numbers: dict[str, int]  # which reference a picture of the folder is: it is not compared with itself
    read: Read

    def judge(self, name: str, path: Path, overlay: Path) -> PictureRecord:
        """The row of a picture; writes its overlay. A picture that cannot be judged gets a row that says why."""
        try:
            picture, leather = self.read(path)
            judgement = self.detector.judge(picture, leather=leather, without=self.numbers.get(name))
        except PROBLEMS as error:
            return PictureRecord(name, "error", error=str(error).replace(str(path), name) or type(error).__name__)
        scale = np.array(picture.size) / judgement.map.shape[::-1]
        regions = tuple(region_record(n, region, scale) for n, region in enumerate(judgement.regions, 1))
        drawn = draw_overlay(picture, judgement.map, regions, top=self.highest, leather=leather)
        with whole_file(overlay) as stream:
            drawn.save(stream, "JPEG", quality=QUALITY)
        return PictureRecord(
            name,
            "defective" if regions else "good",
            picture.width,
            picture.height,
            round(float(judgement.score), 6),
            regions,
            f"{overlay.parent.name}/{overlay.name}",
        )

    @property
    def highest(self) -> float:
        """The value of the map that is drawn as the highest."""
        return 1.0 if self.detector.head else max(0.5, 3 * self.detector.thresholds.outline)


def region_record(number: int, region: Region, scale: np.ndarray) -> RegionRecord:
    """A region of a map as one of the photograph; ``scale`` is pixels of it for one of the map, across and down."""
    simple = approximate_polygon(region.contour, 0.3)
    contour = (simple if len(simple) > 3 else region.contour) + 0.5  # the middle of the first pixel is at 0.5
    left, top, right, bottom = (np.array(region.box).reshape(2, 2) * scale).ravel().round(2).tolist()
    return RegionRecord(
        number=number,
        box=(left, top, right, bottom),
        area=round(float(region.area * scale.prod()), 2),
        peak=round(region.peak, 6),
        score=round(region.score, 6),
        outline=tuple(map(tuple, (contour * scale).round(2).tolist())),
    )

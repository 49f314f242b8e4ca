"""Judges photographs: map, defects in pixels of the photograph, hide, and an overlay that shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise
from math import prod
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw
from skimage.measure import approximate_polygon, find_contours

from ..classifier.model import ViTMultiClassClassifier
from ..classifier.predict import class_probabilities, tiles_at
from ..files import printable, whole_file
from ..localisation.localise import Detector
from ..localisation.regions import Region
from ..localisation.stream import LARGE, side_by_side
from ..style import HEAT, NORMAL, PREDICTED
from .export import safe_name, write_hide
from .grade import Rules
from .hide import measure_hide
from .records import PictureRecord, RegionRecord

Read = Callable[[Path], tuple[Image.Image, np.ndarray | None]]  # opens a picture, with its leather or None for all
PROBLEMS = (ValueError, OSError, MemoryError)  # of one picture: it gets a row that says why, and nothing ends
SIDE = 1600  # px: longest side of an overlay
QUALITY = 80
OPACITY = 0.65  # of the highest values; the photograph shines through


@dataclass(frozen=True)
class Judge:
    """Judges pictures; `prepare.make_judge` makes one."""

    detector: Detector
    numbers: dict[str, int]  # which reference a picture of the folder is: it is not compared with itself
    read: Read
    classifier: tuple[ViTMultiClassClassifier, int] | None  # and the side in pixels of its tiles
    scale: tuple[float, Rules] | None  # mm a pixel, and the rules for hides

    def judge(self, pictures: Iterable[tuple[str, Path]], folder: Path) -> Iterator[PictureRecord]:
        """The rows of pictures by name, in order; writes overlays and measured hides into the folder of the report.

        While they are judged `side_by_side` the next one is read. One that cannot be judged gets a row that says why.
        """
        with ThreadPoolExecutor(1) as reader:
            readings = ((name, path, reader.submit(self.read, path)) for name, path in pictures)
            ahead = (each for each, _ in pairwise(chain(readings, [None])))
            yield from side_by_side((partial(self._row, *each, folder), _is_large(each[-1])) for each in ahead)

    def _row(self, name: str, path: Path, reading: Future, folder: Path) -> PictureRecord:
        try:
            record, drawn = self._judge(name, *reading.result())
        except PROBLEMS as error:
            reason = str(error).replace(str(path), name) or type(error).__name__
            record, drawn = PictureRecord(name, "error", error=printable(reason)), None
        if drawn:  # what cannot be written ends the run: the next start judges the picture again
            with whole_file(folder / record.overlay) as stream:
                drawn.save(stream, "JPEG", quality=QUALITY)
        if record.hide:
            write_hide(record, folder / "hides", rules=self.scale[1])
        return replace(record, threshold=self.detector.thresholds.verdict, engine=engine_of(self.detector))

    def _judge(self, name: str, picture: Image.Image, leather: np.ndarray | None) -> tuple[PictureRecord, Image.Image]:
        """The row, and the overlay that it names."""
        judgement = self.detector.judge(picture, leather=leather, without=self.numbers.get(name))
        scale = np.array(picture.size) / judgement.map.shape[::-1]
        regions = tuple(region_record(n, region, scale) for n, region in enumerate(judgement.regions, 1))
        if self.classifier:
            regions = tuple(self._named(region, picture) for region in regions)
        overlay = f"overlays/{safe_name(name)}.jpg"
        drawn = draw_overlay(picture, judgement.map, regions, top=self.highest, leather=leather)
        verdict = "defective" if regions else "good"
        record = PictureRecord(name, verdict, *picture.size, judgement.score, regions, overlay)
        if self.scale:
            mm_per_pixel, rules = self.scale
            everywhere = np.ones(picture.size[::-1], bool) if leather is None else leather
            hide, regions = measure_hide(everywhere, regions, mm_per_pixel=mm_per_pixel, rules=rules)
            record = replace(record, hide=hide, regions=regions)
        return record, drawn

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


def _is_large(reading: Future) -> bool:
    return reading.exception() is None and prod(reading.result()[0].size) > LARGE


def engine_of(detector: Detector) -> str:
    """What the network runs on, in words."""
    return "{engine} {version}, {precision}: {reason}".format(**detector.encoder.engine.facts)


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


def draw_overlay(
    picture: Image.Image,
    values: np.ndarray,
    regions: tuple[RegionRecord, ...],
    *,
    top: float,
    leather: np.ndarray | None = None,
) -> Image.Image:
    """The picture, at most 1,600 px, under its map (h, w): magma, from clear at 0 to dense at ``top``, by its square.

    Outlines of regions are yellow. With ``leather``, bool (height, width), its outline is blue and the table darker.
    """
    shown = picture.copy()
    shown.thumbnail((SIDE, SIDE))
    scale = shown.width / picture.width, shown.height / picture.height
    heights = Image.fromarray(np.clip(values / top, 0, 1).astype(np.float32)).resize(shown.size)
    share = np.clip(np.asarray(heights), 0, 1)[..., None]
    colours = mpl.colormaps[HEAT](share[..., 0], bytes=True)[..., :3].astype(np.float32)
    opacity = OPACITY * share**2  # low values would look like dirt on the leather
    blended = np.asarray(shown) * (1 - opacity) + colours * opacity
    outlines = [(np.array(region.outline), PREDICTED) for region in regions]
    if leather is not None:
        small = Image.fromarray(leather).resize(shown.size, Image.Resampling.NEAREST)
        blended[~np.asarray(small)] *= 0.45
        rings = find_contours(np.pad(np.asarray(small), 1).astype(float), 0.5)
        outlines += [((ring[:, ::-1] - 0.5) / scale, NORMAL) for ring in rings]
    drawn = Image.fromarray(blended.astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    for points, colour in outlines:
        for fill, width in (("black", 5), (colour, 3)):  # seen on leather of any colour
            pen.line([tuple(point) for point in points * scale], fill=fill, width=width, joint="curve")
    return drawn

"""What an inspection says of a picture: the one currency between judge, hide, page and exports."""

from __future__ import annotations

from dataclasses import dataclass

VERDICTS = ("defective", "good", "error")


@dataclass(frozen=True)
class RegionRecord:
    """One connected defect. Lengths are pixels of the upright photograph, not of the map."""

    number: int  # from 1 in its picture, highest score first
    box: tuple[float, float, float, float]  # left, top, right, bottom
    area: float  # square pixels
    peak: float  # highest value of the map inside, a probability where there is a head
    score: float  # mean of its highest values
    outline: tuple[tuple[float, float], ...]  # (x, y), closed: the last point is the first
    label: str | None = None  # class by the classifier, where one was given
    label_probability: float | None = None
    longest_mm: float | None = None  # these where hides are measured
    area_mm2: float | None = None
    edge_mm: float | None = None  # distance to the hide's outline, 0 if it touches it
    severity: int | None = None  # from 0; larger is worse, by the rule file's table of longest sides


@dataclass(frozen=True)
class HideMeasure:
    """A hide in mm. Polygons are in pixels of the photograph, (x, y), closed."""

    mm_per_pixel: float
    outline: tuple[tuple[tuple[float, float], ...], ...]  # one ring a piece of leather, largest first
    area_m2: float
    defect_area_mm2: float
    usable_share: float  # of the hide outside defects grown by the rule file's margin, in [0, 1]
    rectangle: tuple[float, float, float, float]  # left, top, right, bottom: largest without a defect, px
    grade: str
    grade_reason: str
    usable_letter: str  # A to F by usable share; "below F" under its lowest


@dataclass(frozen=True)
class PictureRecord:
    """A row of the report. A picture that could not be read has verdict ``error`` and says why."""

    file: str  # path below the inspected folder, with /
    verdict: str  # one of VERDICTS
    width: int = 0
    height: int = 0
    score: float = 0.0
    regions: tuple[RegionRecord, ...] = ()
    overlay: str | None = None  # path of the overlay below the report's folder
    hide: HideMeasure | None = None
    error: str | None = None
    threshold: float | None = None  # score from which a region is a defect
    engine: str | None = None  # what the network ran on

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS or (self.error is None) == (self.verdict == "error"):
            raise ValueError(f"{self.file}: verdict {self.verdict!r} does not go with error {self.error!r}")
        if (self.verdict == "defective") != bool(self.regions):
            raise ValueError(f"{self.file}: verdict {self.verdict!r} with {len(self.regions)} regions")

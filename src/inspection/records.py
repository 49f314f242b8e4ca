"""What an inspection says of a picture, the one currency of this room: a value, JSON, and rows of two tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import whole_file

VERDICTS = ("defective", "good", "error")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # cells that begin so run as formulas in spreadsheets
HIDE_MEASURES = ["defect_area_mm2", "area_m2", "usable_share", "grade", "usable_letter"]
REGION_MEASURES = ["longest_mm", "area_mm2", "edge_mm", "severity"]
PICTURE_COLUMNS = [
    *("file", "verdict", "score", "threshold", "regions", "defect_area_px", "defect_area_percent", "class"),
    *HIDE_MEASURES,
    *("overlay", "error", "width", "height", "engine"),
]
REGION_COLUMNS = [
    *("file", "number", "area", "peak", "score", "label", "label_probability"),
    *REGION_MEASURES,
    *("left", "top", "right", "bottom", "outline"),
]
TEXTS = {"file", "verdict", "class", "grade", "usable_letter", "overlay", "error", "engine", "label", "outline"}
INTEGERS = {"regions", "width", "height", "number", "severity"}  # other columns are floats


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


def record_text(record: PictureRecord) -> str:
    """All of a record, as JSON."""
    return json.dumps(asdict(record), ensure_ascii=False, allow_nan=False)


def parse_record(text: str) -> PictureRecord:
    """The record that `record_text` wrote."""
    content = _tuples(json.loads(text))
    regions = tuple(RegionRecord(**region) for region in content["regions"])
    hide = content["hide"] and HideMeasure(**content["hide"])
    return PictureRecord(**content | {"regions": regions, "hide": hide})


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def write_tables(records: Sequence[PictureRecord], folder: Path) -> None:
    """Writes ``inspection.csv``, a row a picture, and ``regions.csv``, a row a region. Lengths are pixels, or mm."""
    pictures = picture_table(records).drop(columns=["width", "height", "engine"])
    for name, table in (("inspection.csv", pictures), ("regions.csv", region_table(records))):
        measures = [column for column in HIDE_MEASURES + REGION_MEASURES if column in table]
        missing = [column for column in measures if table[column].isna().all()]
        with whole_file(folder / name) as stream:
            table.drop(columns=missing).map(_plain_cell).to_csv(stream, index=False, lineterminator="\n")


def picture_table(records: Sequence[PictureRecord]) -> pd.DataFrame:
    """A row a picture."""
    return _table([_picture_row(record) for record in records], PICTURE_COLUMNS)


def region_table(records: Sequence[PictureRecord]) -> pd.DataFrame:
    """A row a region."""
    return _table([_region_row(one, region) for one in records for region in one.regions], REGION_COLUMNS)


def _table(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    types = {name: "string" if name in TEXTS else "Int32" if name in INTEGERS else "float64" for name in columns}
    return pd.DataFrame(rows, columns=columns).astype(types)


def _picture_row(record: PictureRecord) -> dict[str, Any]:
    area, is_readable, hide = sum(region.area for region in record.regions), record.error is None, record.hide
    share = hide.defect_area_mm2 / (1e6 * hide.area_m2) if hide else area / max(1, record.width * record.height)
    return (vars(hide) if hide else {}) | {
        **vars(record),
        "score": record.score if is_readable else None,
        "regions": len(record.regions),
        "defect_area_px": area,
        "defect_area_percent": 100 * share if is_readable else None,  # of the hide where it is measured
        "class": record.regions[0].label if record.regions else None,
    }


def _region_row(record: PictureRecord, region: RegionRecord) -> dict[str, Any]:
    sides = zip(("left", "top", "right", "bottom"), region.box, strict=True)
    outline = " ".join(f"{x:g},{y:g}" for x, y in region.outline)
    return vars(region) | dict(sides) | {"file": record.file, "outline": outline}


def _plain_cell(value: Any) -> Any:
    """A text as it is, with a quotation mark before what a spreadsheet would run."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

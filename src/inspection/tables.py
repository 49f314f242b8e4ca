"""Records on disk: one JSON a picture while a run goes on, and the two tables at its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import whole_file
from .records import DefectMeasure, HideMeasure, PictureRecord, RegionRecord

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # cells that begin so run as formulas in spreadsheets
HIDE_COLUMNS = ("area_m2", "usable_share", "grade", "usable_letter")


def write_record(record: PictureRecord, file: Path) -> None:
    """Writes the record of a picture, whole or not at all."""
    with whole_file(file) as stream:
        stream.write(record_text(record).encode())


def read_record(file: Path) -> PictureRecord:
    """What `write_record` wrote."""
    return parse_record(file.read_text(encoding="utf-8"))


def record_text(record: PictureRecord) -> str:
    """All of a record, as JSON."""
    return json.dumps(asdict(record), ensure_ascii=False, allow_nan=False)


def parse_record(text: str) -> PictureRecord:
    """The record that `record_text` wrote."""
    said = _tuples(json.loads(text))
    said["regions"] = tuple(RegionRecord(**region) for region in said["regions"])
    if said["hide"]:
        defects = tuple(DefectMeasure(**defect) for defect in said["hide"]["defects"])
        said["hide"] = HideMeasure(**said["hide"] | {"defects": defects})
    return PictureRecord(**said)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def write_tables(records: Sequence[PictureRecord], folder: Path, *, threshold: float) -> None:
    """Writes ``inspection.csv``, a row a picture, and ``regions.csv``, a row a region. Lengths are pixels, or mm."""
    pictures = [picture_row(record, threshold) for record in records]
    regions = [row for record in records for row in region_rows(record)]
    columns = ["file", "number", "left", "top", "right", "bottom", "area", "peak", "score", "label", "outline"]
    for name, table in (
        ("inspection.csv", pd.DataFrame(pictures)),
        ("regions.csv", pd.DataFrame(regions, columns=None if regions else columns)),
    ):
        with whole_file(folder / name) as stream:
            table.map(_plain_cell).to_csv(stream, index=False, lineterminator="\n")


def region_rows(record: PictureRecord) -> list[dict[str, Any]]:
    """What ``regions.csv`` says of a picture."""
    rows, defects = [], record.hide.defects if record.hide else (None,) * len(record.regions)
    for region, defect in zip(record.regions, defects, strict=True):
        row = {"file": record.file, **asdict(region), **(asdict(defect) if defect else {})}
        row |= dict(zip(("left", "top", "right", "bottom"), row.pop("box"), strict=True))
        row["outline"] = " ".join(f"{x:g},{y:g}" for x, y in row.pop("outline"))
        rows.append(row)
    return rows


def picture_row(record: PictureRecord, threshold: float) -> dict[str, Any]:
    """What ``inspection.csv`` says of a picture."""
    area, hide = sum(region.area for region in record.regions), record.hide
    row = {
        "file": record.file,
        "verdict": record.verdict,
        "score": None if record.error else record.score,
        "threshold": threshold,
        "regions": len(record.regions),
        "defect_area_px": area,
        "defect_area_percent": None if record.error else 100 * area / (record.width * record.height),
        "class": record.regions[0].label if record.regions else None,
    }
    if hide:
        row |= {"defect_area_mm2": hide.defect_area_mm2} | {name: getattr(hide, name) for name in HIDE_COLUMNS}
    return row | {"overlay": record.overlay, "error": record.error}


def _plain_cell(value: Any) -> Any:
    """A text as it is, with a quotation mark before what a spreadsheet would run."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

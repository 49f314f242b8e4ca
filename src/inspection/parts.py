"""A run in parts: pictures that are judged together, and the two Parquet tables of each part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import compute, dataset, parquet

from ..files import whole_file
from .pictures import PictureSelection
from .records import VERDICTS, PictureRecord
from .report import SHOWN
from .stored import Stored
from .tables import parse_record, picture_row, record_text, region_rows

LARGEST, FEWEST = 64, 256  # pictures of a part; parts of a run that has so many pictures
PICTURE_COLUMNS = {
    pa.string(): "file verdict class grade usable_letter overlay error engine record",
    pa.int32(): "width height regions",
    pa.float64(): "score threshold defect_area_px defect_area_percent defect_area_mm2 area_m2 usable_share",
}
REGION_COLUMNS = {
    pa.string(): "file label outline",
    pa.int32(): "number severity",
    pa.float64(): "left top right bottom area peak score label_probability longest_mm area_mm2 edge_mm",
}
SCHEMAS = {
    table: pa.schema([(name, kind) for kind, names in columns.items() for name in names.split()])
    for table, columns in (("regions", REGION_COLUMNS), ("pictures", PICTURE_COLUMNS))
}  # written in this order: a part with its pictures is finished


@dataclass(frozen=True)
class Part:
    """Pictures by name; the files that are written of them have its number, so that none is written twice."""

    number: int
    pictures: Sequence[tuple[str, Path | Stored]]

    def file(self, folder: Path, table: str) -> Path:
        return folder / table / f"part-{self.number:06d}.parquet"

    def is_finished(self, folder: Path) -> bool:
        return self.file(folder, "pictures").is_file()

    def write(self, records: Sequence[PictureRecord], folder: Path, *, threshold: float, engine: str) -> None:
        """A row a region and a row a picture, as in the CSV tables, and all of its record."""
        rows = {"regions": [row for one in records for row in region_rows(one)], "pictures": []}
        for one in records:
            more = {"width": one.width, "height": one.height, "engine": engine, "record": record_text(one)}
            rows["pictures"].append(picture_row(one, threshold) | more)
        for table, schema in SCHEMAS.items():
            with whole_file(self.file(folder, table)) as stream:
                parquet.write_table(pa.Table.from_pylist(rows[table], schema), stream, compression="zstd")


def parts_of(found: PictureSelection) -> list[Part]:
    """All pictures. Which are together follows from their names alone: a run can go on with other machines."""
    pictures = list(found.pictures.items())
    size = min(LARGEST, max(1, len(pictures) // FEWEST))
    return [Part(n, pictures[start : start + size]) for n, start in enumerate(range(0, len(pictures), size))]


def read_results(folder: Path) -> tuple[list[PictureRecord], dict, list[str]]:
    """Of a finished run: the records that the page shows, its summary as `report.summarise`, and the engines."""
    files = dataset.dataset([str(file) for file in sorted((folder / "pictures").glob("*.parquet"))])
    columns = ["file", "verdict", "score", "grade", "area_m2", "usable_share", "engine"]
    table = files.to_table(columns=columns).to_pandas().sort_values(["score", "file"], ascending=[False, True])
    by_verdict = {verdict: table[table["verdict"] == verdict] for verdict in VERDICTS}
    hides = table.loc[table["grade"].notna(), ["area_m2", "usable_share", "grade"]]
    summary = {
        "counts": {verdict: len(rows) for verdict, rows in by_verdict.items()},
        "hides": hides.to_numpy().tolist(),
        "rest": by_verdict["defective"]["score"][SHOWN:].tolist(),
    }
    shown = [*by_verdict["defective"]["file"], *by_verdict["good"]["file"]][:SHOWN]
    shown += by_verdict["error"]["file"][:SHOWN].tolist()
    texts = files.to_table(columns=["record"], filter=compute.field("file").isin(shown))["record"].to_pylist()
    return [parse_record(text) for text in texts], summary, sorted(set(table["engine"]))

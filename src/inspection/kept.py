"""A run in parts: pictures that are judged together, and what is kept of each part until the report is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import pandas as pd

from ..files import whole_file
from .inputs import PictureSelection
from .judge import Judge
from .records import PictureRecord, parse_record, picture_table, record_text, region_table
from .report import SUMMED, shown_files

LARGEST, FEWEST = 64, 128  # pictures of a part; parts of a run that has so many pictures


@dataclass(frozen=True)
class Part:
    """Pictures by name; the files that are written of them have its number, so that none is written twice."""

    number: int
    pictures: Sequence[tuple[str, Path]]


def parts_of(selection: PictureSelection) -> list[Part]:
    """All pictures. Which are together follows from their names alone: a run can go on with other machines."""
    pictures = list(selection.pictures.items())
    size = min(LARGEST, max(1, len(pictures) // FEWEST))
    return [Part(n, pictures[start : start + size]) for n, start in enumerate(range(0, len(pictures), size))]


@dataclass(frozen=True)
class Kept:
    """The records of a run so far: a file of JSON lines a part, or ``in_parquet`` a row a picture and a row a region.

    In Parquet the column ``record`` has all of a record, as JSON.
    """

    folder: Path
    in_parquet: bool = False

    def has(self, part: Part) -> bool:
        return self._file(part, "pictures").is_file()

    def add(self, part: Part, records: Sequence[PictureRecord]) -> None:
        """Keeps a part, whole or not at all."""
        texts = [record_text(record) for record in records]
        if not self.in_parquet:
            with whole_file(self._file(part, "pictures")) as stream:
                stream.write("\n".join(texts).encode())
            return
        tables = {"regions": region_table(records), "pictures": picture_table(records).assign(record=texts)}
        for name, table in tables.items():  # in this order: a part with its pictures is finished
            with whole_file(self._file(part, name)) as stream:
                table.to_parquet(stream, index=False, compression="zstd")

    def read(self) -> tuple[pd.DataFrame, list[PictureRecord]]:
        """A row a picture, and the records: all, or of Parquet those that the page shows, and the columns it needs."""
        files = sorted((self.folder / "pictures").glob("part-*.parquet" if self.in_parquet else "part-*.jsonl"))
        if not self.in_parquet:
            lines = chain.from_iterable(file.read_text(encoding="utf-8").split("\n") for file in files)
            records = [parse_record(line) for line in lines]
            return picture_table(records), records
        from pyarrow import parquet

        table = parquet.read_table(files, columns=SUMMED).to_pandas()
        shown = parquet.read_table(files, columns=["record"], filters=[("file", "in", shown_files(table))])
        return table, [parse_record(text) for text in shown["record"].to_pylist()]

    def _file(self, part: Part, table: str) -> Path:
        return self.folder / table / f"part-{part.number:06d}.{'parquet' if self.in_parquet else 'jsonl'}"


def judge_parts(judge: Judge, parts: Sequence[Part], kept: Kept) -> Iterator[int]:
    """Judges and keeps parts; how many pictures each has, when it is kept."""
    records = judge.judge(chain.from_iterable(part.pictures for part in parts), kept.folder)
    for part in parts:
        kept.add(part, list(islice(records, len(part.pictures))))
        yield len(part.pictures)

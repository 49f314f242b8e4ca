"""Results of a study as files: JSON for programs, a Markdown table for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from src.files import whole_file, write_json


def write_results(content: dict[str, Any], text: str, path: Path) -> list[Path]:
    """A result for programs and for people: ``path`` with the suffix .json, by `write_json`, and with .md."""
    written, table = write_json(content, path.with_suffix(".json")), path.with_suffix(".md")
    with whole_file(table) as stream:
        stream.write(text.encode())
    return [written, table]


def markdown_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; every row has as many cells as the header."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return [first, "|---" * len(header) + "|", *others]

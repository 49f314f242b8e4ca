"""Files that are written whole or not at all, and read without running any code that they hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or made for something else; the message names the file."""


def save_atomically(content: dict[str, Any], path: Path) -> None:
    """torch.save into a neighbouring file that is renamed when it is complete: a full disk harms nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        reason = error.__context__ or error  # torch's writer answers a full disk with "unexpected pos", on top of it
        raise CheckpointError(f"could not write {path}: {reason}. Free some space; an earlier file is kept.") from error
    finally:
        part.unlink(missing_ok=True)  # of a write that failed or was interrupted


def load_file(path: Path) -> dict[str, Any]:
    """What `save_atomically` wrote, tensors and plain values only; no code of the file is run.

    Raises:
        CheckpointError: If the file is missing, cut short or no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; run 4.0.model-training.ipynb to make one")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and end-of-file errors have no common kind
        raise CheckpointError(f"{path} is damaged or no checkpoint ({error}); remove it and train again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint of this project")
    return content


def write_json(content: dict[str, Any], path: Path) -> Path:
    """Writes JSON that people can read, whole or not at all; refuses values that are no JSON numbers (NaN)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
    return path


def write_results(content: dict[str, Any], text: str, path: Path) -> list[Path]:
    """A result for programs and for people: ``path`` with the suffix .json, by `write_json`, and with .md."""
    written, table = write_json(content, path.with_suffix(".json")), path.with_suffix(".md")
    table.write_text(text, encoding="utf-8")
    return [written, table]


def markdown_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; every row has as many cells as the header."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return [first, "|---" * len(header) + "|", *others]

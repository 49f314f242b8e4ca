"""Files that are written whole or not at all, read without running any code that they hold, and kept answers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

NUMBERS = re.compile(r"\[[-+.,\deE\s]+\]")  # a JSON list of numbers alone


class CheckpointError(RuntimeError):
    """A file of tensors that is missing, damaged or made for something else; the message names the file."""


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream of bytes that takes the place of ``path`` at the end of the block; after an error nothing changes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two processes never write into one part
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """torch.save, whole or not at all. Raises CheckpointError if the disk is full or the folder is read-only."""
    import torch  # here: the commands that need no network start without it

    try:
        with whole_file(path) as stream:
            torch.save(content, stream)
    except (OSError, RuntimeError) as error:
        reason = error.__context__ or error  # torch's writer answers a full disk with "unexpected pos", on top of it
        raise CheckpointError(f"could not write {path}: {reason}. Free some space; an earlier file is kept.") from error


def load_tensors(path: Path) -> dict[str, Any]:
    """What `save_tensors` wrote, on the CPU; runs no code of the file. Raises CheckpointError if it cannot be read."""
    import torch

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


def identity_of(*parts: object) -> str:
    """SHA-256, as hexadecimal text, of values that JSON knows: changes with each of them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_identity(path: Path) -> str:
    """Size and modification time of a file: changes when its content is replaced, not when its folder is moved."""
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content, as hexadecimal text."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_kept(file: Path | None) -> dict[str, Any] | None:
    """A kept answer, or None if there is none; a damaged file counts as none, with a warning."""
    if file is None or not Path(file).is_file():
        return None
    try:
        return load_tensors(file)
    except CheckpointError as error:
        log.warning("%s; computing it anew", error)
        return None


def write_kept(content: dict[str, Any], file: Path | None) -> None:
    """Keeps an answer for the next time. A full disk costs time then, not the result now: it is a warning."""
    if file is not None:
        try:
            save_tensors(content, file)
        except CheckpointError as error:
            log.warning("not kept for the next time: %s", error)


def write_json(content: dict[str, Any], path: Path) -> Path:
    """Writes JSON that people can read: floats in six digits, a list of numbers in one line; refuses NaN."""
    text = json.dumps(_six_digits(content), indent=2, ensure_ascii=False, allow_nan=False)
    text = NUMBERS.sub(lambda numbers: " ".join(numbers[0].split()).replace("[ ", "[").replace(" ]", "]"), text)
    with whole_file(path) as stream:
        stream.write((text + "\n").encode())
    return Path(path)


def _six_digits(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _six_digits(part) for key, part in value.items()}
    return [_six_digits(part) for part in value] if isinstance(value, list | tuple) else value

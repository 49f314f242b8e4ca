"""Files that are written whole or not at all, read without running any code that they hold, and kept answers."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import logging
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

NUMBERS = re.compile(r"\[[-+.,\deE\s]+\]")  # a JSON list of numbers alone
AGAIN = "remove it and train again"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(RuntimeError):
    """A file of tensors that is missing, damaged or made for something else; the message names the file."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Only one process at a time is in such a block for a path; others say that they wait."""
    file = Path(path).with_name(f".{Path(path).name}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another process is writing %s; waiting until it is done", path)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            file.unlink()  # while it is held: who waits for the removed file notices and makes a new one
        lock.release()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk in the block becomes an OSError that names the path and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or error.__suppress_context__:  # set by "from": it says so already
            raise
        text = f"could not write {path}: {error.strerror}. Free some space on its disk and run again"
        raise OSError(error.errno, text) from error


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream of bytes that takes the place of ``path`` at the end of the block; after an error nothing changes."""
    path = Path(path)
    part = path.with_name(f"{path.name}.part")  # that of a killed process is overwritten
    with alone(part), writing(path):
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


def load_tensors(path: Path, *, remedy: str = AGAIN) -> dict[str, Any]:
    """What `save_tensors` or safetensors wrote, on the CPU; runs no code of the file.

    Raises CheckpointError, with the remedy, if the file cannot be read, its bytes do not fit a checksum that it or a
    SHA256SUMS beside it holds, or a tensor has values that are not finite.
    """
    import torch
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; run 4.0.model-training.ipynb to make one")
    plain = [argparse.Namespace]  # timm's training keeps its options so
    with fitting(path, remedy=remedy), torch.serialization.safe_globals(plain):
        _check_bytes(path)
        is_torch = path.suffix != ".safetensors"
        content = torch.load(path, map_location="cpu", weights_only=True) if is_torch else load_file(path)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not a dict")
        _check_values(content)
        return content


@contextmanager
def fitting(path: Path, *, remedy: str = AGAIN) -> Iterator[None]:
    """What a file that is damaged, or has other keys and values, ends in becomes a CheckpointError that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # they have no common kind
        runs_code = "weights_only" in str(error)  # torch's advice to let it run is not passed on
        reason = "it holds more than tensors and plain values, which may run code" if runs_code else repr(error)
        cause = None if runs_code else error
        raise CheckpointError(f"{path} is damaged or does not fit ({reason}); {remedy}") from cause


def _check_bytes(path: Path) -> None:
    sums = path.with_name("SHA256SUMS")
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    listed = [parts for line in lines if len(parts := line.split(maxsplit=1)) == 2]
    # A star before the name says that the sum was made in binary mode.
    if any(name.removeprefix("*") == path.name and file_digest(path) != digest.lower() for digest, name in listed):
        raise ValueError(f"its SHA-256 is not that of {sums}")
    if zipfile.is_zipfile(path):  # as torch writes it, with a checksum a tensor, which torch does not read
        with zipfile.ZipFile(path) as opened:
            if sum(member.file_size for member in opened.infolist()) > path.stat().st_size:
                raise ValueError("it is packed, which torch never does")
            if damaged := opened.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")


def _check_values(content: Any, name: object = "it") -> None:
    """Raises ValueError for a tensor with NaN or infinity, or one that claims more values than it has."""
    import torch

    if isinstance(content, torch.Tensor):
        if content.numel() * content.element_size() > content.untyped_storage().nbytes():
            raise ValueError(f"{name} claims the shape {tuple(content.shape)}, more than it has values")
        if not content.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
    elif isinstance(content, dict | list | tuple):
        for key, part in content.items() if isinstance(content, dict) else enumerate(content):
            _check_values(part, key)


def printable(text: str) -> str:
    """A text of which bytes that are no UTF-8 are written out, so that every report can hold it."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def identity_of(*parts: object) -> str:
    """SHA-256, as hexadecimal text, of values that JSON knows: changes with each of them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content, as hexadecimal text; OSError for what is none: a pipe would be waited for."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_kept(file: Path | None, unpack: Callable[[dict[str, Any]], Any] = dict) -> Any | None:
    """What ``unpack`` makes of a kept answer, or None if there is none.

    A file that is damaged, or whose content ``unpack`` cannot take, counts as none, with a warning.
    """
    if file is None or not Path(file).is_file():
        return None
    try:
        with fitting(file, remedy="it is made anew"):
            return unpack(load_tensors(file, remedy="it is made anew"))
    except CheckpointError as error:
        log.warning("%s", error)
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

"""Pictures in an object store, by any file system that pyarrow has an address for (s3, gs, abfs, hdfs, file)."""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import Any

from pyarrow import fs

from ..data.pictures import is_picture
from .inputs import NO_PICTURE, PictureSelection

COPIES = 4  # of pictures that a process keeps


@dataclass(frozen=True)
class Stored(os.PathLike):
    """A picture in a store. Who opens it as a path gets a copy on this machine, which is removed after a while."""

    store: str  # address by which pyarrow finds the file system
    key: str
    version: str  # size and time

    def __str__(self) -> str:
        return f"{self.store.partition(':')[0]}://{self.key}"  # the address may hold a password

    def __fspath__(self) -> str:
        return _copy(self).name


@lru_cache(COPIES)
def _copy(picture: Stored) -> Any:
    """A file that is removed when nobody holds it any more."""
    file = tempfile.NamedTemporaryFile(suffix=PurePosixPath(picture.key).suffix)  # noqa: SIM115  # it stays
    with fs.FileSystem.from_uri(picture.store)[0].open_input_stream(picture.key) as stream:
        copyfileobj(stream, file, 1 << 20)
    file.flush()
    return file


def find_stored(given: Sequence[str]) -> PictureSelection:
    """Pictures below addresses of one store, as `find_pictures` finds them in folders; ValueError if there is none."""
    infos, prefixes = [], []
    for address in given:
        try:
            store, prefix = fs.FileSystem.from_uri(address)
            infos += [(address, one) for one in store.get_file_info(fs.FileSelector(prefix, recursive=True))]
        except (OSError, ValueError) as error:
            raise ValueError(f"{address.partition('?')[0]} cannot be read as a store of pictures: {error}") from error
        prefixes.append(prefix)
    root, pictures, left = posixpath.commonpath(prefixes), {}, {}
    for address, info in infos:
        if info.type == fs.FileType.File:
            name, is_mask = posixpath.relpath(info.path, root), PurePosixPath(info.path).stem.endswith("_mask")
            if is_picture(info.path) and not is_mask:
                pictures[name] = Stored(address, info.path, f"{info.size} {info.mtime_ns}")
            else:
                left[name] = "a mask" if is_mask else NO_PICTURE
    if not pictures:
        raise ValueError(f"no picture below {root}; give addresses of folders in one store")
    return PictureSelection(PurePosixPath(root), dict(sorted(pictures.items())), left)


def version_of(path: Path | Stored) -> str:
    """Stands for a file's content, which would take as long to read as to judge."""
    if isinstance(path, Stored):
        return path.version
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"

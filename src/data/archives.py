"""From a folder or an archive to a data set in its place: nothing unsafe, nothing broken, all of it or none.

Only images of known folders are taken, under names made here, into a hidden folder that is renamed when it is whole.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tqdm.auto import tqdm

from ..config import CLASS_NAMES
from ..files import printable, writing
from .checks import SPLITS, left_out
from .manifest import CLASSES, MVTEC, DataError
from .pictures import is_picture
from .tables import HIDES, class_name

# RuntimeError is zipfile's for encrypted files and unknown compressions
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError, RuntimeError)

PACKED = {  # what tar and zip readers do not know
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"PK\7\x08": "one part of a split zip",
}
BOMB = 100_000_000  # bytes that a file may have and still be packed a hundredfold: no photograph can be


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    size: int  # bytes when unpacked
    packed: int  # bytes that it takes in the archive, at most
    open: Callable[[], IO[bytes]]


def install(given: Path, data: Path, *, wanted: tuple[str, ...], left: dict[str, str] | None = None) -> set[str]:
    """Puts the wanted published sets that a folder, zip or tar holds anywhere into ``data``; returns their names.

    ``left`` is filled with what is not taken: how many files for each reason.

    Raises:
        DataError: If it is no archive, damaged or unsafe, or holds nothing wanted, a set twice, or an incomplete one.
        OSError: If it does not exist, or (errno ENOSPC) the disk is too small.
    """
    work = data / f".incoming.{os.getpid()}"
    with _open_members(given) as members, writing(data):
        plan = _plan_files(given, members, wanted)
        taken = set(plan.values())
        others = left_out(member.name for member in members if member not in taken)
        (left if left is not None else {}).update({f"from {given.name}, {why}": files for why, files in others.items()})
        sizes = {file: member.size for file, member in plan.items()}
        require_space(data, sum(sizes.values()), purpose=f"unpacking {given.name}")
        for leftover in data.glob(".incoming*"):  # of processes that were killed: `acquire` lets in one at a time
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            for file, member in tqdm(plan.items(), unit="file", desc=given.name):
                (work / file).parent.mkdir(parents=True, exist_ok=True)
                with member.open() as reader, (work / file).open("wb") as writer:
                    shutil.copyfileobj(reader, writer)
            if sizes != {file: path.stat().st_size for file, path in files_below(work).items()}:
                raise DataError(f"{given} unpacks to other files or sizes than it lists. Fetch it again.")
            parts = {file.split("/")[0] for file in plan}
            for part in parts:
                (work / part).rename(data / part)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return parts


def files_below(folder: Path) -> dict[str, Path]:
    """All files below a folder by their path from it, with slashes, sorted.

    Links to folders are followed, to each folder once: they may lead in a circle. Pipes and links to nothing are left.
    """
    visited, files = {os.path.realpath(folder)}, []
    for above, folders, names in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(above, name)) for name in folders}
        folders[:] = [name for name in folders if real[name] not in visited]
        visited |= set(real.values())
        files += [path for name in names if (path := Path(above, name)).is_file()]
    return {path.relative_to(folder).as_posix(): path for path in sorted(files)}


@contextmanager
def _open_members(given: Path) -> Iterator[list[Member]]:
    try:
        if given.is_dir():
            sizes = [(name, path, path.stat().st_size) for name, path in files_below(given).items()]
            yield [Member(name, size, size, partial(path.open, "rb")) for name, path, size in sizes]
        elif zipfile.is_zipfile(given):
            with zipfile.ZipFile(given) as opened:
                infos = [info for info in opened.infolist() if not info.filename.endswith("/")]
                yield [Member(i.filename, i.file_size, i.compress_size, partial(opened.open, i)) for i in infos]
        elif tarfile.is_tarfile(given):
            with tarfile.open(given) as opened:
                yield _tar_members(opened, given.stat().st_size)
        else:
            raise DataError(_name_kind(given))
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a place before the start
            raise
        raise DataError(f"{given} cannot be unpacked: {error}. Fetch it again, or unpack it by hand.") from error


def _name_kind(given: Path) -> str:
    with given.open("rb") as file:
        start = file.read(512)
    part = "one part of a split archive" if re.fullmatch(r"\.([zr]\d\d|\d{3})", given.suffix) else None
    if kind := next((kind for magic, kind in PACKED.items() if start.startswith(magic)), part):
        return f"{given} is {kind}. Unpack it by hand and pass the folder."
    page = start.lstrip().startswith(b"<")
    what = "a web page, of a quota or a log-in" if page else "neither a whole zip nor a tar"
    return f"{given} is {what}. Fetch it again in a browser."


def _tar_members(opened: tarfile.TarFile, packed: int) -> list[Member]:
    infos = [info for info in opened.getmembers() if not info.isdir()]
    for info in infos:
        if not info.isfile():
            raise tarfile.ReadError(f"{info.name} is a {'link' if info.linkname else 'special file'}")
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # the library takes it for the end
        raise tarfile.ReadError(f"damaged or cut off at byte {opened.offset:,}")
    while opened.fileobj.read(1 << 20):  # the checksum of what is packed comes last; the library never reads it
        pass
    return [Member(info.name, info.size, packed, partial(opened.extractfile, info)) for info in infos]


def _plan_files(given: Path, members: list[Member], wanted: tuple[str, ...]) -> dict[str, Member]:
    """The members to take, by the path below the data folder that they will have; DataError unless sets are whole."""
    plan, homes = {}, {}
    for member in members:
        # Some Windows programs write folders so; behind a letter that is not ASCII it may be half of that letter.
        name = re.sub(r"(?<![^\x00-\x7f])\\", "/", member.name)
        if re.match("/|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
            raise DataError(f"{given} wants to write outside its folder, to {name}: do not use it")
        part, home, inside = _place(name)
        if part.split("/")[0] in wanted:
            if (shown := printable(name)) != name:
                raise DataError(f"{given} holds {shown}, whose name is no UTF-8: rename it")
            if homes.setdefault(part, home) != home:
                raise DataError(f"{given} holds {part} twice, in {homes[part]!r} and {home!r}: pass one of them")
            file = f"{part}/{inside}"
            if file in plan:
                raise DataError(f"{given} holds {name} twice: unpack it by hand and pass the folder")
            if member.size > max(BOMB, 100 * member.packed):
                raise DataError(f"{given} packs the {member.size:,} bytes of {name} as no photograph can be: remove it")
            plan[file] = member
    if not plan:
        expected = "images in folders named after the six classes, or MVTec AD's <category>/train/good"
        advice = f"For other classes set LEATHER_DATA to the folder that holds {CLASSES}/ or their folders."
        raise DataError(f"{given} holds no {' and no '.join(wanted)}. Expected {expected}. {advice}")
    folders = {f"{CLASSES}/{class_name(file.split('/')[1])}" if file.startswith(CLASSES) else file for file in plan}
    needed = [f"{CLASSES}/{name}" for name in CLASS_NAMES if CLASSES in homes]
    needed += [f"{part}/{folder}/" for part in homes if part != CLASSES for folder in ("train/good", "test")]
    if lacking := [folder for folder in needed if not any(name.startswith(folder) for name in folders)]:
        raise DataError(f"{given} has no image of {', '.join(lacking)}. Get the set again.")
    return plan


def _place(file: str) -> tuple[str, str, str]:
    """The set of a file (``mvtec/<category>``), the folder that holds that set, and the path in it; else ''."""
    *folders, name = PurePosixPath(file).parts or ("",)
    hidden = any(part.startswith((".", "__MACOSX")) for part in folders)
    if not hidden and name == HIDES:
        return CLASSES, "/".join(folders), name
    if hidden or not folders or not is_picture(name):
        return "", "", ""
    if class_name(folders[-1]) in CLASS_NAMES:
        return CLASSES, "/".join(folders[:-1]), f"{folders[-1]}/{name}".replace("\\", "_")
    *home, split, defect = ["", *folders]
    if split.lower() not in SPLITS:
        return "", "", ""
    above = home[-1].lower()
    category = "leather" if not above or above.startswith(MVTEC) else above  # some archives do not name it
    defect = "good" if defect.lower() == "good" else defect
    return f"{MVTEC}/{category}", "/".join(home[1:]), f"{split.lower()}/{defect}/{name}".replace("\\", "_")


def require_space(folder: Path, needed: int, *, purpose: str) -> None:
    """Raises OSError (errno ENOSPC) unless ``needed`` bytes fit on the disk of ``folder``."""
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if needed > free:
        scale, unit = next(pair for pair in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")) if needed >= pair[0])
        sizes = f"needs {needed / scale:.1f} {unit}, but {free / scale:.1f} {unit} are free on the disk of {folder}"
        raise OSError(errno.ENOSPC, f"{purpose} {sizes}. Make room, or make data/ a link to a larger disk") from None

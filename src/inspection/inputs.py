"""What people give an inspection: options, pictures to judge, normal ones and masks; which files it leaves and why."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from ..config import paths
from ..data.pictures import is_picture
from ..files import printable

STAMP = "run.json"  # the file that makes a folder a run of an inspection
UNREADABLE = "it cannot be read"
NO_PICTURE = "no picture: .jpg, .png, .tif, .bmp and .webp are read"
NAME_BYTES = 200  # of a report's folder: files beside it have longer names, of 255 at most


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides the result beside the pictures."""

    normals: Path | None = None  # folder of pictures without defects
    classifier: Path | None = None  # checkpoint that names the class of regions
    mm_per_pixel: float | None = None
    threshold: float | None = None  # probability, in place of the head's
    mask: Path | str | None = None  # folder of masks (leather is white), "auto", or None: all is leather
    weights: str = "shipped"  # "shipped", "timm" or a file
    backbone: str | None = None  # timm's name; None: that of the shipped weights, else `prepare.LARGER`
    rules: Path | None = None  # rule file of grades
    engine: str | None = None  # one of `config.ENGINES`; None asks LEATHER_ENGINE


@dataclass(frozen=True)
class PictureSelection:
    """Pictures below a folder, by name, sorted; what was left, and why. Names have / and are what reports print."""

    root: Path
    pictures: dict[str, Path]
    left: dict[str, str]
    called: str | None = None  # where one picture or list was given, not a folder

    @property
    def name(self) -> str:
        name = printable(self.called or self.root.name).encode()[:NAME_BYTES].decode(errors="ignore")
        return name or "pictures"

    @property
    def about(self) -> str:
        """One line that says what was taken and left."""
        reasons = "; ".join(f"{count} left: {reason}" for reason, count in Counter(self.left.values()).items())
        count = "1 picture" if len(self.pictures) == 1 else f"{len(self.pictures):,} pictures"
        return f"{count} in {printable(paths.relative(self.root))}" + (f" ({reasons})" if reasons else "")


@dataclass(frozen=True)
class Inputs:
    """The pictures to judge, the normal ones if there are any, and masks of both."""

    pictures: PictureSelection
    normals: PictureSelection | None = None
    masks: dict[Path, Path | None] = field(default_factory=dict)  # None: a normal picture that is leather alone


def find_inputs(pictures: PictureSelection, options: Options, *, without: Path) -> Inputs:
    """With the normal pictures and the masks that options name; what is in the folder ``without`` is left.

    Raises ValueError if a picture is among the normal ones too.
    """
    normals = find_pictures([str(options.normals)], without=[without]) if options.normals else None
    if normals and (both := set(pictures.pictures.values()) & set(normals.pictures.values())):
        first = printable(str(min(both)))
        raise ValueError(f"{len(both)} pictures are to be judged and in --normals too, first {first}: give other ones")
    known, masks = normals.pictures if normals else {}, {}
    if isinstance(options.mask, Path):  # a name may be in both
        masks = dict.fromkeys(known.values()) | find_masks(known, options.mask)
        masks |= find_masks(pictures.pictures, options.mask)
    return Inputs(pictures, normals, masks)


def find_pictures(given: Sequence[str], *, without: Iterable[Path] = ()) -> PictureSelection:
    """Pictures of files, folders with all below them, globs, and text files with a path a line.

    Reports of earlier inspections, masks and the folders of ``without`` are left, unless they alone are given. What a
    text file names is taken whether or not it is there: it gets its row. Raises ValueError for what is none of these,
    if nothing is found, and for two names that reports cannot tell apart.
    """
    without = [Path(folder).resolve() for folder in without]
    paths, left = [], {}
    for one in given:
        is_there, fixed = os.path.exists(one), Path(*takewhile(lambda part: not glob.has_magic(part), Path(one).parts))
        for path in [Path(one)] if is_there else sorted(map(Path, glob.glob(one, recursive=True))):
            above = _absolute(path).parent if is_there else _absolute(fixed)
            is_alone = is_there and len(given) == 1
            if not is_alone and (why := _why_left(_absolute(path), above, without)):
                left[_absolute(path)] = why
            elif path.is_dir():
                paths += _walk(path.resolve(), without, left)
            elif is_picture(path):
                paths.append(_absolute(path))
            elif is_there:
                paths += _listed(path)
            else:
                left[_absolute(path)] = NO_PICTURE
    if not paths:
        there = " and ".join(one for one in given if os.path.exists(one)) or (left and ", ".join(given))
        because = f" ({'; '.join(sorted(set(left.values())))})" if left else ""
        why = f"no picture in {there}{because}" if there else f"there is no file or folder {', '.join(given)}"
        raise ValueError(f"{why}; give a picture, a folder, a pattern or a text file of paths")
    alone = Path(given[0]) if len(given) == 1 else None
    folders = [alone.resolve()] if alone and alone.is_dir() else [path.parent for path in paths]
    root = Path(os.path.commonpath(folders))
    pictures = {_name(path, root): path for path in paths}
    if alike := [path for path in paths if pictures[_name(path, root)] != path]:
        raise ValueError(f"two pictures have the name {_name(alike[0], root)} in reports; rename one of them")
    called = alone.stem if alone and alone.is_file() else None
    because = {_name(path, root): why for path, why in left.items()}
    return PictureSelection(root, dict(sorted(pictures.items())), because, called)


def find_masks(pictures: dict[str, Path], folder: Path) -> dict[Path, Path]:
    """The mask of each picture ``a/b.jpg`` that has one: ``a/b_mask`` or ``a/b`` in a folder, with any suffix."""
    files, of_pictures = {path.resolve() for path in pictures.values() if isinstance(path, Path)}, {}
    masks = [path for path in sorted(folder.rglob("*")) if is_picture(path) and path.resolve() not in files]
    by_name = {Path(_name(path, folder)).with_suffix(""): path for path in masks}
    for name, path in pictures.items():
        stem = Path(name).with_suffix("")
        if mask := by_name.get(stem.with_name(f"{stem.name}_mask"), by_name.get(stem)):
            of_pictures[path] = mask
    return of_pictures


def _walk(folder: Path, without: list[Path], left: dict[Path, str]) -> list[Path]:
    """Pictures of a folder and all below it; links to folders are not followed, they may lead in a circle."""
    paths = []
    for place, folders, files in os.walk(folder, onerror=lambda error: left.update({Path(error.filename): UNREADABLE})):
        place = Path(place)
        for inner in list(folders):
            if reason := "a link to a folder" if (place / inner).is_symlink() else _reason(place / inner, without):
                folders.remove(inner)
                left[place / inner] = reason
        for file in files:
            if reason := _mask_reason(file):
                left[place / file] = reason
            elif is_picture(file):
                paths.append(place / file)
            else:
                left[place / file] = NO_PICTURE
    return paths


def _why_left(path: Path, above: Path, without: list[Path]) -> str | None:
    """Why a pattern, the shell's too, is not meant to name a path: for itself, or a folder of it below ``above``."""
    folders = [path, *path.parents] if path.is_dir() else path.parents
    inner = takewhile(lambda folder: folder != above, folders)
    return next(filter(None, (_reason(folder, without) for folder in inner)), None) or _mask_reason(path.name)


def _mask_reason(file: str) -> str | None:
    return "a mask" if Path(file).stem.endswith("_mask") else None


def _reason(folder: Path, without: list[Path]) -> str | None:
    try:
        is_report = (folder / STAMP).is_file()
    except OSError:
        return UNREADABLE
    if folder in without or is_report:
        return "a folder of normal pictures, masks or reports"
    if folder.name.lower().startswith(("ground_truth", "masks")):
        return "a folder of masks"
    return "a hidden folder" if folder.name.startswith(".") else None


def _listed(file: Path) -> list[Path]:
    """Paths of a text file, one a line; relative ones start at its folder."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file} is no picture that is read here and no text file of paths: {error}") from error
    folder, wanted = file.resolve().parent, filter(None, map(str.strip, lines))
    return [_absolute(folder / line) for line in wanted if not line.startswith("#") or os.path.isfile(folder / line)]


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # a link keeps its name


def _name(path: Path, root: Path) -> str:
    return printable(Path(os.path.relpath(path, root)).as_posix())

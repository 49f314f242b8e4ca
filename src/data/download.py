"""Gets and checks the data: from Drive, Kaggle, files that the user fetched by hand, or the built-in sample."""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import sys
from pathlib import Path

from ..config import CLASS_NAMES, KAGGLE_FOLDER, PAPER, SAMPLE, TINY, paths
from ..files import alone
from . import archives, manifest
from .checks import check_masks
from .manifest import CLASSES, MVTEC, PARTS, DataError, Entry
from .tables import MVTEC_ADVICE, class_folders, class_name, class_root, index_mvtec

log = logging.getLogger(__name__)

SOURCES = ("auto", "drive", "kaggle", "local", "sample")
REAL_NAME, SAMPLE_NAME = PAPER.run, SAMPLE.run
# Other folders have these places in reports/.
TAKEN_NAMES = (REAL_NAME, SAMPLE_NAME, MVTEC, "eda", "baselines", "inspection", "notebooks")

DRIVE_FILE = "1KIQcr8aq3VAku16NSgwkV6u0MWM093o3"
DRIVE_BYTES = 5_300_000_000  # of the zip, and about as much unpacked: JPEG and PNG do not shrink
KAGGLE_SET = "praveen2084/leather-defect-classification"
SITES = {
    "drive": f"https://drive.google.com/uc?id={DRIVE_FILE}",
    "kaggle": f"https://www.kaggle.com/datasets/{KAGGLE_SET}",
}
TIMEOUT = (5, 60)  # seconds to connect, and between bytes: without a network "auto" must not hang
RETRIES = 3  # each goes on where the last one broke off

WAYS_OUT = f"""Three ways out:
  1. the other source: "kaggle" (the six classes, no account needed) or "drive" (both sets, 5.3 GB);
  2. fetch by hand in a browser and pass local="<archive or folder>":
       both sets    https://drive.google.com/file/d/{DRIVE_FILE}/view
       six classes  {SITES["kaggle"]}
       {MVTEC_ADVICE}
  3. the built-in sample: "sample" (small, generated, needs no network; its results are called sample)."""

NO_NETWORK = """
######  NO NETWORK: THE BUILT-IN SAMPLE IS USED INSTEAD OF THE REAL DATA  ######
Its pictures are generated, and all results made from it are called "sample".
For the real data: connect and run again, or pass local="<archive or folder>".
"""


class DownloadError(RuntimeError):
    """No source could be used; the message says why, and the ways out."""


def acquire(
    source: str = "auto",
    *,
    local: Path | str | None = None,
    mvtec_local: Path | str | None = None,
    thorough: bool = False,
) -> Entry:
    """The manifest's entry of the data, which are fetched if they are not there, checked and recorded.

    Args:
        source: ``auto`` tries Drive, then Kaggle, and takes the sample only if there is no network at all.
        local: Folder or archive, fetched by hand, of the published six classes or both sets.
        mvtec_local: Folder or archive of MVTec AD, all of it or one category.
        thorough: Compare the SHA-256 of every file with the manifest, not only names and sizes.

    Raises:
        ValueError: If ``source`` is unknown, or (`DataError`) data are damaged, incomplete, unsafe or have changed.
        DownloadError: If a download failed; what arrived is kept, and the next call goes on with it.
        OSError: If a file does not exist, or (errno ENOSPC) the disk is too small.
    """
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; expected one of {', '.join(SOURCES)}")
    with alone(paths.manifest.parent):  # a second process waits, and finds the data
        if source == "sample":
            return _prepare_sample(thorough=thorough)
        return _acquire(source, local, mvtec_local, thorough=thorough)


def _acquire(source: str, local: Path | str | None, mvtec_local: Path | str | None, *, thorough: bool) -> Entry:
    missing, origins, left = _missing_parts(), {}, {}
    if _is_external() and (CLASSES in missing or (missing and (mvtec_local or source == "drive"))):
        raise DataError(
            f"LEATHER_DATA names {paths.data}, which lacks {' and '.join(missing)}, and nothing is ever written there. "
            "Point it at the folder that holds them or two or more class folders, or unset it to fetch data into data/."
        )
    for given, parts in ((mvtec_local, (MVTEC,)), (local, PARTS)):
        if given and parts[0] in missing:
            given, wanted = Path(given).expanduser(), tuple(part for part in parts if part in missing)
            origins |= dict.fromkeys(archives.install(given, paths.data, wanted=wanted, left=left), given.name)
            missing = _missing_parts()
        elif given:
            log.warning(
                "%s is not read: %s is in %s already; move that away to take it anew", given, parts[0], paths.data
            )
    if CLASSES in missing or (missing and source == "drive"):
        if source == "local":
            raise DataError(f"{paths.data} holds no {CLASSES}/ yet: pass its folder or archive as local=...")
        if source == "auto" and not any(map(_answers, SITES.values())):
            print(NO_NETWORK)
            return _prepare_sample(thorough=thorough)
        origins |= _fetch(source, missing, left)
    place = "external" if _is_external() else "data"
    entry = manifest.record(paths.data, place, origins=origins, thorough=thorough, left=left if origins else None)
    for reason, files in entry.left.items():
        print(f"left out, {reason}: {files}")
    try:
        check_masks(index_mvtec(paths.data / MVTEC))
    except FileNotFoundError as error:
        log.warning("%s", error)
    return entry


def find_data(source: str = "auto") -> tuple[str, Path]:
    """Name of the run on the data that are here, and their folder; ``auto`` takes the sample if there are no others.

    Raises:
        ValueError: If the source is unknown, or the data folder has the name of something else in reports/.
        FileNotFoundError: If the data are not there; the message says what to run first.
    """
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; expected one of {', '.join(SOURCES)}")
    if source != "sample" and CLASSES not in _missing_parts():
        return run_name(paths.data), paths.data
    if (source == "sample" or (source == "auto" and not _is_external())) and (paths.sample / CLASSES).is_dir():
        log.warning("reading the built-in sample: results made from it say nothing about real leather")
        return SAMPLE_NAME, paths.sample
    root = paths.sample if source == "sample" else paths.data
    advice = "Run 1.0.download-datasets.ipynb first, or set LEATHER_DATA to the folder that holds it or class folders."
    raise FileNotFoundError(f"{root} holds no {CLASSES}/. {advice}")


def run_name(root: Path) -> str:
    if (root / "sample.json").is_file():
        return SAMPLE_NAME
    home = class_root(root)
    names = {class_name(folder.name) for folder, pictures in class_folders(home).items() if pictures}
    if home.name == KAGGLE_FOLDER and names == set(CLASS_NAMES):
        return REAL_NAME
    name = re.sub(r"[^\w-]+", "_", root.name).strip("_")
    if not name or name in TAKEN_NAMES:
        raise ValueError(f"a run is called by its data folder, but {root} would give {name!r}: rename the folder")
    return name


def _is_external() -> bool:
    return paths.data != (paths.root / "data").resolve()


def _missing_parts() -> tuple[str, ...]:
    here = {part for part in PARTS if (paths.data / part).is_dir()}  # renamed into place: there means whole
    folders = class_folders(paths.data) if paths.data.is_dir() else {}
    names = [class_name(folder.name) for folder, pictures in folders.items() if pictures]
    if len(names) > 1 and (_is_external() or set(names) & set(CLASS_NAMES)):  # in data/ may be other photographs
        here.add(CLASSES)  # class folders without a folder around them
    return tuple(part for part in PARTS if part not in here)


def _prepare_sample(*, thorough: bool) -> Entry:
    from ..synthetic import sample  # here: it takes half a second that the other sources need not wait

    origins = {} if paths.sample.is_dir() else dict.fromkeys(PARTS, "generated")
    sample.write_sample(paths.sample, **(sample.TINY if TINY else {}))  # keeps a whole one, refuses a damaged one
    return manifest.record(paths.sample, "sample", origins=origins, thorough=thorough)


def _fetch(source: str, wanted: tuple[str, ...], left: dict[str, str]) -> dict[str, str]:
    reasons = []
    for name in SITES if source == "auto" else (source,):
        try:
            if not _answers(SITES[name]):
                raise DownloadError("it cannot be reached; is there a network?")
            return dict.fromkeys(_fetch_drive(wanted, left) if name == "drive" else _fetch_kaggle(left), name)
        except DownloadError as error:
            log.warning("%s failed: %s", name, error)
            reasons.append(f"{name} failed: {error}")
    raise DownloadError("\n".join((*reasons, WAYS_OUT)))


def _fetch_drive(wanted: tuple[str, ...], left: dict[str, str]) -> set[str]:
    import gdown  # here, for the same reason

    archive = paths.data / ".drive" / "leather_datasets.zip"  # a folder of our own: archives of the user's are kept
    archive.parent.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        arrived = sum(partial.stat().st_size for partial in archive.parent.iterdir())
        archives.require_space(archive.parent, 2 * DRIVE_BYTES - arrived, purpose="fetching and unpacking the zip")
        try:
            gdown.download(url=SITES["drive"], output=str(archive), resume=True, timeout=TIMEOUT, retries=RETRIES)
        except (gdown.exceptions.DownloadError, OSError) as error:
            advice = f"Run again to go on with what arrived in {archive.parent}, or delete that folder to start anew."
            raise DownloadError(f"{error}\n{advice}") from error
    try:
        parts = archives.install(archive, paths.data, wanted=wanted, left=left)
    except DataError as error:
        raise DownloadError(f"{error}\nIf its zip is to be fetched again, delete {archive.parent} first.") from error
    shutil.rmtree(archive.parent)
    return parts


def _fetch_kaggle(left: dict[str, str]) -> set[str]:
    import kagglehub

    try:
        folder = kagglehub.dataset_download(KAGGLE_SET)  # a public set: works with and without a token
    except Exception as error:  # its errors have no base class of their own
        raise DownloadError(str(error)) from error
    return archives.install(Path(folder), paths.data, wanted=(CLASSES,), left=left)


def _answers(url: str) -> bool:
    import requests

    try:
        requests.head(url, timeout=TIMEOUT[0])  # any answer will do; the download libraries would wait without end
    except requests.RequestException:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 0 if done, 1 if not possible (the reason is printed), 130 if interrupted."""
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}.download", description=__doc__)
    parser.add_argument("--source", choices=SOURCES, default="auto", help="where the data come from (auto)")
    parser.add_argument("--local", help="folder or archive of the six classes or both sets, fetched by hand")
    parser.add_argument("--mvtec-local", help="folder or archive of MVTec AD, all of it or one category")
    parser.add_argument("--thorough", action="store_true", help="compare all checksums with the manifest")
    try:
        options = parser.parse_args(arguments)
        entry = acquire(**vars(options))
        name, root = find_data(options.source)
    except (DownloadError, OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run again to go on", file=sys.stderr)
        return 130
    print(f"{name} in {paths.relative(root)}, from {entry.source}")
    print(entry.table.to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())

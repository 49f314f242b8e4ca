"""Gets and checks the data: from Drive, Kaggle, files that the user fetched by hand, or the built-in sample."""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import requests

from .. import config
from ..config import TINY, paths
from ..synthetic import sample
from . import archives, manifest
from .manifest import CLASSES, MVTEC, PARTS, DataError
from .tables import class_root, has_classes, published

log = logging.getLogger(__name__)

SOURCES = ("auto", "drive", "kaggle", "local", "sample")
REAL_NAME, SAMPLE_NAME = config.PAPER.run, config.SAMPLE.run

DRIVE_FILE_ID = "1KIQcr8aq3VAku16NSgwkV6u0MWM093o3"
DRIVE_URL = f"https://drive.google.com/uc?id={DRIVE_FILE_ID}"
DRIVE_BYTES = 5_300_000_000  # of the zip, and about as much unpacked: JPEG and PNG do not shrink
KAGGLE_HANDLE = "praveen2084/leather-defect-classification"
KAGGLE_PAGE = f"https://www.kaggle.com/datasets/{KAGGLE_HANDLE}"
MVTEC_PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
SITES = {"drive": DRIVE_URL, "kaggle": KAGGLE_PAGE}
TIMEOUT = (5, 60)  # seconds to connect, and between bytes: without a network "auto" must not hang
RETRIES = 3  # each goes on where the last one broke off

WAYS_OUT = f"""Three ways out:
  1. the other source: "kaggle" (the six classes, no account needed) or "drive" (both sets, 5.3 GB);
  2. fetch by hand in a browser and pass local="<archive or folder>":
       both sets    https://drive.google.com/file/d/{DRIVE_FILE_ID}/view
       six classes  {KAGGLE_PAGE}
       MVTec AD     {MVTEC_PAGE} (accept its terms; mvtec_local="...")
  3. the built-in sample: "sample" (small, generated, needs no network; its results are called sample)."""

NO_NETWORK = """
######  NO NETWORK: THE BUILT-IN SAMPLE IS USED INSTEAD OF THE REAL DATA  ######
Its pictures are generated, and all results made from it are called "sample".
For the real data: connect and run again, or pass local="<archive or folder>".
"""


class DownloadError(RuntimeError):
    """No source could be used; the message says why, and the ways out."""


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """A checked data set: what its results are called, the folder of its parts, and its entry in the manifest."""

    name: str
    root: Path
    entry: dict

    @property
    def counts(self) -> dict:
        """Numbers of images, ``[CLASSES][class]`` and, if it is there, ``[MVTEC][category][split][type]``."""
        return self.entry["counts"]

    @property
    def table(self) -> pd.DataFrame:
        """The counts, one row a folder: ``set``, ``split`` ("all" for the classes), ``type``, ``images``."""
        rows = [("classes", "all", name, images) for name, images in self.counts[CLASSES].items()]
        for category, splits in self.counts.get(MVTEC, {}).items():
            for split, types in splits.items():
                rows += [(f"{MVTEC}/{category}", split, name, images) for name, images in types.items()]
        return pd.DataFrame(rows, columns=["set", "split", "type", "images"])


def acquire(
    source: str = "auto",
    *,
    local: Path | str | None = None,
    mvtec_local: Path | str | None = None,
    thorough: bool = False,
) -> PreparedData:
    """Get the data that are not there yet (to get a set anew, delete its folder), check them, and record what they are.

    Args:
        source: ``auto`` tries Drive, then Kaggle, and takes the sample only if there is no network at all; ``local``
            takes only what is passed; the others are what they say.
        local: Folder or archive, fetched by hand, of the six classes or both sets; taken instead of a download.
        mvtec_local: Folder or archive of MVTec AD, all of it or one category.
        thorough: Compare the SHA-256 of every file with the manifest, not only names and sizes.

    Raises:
        ValueError: If ``source`` is unknown, an image cannot be decoded, or (`DataError`) an archive or a set is
            damaged, incomplete, unsafe or not what the manifest says.
        DownloadError: If a download failed; what arrived is kept, and the next call goes on with it.
        OSError: If a file does not exist, or (errno ENOSPC) the disk is too small.
    """
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; expected one of {', '.join(SOURCES)}")
    if source == "sample":
        return _prepare_sample(thorough=thorough)
    external = (paths.root / "data").resolve() != paths.data
    missing, origins = _missing_parts(), {}
    if external and (CLASSES in missing or (missing and (mvtec_local or source == "drive"))):
        raise DataError(
            f"LEATHER_DATA names {paths.data}, which lacks {' and '.join(missing)}, and nothing is ever written "
            "there. Point it at the folder that holds them, or unset it to fetch the data into data/."
        )
    for given, parts in ((mvtec_local, (MVTEC,)), (local, PARTS)):
        if given and parts[0] in missing:
            given, wanted = Path(given).expanduser(), tuple(part for part in parts if part in missing)
            origins |= dict.fromkeys(archives.install(given, paths.data, wanted=wanted), given.name)
            missing = _missing_parts()
    if CLASSES in missing or (missing and source == "drive"):
        if source == "local":
            raise DataError(f"{paths.data} holds no {CLASSES}/ yet: pass its folder or archive as local=...")
        if source == "auto" and not any(map(_answers, SITES.values())):
            print(NO_NETWORK)
            return _prepare_sample(thorough=thorough)
        origins |= _fetch(source, missing)
    entry = manifest.record(paths.data, "external" if external else "data", origins=origins, thorough=thorough)
    if lacking := entry["missing_masks"] if MVTEC in entry["counts"] else [MVTEC]:
        advice = f"get MVTec AD from {MVTEC_PAGE} and pass mvtec_local=..."
        log.warning("%s lacks %s, which notebook 3.0 needs: %s", paths.data, lacking[0], advice)
    return PreparedData(name=run_name(paths.data), root=paths.data, entry=entry)


def find_data(preference: str = "auto") -> tuple[str, Path]:
    """Name of the run and root folder of the prepared data, for the notebooks 2.0 to 4.0.

    The published six classes are called ``best_modelo_kaggle_dataset``, other data by the name of their folder.

    Args:
        preference: ``auto`` takes the real set, else the sample; ``sample`` takes that; any other source the real set.

    Raises:
        ValueError: If the preference is unknown.
        FileNotFoundError: If that set is not there; the message says what to run first.
    """
    if preference not in SOURCES:
        raise ValueError(f"preference is {preference!r}; expected one of {', '.join(SOURCES)}")
    if preference != "sample" and CLASSES not in _missing_parts():
        return run_name(paths.data), paths.data
    if preference in ("auto", "sample") and (paths.sample / CLASSES).is_dir():
        log.warning("reading the built-in sample: results made from it say nothing about real leather")
        return SAMPLE_NAME, paths.sample
    root = paths.sample if preference == "sample" else paths.data
    advice = "Run 1.0.download-datasets.ipynb first, or set LEATHER_DATA to the folder that holds it."
    raise FileNotFoundError(f"{root} holds neither {CLASSES}/ nor two folders of pictures. {advice}")


def run_name(data: Path) -> str:
    """What results made from a data folder are called; never ``sample``."""
    if class_root(data) != data and published(class_root(data)):
        return REAL_NAME
    name = re.sub(r"[^\w-]+", "_", data.name).strip("_") or "data"
    return f"{name}_own" if name in (REAL_NAME, SAMPLE_NAME) else name


def _missing_parts() -> tuple[str, ...]:
    there = {part for part in PARTS if (paths.data / part).is_dir()}  # renamed into place: there means whole
    if has_classes(paths.data):
        there.add(CLASSES)
    return tuple(part for part in PARTS if part not in there)


def _prepare_sample(*, thorough: bool) -> PreparedData:
    origins = {} if paths.sample.is_dir() else dict.fromkeys(PARTS, "generated")
    # A whole sample is kept, a damaged one refused.
    sample.write_sample(paths.sample, **(sample.TINY if TINY else {}))
    entry = manifest.record(paths.sample, "sample", origins=origins, thorough=thorough)
    return PreparedData(name=SAMPLE_NAME, root=paths.sample, entry=entry)


def _fetch(source: str, wanted: tuple[str, ...]) -> dict[str, str]:
    reasons = []
    for name in SITES if source == "auto" else (source,):
        try:
            if not _answers(SITES[name]):
                raise DownloadError("it cannot be reached; is there a network?")
            parts = _fetch_drive(wanted) if name == "drive" else _fetch_kaggle()
            return dict.fromkeys(parts, name)
        except DownloadError as error:
            log.warning("%s failed: %s", name, error)
            reasons.append(f"{name} failed: {error}")
    raise DownloadError("\n".join((*reasons, WAYS_OUT)))


def _fetch_drive(wanted: tuple[str, ...]) -> set[str]:
    import gdown  # here, because it takes half a second that the other sources need not wait

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
        parts = archives.install(archive, paths.data, wanted=wanted)
    except DataError as error:
        raise DownloadError(f"{error}\nIf its zip is to be fetched again, delete {archive.parent} first.") from error
    shutil.rmtree(archive.parent)
    return parts


def _fetch_kaggle() -> set[str]:
    import kagglehub  # here, for the same reason

    try:
        folder = kagglehub.dataset_download(KAGGLE_HANDLE)  # a public set: works with and without a token
    except Exception as error:  # its errors have no base class of their own
        raise DownloadError(str(error)) from error
    return archives.install(Path(folder), paths.data, wanted=(CLASSES,))


def _answers(url: str) -> bool:
    try:
        requests.head(url, timeout=TIMEOUT[0])  # any answer will do; the download libraries would wait without end
    except requests.RequestException:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns 0 if done, 1 if not possible (the reason is printed), 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m src.data.download", description=__doc__)
    parser.add_argument("--source", choices=SOURCES, default="auto", help="where the data come from (auto)")
    parser.add_argument("--local", help="folder or archive of the six classes or both sets, fetched by hand")
    parser.add_argument("--mvtec-local", help="folder or archive of MVTec AD, all of it or one category")
    parser.add_argument("--thorough", action="store_true", help="compare all checksums with the manifest")
    try:
        data = acquire(**vars(parser.parse_args(arguments)))
    except (DownloadError, OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run again to go on", file=sys.stderr)
        return 130
    print(f"{data.name} in {paths.relative(data.root)}, from {data.entry['source']}")
    print(data.table.to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())

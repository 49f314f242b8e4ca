"""What is in a data folder: counts, decoding, and the manifest. Other tests take their tiny sets from here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path

import pytest
from PIL import Image

from src.config import CLASS_NAMES, paths
from src.data import manifest
from src.data.archives import files_below
from src.data.manifest import CLASSES, MVTEC, DataError, Entry, record
from src.data.pictures import UnreadableImageError

FOLDERS = ("Folding marks", "Grain off", "Growth mark", "loose_grains", "non-defective", "pinhole")


def draw(path: Path, *, colour: int = 90, size: tuple[int, int] = (12, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 60, 30)).save(path)


def make_classes(root: Path, *, folders: tuple[str, ...] = FOLDERS, images: int = 2) -> Path:
    for position, folder in enumerate(folders):
        for number in range(images):
            draw(root / folder / f"{folder} 01 ({number}).png", colour=10 * position + number)
    return root


def make_mvtec(root: Path, *, category: str = "leather") -> Path:
    for name in ("train/good/000", "train/good/001", "test/good/000", "test/cut/000", "test/cut/001"):
        draw(root / category / f"{name}.png")
    for name in ("000", "001"):
        draw(root / category / "ground_truth" / "cut" / f"{name}_mask.png")
    return root


def make_both(root: Path) -> Path:
    make_classes(root / CLASSES)
    make_mvtec(root / MVTEC)
    return root


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change."""
    files = {name: path.stat() for name, path in files_below(folder).items()}
    return {name: (info.st_size, info.st_mtime_ns) for name, info in files.items()}


def use_project(monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """Make an empty folder the project, and return the place of its data."""
    monkeypatch.setattr(paths, "root", root)
    monkeypatch.setattr(paths, "data", root / "data")
    monkeypatch.setattr(paths, "sample", root / "data" / "sample")
    monkeypatch.setattr(paths, "manifest", root / "data" / "manifest.json")
    return root / "data"


@pytest.fixture
def data(monkeypatch, tmp_path):
    return make_both(use_project(monkeypatch, tmp_path))


def check(data: Path, *, thorough: bool = False, **origins: str) -> Entry:
    return record(data, "data", origins=origins, thorough=thorough)


MVTEC_IMAGES = {"train/good": 2, "test/cut": 2, "test/good": 1, "ground_truth/cut": 2}


def test_counts(data):
    classes = {f"{CLASSES}/{name}": 2 for name in CLASS_NAMES}
    assert check(data).counts == classes | {f"{MVTEC}/leather/{place}": n for place, n in MVTEC_IMAGES.items()}
    table = check(data).table
    assert table.iloc[:6].to_numpy().tolist() == [[CLASSES, "all", name, 2] for name in CLASS_NAMES]
    assert {(row.set, f"{row.split}/{row.type}", row.images) for row in table.iloc[6:].itertuples()} == {
        (f"{MVTEC}/leather", place, images) for place, images in MVTEC_IMAGES.items()
    }


@pytest.mark.parametrize(
    ("folders", "counts"),
    [
        (("good", "Scratches", "Pinholes"), {"pinhole": 2, "Scratches": 2, "good": 2}),
        ((*FOLDERS, "odd"), dict.fromkeys((*CLASS_NAMES, "odd"), 2)),
    ],
)
def test_classes_are_the_folders_that_are_there(monkeypatch, tmp_path, folders, counts):
    data = use_project(monkeypatch, tmp_path)
    make_classes(data / CLASSES, folders=folders)
    assert list(check(data).counts.items()) == [(f"{CLASSES}/{name}", n) for name, n in counts.items()]


def test_class_folders_without_a_folder_around_them_are_called_by_the_data_folder(tmp_path, data, monkeypatch):
    theirs = make_classes(tmp_path / "my hides", folders=("good", "bad"))
    make_mvtec(theirs / MVTEC)
    entry = record(theirs, "external", origins={}, thorough=False)
    assert entry.source == {"my hides": "found there", MVTEC: "found there"}
    assert entry.table.iloc[:2].to_numpy().tolist() == [["my hides", "all", "bad", 2], ["my hides", "all", "good", 2]]
    assert sorted(entry.sizes)[0] == "bad/bad 01 (0).png"
    assert check(data).counts != entry.counts
    assert record(theirs, "external", origins={}, thorough=True) == entry
    monkeypatch.setenv("LEATHER_NORMAL_CLASS", "fine")
    with pytest.raises(ValueError, match="set LEATHER_NORMAL_CLASS to one of bad, good"):
        record(theirs, "external", origins={}, thorough=False)


def test_what_is_missing_is_named(data, monkeypatch):
    for folder in FOLDERS[1:]:
        for image in (data / CLASSES / folder).iterdir():
            image.rename(image.with_suffix(".txt"))
    with pytest.raises(FileNotFoundError, match=r"fewer than two classes \(folding_marks\)"):
        check(data)
    make_classes(data / CLASSES, folders=("fine", "scratched"))
    monkeypatch.delenv("LEATHER_NORMAL_CLASS", raising=False)
    with pytest.raises(ValueError, match="set LEATHER_NORMAL_CLASS to one of folding_marks, fine, scratched"):
        check(data)
    assert not paths.manifest.exists()


def test_an_unreadable_image_is_named(data):
    (data / CLASSES / "pinhole" / "bad.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(UnreadableImageError, match="bad.png.*Replace it"):
        check(data)
    assert not paths.manifest.exists()


def test_the_manifest_says_what_is_there(data, tmp_path):
    hides = "path,label,hide\n" + "".join(
        f"{file.relative_to(data / CLASSES).as_posix()},,1\n" for file in (data / CLASSES).rglob("*.png")
    )
    (data / CLASSES / "hides.csv").write_text(hides)
    kept = check(data, **{CLASSES: "kaggle"})
    manifest = json.loads(paths.manifest.read_text())
    entry = manifest["entries"]["data"]
    assert entry == dataclasses.asdict(kept)
    file = f"{CLASSES}/hides.csv"
    assert entry["source"] == {CLASSES: "kaggle", MVTEC: "found there"}
    assert entry["root"] == "data"
    assert entry["checksums"][file] == hashlib.sha256(hides.encode()).hexdigest()
    assert entry["sizes"][file] == len(hides)
    assert len(entry["checksums"]) == 6 * 2 + 1 + 7
    assert time.strptime(entry["date"], "%Y-%m-%dT%H:%M:%SZ")
    assert str(tmp_path) not in json.dumps(manifest), "no folders of this machine"


def test_what_is_known_is_not_decoded_again(data, monkeypatch):
    first = check(data)
    monkeypatch.setattr(manifest, "load_image", lambda path: pytest.fail("decoded"))
    assert check(data) == first


def test_changes_are_noticed(data):
    check(data)
    folder = data / CLASSES / "pinhole"
    changed = folder / "pinhole 01 (0).png"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1  # in a checksum that decoders do not look at
    changed.write_bytes(content)
    check(data)
    with pytest.raises(DataError, match=r"1 files .*changed since .*, e.g. .*pinhole 01 \(0\).png"):
        check(data, thorough=True)
    (folder / "pinhole 01 (1).png").unlink()
    draw(folder / "extra.png")
    changed.write_bytes(content + b"!")
    with pytest.raises(DataError, match="3 files .*extra.png.* delete .*manifest.json"):
        check(data)
    paths.manifest.unlink()
    assert check(data).counts[f"{CLASSES}/pinhole"] == 2
    check(data, thorough=True)


def test_a_manifest_of_an_older_form_is_made_anew(data):
    paths.manifest.write_text(json.dumps({"current": "data", "sources": {"data": {"counts": {CLASSES: {}}}}}))
    entry = check(data)
    assert list(json.loads(paths.manifest.read_text())) == ["entries"] and check(data, thorough=True) == entry


def test_a_part_that_comes_or_goes_is_recorded(data, tmp_path):
    check(data, **{CLASSES: "kaggle", MVTEC: "leather.zip"})
    (data / MVTEC).rename(tmp_path / "away")
    assert check(data).source == {CLASSES: "kaggle"}
    (tmp_path / "away").rename(data / MVTEC)
    assert check(data).source == {CLASSES: "kaggle", MVTEC: "found there"}


@pytest.mark.parametrize("entries", ["", [], "data", 3])
def test_a_manifest_whose_entries_are_no_table_is_a_named_error(data, entries):
    paths.manifest.parent.mkdir(parents=True, exist_ok=True)
    paths.manifest.write_text(json.dumps({"entries": entries}))
    with pytest.raises(DataError, match="delete it, and it is made anew"):
        check(data, thorough=True)


def test_the_manifest_is_replaced_whole_or_not_at_all(data, monkeypatch):
    check(data)
    before = paths.manifest.read_text()
    monkeypatch.setattr(Path, "replace", lambda old, new: (_ for _ in ()).throw(OSError("no power")))
    with pytest.raises(OSError, match="no power"):
        check(data, mvtec="new")
    assert paths.manifest.read_text() == before

"""What is in a set: layout, counts, masks, decoding, and the manifest. Other tests take their tiny sets from here."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest
from PIL import Image

from src.config import CLASS_NAMES, paths
from src.data import manifest
from src.data.manifest import CLASSES, MVTEC, DataError, place_file, record
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
    files = {name: path.stat() for name, path in manifest.files_below(folder).items()}
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


def check(data: Path, *, thorough: bool = False, **origins: str) -> dict:
    return record(data, "data", origins=origins, thorough=thorough)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("top/Loose grain/a.JPG", (CLASSES, "top", "Loose grain/a.JPG")),
        ("pinhole/a.png", (CLASSES, "", "pinhole/a.png")),
        ("top/hides.csv", (CLASSES, "top", "hides.csv")),
        ("x/mvtec/carpet/test/cut/0.png", ("mvtec/carpet", "x/mvtec/carpet", "test/cut/0.png")),
        (
            "./mvtec_anomaly_detection/train/good/0.png",
            ("mvtec/leather", "mvtec_anomaly_detection", "train/good/0.png"),
        ),
        ("train/good/0.png", ("mvtec/leather", "", "train/good/0.png")),
        ("pinhole/notes.txt", None),
        ("other/a.png", None),
        ("a.png", None),
        ("__MACOSX/pinhole/._a.png", None),
        ("pinhole/._a.png", None),
        (".incoming/pinhole/a.png", None),
    ],
)
def test_a_file_is_placed_by_its_folders(file, expected):
    assert place_file(file) == expected


def test_counts(data):
    draw(data / CLASSES / "odd" / "a.png")
    assert check(data)["counts"] == {
        CLASSES: dict.fromkeys(CLASS_NAMES, 2) | {"odd": 1},
        MVTEC: {"leather": {"train": {"good": 2}, "test": {"cut": 2, "good": 1}, "ground_truth": {"cut": 2}}},
    }


def test_what_is_missing_is_named(data):
    for image in (data / CLASSES / "Grain off").iterdir():
        image.rename(image.with_suffix(".txt"))
    with pytest.raises(DataError, match="data has no image of grain_off. Add what is missing"):
        check(data)
    for image in (data / CLASSES / "Grain off").iterdir():
        image.rename(image.with_suffix(".png"))
    for image in (data / MVTEC / "leather" / "train" / "good").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="no image of leather/train/good or leather/test. Get the set again"):
        check(data)
    assert not paths.manifest.exists()


def test_missing_masks_are_listed(data):
    mask = data / MVTEC / "leather" / "ground_truth" / "cut" / "001_mask.png"
    assert check(data)["missing_masks"] == []
    mask.unlink()
    assert check(data, mvtec="new")["missing_masks"] == ["mvtec/leather/ground_truth/cut/001_mask.png"]


def test_an_unreadable_image_is_named(data):
    (data / CLASSES / "pinhole" / "bad.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(UnreadableImageError, match="bad.png.*Replace it"):
        check(data)
    assert not paths.manifest.exists()


def test_the_manifest_says_what_is_there(data, tmp_path):
    pictures = (path for path in sorted((data / CLASSES).glob("*/*")) if path.suffix.lower() != ".txt")
    hides = "path,label,hide\n" + "".join(f"{path.parent.name}/{path.name},x,1\n" for path in pictures)
    (data / CLASSES / "hides.csv").write_text(hides)
    check(data, **{CLASSES: "kaggle"})
    manifest = json.loads(paths.manifest.read_text())
    entry = manifest["sources"][manifest["current"]]
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
    assert check(data)["counts"][CLASSES]["pinhole"] == 2
    check(data, thorough=True)


def test_a_part_that_comes_or_goes_is_recorded(data, tmp_path):
    check(data, **{CLASSES: "kaggle", MVTEC: "leather.zip"})
    (data / MVTEC).rename(tmp_path / "away")
    assert check(data)["source"] == {CLASSES: "kaggle"}
    (tmp_path / "away").rename(data / MVTEC)
    assert check(data)["source"] == {CLASSES: "kaggle", MVTEC: "found there"}


def test_the_manifest_is_replaced_whole_or_not_at_all(data, monkeypatch):
    check(data)
    before = paths.manifest.read_text()
    monkeypatch.setattr(Path, "replace", lambda old, new: (_ for _ in ()).throw(OSError("no power")))
    with pytest.raises(OSError, match="no power"):
        check(data, mvtec="new")
    assert paths.manifest.read_text() == before

"""Unpacking: nothing unsafe, nothing broken, all of it or none."""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from src.data.archives import files_below, install
from src.data.manifest import CLASSES, MVTEC, PARTS, DataError
from tests.data.test_manifest import FOLDERS, draw, make_both, make_classes, make_mvtec, state

Usage = namedtuple("Usage", "total used free")


def zip_folder(folder: Path, archive: Path, *, below: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as opened:
        for name, path in files_below(folder).items():
            opened.write(path, below + name)
    return archive


def tar_folder(folder: Path, archive: Path, *, name: str = "set") -> Path:
    mode = "w" + archive.suffix.replace(".", ":").removesuffix(":tar")
    with tarfile.open(archive, mode, format=tarfile.USTAR_FORMAT) as opened:  # one header a member
        opened.add(folder, name)
    return archive


def install_all(given: Path) -> list[str]:
    """What both sets of an archive look like in the folder ``data`` beside it."""
    install(given, given.parent / "data", wanted=PARTS)
    return list(files_below(given.parent / "data"))


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, name, suffix):
    archive = tmp_path / "in" / f"slip{suffix}"
    make_both(tmp_path / "set")
    archive.parent.mkdir()
    name += "/pinhole/a.png"
    if suffix == ".zip":
        with zipfile.ZipFile(zip_folder(tmp_path / "set", archive), "a") as opened:
            opened.writestr(name, "x")
    else:
        with tarfile.open(tar_folder(tmp_path / "set", archive), "a") as opened:
            opened.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match="slip.*outside.*"):
        install_all(archive)
    assert list(files_below(tmp_path / "in")) == [archive.name]
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("member_type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "b.png"])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, member_type, target):
    member = tarfile.TarInfo("pinhole/a.png")
    member.type, member.linkname = member_type, target
    with tarfile.open(tmp_path / "bad.tar", "w") as opened:
        opened.addfile(member)
    with pytest.raises(DataError, match="bad.tar.*pinhole/a.png.* is a (link|special file)"):
        install_all(tmp_path / "bad.tar")
    assert not (tmp_path / "data").exists()


def test_a_link_in_a_zip_is_not_followed(tmp_path):
    link = zipfile.ZipInfo("pinhole/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(zip_folder(make_classes(tmp_path / "six"), tmp_path / "six.zip"), "a") as opened:
        opened.writestr(link, "/etc/passwd")
    install_all(tmp_path / "six.zip")
    unpacked = tmp_path / "data" / CLASSES / "pinhole" / "link.png"
    assert not unpacked.is_symlink() and unpacked.read_text() == "/etc/passwd"


def test_broken_archives_are_named_for_what_they_are(tmp_path):
    make_both(tmp_path / "set")
    whole = zip_folder(tmp_path / "set", tmp_path / "whole.zip").read_bytes()
    packed = tar_folder(tmp_path / "set", tmp_path / "whole.tar.xz").read_bytes()
    plain = tar_folder(tmp_path / "set", tmp_path / "whole.tar").read_bytes()
    damaged, locked, member = bytearray(whole), bytearray(whole), plain.index(b"set/mvtec/leather/test/cut/000.png")
    damaged[whole.index(b"IDAT") + 5] ^= 255
    locked[whole.index(b"PK\x01\x02") + 8] |= 1  # the flag that says "encrypted"
    cases = {
        "quota.zip": (b"\n<!DOCTYPE html><html>Too many users have viewed this file", "web page.*quota.*browser"),
        "cut.zip": (whole[: len(whole) // 2], "neither a whole zip"),
        "cut.tar.xz": (packed[: len(packed) // 2], "cannot be unpacked"),
        "at a member.tar": (plain[:member], "cut off at byte"),
        "header.tar": (plain[:member] + b"SET" + plain[member + 3 :], "damaged or cut off"),
        "bits.zip": (bytes(damaged), "Bad CRC-32"),
        "locked.zip": (bytes(locked), "encrypted.*by hand"),
        "empty.zip": (b"", "neither a whole zip nor a tar"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            install_all(tmp_path / name)
        assert name in str(caught.value)
        assert not files_below(tmp_path / "data")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_what_would_not_fit_on_the_disk_is_not_unpacked(tmp_path, monkeypatch, suffix):
    make_classes(tmp_path / "six")
    (tmp_path / "six" / "pinhole" / "bomb.png").write_bytes(bytes(5_000_000))
    archive = tmp_path / f"bomb{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, path in files_below(tmp_path / "six").items():
                opened.write(path, name)
    else:
        tar_folder(tmp_path / "six", archive)
    assert archive.stat().st_size < 100_000
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(0, 0, 4_900_000))
    with pytest.raises(OSError, match=r"bomb.* needs 5\.0 MB, but 4\.9 MB are free .*Make room") as caught:
        install_all(archive)
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["mvtec_anomaly_detection", ".", "deep/er/mvtec"])
def test_archives_of_all_shapes(tmp_path, name):
    make_mvtec(tmp_path / "made")
    make_mvtec(tmp_path / "made", category="carpet")
    (tmp_path / "made" / "license.txt").write_text("CC BY-NC-SA 4.0")
    files = install_all(tar_folder(tmp_path / "made", tmp_path / "mvtec.tar.xz", name=name))
    assert len(files) == 2 * 7
    assert {tuple(file.split("/")[:2]) for file in files} == {(MVTEC, "leather"), (MVTEC, "carpet")}


def test_additions_of_other_systems_do_no_harm(tmp_path):
    archive = zip_folder(make_classes(tmp_path / "six"), tmp_path / "six.zip", below="top\\")
    with zipfile.ZipFile(archive, "a") as opened:
        for name in ("__MACOSX/top/pinhole/._b.png", "top/pinhole/._b.png", "top/.DS_Store", "win\\"):
            opened.writestr(name, "x")
    assert len(install_all(archive)) == 6 * 2


def test_only_what_is_wanted_is_taken(tmp_path):
    assert install(make_both(tmp_path / "set"), tmp_path / "data", wanted=(MVTEC,)) == {MVTEC}
    assert [path.name for path in (tmp_path / "data").iterdir()] == [MVTEC]
    with pytest.raises(DataError, match="set holds no leather_defect_classification.*six classes.*set LEATHER_DATA"):
        install(make_mvtec(tmp_path / "else" / "set"), tmp_path / "data", wanted=(CLASSES,))


def test_incomplete_and_double_sets_are_refused(tmp_path):
    with pytest.raises(DataError, match=f"five has no image of {CLASSES}/pinhole"):
        install_all(make_classes(tmp_path / "five", folders=FOLDERS[:-1]))
    shutil.rmtree(make_mvtec(tmp_path / "half" / MVTEC) / "leather" / "train")
    with pytest.raises(DataError, match="half has no image of mvtec/leather/train/good"):
        install_all(tmp_path / "half")
    make_classes(tmp_path / "two" / "a")
    make_classes(tmp_path / "two" / "b")
    with pytest.raises(DataError, match="two holds .* twice, in 'a' and 'b'"):
        install_all(tmp_path / "two")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("top/Loose grain/a.JPG", f"{CLASSES}/Loose grain/a.JPG"),
        ("top/hides.csv", f"{CLASSES}/hides.csv"),
        ("x/mvtec/leather/test/poke/0.png", "mvtec/leather/test/poke/0.png"),
        ("top/pinhole/notes.txt", None),
        ("top/other/a.png", None),
        ("top/a.png", None),
        ("__MACOSX/top/pinhole/._a.png", None),
        ("top/pinhole/._a.png", None),
        (".incoming/pinhole/a.png", None),
        ("x/mvtec/leather/license/a.png", None),
    ],
)
def test_a_file_is_placed_by_its_folders(tmp_path, file, place):
    make_classes(tmp_path / "set" / "top")
    make_mvtec(tmp_path / "set" / "x" / "mvtec")
    (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "set" / file).touch()
    files = set(install_all(tmp_path / "set"))
    assert len(files) == 6 * 2 + 7 + (place is not None) and (place is None or place in files)


@pytest.mark.parametrize("below", ["", "mvtec_anomaly_detection/", "mvtec-leather/"])
def test_one_category_need_not_be_named(tmp_path, below):
    archive = zip_folder(make_mvtec(tmp_path / "made") / "leather", tmp_path / "a.zip", below=below)
    assert {file.rpartition("/test/")[0] for file in install_all(archive) if "/test/" in file} == {"mvtec/leather"}


def test_a_read_only_folder_is_copied_and_left_alone(tmp_path):
    source = make_both(tmp_path / "set")
    (source / CLASSES / "hides.csv").write_text("path,label,hide\n")
    draw(source / CLASSES / "odd" / "a.png")
    for path in source.rglob("*"):
        path.chmod(path.stat().st_mode & ~0o222)
    before = state(source)
    files = install_all(source)
    assert state(source) == before
    assert set(files) == set(before) - {f"{CLASSES}/odd/a.png"}
    assert all(path.stat().st_mode & stat.S_IWUSR for path in (tmp_path / "data").rglob("*"))


def test_an_interrupted_unpacking_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    archive = zip_folder(make_both(tmp_path / "set"), tmp_path / "both.zip")
    make_classes(tmp_path / "data" / ".incoming" / CLASSES / "old", images=1)  # of a killed process
    real, copied = shutil.copyfileobj, []

    def interrupted(reader, writer):
        copied.append(real(reader, writer))
        if len(copied) == 15:  # the classes are complete by then, MVTec AD is not
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            install_all(archive)
    assert not list((tmp_path / "data").iterdir())
    assert len(install_all(archive)) == 6 * 2 + 7


# -- hostile, foreign, shared ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_python_without_the_data_filter_unpacks_too(tmp_path, monkeypatch, suffix):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)  # 3.10.0 to 3.10.11, 3.11.0 to 3.11.3
    make_both(tmp_path / "set")
    pack = zip_folder if suffix == ".zip" else tar_folder
    assert len(install_all(pack(tmp_path / "set", tmp_path / f"both{suffix}"))) == 6 * 2 + 7


def bomb(archive: Path, source: Path, name: str, size: int, *, lie: int | None = None) -> Path:
    """A zip of a set with zeros under another name; ``lie`` is written as their size."""
    with zipfile.ZipFile(zip_folder(source, archive), "a", zipfile.ZIP_DEFLATED) as opened:
        with opened.open(name, "w") as member:
            for _ in range(size // 1_000_000):
                member.write(bytes(1_000_000))
        opened.infolist()[-1].file_size = size if lie is None else lie
    return archive


@pytest.mark.parametrize("name", ["pinhole/bomb.png", "hides.csv"])
def test_a_zip_bomb_is_refused_before_it_is_written(tmp_path, name):
    archive = bomb(tmp_path / "bomb.zip", make_classes(tmp_path / "six"), name, 110_000_000)
    with pytest.raises(DataError, match=f"bomb.zip packs the 110,000,000 bytes of {name}"):
        install_all(archive)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("lie", [1000, 5_000_000])
def test_a_size_that_lies_is_no_way_around_it(tmp_path, lie, monkeypatch):
    archive = bomb(tmp_path / "liar.zip", make_classes(tmp_path / "six"), "pinhole/bomb.png", 3_000_000, lie=lie)
    written, real = [], shutil.copyfileobj

    def watch(reader, writer):
        try:
            real(reader, writer)
        finally:
            written.append(writer.tell())

    monkeypatch.setattr(shutil, "copyfileobj", watch)
    with pytest.raises(DataError, match="liar.zip"):
        install_all(archive)
    assert max(written) <= min(lie, 3_000_000) and not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_member_that_stands_twice_is_refused(tmp_path, suffix):
    source = make_classes(tmp_path / "six")
    name = next(name for name in files_below(source) if name.startswith("pinhole/"))
    if suffix == ".zip":
        with zipfile.ZipFile(zip_folder(source, tmp_path / "two.zip"), "a") as opened, pytest.warns(UserWarning):
            opened.writestr(name, "another")
    else:
        with tarfile.open(tar_folder(source, tmp_path / "two.tar", name="."), "a") as opened:
            opened.add(source / name, f"./{name}")
    with pytest.raises(DataError, match=f"two{suffix} holds .*{re.escape(name)} twice"):
        install_all(tmp_path / f"two{suffix}")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "start", "kind"),
    [
        ("set.rar", b"Rar!\x1a\7\1\0", "a RAR archive"),
        ("set.7z", b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        ("set.z01", b"PK\7\x08PK\3\4", "one part of a split zip"),
        ("set.z02", b"\1\2\3", "one part of a split archive"),
        ("set.zip.001", b"PK\3\4", "one part of a split archive"),
        ("set.r00", b"\1\2\3", "one part of a split archive"),
    ],
)
def test_what_cannot_be_unpacked_here_is_to_be_unpacked_by_hand(tmp_path, name, start, kind):
    (tmp_path / name).write_bytes(start + bytes(600))
    with pytest.raises(DataError, match=f"{name} is {kind}. Unpack it by hand") as caught:
        install_all(tmp_path / name)
    assert "Fetch" not in str(caught.value)


def test_names_from_japanese_windows_are_whole(tmp_path):
    """The second byte of some letters is a backslash: \u30bd and \u8868 in Shift JIS."""
    make_classes(tmp_path / "six", images=1)
    with zipfile.ZipFile(tmp_path / "sjis.zip", "w") as opened:
        for name, path in files_below(tmp_path / "six").items():
            folder = name.split("/")[0]
            for letter in ("\u30bd", "\u8868", "\u76ae"):
                info = zipfile.ZipInfo("a.png")
                info.filename = f"{folder}/{letter.encode('cp932').decode('cp437')}.png"
                opened.writestr(info, path.read_bytes())
    files = install_all(tmp_path / "sjis.zip")
    assert len(files) == 6 * 3 and not [file for file in files if "\\" in file]


def test_a_changed_picture_in_a_packed_tar_is_noticed_by_its_checksum(tmp_path):
    archive = tar_folder(make_both(tmp_path / "set"), tmp_path / "a.tar.gz")
    packed = archive.read_bytes()
    content = bytearray(gzip.decompress(packed))
    content[content.index(b"IDAT") + 8] ^= 1
    archive.write_bytes(gzip.compress(bytes(content))[:-8] + packed[-8:])
    with pytest.raises(DataError, match=r"a\.tar\.gz cannot be unpacked: CRC"):
        install(archive, tmp_path / "data", wanted=PARTS)
    assert not (tmp_path / "data" / CLASSES).exists()


def test_a_file_that_is_lost_on_the_way_is_noticed(tmp_path, monkeypatch):
    archive, real, calls = zip_folder(make_classes(tmp_path / "six"), tmp_path / "six.zip"), shutil.copyfileobj, []

    def lose(reader, writer):  # another process clears the folder
        real(reader, writer)
        calls.append(writer.name)
        if len(calls) == 9:
            Path(calls[0]).unlink()

    monkeypatch.setattr(shutil, "copyfileobj", lose)
    with pytest.raises(DataError, match="six.zip unpacks to other files"):
        install_all(archive)
    assert not list((tmp_path / "data").iterdir())


def test_a_disk_that_fills_up_is_named_with_a_remedy(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = zip_folder(make_classes(tmp_path / "six"), tmp_path / "six.zip")
    monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(OSError, match="could not write .*data: No space left.*Free some space") as caught:
        install_all(archive)
    assert caught.value.errno == errno.ENOSPC and not list((tmp_path / "data").iterdir())


def test_circles_of_links_and_links_to_nothing_are_left(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.png").write_bytes(b"1")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "b" / "again").symlink_to(tmp_path)
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "a" / "pipe.png")
    assert list(files_below(tmp_path)) == ["a/b/x.png"]

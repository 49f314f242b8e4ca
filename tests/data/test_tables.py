"""Tables of pictures and their classes: forgiving names, errors that name the file, a list that must fit."""

import hashlib
import logging
import os

import pandas as pd
import pytest
from PIL import Image

from src.config import CLASS_NAMES
from src.data.tables import (
    Classes,
    class_name,
    class_root,
    classes_of,
    digests,
    index_images,
    index_mvtec,
    picture_identities,
    read_image_list,
    write_image_list,
)


@pytest.fixture(autouse=True)
def no_named_normal_class(monkeypatch):
    monkeypatch.delenv("LEATHER_NORMAL_CLASS", raising=False)


def draw(path, *, size=(4, 3), colour=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, colour).save(path)


def make_classes(root, *, names=CLASS_NAMES, images=2):
    """Folders of pictures, of which no two are the same."""
    for position, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(images):
            draw(root / name / f"{number}.png", colour=20 * position + number)
    return root


def write_hides(root, *rows):
    (root / "hides.csv").write_text("\n".join(["path,label,hide", *rows]), encoding="utf-8")


def mvtec(root, *files):
    for file in files or ("train/good/0.png", "test/good/0.png", "test/cut/0.png", "ground_truth/cut/0_mask.png"):
        draw(root / "leather" / file)
    return root


# -- classes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        *((name, name) for name in CLASS_NAMES),
        ("loose_grains", "loose_grain"),
        ("Loose grain", "loose_grain"),
        ("LooseGrain", "loose_grain"),
        ("Folding marks", "folding_marks"),
        ("folding-mark", "folding_marks"),
        ("Growth mark", "growth_marks"),
        ("Grain off", "grain_off"),
        ("non-defective", "non_defective"),
        ("Non defective", "non_defective"),
        ("nondefective", "non_defective"),
        ("Pinholes", "pinhole"),
        (" PINHOLE ", "pinhole"),
        ("defective", "defective"),  # no published class: called as its folder
        ("grain", "grain"),
        ("Deep scratches", "Deep scratches"),
        (" good ", "good"),
        ("123", "123"),
    ],
)
def test_class_folders_are_matched_forgivingly(folder, expected):
    assert class_name(folder) == expected


def labels(*names):
    return pd.DataFrame({"label": [name for name in names for _ in range(2)]})


@pytest.mark.parametrize(
    ("names", "expected", "normal"),
    [
        (CLASS_NAMES[::-1], CLASS_NAMES, "non_defective"),
        (("good", "bad"), ("bad", "good"), "good"),
        (("scratch", "OK", "hole"), ("OK", "hole", "scratch"), "OK"),
        (("scratch", "pinhole", "normal", "grain_off"), ("grain_off", "pinhole", "normal", "scratch"), "normal"),
    ],
)
def test_published_classes_keep_their_order_and_others_follow_by_name(names, expected, normal):
    assert classes_of(labels(*names)) == Classes(expected, normal)


@pytest.mark.parametrize(
    ("names", "variable", "normal"),
    [
        (("fine", "scratch"), "fine", "fine"),
        (("fine leather", "scratch"), "Fine_Leather", "fine leather"),
        (("good", "ok"), "ok", "ok"),
        (("non_defective", "pinhole"), "pinhole", "pinhole"),
    ],
)
def test_the_normal_class_may_be_named(monkeypatch, names, variable, normal):
    monkeypatch.setenv("LEATHER_NORMAL_CLASS", variable)
    assert classes_of(labels(*names)).normal == normal


@pytest.mark.parametrize(
    ("names", "variable", "message"),
    [
        (("fine", "scratch"), "", "not known; set LEATHER_NORMAL_CLASS to one of fine, scratch"),
        (("good", "ok"), "", "not known; set LEATHER_NORMAL_CLASS to one of good, ok"),
        (("good", "bad"), "fine", "is fine, which is no class here; set LEATHER_NORMAL_CLASS to one of bad, good"),
        (("good",), "", "two or more different names"),
    ],
)
def test_an_unknown_normal_class_is_an_error_that_names_the_choices(monkeypatch, names, variable, message):
    monkeypatch.setenv("LEATHER_NORMAL_CLASS", variable)
    with pytest.raises(ValueError, match=message):
        classes_of(labels(*names))


def test_classes_know_the_positions_of_labels():
    classes = Classes(["bad", "good", "worse"], "good")
    assert classes.names == ("bad", "good", "worse") and classes.normal_index == 1
    assert classes.indices(["worse", "bad", "bad"]).tolist() == [2, 0, 0]
    assert classes.indices([]).shape == (0,)
    with pytest.raises(ValueError, match="'ugly' is none of the classes bad, good, worse"):
        classes.indices(["bad", "ugly"])
    assert hash(classes) == hash(Classes(("bad", "good", "worse"), "good"))


@pytest.mark.parametrize(
    ("names", "normal", "message"),
    [
        (("good",), "good", "two or more different names"),
        (("good", "bad", "good"), "good", "two or more different names"),
        (("good", "bad"), "fine", "'fine'; expected one of good, bad"),
    ],
)
def test_impossible_classes_are_refused(names, normal, message):
    with pytest.raises(ValueError, match=message):
        Classes(names, normal)


# -- the table of class folders -----------------------------------------------------------------------------


def test_class_folders_are_those_of_the_published_name_or_of_the_data_folder(tmp_path):
    assert class_root(tmp_path) == tmp_path
    (tmp_path / "leather_defect_classification").mkdir()
    assert class_root(tmp_path) == tmp_path / "leather_defect_classification"


def test_index_by_hand(tmp_path, caplog):
    for file in (
        "Folding marks/b.png",
        "Folding marks/a.PNG",
        "grain_off/x.tif",
        "Pinholes/x.webp",
        "deep scratch/x.bmp",
        "non-defective/x.jpeg",
        "mvtec/x.png",
        ".cache/x.png",
    ):
        draw(tmp_path / file)
    (tmp_path / "grain_off" / "Thumbs.db").touch()
    (tmp_path / "grain_off" / "._x.tif").touch()  # macOS adds such files
    (tmp_path / "empty").mkdir()
    with caplog.at_level(logging.WARNING):
        table = index_images(tmp_path)
    assert table[["file", "label"]].to_numpy().tolist() == [
        ["Folding marks/a.PNG", "folding_marks"],
        ["Folding marks/b.png", "folding_marks"],
        ["Pinholes/x.webp", "pinhole"],
        ["deep scratch/x.bmp", "deep scratch"],
        ["grain_off/x.tif", "grain_off"],
        ["non-defective/x.jpeg", "non_defective"],
    ]
    assert table["path"].tolist() == [str(tmp_path / file) for file in table["file"]]
    assert list(table.columns) == ["path", "file", "label"]
    assert [str(tmp_path / "empty") in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("names", [("bad", "good"), (*CLASS_NAMES, "scratch"), tuple("abcdefghijkl")])
def test_two_to_many_classes_of_one_image_can_be_indexed(tmp_path, names):
    assert index_images(make_classes(tmp_path, names=names, images=1))["label"].tolist() == sorted(names)


def test_missing_folder_and_classes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'nowhere'}.*1.0.download-datasets.ipynb.*LEATHER_DATA"):
        index_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"fewer than two classes \(none\).*\.jpg"):
        index_images(tmp_path)
    make_classes(tmp_path, names=("good",))
    draw(tmp_path / "mvtec" / "x.png")
    (tmp_path / "bad").mkdir()
    with pytest.raises(FileNotFoundError, match=r"fewer than two classes \(good\)"):
        index_images(tmp_path)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_hides_are_read_as_text(tmp_path, mark):
    make_classes(tmp_path)
    rows = [f"{name}/{number}.png,{name},0{number}" for name in CLASS_NAMES for number in range(2)]
    write_hides(tmp_path, *rows, "pinhole/gone.png,pinhole,7")
    (tmp_path / "hides.csv").write_text(mark + (tmp_path / "hides.csv").read_text(), encoding="utf-8")
    assert index_images(tmp_path)["group"].tolist() == ["00", "01"] * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "no hide for 1 images, the first is pinhole/1.png"),
        (
            lambda rows: [*rows[:-2], "pinhole/0.png,pinhole,", rows[-1]],
            "no hide for 1 images, the first is pinhole/0.png",
        ),
        (lambda rows: rows[:1], "no hide for 12 images, the first is folding_marks/0.png"),
        (lambda rows: [*rows, rows[1]], "lists folding_marks/0.png more than once"),
        (lambda rows: ["path,label,skin", *rows[1:]], r"no column \['hide'\]; expected path, hide"),
        (lambda rows: [], "cannot be read as a table"),
        (lambda rows: [*rows[:-1], "pinhole/1.png,pinhole,   "], "no hide for 1 images, the first is pinhole/1.png"),
        (
            lambda rows: [*rows[:-1], "pinhole/1.png,grain_off,h"],
            "another label to 1 images, the first is pinhole/1.png",
        ),
    ],
)
def test_incomplete_hides_are_refused(tmp_path, change, message):
    make_classes(tmp_path)
    rows = ["path,label,hide", *(f"{name}/{number}.png,{name},h{number}" for name in CLASS_NAMES for number in (0, 1))]
    (tmp_path / "hides.csv").write_text("\n".join(change(rows)))
    with pytest.raises(ValueError, match=f"{tmp_path / 'hides.csv'}.*{message}"):
        index_images(tmp_path)


@pytest.mark.parametrize("content", ["path,hide\npinhole/é.png,1\n".encode("latin-1"), b"\x00\x01\xff", b"", b'"'])
def test_hides_that_are_no_table_are_named(tmp_path, content):
    make_classes(tmp_path)
    (tmp_path / "hides.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / 'hides.csv'}"):
        index_images(tmp_path)


def test_one_hide_typed_in_several_ways_is_one_hide_and_says_so(tmp_path, caplog):
    """Blanks, case where it is the only difference, and Unicode forms; 1 and 01 stay two."""
    make_classes(tmp_path, names=("good", "bad"), images=6)
    ways = ["Hide É", "hide é ", "Hide  E\u0301", "HIDE É", "1", "01"]
    write_hides(tmp_path, *(f" {label}\\{n}.png,,{way}" for label in ("good", "bad") for n, way in enumerate(ways)))
    table = index_images(tmp_path)
    assert table.groupby("group")["file"].count().to_dict() == {"01": 2, "1": 2, "Hide É": 8}
    assert [record.args[1:] for record in caplog.records] == [
        (way, "Hide É") for way in sorted(("HIDE É", "Hide  E\u0301", "hide é "))
    ]


# -- the list of pictures -----------------------------------------------------------------------------------


NAMES = ("None", "good", "scratch")  # None is a class, not a missing value


@pytest.fixture
def listed(tmp_path):
    """A folder of three classes and its list: two hides, one copy, one unreadable file."""
    root, file = make_classes(tmp_path / "set", names=NAMES, images=3), tmp_path / "eda" / "images.csv"
    (root / "good" / "2.png").write_bytes(b"no picture")
    table = index_images(root).assign(group=["01", "02", "02"] * 3)
    table = table.assign(digest=digests(table["path"]), copy_of=table["file"])
    table["unreadable"] = table["file"] == "good/2.png"
    table.loc[table["file"] == "scratch/1.png", "copy_of"] = "scratch/0.png"
    table.loc[table["unreadable"], ["group", "copy_of"]] = None
    assert write_image_list(table, file) == file
    return root, file


def test_the_list_brings_hides_copies_and_digests_of_the_readable_pictures(listed):
    root, file = listed
    table = read_image_list(root, file)
    assert table["file"].tolist() == [path for path in index_images(root)["file"] if path != "good/2.png"]
    assert table["label"].tolist() == ["None"] * 3 + ["good"] * 2 + ["scratch"] * 3
    assert table["group"].tolist() == ["01", "02", "02", "01", "02", "01", "02", "02"]
    assert table.loc[table["file"] != table["copy_of"], ["file", "copy_of"]].to_numpy().tolist() == [
        ["scratch/1.png", "scratch/0.png"]
    ]
    assert table["digest"][0] == hashlib.sha256((root / "None" / "0.png").read_bytes()).hexdigest()
    assert table.index.tolist() == list(range(8))
    header, first, *_ = file.read_text(encoding="utf-8").splitlines()
    assert header == "file,digest,label,hide,copy_of,unreadable"
    assert first == f"None/0.png,{table['digest'][0]},None,01,None/0.png,False"


def add(root):
    draw(root / "good" / "9.png", colour=9)


def remove(root):
    (root / "scratch" / "2.png").unlink()


def change(root):
    draw(root / "None" / "1.png", colour=250)


def mend(root):
    draw(root / "good" / "2.png", colour=250)  # it was unreadable


def relabel(root):
    (root / "good").rename(root / "fine")


def move_to_another_hide(root):
    write_hides(root, *(f"{file},,{'01' if file.endswith('0.png') else '03'}" for file in index_images(root)["file"]))


@pytest.mark.parametrize(
    ("alter", "count", "first"),
    [
        (add, 1, "good/9.png"),
        (remove, 1, "scratch/2.png"),
        (change, 1, "None/1.png"),
        (mend, 1, "good/2.png"),
        (relabel, 6, "fine/0.png"),
        (move_to_another_hide, 5, "None/1.png"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(listed, alter, count, first):
    root, file = listed
    alter(root)
    message = f"images.csv does not fit .*set: {count} are new, .* the first is {first}. Run 2.0-EDA-Leather-Defect"
    with pytest.raises(ValueError, match=message):
        read_image_list(root, file)


def test_a_picture_with_another_label_than_listed_is_refused(listed):
    root, file = listed
    file.write_text(file.read_text().replace(",scratch,", ",good,", 1))
    with pytest.raises(ValueError, match="1 are new, .* another label or hide, the first is scratch/0.png"):
        read_image_list(root, file)


def test_hides_that_agree_with_the_list_fit(listed):
    root, file = listed
    before = read_image_list(root, file)
    write_hides(root, *(f"{name}/{i}.png,{name},{hide}" for name in NAMES for i, hide in enumerate(("01", "02", "02"))))
    pd.testing.assert_frame_equal(read_image_list(root, file), before, check_like=True)


def test_a_missing_list_or_column_says_what_to_run(listed):
    root, file = listed
    with pytest.raises(FileNotFoundError, match="no list of pictures .*other.csv. Run 2.0-EDA-Leather-Defect"):
        read_image_list(root, file.with_name("other.csv"))
    file.write_text(file.read_text().replace("copy_of", "copies", 1))
    with pytest.raises(ValueError, match=r"images.csv has no column \['copy_of'\].*Run 2.0-EDA-Leather-Defect"):
        read_image_list(root, file)


def test_a_pictures_identity_is_its_content_whatever_its_size_and_time(listed):
    root, file = listed
    table = read_image_list(root, file)
    assert picture_identities(table) == table["digest"].tolist()
    plain = index_images(root)
    before = picture_identities(plain)
    assert len(set(before)) == len(plain)
    changed, times = root / "None" / "1.png", (root / "None" / "1.png").stat()
    content = bytearray(changed.read_bytes())
    content[-20] ^= 1  # as large as before, and of the same time
    changed.write_bytes(content)
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = picture_identities(plain)
    assert [old != new for old, new in zip(before, after, strict=True)] == [False, True] + [False] * 7
    moved = root.rename(root.with_name("elsewhere"))
    assert picture_identities(index_images(moved)) == after


# -- MVTec AD -----------------------------------------------------------------------------------------------


def test_mvtec_table_by_hand(tmp_path):
    root = mvtec(tmp_path)
    (root / "leather" / "test" / "cut" / "notes.txt").touch()
    table = index_mvtec(root)
    assert table[["file", "part", "defect"]].to_numpy().tolist() == [
        ["train/good/0.png", "train", "good"],
        ["test/cut/0.png", "test", "cut"],
        ["test/good/0.png", "test", "good"],
    ]
    assert table["mask"].tolist() == ["", str(root / "leather/ground_truth/cut/0_mask.png"), ""]
    assert table["path"].tolist() == [str(root / "leather" / file) for file in table["file"]]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("test/good/0.png",), "leather/train.*leather/train/good.*MVTec AD is optional.*mvtec.com"),
        (("train/odd/0.png", "ground_truth/odd/0_mask.png", "test/good/0.png"), "leather/train"),
        (("train/good/0.png",), "leather/test"),
        (
            ("train/good/0.png", "test/cut/7.png", "ground_truth/cut/0_mask.png"),
            "leather/test/cut/7.png has no ground truth; expected .*ground_truth/cut/7_mask.png",
        ),
    ],
)
def test_mvtec_layout_errors_name_the_place(tmp_path, files, message):
    with pytest.raises(FileNotFoundError, match=message):
        index_mvtec(mvtec(tmp_path, *files))
    with pytest.raises(FileNotFoundError, match="no images below .*carpet/train"):
        index_mvtec(tmp_path, "carpet")


@pytest.mark.parametrize("content", [b"", b"file\n", b"\xff\xfe\x00", "é".encode("latin-1"), b"{}", b'a,"b'])
def test_a_list_of_pictures_that_is_none_is_named_with_what_to_do(tmp_path, content):
    make_classes(tmp_path / "six")
    (tmp_path / "images.csv").write_bytes(content)
    with pytest.raises(ValueError, match="images.csv.*Run 2.0-EDA"):
        read_image_list(tmp_path / "six", tmp_path / "images.csv")


def test_a_list_that_is_cut_or_names_a_picture_twice_is_named(tmp_path):
    root = make_classes(tmp_path / "six")
    table = index_images(root)
    listed = table.assign(digest=digests(table["path"]), group="h", copy_of=table["file"], unreadable=False)
    file = write_image_list(listed, tmp_path / "images.csv")
    assert len(read_image_list(root, file)) == 12
    lines = file.read_text().splitlines(keepends=True)
    for changed in ([*lines[:-1], lines[-1][:30]], lines[:-3], [*lines[:-1], lines[3]]):
        file.write_text("".join(changed))
        with pytest.raises(ValueError, match="images.csv does not fit .*Run 2.0-EDA"):
            read_image_list(root, file)

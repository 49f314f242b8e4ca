"""Tables and data sets: forgiving names, errors that name the file.

Reading odd pictures has test_datasets_images.py.
"""

import logging

import pandas as pd
import pytest
from PIL import Image

from src.config import CLASS_NAMES
from src.data.splits import split_index
from src.data.tables import (
    Classes,
    class_name,
    class_root,
    classes_of,
    digests,
    has_classes,
    index_images,
    picture_identities,
    read_image_list,
    write_hides,
    write_image_list,
)


def draw(path, *, size=(4, 3), colour=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, colour).save(path)


def six_classes(root, *, images=2, skip=()):
    for name in CLASS_NAMES:
        (root / name).mkdir(parents=True)
        for number in range(images if name not in skip else 0):
            draw(root / name / f"{number}.png")
    return root


def mvtec(root, *files):
    for file in files or ("train/good/0.png", "test/good/0.png", "test/cut/0.png", "ground_truth/cut/0_mask.png"):
        draw(root / "leather" / file)
    return root


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
        ("defective", "defective"),
        (" Good ", "Good"),
        ("grain", "grain"),
        ("123", "123"),
    ],
)
def test_class_folders_are_matched_forgivingly(folder, expected):
    assert class_name(folder) == expected


def test_index_by_hand(tmp_path, caplog):
    for file in (
        "Folding marks/b.png",
        "Folding marks/a.PNG",
        "grain_off/x.tif",
        "Growth mark/x.bmp",
        "loose_grains/x.jpg",
        "non-defective/x.jpeg",
        "Pinholes/x.webp",
        "mvtec/x.png",
        ".hidden/x.png",
    ):
        draw(tmp_path / file)
    (tmp_path / "empty").mkdir()
    (tmp_path / "grain_off" / "Thumbs.db").touch()
    with caplog.at_level(logging.WARNING):
        table = index_images(tmp_path)
    assert table["file"].tolist() == [
        "Folding marks/a.PNG",
        "Folding marks/b.png",
        "Growth mark/x.bmp",
        "Pinholes/x.webp",
        "grain_off/x.tif",
        "loose_grains/x.jpg",
        "non-defective/x.jpeg",
    ]
    assert table["label"].tolist() == [
        "folding_marks",
        "folding_marks",
        "growth_marks",
        "pinhole",
        "grain_off",
        "loose_grain",
        "non_defective",
    ]
    assert table["path"].tolist() == [str(tmp_path / file) for file in table["file"]]
    assert "group" not in table  # nobody says which hides these are
    assert [str(tmp_path / "empty") in record.getMessage() for record in caplog.records] == [True]


def test_missing_folder_and_classes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'nowhere'}.*1.0.download-datasets.ipynb"):
        index_images(tmp_path / "nowhere")
    draw(tmp_path / "good" / "x.png")
    (tmp_path / "holes").mkdir()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} has pictures of fewer than two classes .good."):
        index_images(tmp_path)


def test_one_image_a_class_can_be_indexed(tmp_path):
    table = index_images(six_classes(tmp_path, images=1))
    assert len(table) == 6


def test_hides_are_read_as_text(tmp_path):
    six_classes(tmp_path)
    rows = [f"{name}/{number}.png,{name},0{number}" for name in CLASS_NAMES for number in range(2)]
    (tmp_path / "hides.csv").write_text("\n".join(["path,label,hide", *rows, "pinhole/gone.png,pinhole,7"]))
    table = index_images(tmp_path)
    assert table["group"].tolist() == ["00", "01"] * 6


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
        (lambda rows: ["path,label,skin", *rows[1:]], r"no column \['hide'\]"),
    ],
)
def test_incomplete_hides_are_refused(tmp_path, change, message):
    six_classes(tmp_path)
    rows = ["path,label,hide", *(f"{name}/{number}.png,{name},h{number}" for name in CLASS_NAMES for number in (0, 1))]
    (tmp_path / "hides.csv").write_text("\n".join(change(rows)))
    with pytest.raises(ValueError, match=f"{tmp_path / 'hides.csv'}.*{message}"):
        index_images(tmp_path)


# -- classes --------------------------------------------------------------------------------------------


def labelled(*labels):
    return pd.DataFrame({"file": [f"{number}.png" for number, _ in enumerate(labels)], "label": labels})


@pytest.mark.parametrize(
    ("labels", "names", "normal"),
    [
        (CLASS_NAMES[::-1], CLASS_NAMES, "non_defective"),
        (("scratch", "ok"), ("ok", "scratch"), "ok"),
        (("stain", *CLASS_NAMES), (*CLASS_NAMES, "stain"), "non_defective"),
        (("Good", "cut", "pinhole"), ("pinhole", "Good", "cut"), "Good"),
    ],
)
def test_classes_come_from_the_labels_published_ones_first(labels, names, normal):
    classes = classes_of(labelled(*labels))
    assert (classes.names, classes.normal) == (names, normal)
    assert classes.indices(names).tolist() == list(range(len(names)))
    assert classes.names[classes.normal_index] == normal


def test_the_normal_class_can_be_named(monkeypatch):
    table = labelled("blue wet", "scratched", "good")
    monkeypatch.setenv("LEATHER_NORMAL_CLASS", "Blue-wet")
    assert classes_of(table).normal == "blue wet"
    monkeypatch.setenv("LEATHER_NORMAL_CLASS", "fine")
    with pytest.raises(ValueError, match="normal class is fine; set LEATHER_NORMAL_CLASS to one of blue wet, good"):
        classes_of(table)
    monkeypatch.delenv("LEATHER_NORMAL_CLASS")
    for labels in (("a", "b"), ("good", "ok", "cut")):
        with pytest.raises(ValueError, match="LEATHER_NORMAL_CLASS"):
            classes_of(labelled(*labels))


@pytest.mark.parametrize(
    ("names", "normal", "message"),
    [(("a",), "a", "two or more"), (("a", "a"), "a", "different"), (("a", "b"), "c", "'c'; expected one of a, b")],
)
def test_classes_that_do_not_fit_are_refused(names, normal, message):
    with pytest.raises(ValueError, match=message):
        Classes(names, normal)


def test_an_unknown_label_is_named():
    with pytest.raises(ValueError, match="label 'hole' is none of the classes cut, good"):
        Classes(("cut", "good"), "good").indices(["good", "hole"])


@pytest.mark.parametrize("names", [("good", "bad"), ("ok", "a", "b", "c", "d", "e", "f")])
def test_two_and_seven_classes_of_ones_own(tmp_path, names):
    for name in names:
        for number in range(20):
            draw(tmp_path / name / f"{number}.png", colour=number)
    assert class_root(tmp_path) == tmp_path and has_classes(tmp_path)
    table = index_images(tmp_path)
    assert set(classes_of(table).names) == set(names)
    parts = split_index(table, "random-80-20").groupby("label")["part"].value_counts().unstack()
    assert (parts["test"] == 4).all() and (parts["validation"] == 2).all()


# -- the list of pictures -------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path):
    """Two classes of three pictures, one a copy and one unreadable, and the list of them."""
    root = tmp_path / "data"
    for name, numbers in (("good", (1, 2, 3)), ("cut", (4, 5))):
        for number in numbers:
            draw(root / name / f"{number}.png", colour=10 * number)
    (root / "cut" / "broken.png").write_text("no picture")
    table = index_images(root)
    readable = ~table["file"].str.contains("broken")
    table = table.assign(digest=digests(table["path"]), unreadable=~readable, group="h1", copy_of=table["file"])
    table.loc[table["file"] == "good/3.png", "copy_of"] = "good/1.png"
    table.loc[~readable, ["group", "copy_of"]] = None
    return root, write_image_list(table, tmp_path / "images.csv")


def test_the_list_comes_back_without_what_cannot_be_read(listed):
    table = read_image_list(*listed)
    assert table["file"].tolist() == ["cut/4.png", "cut/5.png", "good/1.png", "good/2.png", "good/3.png"]
    assert table["copy_of"].tolist()[-1] == "good/1.png" and set(table["group"]) == {"h1"}
    assert table["digest"].tolist() == digests(table["path"])
    header = "file,digest,label,hide,copy_of,unreadable"
    assert listed[1].read_text().splitlines()[0] == header


@pytest.mark.parametrize(
    ("change", "file"),
    [
        (lambda root: draw(root / "good" / "9.png"), "good/9.png"),
        (lambda root: (root / "good" / "2.png").unlink(), "good/2.png"),
        (lambda root: draw(root / "good" / "2.png", colour=99), "good/2.png"),
        (lambda root: (root / "good" / "2.png").rename(root / "cut" / "2.png"), "cut/2.png"),
        (lambda root: hides(root, "h2"), "cut/4.png"),
    ],
)
def test_a_list_that_does_not_fit_says_so(listed, change, file):
    change(listed[0])
    with pytest.raises(ValueError, match=rf"does not fit.*the first is {file}. Run 2.0-EDA"):
        read_image_list(*listed)


def hides(root, name):
    rows = [f"{path.parent.name}/{path.name},{path.parent.name},{name}" for path in sorted(root.glob("*/*.png"))]
    (root / "hides.csv").write_text("\n".join(["path,label,hide", *rows]))


def test_a_missing_or_foreign_list_is_named(listed, tmp_path):
    with pytest.raises(FileNotFoundError, match="no list of pictures .*gone.csv. Run 2.0-EDA"):
        read_image_list(listed[0], tmp_path / "gone.csv")
    listed[1].write_text("file,label\na,b\n")
    with pytest.raises(ValueError, match=r"images.csv has no column \['copy_of', 'digest', 'hide', 'unreadable'\]"):
        read_image_list(*listed)


def test_the_template_of_hides_can_be_put_beside_the_classes(listed):
    root, file = listed
    write_hides(read_image_list(root, file), root / "hides.csv")
    (root / "cut" / "broken.png").unlink()
    assert set(index_images(root)["group"]) == {"h1"}


def test_identities_follow_the_content_and_not_the_folder(listed, tmp_path):
    root, _ = listed
    before = picture_identities(index_images(root))
    (tmp_path / "elsewhere").mkdir()
    moved = root.rename(tmp_path / "elsewhere" / "data")
    assert picture_identities(index_images(moved)) == before
    draw(moved / "good" / "2.png", size=(5, 5))
    after = picture_identities(index_images(moved))
    assert [a != b for a, b in zip(before, after, strict=True)].count(True) == 1

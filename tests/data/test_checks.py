"""What is not taken is counted with its reason, and masks that are likely to be wrong are warned of once."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from src.config import paths
from src.data.archives import install
from src.data.checks import check_masks, left_out
from src.data.download import acquire
from src.data.manifest import CLASSES, MVTEC, PARTS
from src.data.tables import index_mvtec
from tests.data.test_archives import zip_folder
from tests.data.test_manifest import check, draw, make_both, make_classes, make_mvtec, use_project

INSIDE = "in a folder inside a class folder: move it up"
MVTEC_FORM = "not as MVTec AD has it: mvtec/<category>/train/good, test/<defect>, ground_truth/<defect>"
ELSEWHERE = "in no class folder, or of a set that is here already"


@pytest.fixture
def data(monkeypatch, tmp_path):
    return make_both(use_project(monkeypatch, tmp_path))


def test_reasons_by_hand():
    files = ["pinhole/._a.jpg", "__MACOSX/pinhole/a.jpg", "a/readme.txt", "pinhole/b.gif", "pinhole/new/2.jpg"]
    files += ["pinhole/new/10.jpg", "Train/Good/x.png", "photo.jpg", "other/x.jpg"]
    assert left_out(files) == {
        "hidden, or added by macOS": "2, the first is pinhole/._a.jpg",
        "no picture by its name": "2, the first is a/readme.txt",
        INSIDE: "2, the first is pinhole/new/2.jpg",
        MVTEC_FORM: "1, the first is Train/Good/x.png",
        ELSEWHERE: "2, the first is photo.jpg",
    }
    assert left_out([]) == {}


def test_every_file_of_a_folder_is_taken_or_left_with_a_reason(data, capsys):
    for file in ("pinhole/new/a.png", "pinhole/new/b.png", "pinhole/x.jpg/c.png", "pinhole/._d.png", "e.png"):
        draw(data / CLASSES / file)
    draw(data / MVTEC / "leather" / "Test" / "cut" / "f.png")
    os.mkfifo(data / CLASSES / "pinhole" / "pipe.png")
    entry = acquire("local")
    assert {reason: text.split(",")[0] for reason, text in entry.left.items()} == {
        INSIDE: "3",
        "hidden, or added by macOS": "1",
        ELSEWHERE: "2",  # the pipe too
        MVTEC_FORM: "1",
    }
    assert len(entry.sizes) == 6 * 2 + 7 and f"left out, {INSIDE}: 3, the first is" in capsys.readouterr().out
    assert json.loads(paths.manifest.read_text())["entries"]["data"]["left"] == entry.left
    draw(data / CLASSES / "pinhole" / "new" / "g.png")
    assert acquire("local").left[INSIDE].startswith("4, ")  # also where the manifest knows all that is taken


def test_what_an_archive_holds_besides_is_kept_in_the_manifest(monkeypatch, tmp_path, capsys):
    use_project(monkeypatch, tmp_path)
    make_both(tmp_path / "set")
    for file in ("pinhole/new/a.png", "more/b.png"):
        draw(tmp_path / "set" / CLASSES / file)
    archive = zip_folder(tmp_path / "set", tmp_path / "both.zip")
    expected = {f"from both.zip, {INSIDE}": "1, the first is leather_defect_classification/pinhole/new/a.png"}
    expected |= {f"from both.zip, {ELSEWHERE}": "1, the first is leather_defect_classification/more/b.png"}
    assert acquire(local=archive).left == expected and acquire().left == expected
    assert capsys.readouterr().out.count("left out, from both.zip") == 4


def test_the_kind_of_a_folder_of_mvtec_is_matched_forgivingly(monkeypatch, tmp_path):
    made = make_mvtec(tmp_path / "made") / "leather"
    for old, new in (("train/good", "good"), ("test/good", "ok"), ("train", "x"), ("test", "y"), ("ground_truth", "z")):
        (made / old).rename(made / old.split("/")[0] / new if "/" in old else made / new)
    for old, new in (("x/good", "Train/Good"), ("y/ok", "Test/Good"), ("y/cut", "Test/cut"), ("z", "Ground_Truth")):
        (made / new).parent.mkdir(exist_ok=True)
        (made / old).rename(made / new)
    left = {}
    archive = zip_folder(made, tmp_path / "Leather.zip", below="Leather/")
    assert install(archive, tmp_path / "data", wanted=PARTS, left=left) == {MVTEC} and left == {}
    assert len(index_mvtec(tmp_path / "data" / MVTEC)) == 5


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_letters_that_end_in_a_backslash_part_no_names(tmp_path, separator):
    """Of a zip from Japanese Windows: the names are bytes in Shift JIS, read as cp437."""
    make_classes(tmp_path / "six")
    for folder in (tmp_path / "six").iterdir():
        for number in range(2):
            draw(folder / f"表面_{number}.png".encode("shift_jis").decode("cp437"))
    left = {}
    archive = zip_folder(tmp_path / "six", tmp_path / "six.zip", below=f"top{separator}")
    install(archive, tmp_path / "data", wanted=PARTS, left=left)
    assert left == {}
    assert [len(list(folder.iterdir())) for folder in (tmp_path / "data" / CLASSES).iterdir()] == [4] * 6
    assert not any("\\" in path.name for path in (tmp_path / "data").rglob("*"))


# -- masks ------------------------------------------------------------------------------------------------------


def write(path, values, **options):
    Image.fromarray(np.asarray(values, np.uint8)).save(path, **options)


@pytest.fixture
def masked(tmp_path):
    """Two good and five defective pictures of 40 x 30 px with plausible masks."""
    home = tmp_path / "leather"
    for file in ("train/good/0", "test/good/0", *(f"test/cut/{number}" for number in range(5))):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        write(home / f"{file}.png", np.full((30, 40), 90))
    (home / "ground_truth" / "cut").mkdir(parents=True)
    for number in range(5):
        write(home / "ground_truth" / "cut" / f"{number}_mask.png", np.pad([[255] * 5] * 5, ((9, 16), (7, 28))))
    return tmp_path


def test_plausible_masks_give_no_warning(masked, caplog):
    assert check_masks(index_mvtec(masked)) == "" and not caplog.records


def test_masks_that_are_likely_to_be_wrong_give_one_warning_with_their_number(masked, caplog):
    truth, exif = masked / "leather" / "ground_truth" / "cut", Image.Exif()
    exif[274] = 3
    write(truth / "0_mask.png", np.zeros((30, 40)))
    write(truth / "1_mask.png", np.zeros((30, 40)))
    write(truth / "2_mask.png", np.full((30, 40), 255))
    write(truth / "3_mask.png", np.pad([[255] * 5] * 5, ((9, 16), (7, 28))), exif=exif)
    write(truth / "4_mask.png", np.zeros((40, 30)))
    warning = check_masks(index_mvtec(masked))
    for text in ("2 empty, the first of test/cut/0.png", "1 almost full, the first of test/cut/2.png"):
        assert text in warning
    assert "1 turned by EXIF, the first of test/cut/3.png" in warning and "is 30x40, its image 40x30" in warning
    assert [record.getMessage() for record in caplog.records] == [warning]


def test_acquire_warns_of_masks(data, caplog):
    write(data / MVTEC / "leather" / "ground_truth" / "cut" / "000_mask.png", np.zeros((6, 8)))
    draw(data / MVTEC / "leather" / "test" / "cut" / "000.png", size=(8, 6))
    acquire("local")
    assert caplog.text.count("masks of defective pictures that are likely to be wrong") == 1
    assert "1 empty, the first of test/cut/000.png" in caplog.text


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "7", '{"entries": 3}', '{"entries": {"data": {"counts": {}}}}', "\x00" * 99]
)
def test_a_damaged_manifest_is_named(data, content):
    paths.manifest.write_text(content)
    with pytest.raises(ValueError, match=f"{paths.manifest} is damaged .*: delete it, and it is made anew"):
        check(data)


def test_a_cut_manifest_is_named(data):
    check(data)
    content = paths.manifest.read_bytes()
    for end in range(2, len(content) - 2, 500):
        paths.manifest.write_bytes(content[:end])
        with pytest.raises(ValueError, match="is damaged"):
            check(data)

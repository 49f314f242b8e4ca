"""Which pictures are taken and left; everything is an empty file, nothing is decoded."""

import os

import pytest

from src.inspection.inputs import STAMP, Options, find_inputs, find_masks, find_pictures


@pytest.fixture
def folder(tmp_path):
    """Two pictures, and beside them all that is none."""
    names = "b.JPG sub/a.png sub/a_mask.png ground_truth/cut/000_mask.png notes.txt ._b.jpg report/overlays/1.jpg"
    for name in (*names.split(), f"report/{STAMP}", ".thumbnails/b.jpg", "normals/n.png"):
        file = tmp_path / "hides" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return tmp_path / "hides"


def test_a_folder_is_taken_with_all_below_it_but_masks_reports_and_what_is_hidden(folder):
    found = find_pictures([str(folder)], without=[folder / "normals"])
    assert found.pictures == {"b.JPG": folder / "b.JPG", "sub/a.png": folder / "sub" / "a.png"}
    assert list(found.pictures) == sorted(found.pictures) and found.root == folder and found.name == "hides"
    assert found.left["sub/a_mask.png"] == "a mask" and found.left["ground_truth"] == "a folder of masks"
    assert {"report", ".thumbnails", "normals", "notes.txt", "._b.jpg"} <= set(found.left)
    assert "2 pictures" in found.about and "2 left: no picture" in found.about


def test_files_globs_and_lists_give_the_same_as_their_folder(folder, monkeypatch):
    whole = find_pictures([str(folder)], without=[folder / "normals"]).pictures
    (folder / "list.txt").write_text("# hides\nb.JPG\n\nsub/a.png\nb.JPG\n", encoding="utf-8")
    (folder / "more").mkdir()
    assert find_pictures([str(folder / "b.JPG"), str(folder / "sub" / "a.png")]).pictures == whole
    assert find_pictures([str(folder / "list.txt")]).pictures == whole
    assert list(find_pictures([str(folder / "sub" / "a.*")]).pictures) == ["a.png"]
    monkeypatch.chdir(folder / "sub")
    assert find_pictures(["."]).name == "sub"
    assert find_pictures(["a.png"]).root == folder / "sub" and find_pictures(["a.png"]).name == "a"
    assert find_pictures([str(folder / "list.txt")]).name == "list"


def test_a_list_may_name_what_is_not_there(folder):
    (folder / "list.txt").write_text("b.JPG\ngone.png\n", encoding="utf-8")
    assert list(find_pictures([str(folder / "list.txt")]).pictures) == ["b.JPG", "gone.png"]


@pytest.mark.parametrize("given", ["nowhere", "*.nothing", "empty", "odd.bin"])
def test_what_holds_no_picture_is_an_error_that_names_it(folder, given):
    (folder / "empty").mkdir()
    (folder / "odd.bin").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=given.replace("*", r"\*")):
        find_pictures([str(folder / given)])


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_no_utf8_can_be_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    open(path, "wb").close()
    name, found = next(iter(find_pictures([str(tmp_path)]).pictures.items()))
    assert name.encode() == b"caf\\xe9.png" and os.fsencode(found) == path


def test_masks_are_found_by_name(tmp_path):
    pictures = {"a/1.jpg": tmp_path / "1.jpg", "2.jpg": tmp_path / "2.jpg", "3.jpg": tmp_path / "3.jpg"}
    for name in ("a/1.png", "2_mask.tif", "a/3.png"):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "masks" / name).write_bytes(b"")
    masks = find_masks(pictures, tmp_path / "masks")
    assert masks == {tmp_path / "1.jpg": tmp_path / "masks/a/1.png", tmp_path / "2.jpg": tmp_path / "masks/2_mask.tif"}


@pytest.mark.parametrize("by_shell", [True, False])
def test_a_pattern_leaves_what_a_walk_would_leave(folder, by_shell):
    pattern = folder / "*"
    given = sorted(map(str, folder.glob("*"))) if by_shell else [str(pattern)]
    given = [one for one in given if not one.endswith(".txt")]
    found = find_pictures(given, without=[folder / "normals"])
    assert set(found.pictures) == {"b.JPG", "sub/a.png"} and {"report", "ground_truth", "normals"} <= set(found.left)
    deep = find_pictures([str(folder / "**" / "*.*g")], without=[folder / "normals"])
    assert set(deep.pictures.values()) == {folder / "sub" / "a.png"}
    with pytest.raises(ValueError, match="a mask"):
        find_pictures([str(folder / "sub" / "*_mask.png")])


def test_what_cannot_be_read_and_links_to_folders_are_left_with_a_reason(folder, monkeypatch):
    (folder / "linked").symlink_to(folder / "sub")
    (folder / "closed").mkdir()
    plain = type(folder).is_file

    def is_file(path):
        if path.parent.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(type(folder), "is_file", is_file)
    left = find_pictures([str(folder)]).left
    assert left["linked"] == "a link to a folder" and left["closed"] == "it cannot be read"


def test_names_that_reports_cannot_tell_apart_are_refused(tmp_path):
    for name in (os.fsencode(tmp_path) + b"/a\xff.png", os.fsencode(tmp_path) + b"/a\\xff.png"):
        open(name, "wb").close()
    with pytest.raises(ValueError, match="two pictures have the name"):
        find_pictures([str(tmp_path)])


def test_a_list_may_name_files_that_start_like_a_comment(folder):
    (folder / "#1.png").write_bytes(b"")
    (folder / "list.txt").write_text("# hides, and so on\n#1.png\n", encoding="utf-8")
    assert list(find_pictures([str(folder / "list.txt")]).pictures) == ["#1.png"]


def test_a_picture_is_not_judged_by_itself(folder):
    found = find_pictures([str(folder / "normals")])
    with pytest.raises(ValueError, match="in --normals too"):
        find_inputs(found, Options(normals=folder / "normals"), without=folder / "out")


def test_masks_may_lie_beside_the_pictures(tmp_path):
    for name in ("a.png", "a_mask.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    found = find_pictures([str(tmp_path)]).pictures
    assert find_masks(found, tmp_path) == {tmp_path / "a.png": tmp_path / "a_mask.png"}


def test_a_long_name_is_cut(tmp_path):
    (tmp_path / ("\u00e9" * 120 + ".png")).write_bytes(b"")
    name = find_pictures([str(next(tmp_path.iterdir()))]).name
    assert 190 < len(name.encode()) <= 200 and set(name) == {"\u00e9"}

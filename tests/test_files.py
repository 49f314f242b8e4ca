"""Files are whole or not there, hold no code, and people can read them."""

import errno
import json
import multiprocessing
import threading
import time

import pytest

from src import files
from src.files import write_json


def strict(path):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_json_that_is_no_json_is_refused_and_the_earlier_file_kept(tmp_path):
    path = write_json({"a": 0.1, "name": "ñ"}, tmp_path / "deep" / "a.json")
    assert strict(path) == {"a": 0.1, "name": "ñ"}
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json({"a": value}, path)
    assert strict(path) == {"a": 0.1, "name": "ñ"} and [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_floats_have_six_digits(tmp_path):
    path = write_json({"a": 1 / 3, "b": [2e-5 / 3, 123456.789], "c": {"n": 12345678}}, tmp_path / "a.json")
    assert strict(path) == {"a": 0.333333, "b": [6.66667e-06, 123457.0], "c": {"n": 12345678}}


def test_lists_of_numbers_stand_in_one_line(tmp_path):
    content = {"matrix": [[1, 2], [3, 4.5]], "names": ["[1,\n2]", "b"], "empty": [], "none": [None, 1]}
    path = write_json(content, tmp_path / "a.json")
    assert strict(path) == content and "[3, 4.5]" in path.read_text()


def test_an_error_in_the_middle_changes_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(KeyboardInterrupt), files.whole_file(tmp_path / "a.txt") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_an_identity_changes_with_each_value():
    identities = {files.identity_of(*parts) for parts in [(1, "a"), (1, "b"), (2, "a"), (1, ["a"]), (1, "a", None)]}
    assert len(identities) == 5 and files.identity_of({"a": 1, "b": 2}) == files.identity_of({"b": 2, "a": 1})


def test_a_damaged_answer_counts_as_none_and_a_full_disk_as_a_warning(tmp_path, caplog, monkeypatch):
    assert files.read_kept(None) is None and files.read_kept(tmp_path / "gone.pt") is None
    (tmp_path / "cut.pt").write_bytes(b"no tensors")
    assert files.read_kept(tmp_path / "cut.pt") is None and "cut.pt" in caplog.text
    monkeypatch.setattr("torch.save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    files.write_kept({"a": 1}, tmp_path / "new.pt")
    assert "No space left" in caplog.text and not (tmp_path / "new.pt").exists()


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    for left in ("a.txt.part", ".a.txt.part.lock"):
        (tmp_path / left).write_text("left behind")
    with files.whole_file(tmp_path / "a.txt") as stream:
        stream.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "new"


def test_an_answer_that_does_not_fit_counts_as_none_with_a_warning(tmp_path, caplog):
    files.write_kept({"numbers": [1, 2]}, tmp_path / "kept.pt")
    assert files.read_kept(tmp_path / "kept.pt", lambda kept: kept["numbers"][1]) == 2
    for unpack in (lambda kept: kept["other"], lambda kept: kept["numbers"].shape, lambda kept: kept[1:]):
        caplog.clear()
        assert files.read_kept(tmp_path / "kept.pt", unpack) is None
        assert "kept.pt" in caplog.text and "made anew" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_once_with_a_remedy(tmp_path, code):
    with pytest.raises(OSError, match=r"could not write .*inner: out of room\. Free some space") as caught:  # noqa: SIM117
        with files.writing(tmp_path / "outer"), files.writing(tmp_path / "inner"):
            raise OSError(code, "out of room")
    assert caught.value.errno == code and "outer: " not in str(caught.value)
    with pytest.raises(PermissionError, match="^.Errno 13. no$"), files.writing(tmp_path):
        raise PermissionError(13, "no")


def _count(folder):
    for _ in range(20):
        with files.alone(folder / "counter"):
            number = int((folder / "counter").read_text())
            time.sleep(0.001)
            (folder / "counter").write_text(str(number + 1))


def test_only_one_process_is_in_a_block_at_a_time(tmp_path):
    """Each removes the lock's file; three processes would count short if one could hold a removed one."""
    (tmp_path / "counter").write_text("0")
    processes = [multiprocessing.get_context("fork").Process(target=_count, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    _count(tmp_path)
    for process in processes:
        process.join()
    assert (tmp_path / "counter").read_text() == "60"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_who_waits_says_so(tmp_path, caplog):
    def wait():
        with files.alone(tmp_path / "run"):
            pass

    with files.alone(tmp_path / "run"):
        other = threading.Thread(target=wait)
        other.start()
        while "another process is writing" not in caplog.text:
            time.sleep(0.01)
        assert other.is_alive() and str(tmp_path / "run") in caplog.text
    other.join(10)
    assert not other.is_alive()

"""Files are whole or not there, hold no code, and people can read them."""

import json

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

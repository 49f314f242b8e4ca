"""The data acquisition: no network, tiny pictures, and a server on this machine in place of Google Drive."""

from __future__ import annotations

import functools
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gdown
import kagglehub
import pytest

from src.config import CLASS_NAMES, paths
from src.data import download
from src.data.download import DownloadError, acquire, find_data
from src.data.manifest import CLASSES, MVTEC, DataError, files_below
from src.synthetic import sample
from tests.data.test_archives import tar_folder, zip_folder
from tests.data.test_manifest import draw, make_both, make_classes, make_mvtec, state, use_project

NOBODY = "http://127.0.0.1:9/nobody-listens-here"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path):
    """An empty project without network; its data folder."""
    monkeypatch.setattr(download, "SITES", {"drive": NOBODY, "kaggle": NOBODY})
    monkeypatch.setattr(download, "DRIVE_BYTES", 100_000)
    monkeypatch.setattr(download, "RETRIES", 0)
    monkeypatch.setattr(sample, "write_sample", lambda root: root if root.is_dir() else make_both(root))
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: pytest.fail("asked Kaggle"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return use_project(monkeypatch, tmp_path)


def raise_(error: BaseException):
    raise error


# -- local folders and archives -----------------------------------------------------------------------------


def test_a_zip_with_both_sets(tmp_path, data):
    archive = zip_folder(make_both(tmp_path / "set"), tmp_path / "both.zip", below="top/")
    result = acquire(local=archive)
    assert (result.name, result.root) == (download.REAL_NAME, data)
    assert result.entry["source"] == {CLASSES: "both.zip", MVTEC: "both.zip"}
    assert result.counts[CLASSES] == dict.fromkeys(CLASS_NAMES, 2)
    assert result.table["images"].sum() == 6 * 2 + 7
    assert result.table.iloc[-1].tolist() == [f"{MVTEC}/leather", "ground_truth", "cut", 2]
    assert sorted(path.name for path in data.iterdir()) == [CLASSES, "manifest.json", MVTEC]


def test_the_second_call_changes_nothing(tmp_path, data):
    archive = zip_folder(make_both(tmp_path / "set"), tmp_path / "both.zip")
    first = acquire(local=archive)
    archive.unlink()
    before = state(data / CLASSES) | state(data / MVTEC)
    for options in ({"local": archive}, {}, {"source": "kaggle"}, {"source": "drive"}, {"thorough": True}):
        assert acquire(**options) == first
    assert state(data / CLASSES) | state(data / MVTEC) == before


def test_each_part_may_come_from_elsewhere(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make_classes(tmp_path / "six", images=1)
    assert set(acquire(local="~/six").counts) == {CLASSES}
    assert "lacks mvtec, which notebook 3.0 needs" in caplog.text
    archive = tar_folder(make_mvtec(tmp_path / "made") / "leather", tmp_path / "leather.tar.xz", name="leather")
    result = acquire(local="~/six", mvtec_local=archive)
    assert result.entry["source"] == {CLASSES: "six", MVTEC: "leather.tar.xz"}
    assert result.counts[MVTEC]["leather"]["train"] == {"good": 2}


def test_a_missing_mask_is_a_warning(tmp_path, caplog):
    (make_both(tmp_path / "set") / MVTEC / "leather" / "ground_truth" / "cut" / "001_mask.png").unlink()
    acquire(local=tmp_path / "set")
    assert "lacks mvtec/leather/ground_truth/cut/001_mask.png" in caplog.text


def test_wrong_paths_and_settings(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.zip"):
        acquire(local=tmp_path / "nowhere.zip")
    with pytest.raises(DataError, match="pass its folder or archive as local"):
        acquire("local")
    with pytest.raises(ValueError, match="'ftp'; expected one of"):
        acquire("ftp")


# -- Google Drive -------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves one file, with byte ranges; ``stop_after`` breaks a transfer off after so many bytes."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.stop_after, self.ranges = content, None, []
        self.url = f"http://127.0.0.1:{self.server_port}/set.zip"

    def handle_error(self, request, client_address):
        """A client that hangs up is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        content, wanted = self.server.content, self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.server.ranges.append(start)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start : self.server.stop_after])

    def log_message(self, *arguments):
        """Silence: what was asked for is in ``ranges``."""


@pytest.fixture
def drive(tmp_path, monkeypatch):
    make_both(tmp_path / "published")
    draw(tmp_path / "published" / CLASSES / "pinhole" / "large.bmp", size=(900, 700))
    content = zip_folder(tmp_path / "published", tmp_path / "published.zip", below="top/").read_bytes()
    assert len(content) > 3 * 512 * 1024, "several chunks of gdown's, or nothing can break off"
    server = Server(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setitem(download.SITES, "drive", server.url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def arrived_bytes(data: Path) -> int:
    """Size of the partial download, which is all there is."""
    assert [path.name for path in data.iterdir()] == [".drive"]
    (part,) = (data / ".drive").iterdir()
    assert part.suffix == ".part"
    return part.stat().st_size


def test_drive_in_one_go(data, drive):
    result = acquire("drive")
    assert result.name == download.REAL_NAME
    assert result.counts[CLASSES]["pinhole"] == 3
    assert result.entry["source"] == {CLASSES: "drive", MVTEC: "drive"}
    assert sorted(path.name for path in data.iterdir()) == [CLASSES, "manifest.json", MVTEC], "the zip is gone"
    assert acquire("auto") == acquire("drive") == result
    assert drive.ranges == [0], "fetched once"


def test_drive_fetches_what_is_missing_only(data, drive):
    make_classes(data / CLASSES)
    result = acquire("drive")
    assert result.counts[CLASSES]["pinhole"] == 2, "kept"
    assert result.entry["source"] == {CLASSES: "found there", MVTEC: "drive"}


def test_a_broken_download_goes_on_where_it_stopped(data, drive):
    drive.stop_after = 1_200_000
    with pytest.raises(DownloadError, match="drive failed(.|\n)*incomplete(.|\n)*Run again to go on(.|\n)*Three ways"):
        acquire("drive")
    arrived = arrived_bytes(data)
    assert 0 < arrived < len(drive.content)
    drive.stop_after = None
    assert acquire("drive").counts[CLASSES]["pinhole"] == 3
    assert arrived in drive.ranges


def test_control_c_keeps_what_arrived(data, drive, monkeypatch):
    def press(arrived, total):
        if arrived > 1_000_000:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(gdown, "download", functools.partial(gdown.download, progress=press))
        with pytest.raises(KeyboardInterrupt):
            acquire("drive")
    arrived = arrived_bytes(data)
    assert arrived > 0
    assert acquire("auto").entry["source"][CLASSES] == "drive"
    assert arrived in drive.ranges


def test_control_c_while_unpacking_keeps_the_zip(data, drive, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfileobj", lambda reader, writer: raise_(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            acquire("drive")
    assert list(files_below(data)) == [".drive/leather_datasets.zip"]
    acquire("auto")
    assert drive.ranges == [0]


def test_an_unusable_zip_is_an_error_that_says_how_to_start_anew(data, drive):
    drive.content = b"PK\x03\x04 truncated"
    with pytest.raises(DownloadError, match="neither a whole zip(.|\n)*delete .*.drive first(.|\n)*Three ways out"):
        acquire("drive")


def test_a_full_disk_is_noticed_before_the_download(drive, monkeypatch):
    monkeypatch.setattr(download, "DRIVE_BYTES", 5_300_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(0, 0, 9_000_000_000))
    with pytest.raises(OSError, match="needs 10.6 GB, but 9.0 GB are free"):
        acquire("drive")
    assert drive.ranges == []


@pytest.fixture
def quota(drive, monkeypatch):
    error = gdown.exceptions.FileURLRetrievalError("Too many users have viewed this file recently.")
    monkeypatch.setattr(gdown, "download", lambda **options: raise_(error))


def test_a_quota_never_ends_in_the_sample(data, quota, capsys):
    with pytest.raises(DownloadError) as caught:
        acquire("auto")
    for text in ("Too many users", "kaggle failed: it cannot be reached", "Three ways out", "in a browser", '"sample"'):
        assert text in str(caught.value)
    assert not (data / "sample").exists()
    assert "SAMPLE" not in capsys.readouterr().out


# -- Kaggle, the sample, and what the notebooks read ---------------------------------------------------------


@pytest.fixture
def kaggle(tmp_path, drive, monkeypatch):
    """Kaggle answers; the list of what it was asked for."""
    cache = make_classes(tmp_path / "cache" / "Leather Defect Classification").parent
    asked = []
    monkeypatch.setitem(download.SITES, "kaggle", drive.url)
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: asked.append(handle) or str(cache))
    return asked


def test_after_a_quota_auto_takes_kaggle(quota, kaggle, caplog):
    result = acquire("auto")
    assert (result.name, result.entry["source"]) == (download.REAL_NAME, {CLASSES: "kaggle"})
    assert "drive failed: Too many users" in caplog.text
    assert "lacks mvtec" in caplog.text


def test_kaggle_with_mvtec_from_a_folder(tmp_path, kaggle):
    result = acquire("kaggle", mvtec_local=make_mvtec(tmp_path / "mine"))
    assert result.entry["source"] == {CLASSES: "kaggle", MVTEC: "mine"}
    assert acquire("auto") == result
    assert kaggle == ["praveen2084/leather-defect-classification"]
    assert files_below(tmp_path / "cache"), "the cache is Kaggle's"


def test_kaggle_refuses(kaggle, monkeypatch):
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: raise_(ValueError("403 Forbidden")))
    with pytest.raises(DownloadError, match="kaggle failed: 403 Forbidden\nThree ways out"):
        acquire("kaggle")


@pytest.mark.parametrize("source", ["drive", "kaggle"])
def test_a_named_source_without_network_is_an_error(data, source):
    with pytest.raises(DownloadError, match=f"{source} failed: it cannot be reached.*\nThree ways out"):
        acquire(source)
    assert not data.exists()


def test_auto_without_network_takes_the_sample_and_says_so(data, capsys):
    start = time.monotonic()
    result = acquire("auto")
    assert time.monotonic() - start < 5
    assert (result.name, result.root) == ("sample", data / "sample")
    assert result.entry["source"] == {CLASSES: "generated", MVTEC: "generated"}
    assert "#  NO NETWORK: THE BUILT-IN SAMPLE IS USED" in capsys.readouterr().out
    assert not (data / CLASSES).exists()


def test_the_sample_is_kept_beside_real_data(tmp_path):
    first = acquire("sample")
    real = acquire(local=make_both(tmp_path / "set"))
    assert acquire("sample") == first
    assert acquire("local") == real


def test_a_folder_that_leather_data_names_is_only_read(tmp_path, monkeypatch):
    theirs = make_both(tmp_path / "theirs")
    monkeypatch.setattr(paths, "data", theirs)
    before = state(theirs)
    result = acquire(local=tmp_path / "set")
    assert (result.name, result.root) == (download.REAL_NAME, theirs)
    assert state(theirs) == before


@pytest.mark.parametrize("options", [{}, {"source": "drive"}, {"local": "set"}])
def test_nothing_is_fetched_into_a_folder_that_leather_data_names(tmp_path, monkeypatch, options):
    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(paths, "data", tmp_path / "theirs")
    with pytest.raises(DataError, match="LEATHER_DATA names .*theirs.*unset it"):
        acquire(**options)
    assert not list((tmp_path / "theirs").iterdir())


def test_find_data(data, caplog):
    for preference in ("auto", "drive", "sample"):
        with pytest.raises(FileNotFoundError, match="Run 1.0.download-datasets.ipynb first"):
            find_data(preference)
    make_both(data / "sample")
    assert find_data() == find_data("sample") == ("sample", data / "sample")
    assert "say nothing about real leather" in caplog.text
    with pytest.raises(FileNotFoundError):
        find_data("kaggle")
    make_both(data)
    assert find_data() == find_data("kaggle") == (download.REAL_NAME, data)
    assert find_data("sample") == ("sample", data / "sample")
    with pytest.raises(ValueError, match="'real'; expected one of"):
        find_data("real")


def test_the_command_line(tmp_path, capsys, monkeypatch):
    assert download.main(["--source", "local"]) == 1
    assert "pass its folder or archive" in capsys.readouterr().err
    assert download.main(["--local", str(make_both(tmp_path / "set"))]) == 0
    assert "pinhole       2" in capsys.readouterr().out
    monkeypatch.setattr(download, "acquire", lambda **options: raise_(KeyboardInterrupt()))
    assert download.main([]) == 130
    with pytest.raises(SystemExit) as caught:
        download.main(["--help"])
    assert caught.value.code == 0
    assert "--mvtec-local" in capsys.readouterr().out

"""The data acquisition: no network, tiny pictures, and a server on this machine in place of Google Drive."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
import time
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gdown
import kagglehub
import pytest
from PIL import Image

from src.config import CLASS_NAMES, MVTEC_FOLDER, paths
from src.data import download
from src.data.archives import files_below
from src.data.download import DownloadError, acquire, find_data
from src.data.manifest import CLASSES, MVTEC, DataError
from src.data.splits import split_index
from src.data.tables import class_root, classes_of, index_images
from src.synthetic import sample
from tests.data.test_archives import tar_folder, zip_folder
from tests.data.test_manifest import draw, make_both, make_classes, make_mvtec, state, use_project

ROOT = Path(__file__).resolve().parents[2]
PINHOLE = f"{CLASSES}/pinhole"
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
    entry = acquire(local=archive)
    assert find_data() == (download.REAL_NAME, data)
    assert entry.source == {CLASSES: "both.zip", MVTEC: "both.zip"}
    assert [entry.counts[f"{CLASSES}/{name}"] for name in CLASS_NAMES] == [2] * 6
    assert entry.table["images"].sum() == 6 * 2 + 7
    assert sorted(path.name for path in data.iterdir()) == [CLASSES, "manifest.json", MVTEC]


def test_the_second_call_changes_nothing(tmp_path, data):
    archive = zip_folder(make_both(tmp_path / "set"), tmp_path / "both.zip")
    first = acquire(local=archive)
    archive.unlink()
    before = state(data / CLASSES) | state(data / MVTEC)
    for options in ({"local": archive}, {}, {"source": "kaggle"}, {"source": "drive"}, {"thorough": True}):
        assert acquire(**options) == first
    assert state(data / CLASSES) | state(data / MVTEC) == before


def test_what_is_given_but_not_read_is_said(tmp_path, data, caplog):
    acquire(local=make_both(tmp_path / "set"))
    acquire(local=tmp_path / "other.zip")
    assert "other.zip is not read" in caplog.text and "already" in caplog.text


def test_own_photographs_in_the_data_folder_are_no_set(tmp_path, data):
    for name in ("monday", "tuesday"):
        (data / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(data / name / "a.png")
    acquire(local=make_both(tmp_path / "set"))
    assert (data / PINHOLE).is_dir()


def test_each_part_may_come_from_elsewhere(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make_classes(tmp_path / "six", images=1)
    assert set(acquire(local="~/six").source) == {CLASSES}
    assert "MVTec AD is optional: get it from" in caplog.text
    archive = tar_folder(make_mvtec(tmp_path / "made") / "leather", tmp_path / "leather.tar.xz", name="leather")
    entry = acquire(local="~/six", mvtec_local=archive)
    assert entry.source == {CLASSES: "six", MVTEC: "leather.tar.xz"}
    assert entry.counts["mvtec/leather/train/good"] == 2


def test_a_missing_mask_is_a_warning(tmp_path, caplog):
    (make_both(tmp_path / "set") / MVTEC / "leather" / "ground_truth" / "cut" / "001_mask.png").unlink()
    acquire(local=tmp_path / "set")
    assert "mvtec/leather/test/cut/001.png has no ground truth" in caplog.text


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
    entry = acquire("drive")
    assert find_data() == (download.REAL_NAME, data)
    assert entry.counts[PINHOLE] == 3
    assert entry.source == {CLASSES: "drive", MVTEC: "drive"}
    assert sorted(path.name for path in data.iterdir()) == [CLASSES, "manifest.json", MVTEC], "the zip is gone"
    assert acquire("auto") == acquire("drive") == entry
    assert drive.ranges == [0], "fetched once"


def test_drive_fetches_what_is_missing_only(data, drive):
    make_classes(data / CLASSES)
    entry = acquire("drive")
    assert entry.counts[PINHOLE] == 2, "kept"
    assert entry.source == {CLASSES: "found there", MVTEC: "drive"}


def test_a_broken_download_goes_on_where_it_stopped(data, drive):
    drive.stop_after = 1_200_000
    with pytest.raises(DownloadError, match="drive failed(.|\n)*incomplete(.|\n)*Run again to go on(.|\n)*Three ways"):
        acquire("drive")
    arrived = arrived_bytes(data)
    assert 0 < arrived < len(drive.content)
    drive.stop_after = None
    assert acquire("drive").counts[PINHOLE] == 3
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
    assert acquire("auto").source[CLASSES] == "drive"
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
    assert acquire("auto").source == {CLASSES: "kaggle"} and find_data()[0] == download.REAL_NAME
    assert "drive failed: Too many users" in caplog.text
    assert "MVTec AD is optional" in caplog.text


def test_kaggle_with_mvtec_from_a_folder(tmp_path, kaggle):
    entry = acquire("kaggle", mvtec_local=make_mvtec(tmp_path / "mine"))
    assert entry.source == {CLASSES: "kaggle", MVTEC: "mine"}
    assert acquire("auto") == entry
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
    entry = acquire("auto")
    assert time.monotonic() - start < 5
    assert find_data() == ("sample", data / "sample")
    assert entry.source == {CLASSES: "generated", MVTEC: "generated"}
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
    assert acquire(local=tmp_path / "set").source == {CLASSES: "found there", MVTEC: "found there"}
    assert find_data() == (download.REAL_NAME, theirs)
    assert state(theirs) == before


OWN_CLASSES = {"two classes": ("good", "Scratched"), "7": (*CLASS_NAMES, "wrinkle")}


@pytest.mark.parametrize("below", [".", CLASSES])
@pytest.mark.parametrize(("folder", "names"), OWN_CLASSES.items())
@pytest.mark.parametrize("with_mvtec", [False, True])
def test_own_classes_are_taken_recorded_and_named_by_their_folder(
    tmp_path, monkeypatch, capsys, folder, names, below, with_mvtec
):
    theirs = tmp_path / "hides" / folder
    make_classes(theirs / below, folders=names, images=20)
    if with_mvtec:
        make_mvtec(theirs / MVTEC)
    monkeypatch.setattr(paths, "data", theirs)
    monkeypatch.delenv("LEATHER_NORMAL_CLASS", raising=False)
    assert download.main([]) == 0
    assert f"{folder.replace(' ', '_')} in " in capsys.readouterr().out
    rows = acquire().table.query("split == 'all'")
    assert dict(zip(rows["type"], rows["images"], strict=True)) == dict.fromkeys(names, 20)

    name, root = find_data()
    assert (name, root) == (folder.replace(" ", "_"), theirs)
    table = index_images(class_root(root))
    classes = classes_of(table)
    assert set(classes.names) == set(names) and classes.normal == ("good" if "good" in names else "non_defective")
    assert set(classes.indices(table["label"])) == set(range(len(names)))
    parts = split_index(table, "random-80-20").groupby(["label", "part"]).size()
    assert set(parts.unstack().itertuples(index=False, name=None)) == {(4, 14, 2)}
    with pytest.raises(ValueError, match="hide-60-20-20 needs .*2.0-EDA"):
        split_index(table, "hide-60-20-20")
    shared = table.assign(group=[f"hide {i % 5}" for i in range(len(table))], copy_of=table["file"])
    split = split_index(shared, "hide-60-20-20")
    assert (split.groupby("group")["part"].nunique() == 1).all() and split["label"].nunique() == len(names)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("Shop No. 3 (old)", "Shop_No_3_old"),
        ("größe-1_b", "größe-1_b"),
        ("sample", None),
        ("eda", None),
        ("best_modelo_kaggle_dataset", None),
        ("(!)", None),
    ],
)
def test_a_run_on_own_classes_never_has_the_name_of_something_else(tmp_path, monkeypatch, folder, expected):
    theirs = make_classes(tmp_path / "hides" / folder, folders=("good", "bad"))
    monkeypatch.setattr(paths, "data", theirs)
    if expected:
        assert find_data() == (expected, theirs)
    else:
        with pytest.raises(ValueError, match="rename the folder"):
            find_data()


def test_the_published_classes_elsewhere_are_no_kaggle_set(tmp_path, monkeypatch):
    """Only a folder leather_defect_classification with exactly the six classes has the published set's name."""
    monkeypatch.setattr(paths, "data", make_classes(tmp_path / "mine"))
    assert find_data()[0] == "mine"
    monkeypatch.setattr(paths, "data", make_both(tmp_path / "theirs"))
    assert find_data()[0] == download.REAL_NAME
    make_classes(tmp_path / "theirs" / CLASSES, folders=("wrinkle",))
    assert find_data()[0] == "theirs"


def test_the_sample_is_called_so_wherever_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "data", make_both(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere" / "sample.json").touch()
    assert find_data() == ("sample", tmp_path / "elsewhere")


def test_a_folder_that_leather_data_names_is_never_replaced_by_the_sample(tmp_path, monkeypatch, data):
    make_both(data / "sample")
    monkeypatch.setattr(paths, "data", make_mvtec(tmp_path / "theirs" / MVTEC_FOLDER).parent)
    with pytest.raises(FileNotFoundError, match="theirs holds no .*LEATHER_DATA"):
        find_data()
    assert find_data("sample") == ("sample", data / "sample")


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


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("src.data.download", ("torch", "sklearn", "scipy", "matplotlib")),
        ("src.config, src.files, src.data.splits", ("torch", "matplotlib")),
    ],
)
def test_no_command_on_data_waits_for_what_it_does_not_need(modules, heavy):
    program = f"import sys, {modules}; print(*set({heavy}) & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


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


# -- two at once ----------------------------------------------------------------------------------------

SLOWLY = """
import logging, shutil, sys, time
from pathlib import Path
from src.config import paths
from src.data import download
logging.basicConfig()
paths.root = Path(sys.argv[1])
paths.data, paths.sample, paths.manifest = (paths.root / "data" / part for part in ("", "sample", "manifest.json"))
real = shutil.copyfileobj
shutil.copyfileobj = lambda reader, writer: (time.sleep(0.1), real(reader, writer))
print(sum(download.acquire("local", local=sys.argv[2]).counts.values()))
"""


def test_two_processes_that_unpack_one_zip_both_find_all_of_it(tmp_path):
    archive = zip_folder(make_both(tmp_path / "set"), tmp_path / "both.zip")
    command = [sys.executable, "-c", SLOWLY, str(tmp_path), str(archive)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    answers = [process.communicate() for process in [subprocess.Popen(command, **pipes) for _ in range(2)]]
    assert [out.strip() for out, _ in answers] == ["19", "19"], answers
    assert sum("another process is writing" in err for _, err in answers) == 1
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [CLASSES, "manifest.json", MVTEC]
    assert not list(tmp_path.glob(".*.lock"))

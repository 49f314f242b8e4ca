"""A run by Ray says what the plain run says, and says it once, whatever is killed on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from src.config import paths
from src.data.pictures import UnreadableImageError, load_image
from src.inspection import report
from src.inspection.__main__ import main
from src.inspection.inputs import Options, PictureSelection
from src.inspection.kept import Kept, Part, parts_of
from src.inspection.records import PictureRecord, RegionRecord
from src.inspection.run import inspect

COUNT, SECONDS = 24, 400  # pictures; of a test, on a busy machine


def test_without_the_option_nothing_of_it_is_needed():
    code = "import sys; sys.modules.update(ray=None, pyarrow=None, accelerate=None); import src.inspection.run"
    subprocess.run([sys.executable, "-c", code], cwd=paths.root, check=True)


def test_what_is_missing_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "src.inspection.scale", raising=False)
    monkeypatch.delattr("src.inspection.scale", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match="2"):
        main([".", "--ray"])
    assert "--ray needs ray, which is not installed: pip install '.[scale]'" in capsys.readouterr().err


def test_what_is_no_address_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--ray", "photos/", "x"])
    assert "--ray photos/ is no address" in capsys.readouterr().err


def test_what_actors_get_means_the_same_in_other_folders(monkeypatch, tmp_path):
    scale = pytest.importorskip("src.inspection.scale")
    monkeypatch.chdir(tmp_path)
    given = Options(mask=Path("masks"), rules=Path("rules.yaml"), weights="w.pth", normals=None)
    root, made = tmp_path.resolve(), scale.for_all_machines(given)
    assert (made.mask, made.rules, made.normals) == (root / "masks", root / "rules.yaml", None)
    assert made.weights == str(root / "w.pth")
    assert (
        scale.for_all_machines(Options(mask="auto")).mask == "auto"
        and scale.for_all_machines(Options()).weights == "shipped"
    )


def test_int8_is_refused(tmp_path):
    pytest.importorskip("src.inspection.scale")
    with pytest.raises(ValueError, match="another --engine"):
        inspect(["nowhere"], Options(engine="openvino-int8"), output=tmp_path, cluster="local")


# -- parts and stores, without a cluster -----------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(1, 1), (255, 1), (256, 2), (40_000, 64)])
def test_parts_hold_every_picture_once(count, size):
    made = parts_of(PictureSelection(Path("/"), {f"{n:05d}.png": Path(f"/{n}") for n in range(count)}, {}))
    assert [name for part in made for name, _ in part.pictures] == [f"{n:05d}.png" for n in range(count)]
    assert [part.number for part in made] == list(range(-(-count // size)))


def test_the_page_is_made_of_the_most_odd_and_of_errors(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(report, "SHOWN", 2)
    region = RegionRecord(1, (1.0, 2.0, 3.0, 4.0), 4.0, 0.9, 0.8, ((1.0, 2.0), (3.0, 4.0), (1.0, 2.0)))
    scores = {"a": 0.7, "b": 0.9, "c": 0.8}
    records = [
        PictureRecord(name, "defective", 8, 8, score, (region,), engine="torch") for name, score in scores.items()
    ]
    records += [
        PictureRecord(name, "good", 8, 8, score, engine="torch") for name, score in (("d", 0.1), ("e", 0.3), ("f", 0.2))
    ]
    records += [PictureRecord("g", "error", error="cannot read g", engine="torch")]
    kept = Kept(tmp_path, in_parquet=True)
    for number, some in enumerate((records[:4], records[4:])):
        kept.add(Part(number, []), some)
    table, shown = kept.read()
    assert sorted(shown, key=lambda record: record.file) == [records[n] for n in (1, 2, 6)]
    page = report.write_page(shown, table, tmp_path, dict.fromkeys(report.GIVEN.split(), "")).read_text(
        encoding="utf-8"
    )
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page)[1])
    assert data["counts"] == {"defective": 3, "good": 3, "error": 1}
    assert (data["hides"], data["rest"], data["errors"]) == ([], [0.7], [["g", "cannot read g"]])
    assert [one["file"] for one in data["pictures"]] == ["b", "c"]
    assert set(table["engine"]) == {"torch"} and kept.has(Part(1, [])) and not kept.has(Part(2, []))


@pytest.fixture(scope="module")
def leather(tmp_path_factory):
    """Grey 64 px pictures, every fourth with a bright square, and one that cannot be read."""
    folder, generator = tmp_path_factory.mktemp("scale") / "leather", np.random.default_rng(1)
    (folder / "monday").mkdir(parents=True)
    for number in range(COUNT - 1):
        pixels = generator.normal(110, 12, (64, 64, 3))
        if number % 4 == 0:
            pixels[21:32, 21:32] += 90
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "monday" / f"{number:02d} +.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def store(leather):
    """The address of a bucket with the same pictures, on a stand-in for S3."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    fs = pytest.importorskip("pyarrow.fs")
    server.start()
    host, port = server.get_host_and_port()
    query = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
    address = f"s3://key:secret@photos/leather?{query}"
    bucket = fs.FileSystem.from_uri(address)[0]
    bucket.create_dir("photos")
    fs.copy_files(str(leather), "photos/leather", destination_filesystem=bucket)
    yield address
    server.stop()


def test_stored_pictures_are_found_and_read_as_files_are(leather, store):
    stored = pytest.importorskip("src.inspection.stored")
    found = stored.find_stored([store])
    files = {path.relative_to(leather).as_posix(): path for path in sorted(leather.rglob("*.png"))}
    assert list(found.pictures) == list(files) and found.name == "leather"
    for name, picture in found.pictures.items():
        if name != "broken.png":
            assert (np.asarray(load_image(picture)) == np.asarray(load_image(files[name]))).all()
    copies = [os.fspath(picture) for picture in found.pictures.values()]
    assert sum(map(os.path.exists, copies)) == stored.COPIES
    with pytest.raises(UnreadableImageError, match="cannot read the image s3://photos/leather/gone.png") as error:
        load_image(stored.Stored(store, "photos/leather/gone.png", ""))
    assert "secret" not in str(error.value) + str(found.pictures["broken.png"])


def test_an_address_without_pictures_is_an_error(store):
    stored = pytest.importorskip("src.inspection.stored")
    with pytest.raises(ValueError, match="nowhere"):
        stored.find_stored([store.replace("photos/leather", "photos/nowhere")])


# -- slow: two simulated machines ------------------------------------------------------------------------


@pytest.fixture
def in_time():
    """Ends a test that stands still."""

    def stop(*_):
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


@pytest.fixture(scope="module")
def options(leather):
    file = leather.parent / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0, pretrained=False).state_dict(), file)
    return Options(backbone="test_vit", weights=str(file))


@pytest.fixture(scope="module")
def plain(leather, options, tmp_path_factory):
    """The records of the plain run, by file."""
    folder, _ = inspect([str(leather)], options, output=tmp_path_factory.mktemp("plain"))
    return {record.file: record for record in Kept(folder).read()[1]}


@pytest.fixture(scope="module")
def cluster():
    """Two machines of one core; the last test removes one."""
    scale = pytest.importorskip("src.inspection.scale")
    os.environ.update(scale.SETTINGS | {"RAY_memory_monitor_refresh_ms": "0"})  # the machine is shared
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=machine | {"include_dashboard": False})
    cluster.other = cluster.add_node(**machine)
    yield cluster
    import ray

    ray.shutdown()
    cluster.shutdown()


def assert_as_plain(folder, plain):
    """Every picture once, with the values of the plain run up to rounding."""
    from pyarrow import parquet

    names = parquet.read_table(folder / "pictures", columns=["file"])["file"].to_pylist()
    assert sorted(names) == sorted(plain)
    for record in Kept(folder, in_parquet=True).read()[1]:
        wanted = plain[record.file]
        assert (record.verdict, record.overlay) == (wanted.verdict, wanted.overlay)
        assert (record.error or "").partition(":")[0] == (wanted.error or "").partition(":")[0]
        assert record.score == pytest.approx(wanted.score, abs=1e-3)
        assert len(record.regions) == len(wanted.regions)
        for one, other in zip(record.regions, wanted.regions, strict=True):
            assert one.box == pytest.approx(other.box, abs=1) and one.peak == pytest.approx(other.peak, abs=1e-3)
    regions = parquet.read_table(folder / "regions", columns=["file"])["file"].to_pylist()
    assert len(regions) == sum(len(record.regions) for record in plain.values())
    assert (folder / "index.html").is_file()


@pytest.mark.slow
def test_a_store_gives_the_records_of_its_files(leather, store, options, plain, cluster, tmp_path, in_time):
    folder, judged = inspect([store], options, output=tmp_path, cluster=cluster.address)
    assert judged == COUNT - 1
    assert_as_plain(folder, plain)
    assert "secret" not in "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.[jh]*"))


def finished_parts(folder):
    """When each was written."""
    return {file: file.stat().st_mtime_ns for file in folder.glob("leather/pictures/*.parquet")}


def wait_for_parts(folder, count):
    wait_until(lambda: len(finished_parts(folder)) >= count)


def wait_until(is_so):
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() < started + SECONDS
        time.sleep(0.05)


def actors_of(node):
    """Numbers of the processes of a simulated machine that judge."""
    raylet, found = node.all_processes["raylet"][0].process.pid, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet and "MapWorker" in (process / "cmdline").read_text():
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def disturb(cluster, folder, done):
    """Kills an actor, then a machine; tells who was killed and how many parts were finished then."""
    wait_for_parts(folder, done + 2)
    killed = actors_of(cluster.head_node)
    os.kill(killed[0], signal.SIGKILL)
    wait_for_parts(folder, done + 5)
    others = actors_of(cluster.other)
    cluster.remove_node(cluster.other, allow_graceful=False)
    return killed, others, len(finished_parts(folder))


@pytest.mark.slow
def test_the_driver_an_actor_and_a_machine_are_killed(leather, options, plain, cluster, tmp_path, in_time):
    """The last test of the cluster, which has one machine afterwards."""
    command = [sys.executable, "-m", "src.inspection", str(leather), "--ray", cluster.address]
    command += ["--output", str(tmp_path), "--backbone", options.backbone, "--weights", options.weights]
    driver = subprocess.Popen(command, cwd=paths.root)
    try:
        wait_for_parts(tmp_path, 3)
    finally:
        driver.kill()
        driver.wait()
    wait_until(lambda: not actors_of(cluster.head_node) + actors_of(cluster.other))
    finished = finished_parts(tmp_path)
    assert 3 <= len(finished) < COUNT - 6
    with ThreadPoolExecutor(1) as other:
        disturbance = other.submit(disturb, cluster, tmp_path, len(finished))
        folder, judged = inspect([str(leather)], options, output=tmp_path, cluster=cluster.address)
        killed, others, done = disturbance.result(10)
    print("actors of the head, of the other machine, parts when it was removed:", killed, others, done)
    assert killed and len(others) == 1 and done < COUNT
    assert judged == COUNT - 1 and folder == tmp_path / "leather"
    assert {file: time for file, time in finished_parts(tmp_path).items() if file in finished} == finished
    assert_as_plain(folder, plain)

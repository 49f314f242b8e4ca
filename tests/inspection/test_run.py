"""A run from a folder to its tables, with a small random network."""

import json
import os
import random
import re
import shutil
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image

from src.classifier.checkpoints import save_checkpoint
from src.classifier.predict import class_probabilities, tiles_at
from src.files import load_tensors
from src.inspection import prepare
from src.inspection.export import safe_name
from src.inspection.inputs import Options
from src.inspection.run import HeldError, inspect
from src.localisation.localise import Detector
from src.synthetic.leather import draw_hide, render_leather


@pytest.fixture
def leather(tmp_path, small_and_quick):
    """Six grey 96 px pictures, two of them with a bright square at 32 to 56, and one that cannot be read."""
    generator = np.random.default_rng(5)
    (tmp_path / "leather").mkdir()
    for number in range(6):
        pixels = generator.normal(110, 12, (96, 96, 3))
        if number < 2:
            pixels[32:56, 32:56] += 90
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "leather" / f"{number}.png")
    (tmp_path / "leather" / "=broken.png").write_bytes(b"no picture")
    return tmp_path / "leather"


@pytest.fixture
def network(monkeypatch, backbone, head):
    monkeypatch.setattr(prepare, "load_backbone", lambda *_: backbone)
    monkeypatch.setattr(prepare, "find_head", lambda _: head)


@pytest.fixture
def plain(monkeypatch, backbone):
    """The network without a head."""
    monkeypatch.setattr(prepare, "load_backbone", lambda *_: backbone)
    monkeypatch.setattr(prepare, "find_head", lambda _: None)


def contents(folder):
    """The bytes of all files of a run; times are left out of the two files that hold them."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in ("inspection.json", "index.html"):
        files[name], count = re.subn(rb'"seconds": ?[\d.]+', b"", files[name])
        assert count == 1
    return files


def test_a_folder_becomes_tables_overlays_and_a_row_for_what_is_broken(leather, plain, tmp_path):
    folder, judged = inspect([str(leather)], Options(), output=tmp_path / "out")
    assert folder == tmp_path / "out" / "leather" and judged == 6
    table = pd.read_csv(folder / "inspection.csv")
    assert list(table["file"]) == [*(f"{n}.png" for n in range(6)), "'=broken.png"]
    assert list(table["verdict"][:2]) == ["defective"] * 2 and table["verdict"].iloc[-1] == "error"
    assert "cannot read the image =broken.png" in table["error"].iloc[-1]
    about = json.loads((folder / "inspection.json").read_text(encoding="utf-8"))
    assert about["mode"] == "each by the others" and about["verdicts"]["error"] == 1
    regions = pd.read_csv(folder / "regions.csv")
    of_first = regions[regions["file"] == "0.png"].iloc[0]
    middle = (of_first["left"] + of_first["right"]) / 2, (of_first["top"] + of_first["bottom"]) / 2
    assert middle == pytest.approx((44, 44), abs=12)  # px of the photograph, not of the map
    with Image.open(folder / "overlays" / f"{safe_name('0.png')}.jpg") as overlay:
        assert overlay.size == (96, 96)


@pytest.mark.parametrize("stop", [0, 3])
def test_an_interrupted_run_goes_on_and_ends_as_an_undisturbed_one(leather, network, tmp_path, monkeypatch, stop):
    whole, _ = inspect([str(leather)], Options(), output=tmp_path / "whole")

    def interrupted(detector, *others, without=None, **leather):
        if without == stop:  # the picture of that number: which others are under way depends on the machine
            raise KeyboardInterrupt
        return original(detector, *others, without=without, **leather)

    original = Detector.judge
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Detector, "judge", interrupted)
        inspect([str(leather)], Options(), output=tmp_path / "again")
    assert len(list((tmp_path / "again" / "leather" / "pictures").glob("*"))) == stop
    folder, _ = inspect([str(leather)], Options(), output=tmp_path / "again")
    assert contents(folder) == contents(whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are started by fork")
def test_killed_at_ten_random_moments_it_ends_with_the_same_files(leather, network, tmp_path):
    started = time.perf_counter()
    whole, _ = inspect([str(leather)], Options(), output=tmp_path / "whole")
    seconds, moments, done = time.perf_counter() - started, random.Random(0), []
    folder = tmp_path / "killed" / "leather"
    for _ in range(10):
        process = get_context("fork").Process(
            target=inspect, args=([str(leather)], Options()), kwargs={"output": folder.parent}
        )
        process.start()
        process.join(moments.uniform(0.15, 0.5) * seconds)
        process.kill()  # SIGKILL
        process.join()
        done.append((process.exitcode, len(list(folder.glob("pictures/*.jsonl")))))
    print("exit code and pictures done after each:", done)
    assert any(code == -signal.SIGKILL for code, _ in done)
    inspect([str(leather)], Options(), output=folder.parent)
    assert contents(folder) == contents(whole)


def test_other_settings_and_another_list_get_a_number(leather, network, tmp_path):
    names = [
        inspect([str(leather)], options, output=tmp_path / "out")[0].name
        for options in (Options(), Options(threshold=0.9))
    ]
    shutil.copy(leather / "5.png", leather / "6.png")
    names += [inspect([str(leather)], Options(threshold=p), output=tmp_path / "out")[0].name for p in (0.9, 0.8)]
    Image.new("RGB", (96, 96)).save(leather / "6.png")  # the same name, another picture
    names += [inspect([str(leather)], Options(threshold=0.8), output=tmp_path / "out")[0].name]
    assert names == ["leather", "leather-2", "leather-3", "leather-4", "leather-5"]


def test_a_run_that_was_killed_before_it_began_goes_on(leather, network, tmp_path):
    folder = tmp_path / "out" / "leather"
    folder.mkdir(parents=True)
    for name in ("run.json.part", ".run.json.part.lock"):  # what a kill leaves while run.json is written
        (folder / name).touch()
    assert inspect([str(leather)], Options(), output=tmp_path / "out") == (folder, 6)
    assert not list(folder.glob("*.part"))


def test_the_second_process_says_who_is_at_work(leather, network, tmp_path):
    inspect([str(leather)], Options(), output=tmp_path / "out")
    (tmp_path / "out" / ".leather.holder").write_text("process 7 on tannery", encoding="utf-8")
    with FileLock(tmp_path / "out" / ".leather.lock"), pytest.raises(HeldError, match="process 7 on tannery"):
        inspect([str(leather)], Options(), output=tmp_path / "out")


def test_normals_set_the_mode(leather, network, tmp_path, capsys):
    (leather / "normals").mkdir()
    for number in (4, 5):
        (leather / f"{number}.png").rename(leather / "normals" / f"{number}.png")
    folder, judged = inspect([str(leather)], Options(normals=leather / "normals"), output=tmp_path / "out")
    about = json.loads((folder / "inspection.json").read_text(encoding="utf-8"))
    assert judged == 4 and about["mode"] == "by the normal pictures" and about["facts"]["normal_images"] == 2
    assert "2 normal pictures are few" in capsys.readouterr().out


def test_of_a_large_folder_some_pictures_give_scale_and_references(leather, network, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "SIZED", 4)
    names = []
    for output in ("first", "second"):
        folder, judged = inspect([str(leather)], Options(), output=tmp_path / output)
        names.append(load_tensors(folder / "references.pt")["names"])
        assert judged == 6
    assert names[0] == names[1] and 3 <= len(names[0]) <= 4  # one of the seven is broken


def test_one_picture_is_judged_by_itself(leather, network, tmp_path):
    folder, judged = inspect([str(leather / "0.png")], Options(threshold=0.99), output=tmp_path / "out")
    about = json.loads((folder / "inspection.json").read_text(encoding="utf-8"))
    assert judged == 1 and about["mode"] == "each by itself" and about["threshold"] == 0.99 and folder.name == "0"
    assert "--threshold" in about["source"]


def test_a_threshold_needs_a_head(leather, plain, tmp_path):
    with pytest.raises(ValueError, match="no head"):
        inspect([str(leather)], Options(threshold=0.5), output=tmp_path / "out")
    assert not (tmp_path / "out" / "leather").exists()  # nothing was judged


def test_a_finished_run_keeps_how_long_it_took_and_says_what_could_not_be_judged(leather, network, tmp_path, capsys):
    folder, _ = inspect([str(leather)], Options(), output=tmp_path / "out")
    assert "1 of 7 pictures could not be judged" in capsys.readouterr().out
    first = json.loads((folder / "inspection.json").read_text(encoding="utf-8")) | {"seconds": 99.5}
    (folder / "inspection.json").write_text(json.dumps(first), encoding="utf-8")
    assert inspect([str(leather)], Options(), output=tmp_path / "out") == (folder, 6)
    assert json.loads((folder / "inspection.json").read_text(encoding="utf-8"))["seconds"] == 99.5


def test_masks_leave_the_table_out(leather, network, tmp_path):
    for number in range(5):  # 5.png has none
        mask = np.zeros((96, 96), np.uint8)
        mask[:, :60] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    folder, judged = inspect([str(leather)], Options(mask=tmp_path / "masks"), output=tmp_path / "out")
    table, regions = (pd.read_csv(folder / name) for name in ("inspection.csv", "regions.csv"))
    assert judged == 5 and "no mask" in table.set_index("file")["error"]["5.png"]
    assert (regions["right"] <= 60 + 2).all()


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_folders_whose_names_are_no_utf8_can_be_inspected(leather, network, tmp_path):
    masks, photographs = (Path(os.fsdecode(os.fsencode(tmp_path) + name)) for name in (b"/m\xe4sks", b"/h\xe4ute"))
    masks.mkdir()
    leather.rename(photographs)
    folder, judged = inspect([str(photographs)], Options(mask=masks), output=tmp_path / "out")
    assert judged == 0 and "has no mask in" in pd.read_csv(folder / "inspection.csv")["error"][0]


def test_a_picture_keeps_its_mask_where_a_normal_one_has_its_name(leather, network, tmp_path):
    normals, masks = tmp_path / "normals", tmp_path / "masks"
    normals.mkdir()
    masks.mkdir()
    for number in range(6):
        shutil.copy(leather / f"{number}.png", normals / f"{number}.png")
        Image.new("L", (96, 96), 255).save(masks / f"{number}.png")
    folder, judged = inspect([str(leather)], Options(mask=masks, normals=normals), output=tmp_path / "out")
    assert judged == 6 and pd.read_csv(folder / "inspection.csv")["error"].notna().sum() == 1  # of the broken file


@pytest.mark.slow
def test_a_strip_beside_full_pictures_keeps_their_scale_and_does_not_alarm(tmp_path):
    (tmp_path / "camera").mkdir()
    hide = draw_hide(np.random.default_rng(0))
    for number in range(4):  # the shipped network and its head, on drawn leather
        picture = Image.fromarray(render_leather(np.random.default_rng(100 + number), 448, hide=hide))
        picture.crop((0, 100, 448, 260) if number == 3 else (0, 0, 448, 448)).save(tmp_path / f"camera/{number}.png")
    folder, _ = inspect([str(tmp_path / "camera")], Options(), output=tmp_path / "out")
    about = json.loads((folder / "inspection.json").read_text(encoding="utf-8"))
    assert about["facts"]["zoom"] == 1 and about["verdicts"] == {"defective": 0, "good": 4, "error": 0}


def test_regions_get_the_class_of_their_tiles_and_hides_their_measures(leather, plain, model, tmp_path):
    save_checkpoint(model, tmp_path / "tiny.pth", run={"name": "nobody", "picture_side": 24})
    options = Options(classifier=tmp_path / "tiny.pth", mm_per_pixel=0.5)
    folder, _ = inspect([str(leather)], options, output=tmp_path / "out")
    regions, pictures = (pd.read_csv(folder / name) for name in ("regions.csv", "inspection.csv"))
    first = regions.iloc[0]
    tiles = tiles_at(Image.open(leather / "0.png").convert("RGB"), tuple(first[["left", "top", "right", "bottom"]]), 24)
    shares = class_probabilities(model, tiles).mean(0)
    assert first["label"] == model.class_names[shares.argmax()] == pictures["class"][0]
    assert first["label_probability"] == pytest.approx(shares.max(), abs=1e-3)
    assert first["area_mm2"] == pytest.approx(first["area"] * 0.25, rel=1e-3)
    assert pictures["area_m2"][0] == pytest.approx((96 * 0.5 / 1000) ** 2)
    assert len(list((folder / "hides").glob("*.dxf"))) == 6 and (folder / "annotations.json").is_file()
    about = json.loads((folder / "inspection.json").read_text(encoding="utf-8"))
    assert about["classifier"]["model"] == "tiny.pth" and "not known" in about["classifier"]["worth"]


def test_what_cannot_be_written_ends_the_run_and_is_judged_by_the_next(leather, network, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("PIL.Image.Image.save", full)
        with pytest.raises(OSError, match="Free some space"):
            inspect([str(leather)], Options(), output=tmp_path / "out")
    folder, judged = inspect([str(leather)], Options(), output=tmp_path / "out")
    assert judged == 6 and folder.name == "leather"


def test_normal_pictures_that_cannot_be_used_are_named(leather, network, tmp_path, capsys):
    normals = tmp_path / "normals"
    shutil.copytree(leather, normals)
    for number in range(6):
        (normals / f"{number}.png").rename(normals / f"n{number}.png")
    for number in range(3):
        (normals / f"n{number}.png").write_bytes((normals / "n5.png").read_bytes()[:3000])
    inspect([str(leather)], Options(normals=normals), output=tmp_path / "out")
    said = capsys.readouterr().out
    assert re.search(r"3 of 6 normal pictures cannot be used, first n0\.png: cannot read", said)
    assert "3 normal pictures are few" in said


def test_foreign_folders_get_no_report(leather, network, tmp_path):
    for name, content in (("leather", None), ("leather-2", ""), ("leather-3", "{}"), ("leather-4", "[1]")):
        if content is None:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / name).write_text("a file")
        else:
            (tmp_path / "out" / name).mkdir()
            (tmp_path / "out" / name / "run.json").write_text(content)
    assert inspect([str(leather)], Options(), output=tmp_path / "out")[0].name == "leather-5"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_pipe_is_not_waited_for(leather, network, tmp_path):
    os.mkfifo(leather / "x.jpg")
    folder, judged = inspect([str(leather)], Options(), output=tmp_path / "out")
    table = pd.read_csv(folder / "inspection.csv").set_index("file")
    assert judged == 6 and "no regular file" in table.loc["x.jpg", "error"]


def test_the_variable_of_the_engine_counts_like_the_option(leather, network, tmp_path, monkeypatch):
    folder, _ = inspect([str(leather)], Options(engine="torch"), output=tmp_path / "out")
    monkeypatch.setenv("LEATHER_ENGINE", "torch")
    assert inspect([str(leather)], Options(), output=tmp_path / "out")[0] == folder
    about = json.loads((folder / "inspection.json").read_text())
    assert about["options"]["engine"] == "torch" and about["engine"].startswith("torch")

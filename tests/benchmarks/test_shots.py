"""The study over numbers of normal images: mean and spread by hand, resumable, honest about what is left out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import shots
from benchmarks.shots import SUMMED_UP, draw_runs, main, markdown, run_study
from src.backbone.vit import load_backbone
from src.data.pictures import load_image
from src.localisation import evaluation, thresholds
from src.localisation.encoder import Encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def network():
    return load_backbone("test_vit", "shipped", pretrained=False, image_size=48)


@pytest.fixture(scope="module")
def summary(network, mvtec, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds, "PAINTED", 8)
        patch.setattr(evaluation, "REPEATS", 20)
        return run_study(network, mvtec, folder, shots=(1, 4, 8), seeds=2)


def test_every_protocol_is_run_or_left_out_with_a_reason(summary, folder):
    assert list(summary["protocols"]) == ["1-shot", "4-shot"]
    assert set(summary["left_out"]) == {"8-shot", "normals-16", "mvtec-full"}
    assert "8-shot needs 8 images" in summary["left_out"]["8-shot"]
    # of 4 images all are drawn whatever the seed: one run
    assert summary["protocols"]["4-shot"]["runs"] == 1 and summary["protocols"]["1-shot"]["runs"] == 2
    assert len(list((folder / "runs").glob("*.json"))) == len(list((folder / "runs").glob("*.pt"))) == 3
    assert set(summary["attention"]) == {"cls", "rollout"}


def test_mean_and_spread_by_hand(summary):
    entry = summary["protocols"]["1-shot"]
    for name in SUMMED_UP:
        first, second = (run[name] for run in entry["each"])
        assert entry["mean"][name] == pytest.approx((first + second) / 2)
        assert entry["deviation"][name] == pytest.approx(abs(first - second) / 2**0.5)
    assert summary["protocols"]["4-shot"]["deviation"]["pixel_ap"] is None
    assert entry["each"][0]["normals"] != entry["each"][1]["normals"]


def test_finished_runs_are_not_repeated(network, mvtec, folder, summary, monkeypatch):
    for name in ("localise", "fit_detector"):
        monkeypatch.setattr(shots, name, lambda *_, **__: pytest.fail("ran again"))
    assert run_study(network, mvtec, folder, shots=(1, 4, 8), seeds=2) == summary
    json.dumps(summary)


def test_an_interrupted_study_goes_on_with_its_detectors(network, mvtec, folder, summary, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "REPEATS", 20)
    monkeypatch.setattr(shots, "fit_detector", lambda *_, **__: pytest.fail("fitted again"))
    shutil.copytree(folder / "runs", tmp_path / "runs")
    for file in (tmp_path / "runs").glob("4-shot*.json"):
        file.unlink()
    again = run_study(network, mvtec, tmp_path, shots=(1, 4, 8), seeds=2)
    for name, value in summary["protocols"]["4-shot"]["mean"].items():
        assert again["protocols"]["4-shot"]["mean"][name] == pytest.approx(value, abs=1e-5)
    assert again["protocols"]["1-shot"] == summary["protocols"]["1-shot"]


def test_replaced_images_are_read_anew(network, mvtec, folder, summary, tmp_path):
    moved = mvtec.copy()
    shutil.copytree(Path(mvtec["path"][0]).parents[2], tmp_path / "leather")
    home = str(Path(mvtec["path"][0]).parents[2])
    for column in ("path", "mask"):
        moved[column] = moved[column].str.replace(home, str(tmp_path / "leather"), regex=False)
    runs, _ = draw_runs(network, moved, folder, (4,), 1)
    assert runs[0].file.name in {file.name for file in (folder / "runs").iterdir()}  # a copy that kept its times
    Path(moved["path"][0]).touch()
    runs, _ = draw_runs(network, moved, folder, (4,), 1)
    assert runs[0].file.name not in {file.name for file in (folder / "runs").iterdir()}


def test_each_test_image_passes_the_network_once_for_all_runs(network, mvtec, tmp_path, monkeypatch):
    monkeypatch.setattr(thresholds, "PAINTED", 8)
    monkeypatch.setattr(evaluation, "REPEATS", 20)
    tests = {np.asarray(load_image(path)).tobytes() for path in mvtec.loc[mvtec["part"] == "test", "path"]}
    read, tokens = [], Encoder.tokens
    monkeypatch.setattr(
        Encoder, "tokens", lambda self, picture: read.append(np.asarray(picture).tobytes()) or tokens(self, picture)
    )
    run_study(network, mvtec, tmp_path, shots=(1, 4), seeds=2)
    assert sorted(each for each in read if each in tests) == sorted(tests)


def test_table_has_a_row_for_each_protocol(summary):
    text = markdown(summary)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == [
        "protocol",
        "1-shot",
        "4-shot",
        "attention, cls",
        "attention, rollout",
    ]
    assert len({row.count("|") for row in rows}) == 1 and "±" in rows[1] and "±" not in rows[2]
    assert "Left out: 8-shot" in text


def test_missing_data_is_named(tmp_path, capsys):
    assert main(["--data", str(tmp_path)]) == 1
    assert "1.0.download-datasets" in capsys.readouterr().err

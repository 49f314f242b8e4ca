"""The study over numbers of normal images: mean and spread by hand, resumable, honest about what is left out."""

import json

import pytest

from benchmarks import shots
from benchmarks.shots import SUMMED_UP, main, markdown, run_study
from src.backbone.vit import load_backbone
from src.localisation import evaluation, thresholds


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
    assert len(list((folder / "runs").iterdir())) == 3
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
    monkeypatch.setattr(shots, "localise", lambda *_, **__: pytest.fail("ran again"))
    assert run_study(network, mvtec, folder, shots=(1, 4, 8), seeds=2) == summary
    json.dumps(summary)


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

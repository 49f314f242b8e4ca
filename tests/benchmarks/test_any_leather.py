"""The study of heads: gains and areas by hand, views that are turned back, finished parts that are not repeated."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import any_leather
from benchmarks.any_leather import (
    OWN,
    VIEWS,
    areas,
    gains,
    main,
    markdown,
    study_classes,
    study_mvtec,
    summarise,
)
from src.localisation.encoder import Encoder
from src.localisation.pixel_metrics import pixel_metrics
from tools.train_head import save_head


@pytest.fixture
def maps_and_masks():
    generator, masks = np.random.default_rng(0), np.zeros((8, 40, 40), bool)
    masks[:5, 4:16, 8:30] = masks[2:5, 30:36, 2:9] = True
    return np.float32(generator.normal(size=masks.shape) + 1.5 * masks), masks


def test_gains_are_paired(maps_and_masks):
    maps, masks = maps_and_masks
    same = gains(maps, 3 * maps + 1, masks)  # another scale, the same order
    assert same["gain_pixel_ap"] == pytest.approx(0, abs=2e-3)
    assert same["gain_pixel_ap_interval"] == pytest.approx([0, 0], abs=2e-3)
    worse = maps - np.float32(0.75) * masks
    found = gains(maps, worse, masks)
    for name in ("pixel_ap", "aupro_30"):
        low, high = found[f"gain_{name}_interval"]
        wanted = pixel_metrics(maps, masks)[name] - pixel_metrics(worse, masks)[name]
        assert 0 < low <= found[f"gain_{name}"] <= high and found[f"gain_{name}"] == pytest.approx(wanted, abs=4e-3)


def test_areas_by_hand():
    scores = {"good": [0.1, 0.5], "hole": [0.6, 0.9], "crease": [0.3, 0.0]}
    assert areas(scores, "good") == {"all": 5 / 8, "hole": 1.0, "crease": 1 / 4}


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
@pytest.mark.parametrize("view", VIEWS)
def test_views_are_brought_back(view, size):
    """For a detector whose map is the picture itself every view gives the same map."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))

    def judge(shown):
        return SimpleNamespace(map=np.asarray(shown, np.float32).mean(2))

    encoder = SimpleNamespace(zoom=14 / 8, backbone=SimpleNamespace(patch=14))  # a map pixel is a picture's
    detector = SimpleNamespace(judge=judge, encoder=encoder)
    for values in VIEWS[view](picture, detector, judge(picture).map):
        assert np.array_equal(values, judge(picture).map)


@pytest.fixture
def heads(head, monkeypatch):
    monkeypatch.setattr(any_leather, "DRAWS", 20)
    with torch.no_grad():
        network = type(head.network)(2).eval()
        network.out.bias.fill_(-2.5)
    return {"first": head, "second": replace(head, network=network)}


def test_a_study_goes_on_where_it_stopped(backbone, heads, mvtec, pictures, small_and_quick, tmp_path, monkeypatch):
    monkeypatch.setattr(any_leather, "SHOTS", (1, 8))  # there is one normal image
    table = mvtec.drop_duplicates(["part", "defect"])  # one normal image, and a good, a cut and a glued one
    arguments = backbone, heads, table, tmp_path / "parts"
    results = study_mvtec(*arguments, views=True)
    assert list(results) == ["zero-shot", "unlabelled-folder", "1-shot", *VIEWS]
    classes = study_classes(backbone, heads, pictures, tmp_path / "parts", tiles=2)
    next((tmp_path / "parts").glob("1-shot*")).unlink()
    passed, inputs = [], Encoder.inputs
    monkeypatch.setattr(Encoder, "inputs", lambda self, picture: passed.append(picture) or inputs(self, picture))
    again = study_mvtec(*arguments, views=True)
    for name in ("pixel_ap", "aupro_30"):
        assert again["1-shot"][OWN][name] == pytest.approx(results["1-shot"][OWN][name], abs=1e-3)
    assert {name: again[name] for name in again if name != "1-shot"} == {
        name: results[name] for name in results if name != "1-shot"
    }
    assert 3 <= len(passed) <= 3 + 3  # three test images, and one normal image a detector
    passed.clear()
    assert study_mvtec(*arguments, views=True) == again
    assert study_classes(backbone, heads, pictures, tmp_path / "parts", tiles=2) == classes and not passed

    summary = summarise(results, classes)
    ap = [results["zero-shot"][name]["pixel_ap"] for name in heads]
    assert summary["protocols"]["zero-shot"]["heads"]["pixel_ap"] == {
        "mean": pytest.approx(np.mean(ap)),
        "min": min(ap),
        "max": max(ap),
    }
    assert set(summary["classes"]["mean"]["each"]) == set(heads)
    assert list(classes["score"][OWN]) == [
        "all",
        "folding_marks",
        "grain_off",
        "growth_marks",
        "loose_grain",
        "pinhole",
    ]
    text = markdown({**summary, "heads": heads, "backbone": "test_vit", "weights": "random"})
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(tables) == 1 + 5 + 1 + 4


def test_heads_of_other_blocks_are_refused(backbone, heads, mvtec, tmp_path):
    heads["second"] = replace(heads["second"], facts=replace(heads["second"].facts, blocks=(1, 2)))
    with pytest.raises(ValueError, match="different blocks"):
        study_mvtec(backbone, heads, mvtec, tmp_path)


def test_the_command_reads_heads_and_writes_tables(
    backbone, heads, mvtec, small_and_quick, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(any_leather, "load_backbone", lambda *_, **__: backbone)
    monkeypatch.setattr(any_leather, "SHOTS", (1,))
    files = [str(save_head(head, tmp_path / f"{name}.safetensors")) for name, head in heads.items()]
    root = str(mvtec["path"][0]).rpartition("/leather/")[0]
    main(["--data", root, "--heads", *files, "--name", "tiny", "--output", str(tmp_path)])
    result = json.loads((tmp_path / "any_leather_tiny.json").read_text())
    assert len(result["heads"]) == 2 and list(result["protocols"]) == ["zero-shot", "unlabelled-folder", "1-shot"]
    assert (tmp_path / "any_leather_tiny.md").read_text().strip() in capsys.readouterr().out
    other = save_head(
        replace(heads["first"], facts=replace(heads["first"].facts, tokens="0")), tmp_path / "x.safetensors"
    )
    with pytest.raises(ValueError, match="is no head for"):
        main(["--data", root, "--heads", str(other), "--output", str(tmp_path)])

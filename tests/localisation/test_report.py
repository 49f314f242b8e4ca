"""The reports on MVTec AD: pictures chosen by rule, every file under its name, counts in words."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.data.pictures import load_image
from src.localisation import report
from src.localisation.evaluation import brightness_control, localisation_metrics
from src.localisation.localise import Localisation, localise, read_tokens
from src.localisation.regions import judge_map
from src.localisation.report import choose_examples, write_mvtec_reports
from src.localisation.study import Study
from src.localisation.thresholds import make_encoder, normals_detector, zero_shot_detector

FILES = {
    "validacion_visual_mvtec.png",
    "imagenes_ejemplo_mvtec.png",
    "visual_validation_summary.txt",
    "mvtec_metrics.json",
}
# The keys of an entry: other tools read them.
KEYS = {
    "engine",
    "aupro_30",
    "backbone",
    "bank_patches",
    "blocks",
    "evaluation_size",
    "false_alarms",
    "image_accuracy_at_threshold",
    "image_ap",
    "image_auroc",
    "image_f1",
    "image_false_alarm_rate",
    "image_threshold",
    "images_per_second_after_tokens",
    "interval_method",
    "intervals",
    "iou_at_threshold",
    "misses",
    "n",
    "normal_images",
    "oracle",
    "per_defect",
    "pixel_ap",
    "pixel_auroc",
    "pixel_f1_at_threshold",
    "pixel_f1_max",
    "pixel_threshold",
    "protocol",
    "settings_source",
    "threshold_source",
    "weights",
    "zoom",
}


def localisation_of(defects, scores, thresholds):
    maps = np.array([np.full((4, 4), score) for score in scores])
    judgements = [judge_map(values, thresholds) for values in maps]
    return Localisation("4-shot", pd.DataFrame({"defect": defects}), judgements, maps, maps > 9, thresholds, True, {})


def test_pictures_are_chosen_by_rule(crafted):
    assert choose_examples(crafted) == [(2, "median"), (3, "median"), (1, "highest normal")]
    many = localisation_of(["good", "good", "cut", "cut", "cut"], [0.2, 0.5, 0.9, 0.3, 0.6], crafted.thresholds)
    assert choose_examples(many) == [(4, "median"), (3, "lowest"), (1, "highest normal")]


def test_misses_and_false_alarms_are_shown_too_but_never_more_than_ten_images(crafted):
    scores = [*np.linspace(1, 2, 3), *np.linspace(0, 0.4, 12)]  # every normal image alarms, every cut is missed
    rows = choose_examples(localisation_of(["good"] * 3 + ["cut"] * 12, scores, crafted.thresholds))
    rules = ["median", "lowest", "highest normal", *2 * ["false alarm"], *5 * ["missed"]]
    assert [rule for _, rule in rows] == rules
    assert [index for index, rule in rows if rule == "false alarm"] == [1, 0]  # highest first; 2 is shown already
    assert [index for index, rule in rows if rule == "missed"] == [4, 5, 6, 7, 9]  # lowest first; 3 and 8 are shown
    types = [f"type {number:02d}" for number in range(12)]
    rows = choose_examples(localisation_of(["good", *types], [2.0, *np.linspace(1, 0, 12)], crafted.thresholds))
    assert [rule for _, rule in rows] == 8 * ["median"] + ["lowest", "highest normal"]


@pytest.fixture
def study(request, backbone, head, normals, test_rows, small_and_quick):
    its_head = None if getattr(request, "param", "") == "plain" else head
    encoder = make_encoder(backbone, zoom=2.0, head=its_head)
    tokens, pictures = read_tokens(encoder, test_rows), [load_image(path) for path in normals]
    zero_shot = localise(zero_shot_detector(encoder, its_head, pictures), test_rows, tokens)
    k_shot = localise(normals_detector(encoder, its_head, pictures, protocol="4-shot"), test_rows, tokens)
    metrics = {
        "protocols": {each.protocol: localisation_metrics(each) for each in (zero_shot, k_shot)},
        "attention": {"cls": {"pixel_auroc": 0.625, "pixel_ap": 0.125, "aupro_30": 0.25}},
        "brightness_control_image_auroc": brightness_control(test_rows),
    }
    return Study(zero_shot, k_shot, {}, metrics)


BOTH = pytest.mark.parametrize("study", ["head", "plain"], indirect=True)


def write(study, folder):
    return write_mvtec_reports(study, study.metrics | {"run": {"seed": 42}}, folder, about="tiny, test_vit")


def test_every_report_is_written_under_its_name(study, tmp_path):
    folder = tmp_path / "resultados_mvtec_visual"
    written = write(study, folder)
    assert {path.name for path in folder.iterdir()} == FILES == {path.name for path in written}
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 200

    content = json.loads((folder / "mvtec_metrics.json").read_text())
    assert content["run"] == {"seed": 42} and list(content["protocols"]) == ["zero-shot", "4-shot"]
    for (name, entry), further in zip(content["protocols"].items(), (set(), {"seed"}), strict=True):
        assert set(entry) == KEYS | further
        assert entry["pixel_ap"] == pytest.approx(study.metrics["protocols"][name]["pixel_ap"], rel=1e-5)
        assert entry["image_auroc"] > 0.8 and entry["pixel_auroc"] > 0.9 and set(entry["per_defect"]) == {"cut", "glue"}


@BOTH
def test_no_fact_overwrites_a_figure(study):
    for shown in (study.zero_shot, study.k_shot):
        figures = set(study.metrics["protocols"][shown.protocol]) - set(shown.facts)
        bare = Localisation(**vars(shown) | {"facts": {}})
        assert set(localisation_metrics(bare)) == figures


@BOTH
def test_the_summary_counts_what_was_called(study, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "save_figure", lambda figure, path, **_: path)  # they take seconds
    write(study, tmp_path)
    text = (tmp_path / "visual_validation_summary.txt").read_text()
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    for name, rows in study.k_shot.test.groupby("defect"):
        called = [str(shown.called[rows.index].sum()) for shown in (study.zero_shot, study.k_shot)]
        assert lines[name] == [name, str(len(rows)), *called]
    for shown, normal_images in ((study.zero_shot, 0), (study.k_shot, 4)):
        assert f"Protocol {shown.protocol}: {normal_images} normal images" in text
        assert f"{shown.thresholds.outline:.4f}, verdict from {shown.thresholds.verdict:.4f}" in text
        alarms, misses = shown.called & ~shown.is_defect, ~shown.called & shown.is_defect
        assert f"{alarms.sum()} false alarms among 3, {misses.sum()} misses among 5" in text
    assert "tiny, test_vit" in text and lines["attention,"][1:] == ["cls", "0.625", "0.125", "0.250"]


def test_a_failed_figure_loses_no_number(study, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "plot_localisation", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(study, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"visual_validation_summary.txt", "mvtec_metrics.json"}

"""The reports on MVTec AD: pictures chosen by rule, every file under its name, counts in words."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.data.pictures import load_image
from src.localisation import report
from src.localisation.encoder import default_settings
from src.localisation.evaluation import brightness_control, localisation_metrics
from src.localisation.localise import Localisation, localise
from src.localisation.report import choose_examples, write_mvtec_reports
from src.localisation.thresholds import fit_detector
from tests.conftest import BANK

FILES = {
    "validacion_visual_mvtec.png",
    "imagenes_ejemplo_mvtec.png",
    "visual_validation_summary.txt",
    "mvtec_metrics.json",
}
# The keys of an entry before localisation was rebuilt: other tools read them.
KEYS = {
    "aupro_30",
    "backbone",
    "bank_patches",
    "blocks",
    "coreset",
    "evaluation_size",
    "image_accuracy_at_threshold",
    "image_ap",
    "image_auroc",
    "image_f1",
    "image_false_alarm_rate",
    "image_threshold",
    "image_threshold_source",
    "images_per_second",
    "interval_method",
    "intervals",
    "iou_at_threshold",
    "limit",
    "n",
    "neighbours",
    "normal_images",
    "oracle",
    "overlap",
    "per_defect",
    "pixel_ap",
    "pixel_auroc",
    "pixel_f1_at_threshold",
    "pixel_f1_max",
    "pixel_f1_on_painted",
    "pixel_threshold",
    "pixel_threshold_source",
    "protocol",
    "seed",
    "settings_source",
    "side",
    "smoothing",
    "tile",
    "turns",
    "weights",
}


def localisation_of(defects, scores, thresholds):
    maps = np.zeros((len(defects), 4, 4))
    return Localisation(
        "4-shot", pd.DataFrame({"defect": defects}), maps, maps > 0, np.array(scores), thresholds, BANK, {}
    )


def test_pictures_are_chosen_by_rule(crafted):
    assert choose_examples(crafted) == [(2, "highest"), (3, "highest"), (1, "highest normal")]
    many = localisation_of(["good", "good", "cut", "cut", "cut"], [0.2, 0.5, 0.9, 0.3, 0.6], crafted.thresholds)
    rules = {2: "highest", 4: "median", 3: "lowest", 1: "highest normal"}
    assert dict(choose_examples(many)) == rules


def test_misses_and_false_alarms_are_shown_too(crafted):
    count = 12  # every normal image alarms, every cut is missed
    scores = [*np.linspace(1, 2, count), *np.linspace(0, 0.4, count)]
    rows = choose_examples(localisation_of(["good"] * count + ["cut"] * count, scores, crafted.thresholds))
    rules = ["highest", "median", "lowest", "highest normal", *3 * ["missed"], *3 * ["alarm"]]
    assert [rule for _, rule in rows] == rules
    assert [index for index, rule in rows if rule == "missed"] == [13, 14, 15]  # lowest first; 12 is shown already
    assert [index for index, rule in rows if rule == "alarm"] == [10, 9, 8]


@pytest.fixture
def shown(backbone, normals, test_rows, small_and_quick):
    pictures = [load_image(path) for path in normals]
    candidates = [default_settings(backbone, pictures[0])]
    detector = fit_detector(backbone, pictures, protocol="4-shot", candidates=candidates, device=torch.device("cpu"))
    return localise([detector], test_rows)[0]


@pytest.fixture
def content(shown, test_rows):
    return {
        "protocols": {"4-shot": localisation_metrics(shown)},
        "classifier_scores": {},
        "brightness_control_image_auroc": brightness_control(test_rows),
        "run": {"seed": 42},
        "attention": {"cls": {"pixel_auroc": 0.625, "pixel_ap": 0.125, "aupro_30": 0.25}},
    }


def test_every_report_is_written_under_its_name(shown, content, tmp_path):
    folder = tmp_path / "resultados_mvtec_visual"
    written = write_mvtec_reports(shown, content, folder, about="tiny, test_vit")
    assert {path.name for path in folder.iterdir()} == FILES == {path.name for path in written}
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 200

    entry = json.loads((folder / "mvtec_metrics.json").read_text())["protocols"]["4-shot"]
    assert set(entry) == KEYS == set(content["protocols"]["4-shot"])
    assert entry["pixel_ap"] == pytest.approx(content["protocols"]["4-shot"]["pixel_ap"], rel=1e-5)
    assert (entry["turns"], entry["coreset"], entry["evaluation_size"]) == (False, "random", 256)
    assert entry["image_auroc"] == 1 and entry["pixel_auroc"] > 0.9 and set(entry["per_defect"]) == {"cut", "glue"}


def test_the_summary_counts_what_was_called(shown, content, tmp_path):
    write_mvtec_reports(shown, content, tmp_path, about="tiny, test_vit")
    text = (tmp_path / "visual_validation_summary.txt").read_text()
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    for name, rows in shown.test.groupby("defect"):
        assert lines[name] == [name, str(len(rows)), str(shown.called[rows.index].sum())]
    assert f"({shown.thresholds.pixel:.4f})" in text and f"reaches {shown.thresholds.image:.4f}" in text
    assert "tiny, test_vit" in text and lines["attention,"][1:] == ["cls", "0.625", "0.125", "0.250"]


def test_a_failed_figure_loses_no_number(shown, content, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "plot_localisation", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_mvtec_reports(shown, content, tmp_path, about="tiny, test_vit")
    assert {path.name for path in tmp_path.iterdir()} == {"visual_validation_summary.txt", "mvtec_metrics.json"}

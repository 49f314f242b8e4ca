"""The reports on MVTec AD: pictures chosen by rule, every file under its name, counts in words."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.localisation import report
from src.localisation.encoder import default_settings
from src.localisation.evaluation import brightness_control, localisation_metrics
from src.localisation.localise import Localisation, localise
from src.localisation.report import write_mvtec_reports

FILES = {
    "validacion_visual_mvtec.png",
    "imagenes_ejemplo_mvtec.png",
    "visual_validation_summary.txt",
    "mvtec_metrics.json",
}


def test_pictures_are_chosen_by_rule(crafted):
    found = crafted
    many = Localisation(
        "4-shot",
        pd.DataFrame({"defect": ["good", "good", "cut", "cut", "cut"]}),
        found.maps[[0, 1, 2, 2, 2]],
        found.masks[[0, 1, 2, 2, 2]],
        np.array([0.2, 0.5, 0.9, 0.3, 0.6]),
        crafted.thresholds,
        crafted.bank_settings,
        {},
    )
    assert report._chosen_rows(found) == [(2, "highest"), (3, "highest"), (1, "highest normal")]
    rules = {2: "highest", 4: "median", 3: "lowest", 1: "highest normal"}
    assert dict(report._chosen_rows(many)) == rules


def test_misses_and_false_alarms_are_shown_too(crafted):
    count = 12
    found = Localisation(
        "4-shot",
        pd.DataFrame({"defect": ["good"] * count + ["cut"] * count}),
        np.zeros((2 * count, 4, 4)),
        np.zeros((2 * count, 4, 4), bool),
        np.r_[np.linspace(1, 2, count), np.linspace(0, 0.4, count)],
        crafted.thresholds,
        crafted.bank_settings,
        {},
    )
    found.maps[:count] = 1  # every normal image alarms, every cut is missed
    rows = report._chosen_rows(found)
    rules = ["highest", "median", "lowest", "highest normal", *3 * ["missed"], *3 * ["alarm"]]
    assert [rule for _, rule in rows] == rules
    assert [index for index, rule in rows if rule == "missed"] == [13, 14, 15]  # lowest first; 12 is shown already
    assert [index for index, rule in rows if rule == "alarm"] == [10, 9, 8]


@pytest.mark.usefixtures("small_and_quick")
def test_every_report_is_written_under_its_name(backbone, normals, test_rows, tmp_path):
    settings = default_settings(backbone, Image.new("RGB", (96, 96)))
    found = localise(backbone, normals, test_rows, protocol="4-shot", settings=settings, device=torch.device("cpu"))
    content = {
        "protocols": {"4-shot": localisation_metrics(found)},
        "classifier_scores": {},
        "brightness_control_image_auroc": brightness_control(test_rows),
        "run": {"seed": 42},
        "attention": {"cls": {"pixel_auroc": 0.625, "pixel_ap": 0.125, "aupro_30": 0.25}},
    }
    folder = tmp_path / "resultados_mvtec_visual"
    written = write_mvtec_reports(found, content, folder, about="tiny, test_vit")
    assert {path.name for path in folder.iterdir()} == FILES == {path.name for path in written}
    for path in written[2:]:
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 200

    entry = json.loads((folder / "mvtec_metrics.json").read_text())["protocols"]["4-shot"]
    assert entry["pixel_ap"] == pytest.approx(content["protocols"]["4-shot"]["pixel_ap"], rel=1e-5)
    assert set(entry) >= {
        "image_auroc",
        "image_ap",
        "image_f1",
        "pixel_auroc",
        "pixel_ap",
        "pixel_f1_max",
        "aupro_30",
        "pixel_f1_at_threshold",
        "iou_at_threshold",
        "intervals",
        "pixel_threshold",
        "pixel_threshold_source",
        "image_threshold",
        "image_threshold_source",
        "oracle",
        "n",
        "per_defect",
        "protocol",
        "backbone",
        "blocks",
        "side",
        "bank_patches",
        "images_per_second",
        "seed",
        "normal_images",
    }
    assert entry["image_auroc"] == 1 and entry["pixel_auroc"] > 0.9 and set(entry["per_defect"]) == {"cut", "glue"}

    text = (folder / "visual_validation_summary.txt").read_text()
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    for name, rows in found.test.groupby("defect"):
        assert lines[name] == [name, str(len(rows)), str(found.called[rows.index].sum())]
    assert f"({found.thresholds.pixel:.4f})" in text and f"reaches {found.thresholds.image:.4f}" in text
    assert "tiny, test_vit" in text and lines["attention,"][1:] == ["cls", "0.625", "0.125", "0.250"]

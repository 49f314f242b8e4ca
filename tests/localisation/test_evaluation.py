"""Figures of anomaly maps: by hand on four 2 x 2 maps, against scikit-learn, and the controls beside them."""

from dataclasses import replace

import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from src.localisation.evaluation import brightness_control, localisation_metrics

pytestmark = pytest.mark.usefixtures("small_and_quick")


def test_metrics_by_hand(crafted):
    entry = localisation_metrics(crafted)
    assert crafted.called.tolist() == [False, True, True, False]
    assert crafted.scores == pytest.approx([0.2, 0.6, 0.8, 0.3])
    assert entry["image_accuracy_at_threshold"] == 0.5 and entry["image_false_alarm_rate"] == 0.5
    assert (entry["false_alarms"], entry["misses"]) == (1, 1)
    assert entry["image_f1"] == 0.5  # one of two called is defective, one of two defective is called
    assert entry["pixel_f1_at_threshold"] == pytest.approx(2 * 2 / (3 + 4))  # 2 of 3 marked and of 4 true pixels
    assert entry["iou_at_threshold"] == pytest.approx(2 / 5)
    assert entry["image_auroc"] == 0.75  # of four pairs, poke below the alarming good one
    assert entry["image_ap"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert entry["n"] == {"good": 2, "cut": 1, "poke": 1} and entry["blocks"] == (3,) and entry["protocol"] == "4-shot"
    assert (entry["pixel_threshold"], entry["image_threshold"]) == (0.5, 0.55)
    assert entry["threshold_source"] == "painted" and entry["evaluation_size"] == 256
    assert (entry["per_defect"]["cut"]["image_auroc"], entry["per_defect"]["poke"]["image_auroc"]) == (1, 0.5)
    assert entry["per_defect"]["cut"]["found_at_threshold"] == 1
    assert entry["per_defect"]["poke"]["found_at_threshold"] == 0
    wanted = average_precision_score(crafted.masks.ravel(), crafted.maps.ravel())
    assert entry["pixel_ap"] == pytest.approx(wanted)
    assert entry["per_defect"]["cut"]["pixel_auroc"] == pytest.approx(
        roc_auc_score(crafted.masks[:3].ravel(), crafted.maps[:3].ravel())
    )


def test_every_main_figure_has_an_interval_around_it(crafted):
    entry = localisation_metrics(crafted)
    assert set(entry["intervals"]) == {
        "image_auroc",
        "image_ap",
        "image_f1",
        "image_accuracy_at_threshold",
        "pixel_auroc",
        "pixel_ap",
        "pixel_f1_max",
        "aupro_30",
        "pixel_f1_at_threshold",
        "iou_at_threshold",
    }
    for name, (low, high) in entry["intervals"].items():
        assert 0 <= low <= entry[name] <= high <= 1
    assert localisation_metrics(crafted) == entry != localisation_metrics(crafted, seed=1)


def test_facts_are_added_and_hide_no_figure(crafted):
    plain = localisation_metrics(replace(crafted, facts={}))
    assert localisation_metrics(replace(crafted, facts={"zoom": 2.0})) == plain | {"zoom": 2.0}


def test_brightness_control_by_hand(tmp_path):
    rows = []
    for number, (grey, defect) in enumerate([(100, "good"), (110, "good"), (130, "good"), (120, "cut"), (140, "cut")]):
        Image.new("L", (4, 4), grey).save(tmp_path / f"{number}.png")
        rows.append((str(tmp_path / f"{number}.png"), defect))
    test = pd.DataFrame(rows, columns=["path", "defect"])
    assert brightness_control(test) == pytest.approx(5 / 6)  # of six pairs only 120 < 130 is wrong
    test["defect"] = ["cut", "cut", "cut", "good", "good"]  # now darker is more defective
    assert brightness_control(test) == pytest.approx(5 / 6)

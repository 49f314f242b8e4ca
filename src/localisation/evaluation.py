"""Figures of anomaly maps on MVTec AD: the entries of ``mvtec_metrics.json``, and the controls beside them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from ..data.pictures import load_image
from ..metrics import average_precision, bootstrap_interval, image_metrics
from .localise import Localisation
from .pixel_metrics import BINS, pixel_intervals, pixel_metrics, threshold_metrics

REPEATS = 500  # draws of images for an interval


def localisation_metrics(shown: Localisation, *, seed: int = 0) -> dict[str, Any]:
    """One entry of ``mvtec_metrics.json``: image and pixel figures, at the thresholds and without.

    Figures of a defect type are over its images and all normal ones.
    """
    is_defect, called, thresholds = shown.is_defect, shown.called, shown.thresholds
    per_defect = {}
    for name in sorted(set(shown.test.loc[is_defect, "defect"])):
        chosen = (shown.test["defect"] == name).to_numpy()
        rate = {"n": int(chosen.sum()), "found_at_threshold": float(called[chosen].mean())}
        per_defect[name] = rate | _figures(shown.of_rows(chosen | ~is_defect))
    statistics = {
        "image_auroc": (roc_auc_score, shown.image_scores),
        "image_ap": (average_precision, shown.image_scores),
        "image_f1": (f1_score, called),
        "image_accuracy_at_threshold": (accuracy_score, called),
    }
    intervals = {
        name: bootstrap_interval(statistic, is_defect, values, repeats=REPEATS, seed=seed)
        for name, (statistic, values) in statistics.items()
    }
    intervals |= pixel_intervals(shown.maps, shown.masks, threshold=thresholds.pixel, repeats=REPEATS, seed=seed)
    return {
        **_figures(shown),
        "image_f1": float(f1_score(is_defect, called)),
        "image_accuracy_at_threshold": float((called == is_defect).mean()),
        "image_false_alarm_rate": float(called[~is_defect].mean()) if (~is_defect).any() else None,
        "intervals": intervals,
        "interval_method": f"95 %, {REPEATS} draws of images; pixel figures from {BINS:,} bins of scores",
        "pixel_threshold": thresholds.pixel,
        "pixel_threshold_source": thresholds.pixel_source,
        "pixel_f1_on_painted": thresholds.painted_f1,
        "image_threshold": thresholds.image,
        "image_threshold_source": thresholds.image_source,
        "oracle": ["pixel_f1_max"],
        "protocol": shown.protocol,
        "n": {name: int(count) for name, count in shown.test["defect"].value_counts().items()},
        "per_defect": per_defect,
        **shown.facts,
        **asdict(shown.bank_settings),
        "turns": False,  # this and the next are no settings any more; readers of the file know them
        "coreset": "random",
    }


def _figures(shown: Localisation) -> dict[str, float]:
    maps, masks = shown.maps, shown.masks
    return {
        **image_metrics(shown.is_defect, shown.image_scores),
        **pixel_metrics(maps, masks),
        **threshold_metrics(maps, masks, threshold=shown.thresholds.pixel),
    }


def brightness_control(test: pd.DataFrame) -> float:
    """Image AUROC of nothing but the mean grey level, the better of both directions: what any method must beat."""
    grey = np.array([np.asarray(load_image(path).convert("L")).mean() for path in test["path"]])
    area = roc_auc_score(test["defect"] != "good", grey)
    return float(max(area, 1 - area))

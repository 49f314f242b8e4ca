"""Figures of anomaly maps on MVTec AD: the entries of ``mvtec_metrics.json``, and the controls beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from ..data.pictures import load_image
from ..metrics import REPEATS, average_precision, bootstrap_interval, image_metrics
from .localise import EVALUATION_SIZE, Localisation
from .pixel_metrics import BINS, pixel_intervals, pixel_metrics, threshold_metrics


def localisation_metrics(shown: Localisation, *, seed: int = 0) -> dict[str, Any]:
    """One entry of ``mvtec_metrics.json``: image and pixel figures, at the thresholds and without.

    Figures of a defect type are over its images and all normal ones. The pixel threshold is that of outlines, the image
    threshold that of the verdict.
    """
    is_defect, called, thresholds = shown.is_defect, shown.called, shown.thresholds
    per_defect = {}
    for name in sorted(set(shown.test.loc[is_defect, "defect"])):
        chosen = (shown.test["defect"] == name).to_numpy()
        rate = {"n": int(chosen.sum()), "found_at_threshold": float(called[chosen].mean())}
        per_defect[name] = rate | _figures(shown.of_rows(chosen | ~is_defect))
    statistics = {
        "image_auroc": (roc_auc_score, shown.scores),
        "image_ap": (average_precision, shown.scores),
        "image_f1": (f1_score, called),
        "image_accuracy_at_threshold": (accuracy_score, called),
    }
    intervals = {
        name: bootstrap_interval(statistic, is_defect, values, repeats=REPEATS, seed=seed)
        for name, (statistic, values) in statistics.items()
    }
    intervals |= pixel_intervals(shown.maps, shown.masks, threshold=thresholds.outline, repeats=REPEATS, seed=seed)
    return {
        **_figures(shown),
        "image_f1": float(f1_score(is_defect, called)),
        "image_accuracy_at_threshold": float((called == is_defect).mean()),
        "image_false_alarm_rate": float(called[~is_defect].mean()) if (~is_defect).any() else None,
        "false_alarms": int(called[~is_defect].sum()),
        "misses": int((~called[is_defect]).sum()),
        "intervals": intervals,
        "interval_method": f"95 %, {REPEATS} draws of images; pixel figures from {BINS:,} bins of scores",
        "pixel_threshold": thresholds.outline,
        "image_threshold": thresholds.verdict,
        "threshold_source": thresholds.source,
        "oracle": ["pixel_f1_max"],
        "protocol": shown.protocol,
        "n": {name: int(count) for name, count in shown.test["defect"].value_counts().items()},
        "per_defect": per_defect,
        "evaluation_size": EVALUATION_SIZE[0],
        **shown.facts,
    }


def _figures(shown: Localisation) -> dict[str, float]:
    maps, masks = shown.maps, shown.masks
    return {
        **image_metrics(shown.is_defect, shown.scores),
        **pixel_metrics(maps, masks),
        **threshold_metrics(maps, masks, threshold=shown.thresholds.outline),
    }


def brightness_control(test: pd.DataFrame) -> float:
    """Image AUROC of nothing but the mean grey level, the better of both directions: what any method must beat."""
    grey = np.array([np.asarray(load_image(path).convert("L")).mean() for path in test["path"]])
    area = roc_auc_score(test["defect"] != "good", grey)
    return float(max(area, 1 - area))

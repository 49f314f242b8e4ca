"""Figures of anomaly maps on MVTec AD: the entries of ``mvtec_metrics.json``, and the controls beside them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score, roc_auc_score

from ..data.pictures import load_image
from ..metrics import average_precision, bootstrap_interval, image_metrics
from .localise import Localisation
from .pixel_metrics import BINS, pixel_intervals, pixel_metrics, threshold_metrics

REPEATS = 500  # draws of images for an interval


def localisation_metrics(localised: Localisation, *, seed: int = 0) -> dict[str, Any]:
    """One entry of ``mvtec_metrics.json``: image and pixel figures, at the thresholds and without, per defect type.

    ``intervals`` holds 95 % bootstrap intervals over images, by name of the figure. ``pixel_f1_max`` is an oracle:
    its threshold is picked on the test masks. Figures of a defect type are over its images and all normal ones.
    """
    is_defect, called, thresholds = localised.is_defect, localised.called, localised.thresholds
    per_defect = {}
    for name in sorted(set(localised.test.loc[is_defect, "defect"])):
        chosen = (localised.test["defect"] == name).to_numpy()
        both = chosen | ~is_defect
        per_defect[name] = {
            "n": int(chosen.sum()),
            **image_metrics(chosen[both], localised.image_scores[both]),
            "found_at_threshold": float(called[chosen].mean()),
            **_pixel_figures(localised, both),
        }
    intervals = {
        name: bootstrap_interval(statistic, is_defect, values, repeats=REPEATS, seed=seed)
        for name, statistic, values in (
            ("image_auroc", roc_auc_score, localised.image_scores),
            ("image_ap", average_precision, localised.image_scores),
            ("image_f1", f1_score, called),
            ("image_accuracy_at_threshold", lambda truth, answer: np.mean(truth == answer), called),
        )
    }
    return {
        **image_metrics(is_defect, localised.image_scores),
        "image_f1": float(f1_score(is_defect, called)),
        "image_accuracy_at_threshold": float((called == is_defect).mean()),
        "image_false_alarm_rate": float(called[~is_defect].mean()) if (~is_defect).any() else None,
        **_pixel_figures(localised, np.full(len(is_defect), True)),
        "intervals": intervals
        | pixel_intervals(localised.maps, localised.masks, threshold=thresholds.pixel, repeats=REPEATS, seed=seed),
        "interval_method": f"95 %, {REPEATS} draws of images; pixel figures from {BINS:,} bins of scores",
        "pixel_threshold": thresholds.pixel,
        "pixel_threshold_source": thresholds.pixel_source,
        "pixel_f1_on_painted": thresholds.painted_f1,
        "image_threshold": thresholds.image,
        "image_threshold_source": thresholds.image_source,
        "oracle": ["pixel_f1_max"],
        "protocol": localised.protocol,
        "n": {name: int(count) for name, count in localised.test["defect"].value_counts().items()},
        "per_defect": per_defect,
        **localised.facts,
        **asdict(localised.bank_settings),
    }


def brightness_control(test: pd.DataFrame) -> float:
    """Image AUROC of nothing but the mean grey level, the better of both directions: what any method must beat."""
    grey = np.array([np.asarray(load_image(path).convert("L")).mean() for path in test["path"]])
    area = roc_auc_score(test["defect"] != "good", grey)
    return float(max(area, 1 - area))


def _pixel_figures(localised: Localisation, rows: np.ndarray) -> dict[str, float]:
    maps, masks = localised.maps[rows], localised.masks[rows]
    return pixel_metrics(maps, masks) | threshold_metrics(maps, masks, threshold=localised.thresholds.pixel)

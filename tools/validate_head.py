"""Calibrates a trained head, sets its thresholds and measures it: on painted and on real leather, no test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from src.localisation.head import DefectHead, defect_logits
from src.localisation.pixel_metrics import best_pixel_threshold, threshold_metrics
from src.localisation.regions import Thresholds, judge_map
from src.metrics import average_precision
from tools.boxes import BOX
from tools.head_data import MODES, Examples

ALARMS = (0.05, 0.01)  # operating points: share of pieces of real leather that alarm
DRAWS = 1000  # of originals, for the interval of a threshold
AT_ONCE = 16


@dataclass(frozen=True)
class Prepared:
    """All that heads of one backbone learn from and are validated on."""

    train: Examples
    painted: Examples
    boxed: Examples
    originals: np.ndarray  # the original that each boxed picture is a copy of


def validate(network: DefectHead, prepared: Prepared) -> dict[str, Any]:
    """The calibration, thresholds and validation figures of a head."""
    labels, boxes = prepared.painted.labels.numpy(), prepared.boxed.labels.numpy()
    logits = [logits_of(network, prepared.painted, mode) for mode in range(len(MODES))]
    pixels = [painted_pixels(each, labels) for each in logits]
    slope, offset = calibrate(*(np.concatenate(parts, 2) for parts in zip(*pixels, strict=True)))
    painted = [expit(slope * each + offset) for each in logits]
    pixels = [painted_pixels(maps, labels) for maps in painted]
    outline = best_pixel_threshold(*(np.concatenate(parts, 2) for parts in zip(*pixels, strict=True)))
    figures, verdict = {}, {}
    for number, (mode, (values, truth)) in enumerate(zip(MODES, pixels, strict=True)):
        real = expit(slope * logits_of(network, prepared.boxed, number) + offset)
        figures[mode] = {
            "painted_pixel_ap": average_precision(truth.ravel(), values.ravel()),
            **threshold_metrics(values, truth, threshold=outline),
            **boxes_hit(real, boxes),
            "painted_image_auroc": picture_aurocs(painted[number], labels, outline),
        }
        verdict[mode] = verdict_thresholds(real, boxes, prepared.originals, outline)
    return {"slope": slope, "offset": offset, "outline": outline, "verdict": verdict, "validation": figures}


@torch.inference_mode()
def logits_of(head: DefectHead, data: Examples, mode: int) -> np.ndarray:
    """Uncalibrated maps (n, 256, 256) in one of the modes of the data."""
    batches = zip(data.distances[:, mode].split(AT_ONCE), data.pixels.split(AT_ONCE), strict=True)
    return torch.cat([defect_logits(head, each.float(), pixels.float() / 16) for each, pixels in batches]).numpy()


def painted_pixels(maps: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and truth (1, 1, m) of a ninth of the pixels of maps (n, h, w) that are in no box of a real defect."""
    maps, labels = maps[:, ::3, ::3], labels[:, ::3, ::3]
    return maps[labels != BOX][None, None], labels[labels != BOX][None, None] == 1


def calibrate(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Slope and offset that make probabilities of the logits of pixels: logistic regression."""
    fitted = LogisticRegression(C=np.inf).fit(logits.reshape(-1, 1), truth.ravel())
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def boxes_hit(maps: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How often a map's highest pixel lies in a box, and how many boxes reach what 1 % of other pixels exceed."""
    inside, hits = labels == BOX, []
    peaks = [bool(place.flat[values.argmax()]) for values, place in zip(maps, inside, strict=True)]
    limit = np.quantile(maps[~inside], 0.99)
    for values, place in zip(maps, inside, strict=True):
        numbered, count = ndimage.label(place)
        hits += list(ndimage.maximum(values, numbered, range(1, count + 1)) >= limit)
    return {"n": len(maps), "peak_in_box": float(np.mean(peaks)), "boxes": len(hits), "boxes_hit": float(np.mean(hits))}


def picture_aurocs(maps: np.ndarray, labels: np.ndarray, outline: float) -> dict[str, float]:
    """AUROC of painted pictures against those without paint and box, by the verdict's score and the mean of the map."""
    painted, boxed = (labels == 1).any((1, 2)), (labels == BOX).any((1, 2))
    counted, anything = painted | ~boxed, Thresholds(outline, 0, "")
    scores = {"score": [judge_map(values, anything).score for values in maps], "mean": maps.mean((1, 2))}
    figures = {"painted": int(painted.sum()), "clean": int((counted & ~painted).sum())}
    if not all(figures.values()):  # of few pictures
        return figures
    return figures | {name: roc_auc_score(painted[counted], np.array(each)[counted]) for name, each in scores.items()}


def verdict_thresholds(maps: np.ndarray, labels: np.ndarray, originals: np.ndarray, outline: float) -> dict[str, Any]:
    """By `ALARMS`: the score that this share of real leather outside boxes reaches, with an interval over originals."""
    outside, anything = np.where(labels == BOX, 0, maps), Thresholds(outline, 0, "")
    scores, generator = np.array([judge_map(values, anything).score for values in outside]), np.random.default_rng(0)
    names, members = np.unique(originals, return_inverse=True)
    rows = [np.flatnonzero(members == number) for number in range(len(names))]
    draws = [
        scores[np.concatenate([rows[i] for i in generator.integers(0, len(rows), len(rows))])] for _ in range(DRAWS)
    ]
    points = {}
    for rate in ALARMS:
        low, high = np.percentile([np.quantile(draw, 1 - rate) for draw in draws], [2.5, 97.5])
        threshold = float(np.quantile(scores, 1 - rate, method="higher"))
        points[str(rate)] = {"threshold": threshold, "interval": [float(low), float(high)]}
    return {"n": len(scores), "originals": len(names), **points}

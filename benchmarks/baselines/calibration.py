"""Can the probabilities be believed: temperature, expected calibration error, numbers of the reliability diagram."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

BINS = 10

TEMPERATURES = (0.05, 20.0)


def fit_temperature(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature at which the true classes are most likely. To be called with validation data only.

    Args:
        targets: True class indices, shape (n,).
        probabilities: Of a softmax, shape (n, classes).

    Returns:
        A temperature in [0.05, 20]; above 1 the probabilities were too sure of themselves.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    logits = _logits(probabilities)
    classes = np.arange(logits.shape[1])

    def loss(log_temperature: float) -> float:
        return log_loss(targets, softmax(logits / np.exp(log_temperature), axis=1), labels=classes)

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def at_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities, shape (n, classes), softened (temperature above 1) or sharpened; their order does not change."""
    return softmax(_logits(probabilities) / temperature, axis=1)


def reliability(targets: np.ndarray, probabilities: np.ndarray, *, bins: int = BINS) -> dict[str, list[float]]:
    """How often answers of a certain confidence are right.

    Args:
        targets: True class indices, shape (n,).
        probabilities: Shape (n, classes); the highest is the confidence.
        bins: Of equal width in (0, 1]; empty ones are left out.

    Returns:
        For each bin with images: ``confidence`` and ``accuracy`` (means, in [0, 1]) and ``images``.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == targets
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    filled = np.unique(place)
    return {
        "confidence": [float(confidence[place == i].mean()) for i in filled],
        "accuracy": [float(right[place == i].mean()) for i in filled],
        "images": [int((place == i).sum()) for i in filled],
    }


def expected_calibration_error(targets: np.ndarray, probabilities: np.ndarray, *, bins: int = BINS) -> float:
    """Mean gap between confidence and accuracy, in [0, 1], bins weighted by their images; arguments of `reliability`.

    Source:
        Guo et al., ICML 2017.
    """
    curve = reliability(targets, probabilities, bins=bins)
    gaps = np.abs(np.subtract(curve["confidence"], curve["accuracy"]))
    return float(np.average(gaps, weights=curve["images"]))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Logits up to a constant a row; a probability of 0 counts as the smallest positive number."""
    values = np.asarray(probabilities, dtype=float)
    return log_softmax(np.log(np.maximum(values, np.finfo(np.float32).tiny)), axis=1)

"""Can the probabilities be believed: temperature and reliability. Source: Guo et al., ICML 2017."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

BINS = 10
TEMPERATURES = (0.05, 20.0)


def fit_temperature(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature in [0.05, 20] at which the true classes (n,) are most likely, by probabilities (n, classes).

    Above 1 the probabilities were too sure of themselves. To be called with validation data only.
    """
    classes = np.arange(probabilities.shape[1])

    def loss(log_temperature: float) -> float:
        return log_loss(targets, at_temperature(probabilities, np.exp(log_temperature)), labels=classes)

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def at_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (n, classes), softened (temperature above 1) or sharpened; their order does not change."""
    # Logits up to a constant a row; a probability of 0 counts as the smallest positive number.
    values = np.maximum(np.asarray(probabilities, dtype=float), np.finfo(np.float32).tiny)
    return softmax(log_softmax(np.log(values), axis=1) / temperature, axis=1)


def reliability(targets: np.ndarray, probabilities: np.ndarray, *, bins: int = BINS) -> dict[str, list[float]]:
    """How often answers of a certain confidence are right, in bins of equal width that are not empty.

    For each: ``confidence`` (highest probability) and ``accuracy``, means in [0, 1], and the number of ``images``.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == targets
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    members = [place == filled for filled in np.unique(place)]
    return {
        "confidence": [float(confidence[chosen].mean()) for chosen in members],
        "accuracy": [float(right[chosen].mean()) for chosen in members],
        "images": [int(chosen.sum()) for chosen in members],
    }


def expected_calibration_error(curve: dict[str, list[float]]) -> float:
    """Mean gap between confidence and accuracy of a `reliability`, in [0, 1], bins weighted by their images."""
    return float(np.average(np.abs(np.subtract(curve["confidence"], curve["accuracy"])), weights=curve["images"]))

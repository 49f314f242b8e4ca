import numpy as np
import pytest
from scipy.special import softmax

from benchmarks.baselines.calibration import at_temperature, expected_calibration_error, fit_temperature, reliability


def answers(count, *, temperature, seed=0):
    """Targets drawn from honest probabilities, and those probabilities as a model of that temperature states them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, 4))
    honest = softmax(logits, axis=1)
    targets = np.array([generator.choice(4, p=row) for row in honest])
    return targets, softmax(logits * temperature, axis=1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature):
    targets, stated = answers(6000, temperature=temperature)
    assert fit_temperature(targets, stated) == pytest.approx(temperature, rel=0.08)


def test_the_temperature_mends_the_calibration_of_other_data():
    targets, stated = answers(6000, temperature=3.0)
    unseen_targets, unseen = answers(6000, temperature=3.0, seed=1)
    mended = at_temperature(unseen, fit_temperature(targets, stated))
    assert expected_calibration_error(reliability(unseen_targets, unseen)) > 0.1
    assert expected_calibration_error(reliability(unseen_targets, mended)) < 0.02


def test_a_temperature_of_one_changes_nothing_and_none_changes_the_answer():
    _, stated = answers(50, temperature=1.0)
    assert at_temperature(stated, 1.0) == pytest.approx(stated)
    assert (at_temperature(stated, 5.0).argmax(1) == stated.argmax(1)).all()
    assert at_temperature(stated, 5.0).sum(1) == pytest.approx(1)


def test_certain_answers_with_probability_zero_stay_finite():
    stated = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    temperature = fit_temperature(np.array([0, 1, 1]), stated)
    assert 0.05 <= temperature <= 20
    assert np.isfinite(at_temperature(stated, temperature)).all()


def test_reliability_by_hand():
    stated = np.array([[0.95, 0.05], [0.85, 0.15], [0.9, 0.1], [0.4, 0.6]])
    curve = reliability(np.array([0, 1, 0, 1]), stated, bins=5)
    # Confidences 0.95, 0.85, 0.9 lie in (0.8, 1], two of three right; 0.6 in (0.4, 0.6], right.
    assert curve["images"] == [1, 3]
    assert curve["confidence"] == pytest.approx([0.6, 0.9])
    assert curve["accuracy"] == pytest.approx([1.0, 2 / 3])
    assert expected_calibration_error(curve) == pytest.approx((1 * 0.4 + 3 * (0.9 - 2 / 3)) / 4)


def test_full_confidence_lies_in_the_last_bin():
    curve = reliability(np.array([0, 0]), np.array([[1.0, 0.0], [0.5, 0.5]]), bins=2)
    assert curve["images"] == [1, 1]
    assert curve["confidence"] == [0.5, 1.0]

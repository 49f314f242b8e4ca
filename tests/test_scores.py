"""Scores: higher is more anomalous, a normal image of the bank scores 0, documented ranges hold."""

import pytest
import torch
from sklearn.metrics.pairwise import cosine_distances

from src.scores import confidence_anomaly_scores, cosine_anomaly_scores, hybrid_anomaly_scores


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_cosine_by_hand():
    bank = torch.tensor([[2.0, 0.0], [3.0, 4.0]])
    images = torch.tensor([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [4.0, 3.0]])
    # Cosines to the bank: (1, 3/5), (0, 4/5), (-1, -3/5), (4/5, 24/25).
    assert cosine_anomaly_scores(images, bank).tolist() == pytest.approx([0, 1 / 5, 8 / 5, 1 / 25], abs=1e-6)


@pytest.mark.parametrize("block", [1, 7, 50, 4096])
def test_cosine_against_scikit_learn_in_any_block(block):
    images, bank = random(50, 16), random(30, 16, seed=1)
    expected = cosine_distances(images.numpy(), bank.numpy()).min(axis=1)
    assert cosine_anomaly_scores(images, bank, block=block).numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("data_type", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [2, 384, 768])
def test_an_image_of_the_bank_scores_zero(data_type, width):
    # A common offset is what features of a real backbone have, and what rounds worst.
    bank = (random(300, width).abs() + 3 * random(width, seed=1)).to(data_type)
    scores = cosine_anomaly_scores(bank, bank)
    assert scores.dtype == data_type and (scores == 0).all()


def test_length_and_order_do_not_matter_and_a_larger_bank_never_raises_a_score():
    images, bank = random(20, 8), random(12, 8, seed=1)
    scores, order = cosine_anomaly_scores(images, bank), torch.arange(20).roll(7)
    torch.testing.assert_close(cosine_anomaly_scores(100 * images, bank / 100), scores)
    torch.testing.assert_close(cosine_anomaly_scores(images[order], bank.flip(0)), scores[order])
    # Products of other shapes differ in their last bits from processor to processor.
    assert (cosine_anomaly_scores(images, bank[:4]) >= scores - 1e-6).all() and (scores > 0).all()


def test_cosine_keeps_both_ends_of_its_interval():
    bank, lengths = random(1, 300), torch.linspace(0.01, 100, 500)[:, None]
    assert (cosine_anomaly_scores(lengths * bank, bank) == 0).all()
    farthest = cosine_anomaly_scores(-lengths * bank, bank)
    assert farthest.min() > 2 - 4e-6 and farthest.max() <= 2
    assert cosine_anomaly_scores(torch.empty(0, 300), bank).shape == (0,)


@pytest.mark.parametrize(("images", "bank"), [((4, 3), (5, 2)), ((4, 3), (0, 3)), ((3,), (5, 3)), ((4, 3), (3,))])
def test_unfit_bank_is_refused_with_both_shapes(images, bank):
    with pytest.raises(ValueError) as error:
        cosine_anomaly_scores(torch.ones(images), torch.ones(bank))
    assert str(images) in str(error.value) and str(bank) in str(error.value)


def test_confidence_by_hand_and_at_both_ends():
    probabilities = torch.tensor([[0.2, 0.7, 0.1], [0, 1, 0], [0.5, 0, 0.5]])
    assert confidence_anomaly_scores(probabilities, 1).tolist() == pytest.approx([0.3, 0, 1])
    assert confidence_anomaly_scores(probabilities, 2).tolist() == pytest.approx([0.9, 1, 0.5])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.7 * 0.5 + 0.3 * 0.2, 0.7 * 2 + 0.3]),
        ({"similarity_weight": 0}, [0.2, 1]),
        ({"similarity_weight": 1}, [0.5, 2]),
    ],
)
def test_hybrid_by_hand_and_at_both_ends_of_its_weight(options, expected):
    scores = hybrid_anomaly_scores(torch.tensor([0.5, 2]), torch.tensor([0.2, 1]), **options)
    assert scores.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("weight", [-0.01, 1.01, float("nan")])
def test_hybrid_refuses_other_weights(weight):
    with pytest.raises(ValueError, match=f"similarity_weight is {weight}"):
        hybrid_anomaly_scores(torch.zeros(2), torch.zeros(2), similarity_weight=weight)


def test_hybrid_refuses_different_shapes():
    with pytest.raises(ValueError, match=r"\(2,\) and \(2, 1\)"):
        hybrid_anomaly_scores(torch.zeros(2), torch.zeros(2, 1))

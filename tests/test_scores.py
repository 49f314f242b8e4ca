"""Scores and maps: higher is more anomalous, a normal image of the bank scores 0, documented ranges hold."""

import pytest
import torch
from sklearn.metrics.pairwise import cosine_distances
from torchvision.transforms.functional import gaussian_blur

from src.localisation.bank import upsample_maps
from src.scores import confidence_anomaly_scores, cosine_anomaly_scores, hybrid_anomaly_scores, nearest_cosine_distance


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
    assert nearest_cosine_distance(images, bank, block=block).numpy() == pytest.approx(expected, abs=1e-6)


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


def test_mean_of_the_nearest_by_hand():
    bank = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    query = torch.tensor([[1.0, 0]])  # cosines 1, 0, -1
    distances = [nearest_cosine_distance(query, bank, neighbours=k).item() for k in (1, 2, 3, 9)]
    assert distances == pytest.approx([0, 0.5, 1, 1])


def test_upsampling_by_hand():
    maps = torch.tensor([[[0.0, 4.0]]])
    # Sample positions -1/4, 1/4, 3/4, 5/4 of the two pixels; outside, the edge goes on.
    assert upsample_maps(maps, (2, 4)).tolist() == [[[0, 1, 3, 4]] * 2]


@pytest.mark.parametrize("sigma", [0.0, 1.0, 3.0])
def test_upsampling_keeps_range_place_and_size(sigma):
    maps = torch.zeros(1, 4, 6)
    maps[0, 1, 4] = 1
    large = upsample_maps(maps, (40, 60), sigma=sigma)
    row, column = divmod(int(large.argmax()), 60)
    assert large.shape == (1, 40, 60) and (row // 10, column // 10) == (1, 4)
    assert large.min() >= 0 and 0.5 < large.max() <= 1
    torch.testing.assert_close(
        upsample_maps(torch.full((1, 4, 6), 0.7), (40, 60), sigma=sigma), torch.full((1, 40, 60), 0.7)
    )


def test_smoothing_spreads_a_peak_by_its_sigma():
    peak = torch.zeros(1, 41, 41)
    peak[0, 20, 20] = 1
    smooth = upsample_maps(peak, (41, 41), sigma=2.0)[0]
    offsets = torch.arange(41) - 20.0
    assert smooth.sum().item() == pytest.approx(1, abs=1e-4)
    assert (smooth.sum(0) * offsets**2).sum().sqrt().item() == pytest.approx(2, rel=0.02)
    assert torch.equal(upsample_maps(peak, (41, 41)), peak)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 5.0])
def test_smoothing_is_that_of_torchvision(sigma):
    maps = torch.rand(2, 40, 60, generator=torch.Generator().manual_seed(0))
    wanted = gaussian_blur(maps[:, None], 2 * round(3 * sigma) + 1, sigma)[:, 0]
    torch.testing.assert_close(upsample_maps(maps, (40, 60), sigma=sigma), wanted)


def test_unit_rows_need_no_normalising():
    queries, bank = (torch.nn.functional.normalize(torch.randn(n, 8), dim=1) for n in (5, 7))
    wanted = nearest_cosine_distance(queries, bank)
    torch.testing.assert_close(nearest_cosine_distance(queries, bank, normalise=False), wanted)
    assert nearest_cosine_distance(bank[:2], bank, normalise=False).max() == 0
